// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory of the disk: one contiguous shared mapping of a file that lives in memory.
//!
//! The mapping is made once, larger than the file (`open`). It is never moved or shrunk while the
//! disk lives (G10). Pages are allocated with `fallocate` before their address is handed out (E7,
//! `populate`). So a full file system is an error, not a SIGBUS. Pages are given back by punching
//! holes (`discard`). The budget limits their number.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::OnceLock;

use super::budget::Budget;
use super::page_state::PageStates;
use super::sync::{lock, Mutex};
use crate::mq::Run;
use crate::sys::mmap::Mapping;
use crate::sys::{file, remove};

mod base;
#[cfg(all(test, not(loom)))]
mod crash;
mod discard;
mod huge;
mod open;
mod populate;
pub mod private;
mod reclaim;
mod resize;
mod undo;
#[cfg(all(test, not(loom)))]
mod undo_tests;

pub use open::StoreError;
pub use populate::Shortage;
pub use undo::{Keep, Loss, PowerCut};

/// The bytes of the disk.
pub struct Store {
    file: File,
    mapping: Mapping,
    states: PageStates,
    page_shift: u32,
    size: AtomicU64,
    budget: Budget,
    freed: OnceLock<Freed>,
    /// The image under it; none for zeros.
    base: OnceLock<base::Base>,
    /// What a power cut takes away; none without a volatile cache.
    undo: OnceLock<undo::Undo>,
    /// The file has a name, by which others can cut it.
    is_named: bool,
    /// It has been logged that the file was cut.
    told_cut: AtomicBool,
    /// Memory is made in huge pages, where there is room for them.
    in_units: AtomicBool,
    /// Held while memory is made: one thread at a time allocates.
    making: Mutex<()>,
    /// Name of a file that was made for this store, until there is a disk in it.
    made: Mutex<Option<PathBuf>>,
}

/// Called when there is memory again.
type Freed = Box<dyn Fn() + Send + Sync>;

/// The pages that a range of bytes touches.
fn pages_of(range: &Range<u64>, shift: u32) -> Range<usize> {
    (range.start >> shift) as usize..((range.end + (1 << shift) - 1) >> shift) as usize
}

impl Store {
    /// Bytes of the disk.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Keeps the file that was made for this store when the store is dropped.
    pub fn keep_file(&self) {
        lock(&self.made).take();
    }

    /// Bytes of a page: the smallest piece that can be given back.
    pub fn page_size(&self) -> u64 {
        1 << self.page_shift
    }

    /// Bytes of memory the file holds, as the file system counts them (`st_blocks`).
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

    /// Pins the range for a READ, until [`Store::unpin`].
    #[inline]
    pub fn pin_for_read(&self, range: Range<u64>) -> Readable {
        let pages = pages_of(&range, self.page_shift);
        match self.states.pin(pages.clone()) {
            present if present == pages.len() => Readable::Memory(self.address(range.start)),
            0 => self.read_absent(&range),
            _ => Readable::Mixed,
        }
    }

    /// Pins the range for a WRITE if all of it is present, until [`Store::unpin`]. Otherwise nothing
    /// is pinned, and [`Store::populate`] makes the memory. What a power cut takes away is kept before.
    #[inline]
    pub fn pin_for_write(&self, range: Range<u64>) -> Option<NonNull<u8>> {
        let pages = pages_of(&range, self.page_shift);
        if self.states.pin(pages.clone()) == pages.len() && self.save(&range) {
            return Some(self.address(range.start));
        }
        self.states.unpin(pages);
        None
    }

    /// True if a write to the range needs no memory. This may change at once.
    pub(super) fn is_present(&self, range: &Range<u64>) -> bool {
        pages_of(range, self.page_shift).all(|page| self.states.is_present(page))
            && self.is_saved(range)
    }

    /// Address of a range that is present and pinned.
    #[inline]
    pub fn address_of(&self, range: &Range<u64>) -> NonNull<u8> {
        self.address(range.start)
    }

    /// The bytes of whole pages.
    fn bytes_of(&self, pages: Range<usize>) -> Range<u64> {
        (pages.start as u64) << self.page_shift..(pages.end as u64) << self.page_shift
    }

    /// Unpins a range.
    #[inline]
    pub fn unpin(&self, range: Range<u64>) {
        self.states.unpin(pages_of(&range, self.page_shift));
    }

    /// Calls `each` with the pieces and holes of a pinned range, in order: what is read.
    pub fn runs(&self, range: Range<u64>, each: &mut dyn FnMut(Run)) {
        let page_of = |at: u64| (at >> self.page_shift) as usize;
        let mut at = range.start;
        while at < range.end {
            let present = self.states.is_present(page_of(at));
            // The first page is not looked at again: another request may have filled it meanwhile.
            // It is reported as one kind or the other, and both are right.
            let mut next = page_of(at) + 1;
            let last = page_of(range.end - 1);
            while next <= last && self.states.is_present(next) == present {
                next += 1;
            }
            let end = range.end.min((next as u64) << self.page_shift);
            let len = (end - at) as usize;
            if present {
                each(Run::Memory(self.address(at), len));
            } else {
                self.absent_runs(at..end, each);
            }
            at = end;
        }
    }

    /// True if others can cut the file short, because it has a name, or the image. The pages that it
    /// loses are touched through the kernel only, which fails instead of ending the process (G16).
    pub fn can_be_cut(&self) -> bool {
        self.is_named || self.base_length() > 0
    }

    /// Logs once that the file has been cut short, if it has.
    pub fn report_cut(&self) {
        self.report_cut_base();
        let (size, held) = (
            self.size(),
            self.file.metadata().map_or(0, |meta| meta.len()),
        );
        if held < size && !self.told_cut.swap(true, Ordering::Relaxed) {
            log::error!(
                "the backing file has been cut to {held} of {size} bytes: requests behind that end \
                 with EIO"
            );
        }
    }

    /// Zeroes a range that is present, and pinned or claimed by the caller (H4). Fails if the file has
    /// lost some of it.
    pub(super) fn zero_pinned(&self, range: Range<u64>) -> io::Result<()> {
        let (start, len) = (self.address_of(&range), (range.end - range.start) as usize);
        if !self.can_be_cut() {
            // SAFETY: the range is pinned and within the mapping. It is shared memory that other
            // requests may be writing through the kernel or through libc at the same time, so the
            // bytes are not touched as Rust values.
            unsafe { libc::memset(start.as_ptr().cast(), 0, len) };
            #[cfg(test)]
            file::recorder::step();
            return Ok(());
        }
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        for at in (0..len).step_by(ZEROS.len()) {
            let part = ZEROS.len().min(len - at);
            // SAFETY: as above, and `ZEROS` is at least as long as the part.
            let zeroed =
                unsafe { file::copy_checked(ZEROS.as_ptr(), start.as_ptr().add(at), part) };
            zeroed.inspect_err(|_| self.report_cut())?;
        }
        Ok(())
    }

    /// Flips a bit of a byte that is pinned by the caller, as memory that fails does (E31).
    pub(crate) fn flip_bit(&self, offset: u64, bit: u8) {
        let (address, mut byte) = (self.address_of(&(offset..offset + 1)), 0_u8);
        // SAFETY: the byte is pinned and within the mapping, and `byte` is a local variable. The kernel
        // copies, as other requests may be writing to the same byte.
        let _cut = unsafe { file::copy_checked(address.as_ptr(), &mut byte, 1) };
        byte ^= 1 << bit;
        // SAFETY: as above.
        let _cut = unsafe { file::copy_checked(&byte, address.as_ptr(), 1) };
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("size", &self.size)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // After a shrink during which a request has kept memory beyond the end.
        self.cut_file();
        let made = lock(&self.made).take();
        if let Some(path) = made {
            // There was no disk in it. The lock is held until this is over.
            let _ = remove::this_file(&path, &self.file);
        }
    }
}

/// What a READ finds. All of its range is pinned.
#[derive(Clone, Copy, Debug)]
pub enum Readable {
    /// All of it is present, from this address on.
    Memory(NonNull<u8>),
    /// Nothing is present, and there is no image: it reads as zeros.
    Hole,
    /// Some of it is present: see [`Store::runs`].
    Mixed,
}

#[cfg(all(test, not(loom)))]
mod testing {
    use super::*;

    /// Fills a range, whose memory is made if it is absent.
    pub(super) fn fill(store: &Store, range: Range<u64>, byte: u8) {
        store.populate(range.clone()).expect("memory");
        let len = (range.end - range.start) as usize;
        // SAFETY: the range is present and pinned, and only this thread writes to it.
        unsafe { store.address_of(&range).write_bytes(byte, len) };
        store.unpin(range);
    }

    /// Reads one byte; 0 where there is a hole.
    pub(super) fn byte_at(store: &Store, at: u64) -> u8 {
        let byte = match store.pin_for_read(at..at + 1) {
            // SAFETY: the page is present and pinned.
            Readable::Memory(from) => unsafe { from.read_volatile() },
            _ => 0,
        };
        store.unpin(at..at + 1);
        byte
    }
}
