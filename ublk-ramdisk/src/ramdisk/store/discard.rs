// SPDX-License-Identifier: MIT OR Apache-2.0
//! Giving memory back: whole pages are punched, the rest of a range is zeroed in place (H3, E18).
//!
//! Called by the store workqueue and by control commands, never within queue_rq (J3).

use std::ops::Range;
use std::slice::from_ref;

use super::{pages_of, Store};
use crate::mq::Run;
use crate::ramdisk::page_state::Claim;
use crate::ramdisk::sync::{lock, yield_now};
use crate::sys::file;

/// Pages that are punched with one system call at most. Requests for them wait that long.
const PUNCH_BATCH: usize = 4096;

impl Store {
    /// Makes the range, for which there is no image, read as zeros and gives its whole pages back (H3). A
    /// page that a request uses is zeroed in place instead. Returns the bytes given back.
    pub fn discard(&self, range: Range<u64>) -> u64 {
        let page = self.page_size();
        let whole = range.start.next_multiple_of(page)..range.end / page * page;
        if whole.start > whole.end {
            self.zero_in_place(range);
            return 0;
        }
        self.zero_in_place(range.start..whole.start);
        let pages = pages_of(&whole, self.page_shift);
        let starts = pages.clone().step_by(PUNCH_BATCH);
        let freed: u64 = starts
            .map(|start| self.punch(start..pages.end.min(start + PUNCH_BATCH)))
            .sum();
        freed + self.discard_last(whole.end..range.end)
    }

    /// The last part of a discard, which begins a page and does not fill it. The page is given back
    /// if the disk ends in it or before it: there is nothing behind the range to keep. The size is
    /// read with the page claimed. If the disk has grown by then its clients may have written behind
    /// the range; if not, their writes wait until the page has been punched (H8).
    fn discard_last(&self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let page = (range.start >> self.page_shift) as usize;
        while self.size() <= range.end {
            match self.states.claim(page) {
                Claim::Absent => return 0,
                Claim::Contended => yield_now(),
                Claim::InUse => break,
                Claim::Claimed if self.size() <= range.end => {
                    return self.punch_claimed(from_ref(&(page..page + 1)))
                }
                Claim::Claimed => {
                    self.states.release_present(page..page + 1);
                    break;
                }
            }
        }
        self.zero_in_place(range);
        0
    }

    /// Gives every page back: the store holds what it was made with, the image or zeros (H19). `wait` is
    /// called while a request uses the next page. Returns the bytes given back, none if `wait` gave up:
    /// the caller tries again.
    pub fn reset(&self, wait: &mut dyn FnMut() -> bool) -> Option<u64> {
        let all = pages_of(&(0..self.size()), self.page_shift);
        let (mut page, mut freed) = (all.start, 0);
        while page < all.end {
            // No page is made meanwhile, so those between the claimed ones are absent and stay so.
            let making = lock(&self.making);
            let (mut runs, end) = (Vec::<Range<usize>>::new(), all.end.min(page + PUNCH_BATCH));
            let mut is_used = false;
            while page < end && !is_used {
                match self.states.claim(page) {
                    Claim::Absent => page += 1,
                    Claim::Contended => yield_now(),
                    Claim::InUse => is_used = true,
                    Claim::Claimed => {
                        page += 1;
                        match runs.last_mut().filter(|run| run.end + 1 == page) {
                            Some(run) => run.end = page,
                            None => runs.push(page - 1..page),
                        }
                    }
                }
            }
            if !runs.is_empty() {
                freed += self.punch_claimed(&runs);
            }
            drop(making);
            if is_used && !wait() {
                return None;
            }
        }
        Some(freed)
    }

    /// Gives back the pages that nobody uses, run by run, and zeroes the others. Returns the bytes
    /// given back.
    fn punch(&self, pages: Range<usize>) -> u64 {
        let (mut page, mut freed) = (pages.start, 0);
        while page < pages.end {
            match self.states.claim(page) {
                Claim::Absent => page += 1,
                // The other thread may leave the page as it is.
                Claim::Contended => yield_now(),
                Claim::InUse => {
                    self.zero_in_place(self.bytes_of(page..page + 1));
                    page += 1;
                }
                Claim::Claimed => {
                    let start = page;
                    page += 1;
                    while page < pages.end && self.states.claim(page) == Claim::Claimed {
                        page += 1;
                    }
                    // The page that ended the run is tried again: it may have changed.
                    freed += self.punch_claimed(from_ref(&(start..page)));
                }
            }
        }
        freed
    }

    /// Gives back claimed pages, with what lies between the runs, which is absent. Returns their bytes, or
    /// 0 if the system refuses.
    pub(super) fn punch_claimed(&self, runs: &[Range<usize>]) -> u64 {
        for run in runs {
            // guard: h13_forget
            self.forget_flushed(&self.bytes_of(run.clone()));
        }
        let span = runs[0].start..runs[runs.len() - 1].end;
        match file::punch_hole(&self.file, self.bytes_of(span.clone())) {
            Ok(()) => {
                for run in runs {
                    self.states.release_absent(run.clone());
                }
                let pages: usize = runs.iter().map(|run| run.len()).sum();
                let bytes = (pages as u64) << self.page_shift;
                self.punch_huge_pages_around(span);
                self.uncharge(bytes);
                bytes
            }
            Err(error) => {
                log::warn!("cannot give back {} pages: {error}", span.len());
                for run in runs {
                    // While they are claimed: what is written afterwards stays.
                    let bytes = self.bytes_of(run.clone());
                    let _lost = self.zero_pinned(bytes.clone());
                    let _lost = self.copy_base(&bytes);
                    self.states.release_present(run.clone());
                }
                0
            }
        }
    }

    /// Gives back what is left of transparent huge pages at both ends of `pages`. The file system
    /// may have made a huge page for a few small ones. It goes when none of its small pages is
    /// present any more.
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
            // What lies behind the disk is not ours to give back, unless it was asked for.
            let disk = pages_of(&(0..self.size()), self.page_shift).end;
            let all = all.start..all.end.min(disk.max(pages.end));
            if !whole && self.states.claim_absent(all.clone()) {
                // If this fails the file keeps memory that reads as zeros, as before.
                let _ = file::punch_hole(&self.file, self.bytes_of(all.clone()));
                self.states.release_absent(all);
            }
        }
    }

    /// Zeroes what is present of a range. Holes stay.
    fn zero_in_place(&self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        self.states.pin(pages_of(&range, self.page_shift));
        let mut at = range.start;
        self.runs(range.clone(), &mut |run| {
            let (is_present, len) = match run {
                Run::Memory(_, len) => (true, len as u64),
                Run::Zeros(len) => (false, len as u64),
            };
            if is_present {
                // What the file has lost does not hold the old bytes either.
                let _lost = self.zero_pinned(at..at + len);
                self.persist(&(at..at + len));
            }
            at += len;
        });
        self.unpin(range);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use crate::ramdisk::store::testing::{byte_at, fill};

    const PAGE: u64 = 4096;
    const MIB: u64 = 1 << 20;

    #[test]
    fn e18_a_discard_up_to_the_end_gives_back_the_page_that_the_end_lies_in() {
        let store = Store::anonymous(3 * PAGE + 512, false).unwrap();
        store.preallocate().unwrap();
        store.discard(0..3 * PAGE + 512);
        assert_eq!(
            (store.allocated().unwrap(), store.used()),
            (0, store.table_bytes())
        );
        // The same if the disk has become smaller since.
        store.preallocate().unwrap();
        store.shrink(PAGE);
        store.discard(PAGE..3 * PAGE + 512);
        assert_eq!(store.allocated().unwrap(), PAGE);
    }

    /// The store's file is longer than the disk, and holds bytes there that the store did not write.
    #[test]
    fn h11_a_discard_of_the_whole_disk_keeps_what_lies_behind_it_in_the_file() {
        let store = Store::anonymous(2 * MIB, false).unwrap();
        let behind = [0xee_u8; PAGE as usize];
        std::os::unix::fs::FileExt::write_all_at(&store.file, &behind, MIB).unwrap();
        store.shrink(MIB);
        fill(&store, 0..1, 1);
        store.discard(0..MIB);
        let mut found = [0; PAGE as usize];
        std::os::unix::fs::FileExt::read_exact_at(&store.file, &mut found, MIB).unwrap();
        assert!(found == behind, "given back with the disk");
    }

    /// A disk grows while a discard up to its old end is under way, and is written to behind that.
    #[test]
    fn h08_a_write_behind_the_old_end_survives_a_discard_up_to_it() {
        const OLD: u64 = 32 * MIB + 512;
        let mut overlapped = 0;
        while overlapped < 5 {
            let (store, done) = (
                Store::anonymous(OLD, false).unwrap(),
                AtomicBool::new(false),
            );
            store.preallocate().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    store.discard(0..OLD);
                    done.store(true, Ordering::Release);
                });
                // The sign that the discard is under way.
                while store.states.is_present(0) {
                    std::hint::spin_loop();
                }
                store.grow(OLD + MIB).unwrap();
                fill(&store, OLD..OLD + 1, 0xa5);
                overlapped += u32::from(!done.load(Ordering::Acquire));
            });
            assert_eq!(byte_at(&store, OLD), 0xa5, "the write is lost");
        }
    }

    /// The system refuses to give pages back: they are as they were, and what is written to them
    /// from then on stays.
    #[test]
    fn e19_a_write_survives_pages_of_zeros_that_cannot_be_given_back() {
        const PAGES: u64 = 512;
        const AT: u64 = (PAGES - 1) * PAGE;
        let name = c"ublk-ramdisk";
        // SAFETY: the name is a C string for the length of the call.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_ALLOW_SEALING) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
        let store = Store::with_new_file(file, PAGES * PAGE, false).unwrap();
        store.preallocate().unwrap();
        let seal = libc::F_SEAL_FUTURE_WRITE;
        // SAFETY: no memory is involved.
        let sealed = unsafe { libc::fcntl(store.file.as_raw_fd(), libc::F_ADD_SEALS, seal) };
        assert_eq!(sealed, 0, "{}", std::io::Error::last_os_error());
        let (passes, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(store.reclaim_zeros(0..u64::MAX), 0);
                    passes.fetch_add(1, Ordering::Relaxed);
                }
            });
            let kept = (0..20).all(|_| {
                // The sign that the page has been claimed: the write waits until it is there again.
                while store.states.is_present(PAGES as usize - 1) {
                    std::hint::spin_loop();
                }
                fill(&store, AT..AT + 1, 1);
                let seen = passes.load(Ordering::Relaxed);
                while passes.load(Ordering::Relaxed) == seen {
                    std::thread::yield_now();
                }
                let kept = byte_at(&store, AT) == 1;
                fill(&store, AT..AT + 1, 0);
                kept
            });
            stop.store(true, Ordering::Relaxed);
            assert!(kept, "a write is lost");
        });
    }
}
