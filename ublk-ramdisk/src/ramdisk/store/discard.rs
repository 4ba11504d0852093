// SPDX-License-Identifier: MIT OR Apache-2.0
//! Giving memory back: whole pages are punched, the rest of a range is zeroed in place (H3, E18).
//!
//! Called by the store workqueue and by control commands, never within queue_rq (J3).

use std::ops::Range;

use super::{pages_of, Store};
use crate::mq::Run;
use crate::ramdisk::chunks;
use crate::ramdisk::page_state::Punch;
use crate::ramdisk::words::yield_now;
use crate::sys::file;

/// Discards are punched in pieces of this many pages, so that a request that
/// waits for one of them does not wait long.
const PUNCH_BATCH: usize = 4096;

impl Store {
    /// Makes the range read as zeros and gives its whole pages back (H3). A page
    /// that a request is using at this moment is zeroed in place instead. Answers the bytes given
    /// back.
    pub fn discard(&self, range: Range<u64>) -> u64 {
        // The page that the end of the disk lies in has nothing behind it to keep.
        let end = if range.end == self.size() {
            range.end.next_multiple_of(self.page_size())
        } else {
            range.end / self.page_size() * self.page_size()
        };
        let whole = range.start.next_multiple_of(self.page_size())..end;
        if whole.start >= whole.end {
            self.zero_in_place(range);
            return 0;
        }
        self.zero_in_place(range.start..whole.start);
        self.zero_in_place(whole.end.min(range.end)..range.end);
        let pages = pages_of(&whole, self.page_shift);
        let starts = pages.clone().step_by(PUNCH_BATCH);
        starts
            .map(|start| self.punch(start..pages.end.min(start + PUNCH_BATCH)))
            .sum()
    }

    /// Gives back those pages nobody uses, run by run, and zeroes the others.
    fn punch(&self, pages: Range<usize>) -> u64 {
        let (mut page, mut freed) = (pages.start, 0);
        while page < pages.end {
            match self.states.try_punch(page) {
                Punch::Absent => page += 1,
                // It may be left as it is, and that is not what was asked for.
                Punch::Held => yield_now(),
                Punch::Compressed => {
                    let chunk = chunks::of_page(page);
                    let end = chunks::pages(chunk).end.min(pages.end);
                    // If it is not compressed any more its pages are looked at again.
                    if let Some(bytes) = self.forget(chunk, &self.bytes_of(page..end)) {
                        freed += bytes;
                        page = end;
                    }
                }
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
                    freed += self.punch_ours(start..page);
                }
            }
        }
        freed
    }

    /// Gives back pages that are claimed. Answers the bytes, 0 if the system would not have them.
    pub(super) fn punch_ours(&self, pages: Range<usize>) -> u64 {
        match file::punch_hole(&self.file, self.bytes_of(pages.clone())) {
            Ok(()) => {
                let bytes = (pages.len() as u64) << self.page_shift;
                self.states.punched(pages.clone());
                self.punch_huge_pages_around(pages);
                self.give_back(bytes);
                bytes
            }
            Err(error) => {
                log::warn!("cannot give back {} pages: {error}", pages.len());
                self.states.spared(pages.clone());
                self.zero_in_place(self.bytes_of(pages));
                0
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
        let pages = pages_of(&range, self.page_shift);
        self.states.pin(pages.clone());
        if self.any_compressed(pages.clone()) {
            self.states.unpin(pages);
            return chunks::parts(range).for_each(|(chunk, part)| self.zero_in_chunk(chunk, part));
        }
        self.zero_pinned(range.clone());
        self.unpin(range);
    }

    /// The same for a part of a chunk, compressed or not.
    fn zero_in_chunk(&self, chunk: usize, part: Range<u64>) {
        let pages = pages_of(&part, self.page_shift);
        while self.forget(chunk, &part).is_none() {
            self.states.pin(pages.clone());
            let pages_only = !self.any_compressed(pages.clone());
            if pages_only {
                self.zero_pinned(part.clone());
            }
            self.states.unpin(pages.clone());
            if pages_only {
                break;
            }
        }
    }

    /// The same for pinned pages, none of which is compressed.
    fn zero_pinned(&self, range: Range<u64>) {
        self.runs(range.clone(), &mut |run| {
            if let Run::Memory(address, len) = run {
                // SAFETY: the run lies within the mapping and is pinned. It is
                // shared memory that other requests may be writing through the
                // kernel or through libc at the same time, so the bytes are not
                // touched as Rust values.
                unsafe { libc::memset(address.as_ptr().cast(), 0, len) };
            }
        });
    }
}
