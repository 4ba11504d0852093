// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is done with a compressed chunk: it is read as it is, expanded before the first write to
//! it, and forgotten where it is discarded (E20).
//!
//! All of it is done under the lock of the chunk, whoever has its pages pinned. Memory to expand it
//! is made before the lock is taken, so that no reader waits for that.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use super::compress::{first_pages, Compression};
use super::scratch::Scratch;
use super::{Shortage, Store};
use crate::mq::Run;
use crate::ramdisk::budget::Reservation;
use crate::ramdisk::chunks::{self, Live, Pack, PAGE, SECTOR};
use crate::ramdisk::page_state::Kind;

impl Store {
    /// Is any of these pages compressed? An answer of a moment ago, unless none is and they are
    /// pinned.
    #[inline]
    pub(super) fn any_compressed(&self, pages: Range<usize>) -> bool {
        self.compression.get().is_some() && self.states.any_compressed(pages)
    }

    /// Is none of these pages, which are pinned and were not present, compressed? Present ones have
    /// been compressed, and expanded meanwhile.
    #[inline]
    pub(super) fn is_hole(&self, mut pages: Range<usize>) -> bool {
        self.compression.get().is_none() || pages.all(|page| self.states.kind(page) == Kind::Absent)
    }

    fn is_compressed(&self, chunk: usize) -> bool {
        self.states.kind(chunks::pages(chunk).start) == Kind::Compressed
    }

    /// The pieces of a part of a chunk, whose pages are pinned. False, and nothing is said, if the
    /// chunk is not compressed any more. The bytes are there for the length of each call.
    pub(super) fn read_compressed(
        &self,
        chunk: usize,
        part: &Range<u64>,
        each: &mut dyn FnMut(Run),
    ) -> bool {
        let Some(all) = self.compression.get() else {
            return false;
        };
        let mut scratch = all.pool.take();
        let live = {
            let _locked = all.chunks.share(chunk);
            if !self.is_compressed(chunk) {
                return false;
            }
            self.unpack(all, chunk, &mut scratch)
        };
        let first = (part.start % chunks::BYTES as u64) as usize / SECTOR;
        let count = (part.end - part.start).div_ceil(SECTOR as u64) as usize;
        for (run, live) in chunks::runs(live, first..first + count) {
            let bytes = &mut scratch.raw[run.start * SECTOR..run.end * SECTOR];
            each(match live {
                true => Run::Memory(std::ptr::NonNull::from(&mut *bytes).cast(), bytes.len()),
                false => Run::Zeros(bytes.len()),
            });
        }
        true
    }

    /// Expands a locked chunk into the buffer. What has been discarded of it may be there; which
    /// sectors have not is the answer.
    fn unpack(&self, all: &Compression, chunk: usize, scratch: &mut Scratch) -> Live {
        let pack = all.chunks.pack(chunk);
        self.load_packed(chunk, &pack, &mut scratch.packed);
        let whole = scratch.unpack(usize::from(pack.len));
        // Nobody writes there, so this is memory that fails. No client may be told it is its data.
        assert!(
            whole,
            "the compressed copy of bytes {:?} of the disk is damaged",
            self.bytes_of(chunks::pages(chunk))
        );
        all.chunks.live(chunk)
    }

    /// The same with zeros for what has been discarded.
    fn unpack_live(&self, all: &Compression, chunk: usize, scratch: &mut Scratch) -> Live {
        let live = self.unpack(all, chunk, scratch);
        for (run, live) in chunks::runs(live, 0..chunks::BYTES / SECTOR) {
            if !live {
                scratch.raw[run.start * SECTOR..run.end * SECTOR].fill(0);
            }
        }
        live
    }

    /// Is anything of this page kept in a compressed chunk? An answer of a moment ago.
    pub(super) fn is_stored(&self, page: usize) -> bool {
        let (chunk, bytes) = (chunks::of_page(page), self.bytes_of(page..page + 1));
        self.compression.get().is_some_and(|all| {
            let _locked = all.chunks.share(chunk);
            self.is_compressed(chunk) && all.chunks.live(chunk) & chunks::sectors(&bytes) != 0
        })
    }

    /// Pages that have to be made for a chunk to be expanded with `wanted` in it; None if it is not
    /// compressed. An answer of a moment ago.
    pub(super) fn pages_to_expand(&self, chunk: usize, wanted: u16) -> Option<u32> {
        let all = self.compression.get()?;
        let _locked = all.chunks.share(chunk);
        self.is_compressed(chunk).then(|| {
            let goal = chunks::pages_of_sectors(all.chunks.live(chunk)) | wanted;
            (goal & !all.chunks.pack(chunk).pages).count_ones()
        })
    }

    /// Makes pages of a chunk again, if it is compressed, and those that are `wanted`, of which at
    /// least one is pinned. What is made is paid for from `reserved`. Answers the bytes made; the
    /// chunk is as it was if this fails.
    pub(super) fn expand(
        &self,
        chunk: usize,
        wanted: u16,
        reserved: &mut Reservation<'_>,
    ) -> Result<u64, Shortage> {
        let Some(all) = self.compression.get() else {
            return Ok(0);
        };
        let scratch = &mut *all.pool.take();
        let mut made: u16 = 0;
        let goal_and_pack = || {
            let pack = all.chunks.pack(chunk);
            let goal = chunks::pages_of_sectors(all.chunks.live(chunk)) | wanted;
            (goal, pack)
        };
        loop {
            let locked = all.chunks.alone(chunk);
            if !self.is_compressed(chunk) {
                drop(locked);
                // All of it has been discarded. Nobody makes these pages but we, and as one of them
                // is pinned nobody compresses them.
                self.punch_pages(chunk, made);
                return Ok(0);
            }
            let (goal, pack) = goal_and_pack();
            let missing = goal & !pack.pages & !made;
            if missing == 0 {
                return Ok(self.expand_locked(all, chunk, scratch, goal, made, reserved));
            }
            drop(locked);
            let needed = u64::from((made | missing).count_ones()) * PAGE as u64;
            let result = match reserved.raise_to(needed) {
                true => self.allocate_pages(chunk, missing).map_err(Shortage::from),
                false => Err(Shortage::Budget),
            };
            made |= missing;
            if let Err(shortage) = result {
                self.punch_made(all, chunk, made);
                return Err(shortage);
            }
        }
    }

    /// Takes back what was made for a chunk that is not expanded after all.
    fn punch_made(&self, all: &Compression, chunk: usize, made: u16) {
        let _locked = all.chunks.alone(chunk);
        // Nothing but what is stored, if anything is, is used in this chunk.
        let used = match self.is_compressed(chunk) {
            true => all.chunks.pack(chunk).pages,
            false => 0,
        };
        self.punch_pages(chunk, made & !used);
    }

    /// Expands a chunk that is locked alone, all of whose pages in `goal` are stored or made.
    fn expand_locked(
        &self,
        all: &Compression,
        chunk: usize,
        scratch: &mut Scratch,
        goal: u16,
        made: u16,
        reserved: &mut Reservation<'_>,
    ) -> u64 {
        let live = self.unpack_live(all, chunk, scratch);
        let pack = all.chunks.pack(chunk);
        let kept = self.punch_pages(chunk, (pack.pages | made) & !goal);
        // What could not be given back is there, and holds zeros.
        let present = goal | kept;
        for run in chunks::page_runs(present) {
            let bytes = &scratch.raw[run.start * PAGE..run.end * PAGE];
            let to = self.page(chunk, run.start);
            // SAFETY: the pages are there and within the mapping; nobody has their address, because
            // they are not present yet.
            unsafe { libc::memcpy(to.cast(), bytes.as_ptr().cast(), bytes.len()) };
        }
        all.chunks.set_pack(chunk, Pack::default());
        let stood_for = chunks::pages_of_sectors(live).count_ones();
        all.stand_for.fetch_sub(u64::from(stood_for), Relaxed);
        all.taken
            .fetch_sub(u64::from(pack.pages.count_ones()), Relaxed);
        all.expanded.fetch_add(1, Relaxed);
        self.states.expanded(chunks::pages(chunk), present);
        // As much is used now as is present; what was stored was used before.
        let (now, before) = (present.count_ones(), pack.pages.count_ones());
        let bytes = |pages: u32| u64::from(pages) * PAGE as u64;
        if now >= before {
            reserved.commit(bytes(now - before));
        } else {
            self.budget.give_back_quietly(bytes(before - now));
        }
        bytes((present & made).count_ones())
    }

    /// Makes a part of a chunk read as zeros, if the chunk is compressed, and gives back what is
    /// not needed for the rest any more. Answers the bytes; None if it is not compressed.
    pub(super) fn forget(&self, chunk: usize, part: &Range<u64>) -> Option<u64> {
        let all = self.compression.get()?;
        let scratch = &mut *all.pool.take();
        let freed = {
            let _locked = all.chunks.alone(chunk);
            if !self.is_compressed(chunk) {
                return None;
            }
            let before = all.chunks.live(chunk);
            let live = before & !chunks::sectors(part);
            all.chunks.set_live(chunk, live);
            let pages = |live| chunks::pages_of_sectors(live).count_ones();
            let dropped = pages(before) - pages(live);
            all.stand_for.fetch_sub(u64::from(dropped), Relaxed);
            let freed = match (live, dropped) {
                (0, _) => self.forget_all(all, chunk),
                (_, 0) => 0,
                _ => self.pack_again(all, chunk, scratch),
            };
            u64::from(freed) * PAGE as u64
        };
        self.give_back(freed);
        Some(freed)
    }

    /// Nothing of a chunk, which is locked alone, is needed any more. Answers the pages given back.
    fn forget_all(&self, all: &Compression, chunk: usize) -> u32 {
        let pack = all.chunks.pack(chunk);
        let kept = self.punch_pages(chunk, pack.pages);
        for run in chunks::page_runs(kept) {
            // SAFETY: as in `expand_locked`.
            unsafe { libc::memset(self.page(chunk, run.start).cast(), 0, run.len() * PAGE) };
        }
        all.chunks.set_pack(chunk, Pack::default());
        let taken = u64::from(pack.pages.count_ones());
        all.taken.fetch_sub(taken, Relaxed);
        self.states.expanded(chunks::pages(chunk), kept);
        (pack.pages & !kept).count_ones()
    }

    /// Part of a chunk, which is locked alone, is not needed any more. Answers the pages given back.
    fn pack_again(&self, all: &Compression, chunk: usize, scratch: &mut Scratch) -> u32 {
        let pack = all.chunks.pack(chunk);
        self.unpack_live(all, chunk, scratch);
        let len = scratch.pack();
        let needed = len.div_ceil(PAGE) as u32;
        if needed >= pack.pages.count_ones() {
            return 0;
        }
        let first = first_pages(pack.pages, needed);
        self.store_pages(chunk, first, &scratch.packed[..len]);
        let kept = self.punch_pages(chunk, pack.pages & !first);
        let new = Pack {
            pages: first | kept,
            len: len as u16,
        };
        all.chunks.set_pack(chunk, new);
        let freed = (pack.pages & !new.pages).count_ones();
        all.taken.fetch_sub(u64::from(freed), Relaxed);
        freed
    }
}
