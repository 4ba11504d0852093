// SPDX-License-Identifier: MIT OR Apache-2.0
//! Replacing chunks that rest by compressed copies of them (E20, E21), on the reclaim workqueue.
//!
//! A chunk is copied while it is claimed, and compressed while it is not, so that requests do not
//! wait for that. It is claimed again, and if it still holds the same bytes, which is looked at and
//! not concluded, the copy takes the place of its first pages and the others are punched. No memory
//! is needed for any of this but the buffers, which are there from the beginning. A chunk that is
//! used, or that would not take a page less, stays as it is.

use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::scratch::{Pool, Scratch};
use super::{Store, StoreError};
use crate::ramdisk::chunks::{self, Chunks, Pack, PAGE};
use crate::sys::file;

/// What a store has that compresses.
pub(super) struct Compression {
    pub(super) chunks: Chunks,
    pub(super) pool: Pool,
    /// Pages that compressed chunks take, and those that they stand for.
    pub(super) taken: AtomicU64,
    pub(super) stand_for: AtomicU64,
    compressed: AtomicU64,
    pub(super) expanded: AtomicU64,
}

/// What became of chunks that were to be compressed. All but the last two are bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompressionStats {
    /// Memory that compressed chunks take.
    pub taken: u64,
    /// Memory that they would take if they were not compressed.
    pub stand_for: u64,
    /// The table of chunks.
    pub table: u64,
    /// Chunks that were compressed so far.
    pub compressed: u64,
    /// Chunks that were expanded again, because they were written to.
    pub expanded: u64,
}

/// When a chunk counts as cold.
#[derive(Clone, Copy, Debug)]
pub(in crate::ramdisk) struct Cold {
    /// Now, by a clock that never goes back.
    pub(in crate::ramdisk) now: Duration,
    /// Not used for so long.
    pub(in crate::ramdisk) idle: Duration,
}

impl Cold {
    /// In milliseconds; the first of them wraps after 49 days.
    fn millis(&self) -> (u32, u32) {
        let idle = u32::try_from(self.idle.as_millis()).unwrap_or(u32::MAX);
        (self.now.as_millis() as u32, idle)
    }
}

impl Store {
    /// Lets chunks be compressed from now on; does nothing if they may be already. What was
    /// compressed is lost with this process, so a file that outlives it cannot have that, nor
    /// can huge pages, which are given back as a whole only.
    pub fn enable_compression(&self) -> Result<(), StoreError> {
        if self.compression.get().is_some() {
            return Ok(());
        }
        let system = |source| StoreError::System {
            step: "compress",
            size: self.size(),
            source,
        };
        if self.page_size() != PAGE as u64 {
            return Err(StoreError::NotCompressible {
                why: "its pages are huge",
            });
        }
        if self.file.metadata().map_err(system)?.nlink() > 0 {
            return Err(StoreError::NotCompressible {
                why: "its backing file is to be read by others",
            });
        }
        let chunks = Chunks::new(self.mapping.len().div_ceil(chunks::BYTES)).map_err(system)?;
        let compression = Compression {
            chunks,
            pool: Pool::new(),
            taken: AtomicU64::new(0),
            stand_for: AtomicU64::new(0),
            compressed: AtomicU64::new(0),
            expanded: AtomicU64::new(0),
        };
        if self.compression.set(compression).is_ok() {
            self.budget.adopt(self.chunk_table_bytes());
        }
        Ok(())
    }

    /// Bytes of the table of chunks.
    pub(super) fn chunk_table_bytes(&self) -> u64 {
        match self.compression.get() {
            Some(_) => self.size().div_ceil(chunks::BYTES as u64) * chunks::TABLE,
            None => 0,
        }
    }

    /// What has been compressed.
    pub fn compression_stats(&self) -> CompressionStats {
        let Some(all) = self.compression.get() else {
            return CompressionStats::default();
        };
        let pages = |count: &AtomicU64| count.load(Ordering::Relaxed) * PAGE as u64;
        CompressionStats {
            taken: pages(&all.taken),
            stand_for: pages(&all.stand_for),
            table: self.chunk_table_bytes(),
            compressed: all.compressed.load(Ordering::Relaxed),
            expanded: all.expanded.load(Ordering::Relaxed),
        }
    }

    /// The chunks of a range of bytes.
    fn chunks_of(&self, range: Range<u64>) -> Range<usize> {
        let end = range.end.min(self.size());
        let start = range.start.min(end);
        chunks::of_byte(start)..chunks::of_byte(end + chunks::BYTES as u64 - 1)
    }

    /// Does this chunk rest for as long as a cold one? Notes how it looks.
    fn is_cold(&self, all: &Compression, chunk: usize, cold: &Cold) -> bool {
        let (now, idle) = cold.millis();
        let look = self.states.look(chunks::pages(chunk));
        look.is_some_and(|look| all.chunks.rests(chunk, look, now, idle))
    }

    /// Notes how the chunks of a range look, so that it is known later which of them rest.
    pub(in crate::ramdisk) fn look_for_cold(&self, range: Range<u64>, cold: &Cold) {
        if let Some(all) = self.compression.get() {
            for chunk in self.chunks_of(range) {
                self.is_cold(all, chunk, cold);
            }
        }
    }

    /// Compresses the cold chunks of a range. Answers the bytes that this gave back.
    pub(in crate::ramdisk) fn compress_cold(&self, range: Range<u64>, cold: &Cold) -> u64 {
        let Some(all) = self.compression.get() else {
            return 0;
        };
        let mut freed = 0;
        for chunk in self.chunks_of(range) {
            if self.is_cold(all, chunk, cold) {
                freed += self.compress(all, chunk);
            }
        }
        freed
    }

    fn compress(&self, all: &Compression, chunk: usize) -> u64 {
        let scratch = &mut *all.pool.take();
        let Some(present) = self.copy_chunk(chunk, scratch) else {
            return 0;
        };
        let len = scratch.pack();
        if len.div_ceil(PAGE) >= present.count_ones() as usize {
            all.chunks.tried_in_vain(chunk);
            return 0;
        }
        self.swap_chunk(all, chunk, present, scratch, len)
    }

    /// Copies a chunk that nobody uses. Answers which of its pages are there.
    pub(super) fn copy_chunk(&self, chunk: usize, scratch: &mut Scratch) -> Option<u16> {
        let pages = chunks::pages(chunk);
        let present = self.states.try_claim(pages.clone())?;
        scratch.raw.fill(0);
        self.load_pages(chunk, present, &mut scratch.raw);
        self.states.unclaim(pages, present);
        Some(present)
    }

    /// Puts the compressed copy of a chunk in its place, if nobody uses it and it is what was
    /// copied. Answers the bytes given back.
    pub(super) fn swap_chunk(
        &self,
        all: &Compression,
        chunk: usize,
        present: u16,
        scratch: &Scratch,
        len: usize,
    ) -> u64 {
        let pages = chunks::pages(chunk);
        // Whoever looks at the chunk with its lock held finds all of its pages changed, or none.
        let locked = all.chunks.alone(chunk);
        let Some(now) = self.states.try_claim(pages.clone()) else {
            return 0;
        };
        if now != present || !self.holds(chunk, present, &scratch.raw) {
            self.states.unclaim(pages, now);
            return 0;
        }
        let first = first_pages(present, len.div_ceil(PAGE) as u32);
        self.store_pages(chunk, first, &scratch.packed[..len]);
        let kept = self.punch_pages(chunk, present & !first);
        let pack = Pack {
            pages: first | kept,
            len: len as u16,
        };
        all.chunks.set_pack(chunk, pack);
        all.chunks
            .set_live(chunk, chunks::sectors_of_pages(present));
        let (before, after) = (present.count_ones(), pack.pages.count_ones());
        all.stand_for
            .fetch_add(u64::from(before), Ordering::Relaxed);
        all.taken.fetch_add(u64::from(after), Ordering::Relaxed);
        all.compressed.fetch_add(1, Ordering::Relaxed);
        self.states.compressed(pages);
        drop(locked);
        let freed = u64::from(before - after) * PAGE as u64;
        self.give_back(freed);
        freed
    }

    /// Copies what these pages of a chunk hold, each to its place in `raw`. The caller has claimed
    /// or locked them.
    fn load_pages(&self, chunk: usize, pages: u16, raw: &mut [u8]) {
        for run in chunks::page_runs(pages) {
            let (to, from) = (
                &mut raw[run.start * PAGE..run.end * PAGE],
                self.page(chunk, run.start),
            );
            // SAFETY: the pages are there and within the mapping, and `to` is as long as they are.
            unsafe { libc::memcpy(to.as_mut_ptr().cast(), from.cast(), to.len()) };
        }
    }

    /// Do these pages of a chunk hold what is in `raw`?
    fn holds(&self, chunk: usize, pages: u16, raw: &[u8]) -> bool {
        chunks::page_runs(pages).all(|run| {
            let (left, right) = (
                &raw[run.start * PAGE..run.end * PAGE],
                self.page(chunk, run.start),
            );
            // SAFETY: as in `load_pages`; the pages are claimed, so nobody writes to them.
            unsafe { libc::memcmp(left.as_ptr().cast(), right.cast(), left.len()) == 0 }
        })
    }

    /// Fills these pages of a chunk one after the other, as far as there are bytes.
    pub(super) fn store_pages(&self, chunk: usize, pages: u16, mut bytes: &[u8]) {
        for run in chunks::page_runs(pages) {
            let (now, rest) = bytes.split_at(bytes.len().min(run.len() * PAGE));
            let to = self.page(chunk, run.start);
            // SAFETY: the pages are there, within the mapping, and the caller's alone.
            unsafe { libc::memcpy(to.cast(), now.as_ptr().cast(), now.len()) };
            bytes = rest;
        }
        debug_assert!(bytes.is_empty());
    }

    /// Copies the stored bytes of a locked chunk.
    pub(super) fn load_packed(&self, chunk: usize, pack: &Pack, to: &mut [u8]) {
        let mut at = 0;
        for run in chunks::page_runs(pack.pages) {
            let end = usize::from(pack.len).min(at + run.len() * PAGE);
            let (now, from) = (&mut to[at..end], self.page(chunk, run.start));
            // SAFETY: as in `load_pages`.
            unsafe { libc::memcpy(now.as_mut_ptr().cast(), from.cast(), now.len()) };
            at = end;
        }
        debug_assert_eq!(at, usize::from(pack.len));
    }

    /// Gives back these pages of a chunk. Answers those that the system would not have.
    pub(super) fn punch_pages(&self, chunk: usize, pages: u16) -> u16 {
        let mut kept = 0;
        for run in chunks::page_runs(pages) {
            let first = chunks::pages(chunk).start;
            let bytes = self.bytes_of(first + run.start..first + run.end);
            if let Err(error) = file::punch_hole(&self.file, bytes) {
                log::warn!("cannot give back {} pages: {error}", run.len());
                run.for_each(|page| kept |= 1 << page);
            }
        }
        kept
    }

    /// Makes these pages of a chunk.
    pub(super) fn allocate_pages(&self, chunk: usize, pages: u16) -> io::Result<()> {
        let first = chunks::pages(chunk).start;
        chunks::page_runs(pages).try_for_each(|run| {
            let bytes = self.bytes_of(first + run.start..first + run.end);
            file::allocate(&self.file, bytes)
        })
    }

    /// Address of a page of a chunk.
    pub(super) fn page(&self, chunk: usize, page: usize) -> *mut u8 {
        let at = chunks::pages(chunk).start + page;
        self.address((at * PAGE) as u64).as_ptr()
    }
}

/// The first `count` of these pages.
pub(super) fn first_pages(pages: u16, count: u32) -> u16 {
    let mut first = pages;
    while first.count_ones() > count {
        first &= !(1 << (15 - first.leading_zeros()));
    }
    first
}
