// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory mappings that are unmapped when dropped. The pointer is handed out
//! raw: what may be done with the bytes is for the owner of the mapping to say.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// A mapping of whole pages.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; every access goes
// through raw pointers whose users answer for it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zero-filled private memory that costs nothing until it is touched.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Self::map(len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    }

    /// Zeros that can be read and not written: every page is the kernel's one
    /// zero page.
    pub fn zeros(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Self::map(len, libc::PROT_READ, flags, -1, 0)
    }

    /// `file`, shared and writable. `len` may be more than the file has: the
    /// part behind its end becomes usable when the file grows.
    pub fn shared(file: &File, len: usize) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        // Made writable in a second step: hugetlbfs lengthens a file to what is mapped to be
        // written.
        let mapping = Self::map(len, libc::PROT_READ, flags, file.as_raw_fd(), 0)?;
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range is the new mapping, which nobody uses yet.
        match unsafe { libc::mprotect(mapping.start.as_ptr().cast(), len, writable) } {
            0 => Ok(mapping),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reserves the first `len` bytes of a file on hugetlbfs, all or nothing: allocating them
    /// takes from what is reserved. It belongs to the file, not to a mapping: it lasts until a page
    /// is punched, or the file is cut or gone.
    pub fn reserve(file: &File, len: usize) -> io::Result<()> {
        let fd = file.as_raw_fd();
        Self::map(len, libc::PROT_READ, libc::MAP_SHARED, fd, 0).map(drop)
    }

    /// A part of a device file, to be read only.
    pub fn read_only(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::map(
            len,
            libc::PROT_READ,
            flags,
            file.as_raw_fd(),
            offset as libc::off_t,
        )
    }

    fn map(len: usize, prot: i32, flags: i32, fd: i32, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no
        // memory that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).expect("mmap does not return page 0 unasked");
        Ok(Self { start, len })
    }

    /// First byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A mapping is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Asks for huge pages where the file system allows them; a wish, so its
    /// refusal is no error.
    pub fn advise_huge_pages(&self) {
        // SAFETY: the range is this mapping; the advice changes no content.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, and nobody uses it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
