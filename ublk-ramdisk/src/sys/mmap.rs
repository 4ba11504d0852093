// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory mappings. They hand out raw pointers: the owner of a mapping says who may touch its bytes
//! when. None of them is part of a core dump: they hold bytes of clients, or are much larger than
//! what is used of them.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

/// A mapping of whole pages, unmapped when it is dropped.
#[derive(Debug)]
pub struct Mapping(MmapRaw);

impl Mapping {
    fn new(memory: impl Into<MmapRaw>) -> io::Result<Self> {
        let memory = memory.into();
        memory.advise(Advice::DontDump)?;
        Ok(Self(memory))
    }

    fn map_anonymous(len: usize) -> io::Result<MmapMut> {
        MmapOptions::new().len(len).no_reserve_swap().map_anon()
    }

    /// Maps private memory of zeros. A page costs nothing before it is touched.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::new(Self::map_anonymous(len)?)
    }

    /// Maps zeros that can only be read. All pages are the kernel's one zero page.
    pub fn zeros(len: usize) -> io::Result<Self> {
        Self::new(Self::map_anonymous(len)?.make_read_only()?)
    }

    /// Maps `file` shared and writable. `len` may be more than the file has: the part behind its
    /// end becomes usable when the file grows.
    pub fn shared(file: &File, len: usize) -> io::Result<Self> {
        // Made writable in a second step: hugetlbfs extends a file to the length of a writable
        // mapping.
        // SAFETY: the mapping is never used as a slice, so nothing is assumed of its bytes.
        let read_only = unsafe { MmapOptions::new().len(len).no_reserve_swap().map(file)? };
        Self::new(read_only.make_mut()?)
    }

    /// Reserves the first `len` bytes of a file on hugetlbfs, all or nothing. Allocations take from
    /// the reservation. It belongs to the file, not to a mapping: it lasts until a page is punched,
    /// or the file is cut or gone.
    pub fn reserve(file: &File, len: usize) -> io::Result<()> {
        let reserved = MmapOptions::new().len(len).map_raw_read_only(file)?;
        drop(reserved);
        Ok(())
    }

    /// Maps a part of a device file to be read.
    pub fn read_only(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.offset(offset).len(len).populate();
        Self::new(options.map_raw_read_only(file)?)
    }

    /// Maps a file to be read. Nothing of it is read before it is touched.
    pub fn image(file: &File, len: usize) -> io::Result<Self> {
        Self::new(MmapOptions::new().len(len).map_raw_read_only(file)?)
    }

    /// First byte.
    #[inline]
    pub fn start(&self) -> NonNull<u8> {
        // SAFETY: the kernel maps nothing at address 0 unless it is asked to.
        unsafe { NonNull::new_unchecked(self.0.as_mut_ptr()) }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Always false.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Maps a range for this process, and makes what it lacks, so that a process that has locked its
    /// memory has these pages too: the kernel writes none of them to swap. A failure may have made a
    /// part.
    pub fn populate(&self, range: Range<u64>) -> io::Result<()> {
        let (start, len) = (range.start as usize, (range.end - range.start) as usize);
        self.0.advise_range(Advice::PopulateWrite, start, len)
    }

    /// Reads a range of an image, so that a process that has locked its memory has it.
    pub fn populate_read(&self, range: Range<u64>) -> io::Result<()> {
        let (start, len) = (range.start as usize, (range.end - range.start) as usize);
        self.0.advise_range(Advice::PopulateRead, start, len)
    }

    /// Asks for huge pages where the file system allows them.
    pub fn advise_huge_pages(&self) {
        // Without them the disk works as well, only slower.
        let _refused = self.0.advise(Advice::HugePage);
    }
}

/// A mapping of words that any thread reads and writes. All of its pages are there: none has to be made
/// later, where there may be no memory.
#[derive(Debug)]
pub struct Words(Mapping);

impl Words {
    /// Words of zeros, in `len` bytes of private memory.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::new(Mapping::anonymous(len)?)
    }

    /// The first `len` bytes of a file, which is as long. No other process may cut it.
    pub fn in_file(file: &File, len: usize) -> io::Result<Self> {
        Self::new(Mapping::shared(file, len)?)
    }

    fn new(mapping: Mapping) -> io::Result<Self> {
        mapping.populate(0..mapping.len() as u64)?;
        Ok(Self(mapping))
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        let (start, len) = (self.0.start().cast(), self.0.len() / size_of::<AtomicU64>());
        // SAFETY: a mapping begins with a page and so is aligned, both constructors make it writable, and
        // it lives as long as `self`. Every word of it is valid, and is used by atomic accesses alone.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }
}
