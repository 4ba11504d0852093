// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory of the disk: one contiguous shared mapping of a file that lives in
//! memory, populated as it is written and punched as it is discarded.
//!
//! The mapping is made once, larger than the file, and never moved or shrunk
//! while the disk lives (G10). Pages are allocated by `fallocate` before their
//! address is handed out (E7), so that a full file system is an answer and not a
//! SIGBUS.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::page_state::{PageStates, Punch};
use crate::mq::Run;
use crate::sys::file;
use crate::sys::mmap::Mapping;

/// Discards are punched in pieces of this many pages, so that a request that
/// waits for one of them does not wait long.
const PUNCH_BATCH: usize = 4096;
/// A mapping has at least this much room to grow, where address space allows.
const ROOM_TO_GROW: u64 = 1 << 40;

/// Why there is no store, or not of that size.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be made or opened.
    #[error("cannot open the backing file {path}: {source}", path = path.display())]
    Open {
        /// As the user wrote it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is on a disk.
    #[error(
        "backing file {path} is not on a tmpfs or hugetlbfs: a RAM disk keeps its data in memory",
        path = path.display()
    )]
    NotInMemory {
        /// As the user wrote it.
        path: PathBuf,
    },
    /// Another server has it.
    #[error("backing file {path} is in use by another server", path = path.display())]
    Locked {
        /// As the user wrote it.
        path: PathBuf,
    },
    /// The file exists and has another size.
    #[error(
        "backing file {path} has {actual} bytes, not {asked}: leave out --size to use it as it is",
        path = path.display()
    )]
    SizeDiffers {
        /// As the user wrote it.
        path: PathBuf,
        /// Bytes it has.
        actual: u64,
        /// Bytes asked for.
        asked: u64,
    },
    /// The size is not whole pages of the backing file system.
    #[error("size {size} is not a multiple of the backing's page of {page} bytes")]
    PartialPage {
        /// Bytes asked for.
        size: u64,
        /// Bytes of a page.
        page: u64,
    },
    /// There is not that much memory of the wanted kind.
    #[error("{what}: {needed} bytes needed, {available} available")]
    TooLittle {
        /// Of what.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// The system refused.
    #[error("cannot {step} a store of {size} bytes: {source}")]
    System {
        /// Which step.
        step: &'static str,
        /// Bytes of the store.
        size: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The mapping cannot hold that much.
    #[error(
        "the store cannot grow to {asked} bytes while it lives: its mapping ends at {capacity}"
    )]
    BeyondCapacity {
        /// Bytes asked for.
        asked: u64,
        /// Bytes mapped.
        capacity: u64,
    },
}

/// The bytes of the disk.
#[derive(Debug)]
pub struct Store {
    file: File,
    mapping: Mapping,
    states: PageStates,
    page_shift: u32,
    size: AtomicU64,
}

// What the store needs to know of a request's range: the pages it touches.
fn pages_of(range: &Range<u64>, shift: u32) -> Range<usize> {
    (range.start >> shift) as usize..((range.end + (1 << shift) - 1) >> shift) as usize
}

impl Store {
    /// A store in anonymous memory, gone with this process.
    pub fn anonymous(size: u64, huge_pages: bool) -> Result<Self, StoreError> {
        let file = file::memfd(c"ublk-ramdisk", false).map_err(|source| StoreError::System {
            step: "create",
            size,
            source,
        })?;
        Self::with_new_file(file, size, huge_pages)
    }

    /// A store in huge pages of the system's default size.
    pub fn hugetlb(size: u64) -> Result<Self, StoreError> {
        let system = |source| StoreError::System {
            step: "create",
            size,
            source,
        };
        let file = file::memfd(c"ublk-ramdisk", true).map_err(system)?;
        let (_, page) = file::file_system(&file).map_err(system)?;
        let available = free_huge_pages(page) * page;
        if size > available {
            return Err(StoreError::TooLittle {
                what: "free huge pages",
                needed: size,
                available,
            });
        }
        Self::with_new_file(file, size, false)
    }

    /// A store in a file on a tmpfs or hugetlbfs. An existing file keeps its
    /// contents; `size` 0 takes the size it has. A file that this call made is
    /// removed again if the call fails.
    pub fn in_file(path: &Path, size: u64, huge_pages: bool) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let (file, new) = match options.open(path) {
            Ok(file) => (file, false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                (options.create_new(true).open(path).map_err(open)?, true)
            }
            Err(e) => return Err(open(e)),
        };
        let result = Self::with_named_file(file, path, size, huge_pages, new);
        if new && result.is_err() {
            // The file is this call's own; the error that is reported is the first.
            let _ = std::fs::remove_file(path);
        }
        result
    }

    fn with_named_file(
        file: File,
        path: &Path,
        size: u64,
        huge_pages: bool,
        new: bool,
    ) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        let (magic, _) = file::file_system(&file).map_err(open)?;
        if ![file::TMPFS_MAGIC, file::HUGETLBFS_MAGIC].contains(&magic) {
            return Err(StoreError::NotInMemory {
                path: path.to_owned(),
            });
        }
        match file::lock_exclusively(&file) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(StoreError::Locked {
                    path: path.to_owned(),
                })
            }
            Err(e) => return Err(open(e)),
        }
        if new {
            return Self::with_new_file(file, size, huge_pages);
        }
        let actual = file.metadata().map_err(open)?.len();
        if size != 0 && size != actual {
            return Err(StoreError::SizeDiffers {
                path: path.to_owned(),
                actual,
                asked: size,
            });
        }
        Self::with_file(file, actual, huge_pages)
    }

    fn with_new_file(file: File, size: u64, huge_pages: bool) -> Result<Self, StoreError> {
        file.set_len(size).map_err(|source| StoreError::System {
            step: "size",
            size,
            source,
        })?;
        Self::with_file(file, size, huge_pages)
    }

    fn with_file(file: File, size: u64, huge_pages: bool) -> Result<Self, StoreError> {
        let system = |step| move |source| StoreError::System { step, size, source };
        let (magic, block) = file::file_system(&file).map_err(system("examine"))?;
        let page = if magic == file::HUGETLBFS_MAGIC {
            block
        } else {
            4096
        };
        if size == 0 || !size.is_multiple_of(page) && page != 4096 {
            return Err(StoreError::PartialPage { size, page });
        }
        let whole = size.next_multiple_of(page);
        let (mapping, capacity) = Self::map(&file, whole).map_err(system("map"))?;
        if huge_pages {
            mapping.advise_huge_pages();
        }
        let page_shift = page.trailing_zeros();
        let states = PageStates::new((capacity >> page_shift) as usize).map_err(system("map"))?;
        let store = Self {
            file,
            mapping,
            states,
            page_shift,
            size: AtomicU64::new(size),
        };
        for range in file::data_ranges(&store.file).map_err(system("examine"))? {
            store.states.set_present(pages_of(&range, page_shift));
        }
        Ok(store)
    }

    /// Maps with room to grow, or as it is where address space is limited.
    fn map(file: &File, size: u64) -> io::Result<(Mapping, u64)> {
        let roomy = size
            .saturating_mul(16)
            .clamp(ROOM_TO_GROW, ROOM_TO_GROW << 4)
            .max(size);
        match Mapping::shared(file, roomy as usize) {
            Ok(mapping) => Ok((mapping, roomy)),
            Err(_) => Ok((Mapping::shared(file, size as usize)?, size)),
        }
    }

    /// Bytes of the disk.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Smallest piece that can be given back, in bytes.
    pub fn page_size(&self) -> u64 {
        1 << self.page_shift
    }

    /// Bytes of memory the file holds, as the file system counts them.
    pub fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    /// Address of a byte of the disk.
    #[inline]
    fn address(&self, offset: u64) -> NonNull<u8> {
        debug_assert!(offset <= self.mapping.len() as u64);
        // SAFETY: requests lie within the disk and the disk within the mapping.
        unsafe { self.mapping.start().add(offset as usize) }
    }

    /// Is memory there for all of the range? An answer of the moment.
    pub fn is_present(&self, range: &Range<u64>) -> bool {
        let mut pages = pages_of(range, self.page_shift);
        pages.all(|page| self.states.is_present(page))
    }

    /// Pins the range for a READ. The pins end with [`Store::unpin`].
    #[inline]
    pub fn pin_for_read(&self, range: Range<u64>) -> Readable {
        let pages = pages_of(&range, self.page_shift);
        let count = pages.len();
        match self.states.pin(pages) {
            present if present == count => Readable::Memory(self.address(range.start)),
            0 => Readable::Hole,
            _ => Readable::Mixed,
        }
    }

    /// Pins the range for a WRITE and allocates what is missing. The pins end
    /// with [`Store::unpin`]; nothing is pinned when this fails.
    #[inline]
    pub fn pin_for_write(&self, range: Range<u64>) -> io::Result<NonNull<u8>> {
        let pages = pages_of(&range, self.page_shift);
        if self.states.pin(pages.clone()) != pages.len() {
            if let Err(error) = self.populate(pages.clone()) {
                self.states.unpin(pages);
                return Err(error);
            }
        }
        Ok(self.address(range.start))
    }

    /// Allocates the absent ones of these pinned pages, run by run.
    #[cold]
    fn populate(&self, pages: Range<usize>) -> io::Result<()> {
        let mut next = pages.start;
        while next < pages.end {
            let Some(start) = (next..pages.end).find(|&page| !self.states.is_present(page)) else {
                break;
            };
            let end = (start..pages.end)
                .find(|&page| self.states.is_present(page))
                .unwrap_or(pages.end);
            file::allocate(&self.file, self.bytes_of(start..end))?;
            self.states.set_present(start..end);
            next = end;
        }
        Ok(())
    }

    fn bytes_of(&self, pages: Range<usize>) -> Range<u64> {
        (pages.start as u64) << self.page_shift..(pages.end as u64) << self.page_shift
    }

    /// Ends the use of a range that was pinned.
    #[inline]
    pub fn unpin(&self, range: Range<u64>) {
        self.states.unpin(pages_of(&range, self.page_shift));
    }

    /// Pieces and holes of a pinned range, in order.
    pub fn runs(&self, range: Range<u64>, each: &mut dyn FnMut(Run)) {
        let mut at = range.start;
        while at < range.end {
            let present = self.states.is_present((at >> self.page_shift) as usize);
            let mut end = at;
            while end < range.end
                && self.states.is_present((end >> self.page_shift) as usize) == present
            {
                end = (((end >> self.page_shift) + 1) << self.page_shift).min(range.end);
            }
            // Another request may have filled the very page in between: then it
            // is reported as one kind or the other, and either is a right answer.
            let end = end
                .max(((at >> self.page_shift) + 1) << self.page_shift)
                .min(range.end);
            let len = (end - at) as usize;
            each(if present {
                Run::Memory(self.address(at), len)
            } else {
                Run::Zeros(len)
            });
            at = end;
        }
    }

    /// Makes the range read as zeros and gives its whole pages back (H3). A page
    /// that a request is using at this moment is zeroed in place instead.
    pub fn discard(&self, range: Range<u64>) {
        // The page that the end of the disk lies in has nothing behind it to keep.
        let end = if range.end == self.size() {
            range.end.next_multiple_of(self.page_size())
        } else {
            range.end / self.page_size() * self.page_size()
        };
        let whole = range.start.next_multiple_of(self.page_size())..end;
        if whole.start >= whole.end {
            return self.zero_in_place(range);
        }
        self.zero_in_place(range.start..whole.start);
        self.zero_in_place(whole.end.min(range.end)..range.end);
        let pages = pages_of(&whole, self.page_shift);
        for start in pages.clone().step_by(PUNCH_BATCH) {
            self.punch(start..pages.end.min(start + PUNCH_BATCH));
        }
    }

    /// Gives back those pages nobody uses, run by run, and zeroes the others.
    fn punch(&self, pages: Range<usize>) {
        let mut page = pages.start;
        while page < pages.end {
            match self.states.try_punch(page) {
                Punch::Absent => page += 1,
                Punch::InUse => {
                    self.zero_in_place(self.bytes_of(page..page + 1));
                    page += 1;
                }
                Punch::Ours => {
                    let start = page;
                    page += 1;
                    while page < pages.end && self.states.try_punch(page) == Punch::Ours {
                        page += 1;
                    }
                    // The page that ended the run is looked at again: it is in
                    // use or absent, and may be neither any more.
                    self.punch_ours(start..page);
                }
            }
        }
    }

    fn punch_ours(&self, pages: Range<usize>) {
        match file::punch_hole(&self.file, self.bytes_of(pages.clone())) {
            Ok(()) => {
                self.states.punched(pages.clone());
                self.punch_huge_pages_around(pages);
            }
            Err(error) => {
                log::warn!("cannot give back {} pages: {error}", pages.len());
                self.states.spared(pages.clone());
                self.zero_in_place(self.bytes_of(pages));
            }
        }
    }

    /// The file system may have taken a huge page where a few small ones were wanted, and split it
    /// when they were given back. What is left of it goes when none of its small pages is there
    /// any more.
    fn punch_huge_pages_around(&self, pages: Range<usize>) {
        const SMALL_PAGES: usize = 512;
        if self.page_size() != 4096 {
            return;
        }
        let first = pages.start / SMALL_PAGES;
        let last = (pages.end - 1) / SMALL_PAGES;
        for huge in [first, last].into_iter().take(last - first + 1) {
            let all = huge * SMALL_PAGES..(huge + 1) * SMALL_PAGES;
            let whole = pages.start <= all.start && all.end <= pages.end;
            // Not behind the disk, unless that is what is being given back.
            let disk = pages_of(&(0..self.size()), self.page_shift).end;
            let all = all.start..all.end.min(disk.max(pages.end));
            if !whole && self.states.try_punch_absent(all.clone()) {
                // If it fails, memory is held that reads as zeros: as before.
                let _ = file::punch_hole(&self.file, self.bytes_of(all.clone()));
                self.states.punched(all);
            }
        }
    }

    /// Zeroes what is there; a hole stays one.
    fn zero_in_place(&self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        self.states.pin(pages_of(&range, self.page_shift));
        self.runs(range.clone(), &mut |run| {
            if let Run::Memory(address, len) = run {
                // SAFETY: the run lies within the mapping and is pinned. It is
                // shared memory that other requests may be writing through the
                // kernel or through libc at the same time, so the bytes are not
                // touched as Rust values.
                unsafe { libc::memset(address.as_ptr().cast(), 0, len) };
            }
        });
        self.unpin(range);
    }

    /// Makes the range read as zeros and keeps, or makes, its memory (H4).
    pub fn write_zeros(&self, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let start = self.pin_for_write(range.clone())?;
        // SAFETY: as in `zero_in_place`; the range is present and pinned.
        unsafe { libc::memset(start.as_ptr().cast(), 0, (range.end - range.start) as usize) };
        self.unpin(range);
        Ok(())
    }

    /// Makes the store larger; the new part reads as zeros. The disk is told
    /// afterwards (H8).
    pub fn grow(&self, size: u64) -> Result<(), StoreError> {
        let capacity = self.mapping.len() as u64;
        if size > capacity {
            return Err(StoreError::BeyondCapacity {
                asked: size,
                capacity,
            });
        }
        if !size.is_multiple_of(self.page_size()) && self.page_size() != 4096 {
            return Err(StoreError::PartialPage {
                size,
                page: self.page_size(),
            });
        }
        let system = |source| StoreError::System {
            step: "grow to",
            size,
            source,
        };
        if self.file.metadata().map_err(system)?.len() < size {
            self.file.set_len(size).map_err(system)?;
        }
        // A disk that was larger before may have left something there.
        self.discard(self.size()..size);
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    /// Refuses requests beyond `size` from now on. Their memory is given back by
    /// [`Store::free_tail`].
    pub fn shrink(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// Gives back what lies between the disk's end and `old_size`. True when
    /// all of it is; otherwise a request still uses some and the caller asks
    /// again. The file keeps its length until the store is dropped: a request
    /// that was checked before the shrink may still touch it.
    pub fn free_tail(&self, old_size: u64) -> bool {
        let tail = self.size()..old_size;
        self.discard(tail.start..tail.end.next_multiple_of(self.page_size()));
        let whole = tail.start.next_multiple_of(self.page_size())..tail.end;
        !pages_of(&whole, self.page_shift).any(|page| self.states.is_present(page))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // After a shrink the file is longer than the disk; a later server takes
        // the size from it. Failing leaves a file with a tail of zeros.
        if self
            .file
            .metadata()
            .is_ok_and(|meta| meta.len() > self.size())
        {
            if let Err(error) = self.file.set_len(self.size()) {
                log::warn!(
                    "cannot cut the backing file to {} bytes: {error}",
                    self.size()
                );
            }
        }
    }
}

/// What a READ finds, all of it pinned.
#[derive(Clone, Copy, Debug)]
pub enum Readable {
    /// Everything is there, from this address on.
    Memory(NonNull<u8>),
    /// Nothing is there.
    Hole,
    /// Some of it is there; ask [`Store::runs`].
    Mixed,
}

/// Huge pages of `page` bytes that are free now.
fn free_huge_pages(page: u64) -> u64 {
    let path = format!(
        "/sys/kernel/mm/hugepages/hugepages-{}kB/free_hugepages",
        page / 1024
    );
    std::fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}
