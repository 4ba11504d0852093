// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding pages that hold nothing but zeros and giving them back (E19, E21).
//!
//! Only the reclaim workqueue calls this. A page that a request uses is skipped. Requests for a page
//! that is examined wait, as they do for a punch.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::slice::from_ref;

use super::{pages_of, Store};
use crate::ramdisk::page_state::Claim;

/// Pages that are given back with one system call at most.
const RUN: usize = 512;

impl Store {
    /// Gives back the pages of `range` that hold only zeros. Returns their bytes.
    pub(in crate::ramdisk) fn reclaim_zeros(&self, range: Range<u64>) -> u64 {
        let end = range.end.min(self.size());
        let pages = pages_of(&(range.start..end.max(range.start)), self.page_shift);
        let (mut page, mut freed) = (pages.start, 0);
        while page < pages.end {
            let start = page;
            while page < pages.end && page - start < RUN && self.claim_zeros(page) {
                page += 1;
            }
            if page == start {
                page += 1;
                continue;
            }
            freed += self.punch_claimed(from_ref(&(start..page)));
        }
        freed
    }

    /// Claims a page if nobody uses it and it holds only zeros, which are flushed and hide nothing of an
    /// image. It is claimed before it is read: to read a page that is being punched would allocate it
    /// again (G11).
    fn claim_zeros(&self, page: usize) -> bool {
        if self.states.claim(page) != Claim::Claimed {
            return false;
        }
        let bytes = self.bytes_of(page..page + 1);
        // guard: h18_hidden
        let zeros = self.holds_zeros(page) && !self.is_unflushed(&bytes) && !self.has_base(&bytes);
        if !zeros {
            self.states.release_present(page..page + 1);
        }
        zeros
    }

    fn holds_zeros(&self, page: usize) -> bool {
        static ZEROS: [u8; 4096] = [0; 4096];
        let mut bytes = self.bytes_of(page..page + 1).step_by(ZEROS.len());
        if self.can_be_cut() {
            let mut copy = [0; ZEROS.len()];
            // A page that cannot be read may be lost: it is no page of zeros.
            return bytes.all(|at| self.file.read_exact_at(&mut copy, at).is_ok() && copy == ZEROS);
        }
        bytes.all(|at| {
            let (left, right) = (self.address(at).as_ptr(), ZEROS.as_ptr());
            // SAFETY: the page is there and claimed, so nobody writes to it; it is a multiple of
            // 4096 bytes long and within the mapping.
            unsafe { libc::memcmp(left.cast(), right.cast(), ZEROS.len()) == 0 }
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::ramdisk::store::testing::{byte_at, fill};

    const PAGE: u64 = 4096;

    #[test]
    fn e19_zeros_are_given_back_and_nothing_else_is() {
        let store = Store::anonymous(2048 * PAGE, false).expect("a memfd");
        store.preallocate().unwrap();
        let marked = [3, 700, 701, 2047];
        for page in marked {
            let last = page * PAGE + PAGE - 1;
            fill(&store, last..last + 1, 1);
        }
        // Somebody uses a page of zeros: it stays (E21).
        assert!(store.pin_for_write(9 * PAGE..10 * PAGE).is_some());
        assert_eq!(store.reclaim_zeros(0..u64::MAX), (2048 - 5) * PAGE);
        assert_eq!(store.allocated().unwrap(), 5 * PAGE, "by st_blocks (E18)");
        assert_eq!(store.used(), store.table_bytes() + 5 * PAGE);
        store.unpin(9 * PAGE..10 * PAGE);
        assert_eq!(store.reclaim_zeros(0..u64::MAX), PAGE);
        for page in marked {
            assert_eq!(byte_at(&store, page * PAGE + PAGE - 1), 1);
        }
    }

    /// Three threads write, discard and read pages of their own, while pages of zeros are taken
    /// back all the time: a read returns what was written, and nothing leaks.
    #[test]
    fn e21_reclaim_beside_requests_never_changes_what_is_read() {
        const THREADS: u64 = 3;
        const PAGES: u64 = 32;
        let store = Store::anonymous(THREADS * PAGES * PAGE, false).expect("a memfd");
        let over = AtomicBool::new(false);
        // Only one thread makes memory at a time, as in a server.
        let allocator = std::sync::Mutex::new(());
        let work = |thread: u64| {
            let mut model = [[0_u8; 2]; PAGES as usize];
            let mut random = thread + 1;
            for round in 0..20_000 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                let [page, what] = [random >> 33, random >> 60].map(|n| n % PAGES);
                let at = (page * THREADS + thread) * PAGE;
                let halves = [at..at + PAGE / 2, at + PAGE / 2..at + PAGE];
                let held = &mut model[page as usize];
                match what % 4 {
                    0 => {
                        let _alone = allocator.lock().unwrap();
                        let byte = (round % 3) as u8;
                        fill(&store, halves[0].clone(), byte);
                        held[0] = byte;
                    }
                    1 => {
                        store.discard(halves[1].start..halves[1].end);
                        held[1] = 0;
                    }
                    2 => {
                        store.discard(at..at + PAGE);
                        *held = [0; 2];
                    }
                    _ => {
                        let _alone = allocator.lock().unwrap();
                        fill(&store, halves[1].clone(), 7);
                        held[1] = 7;
                    }
                }
                let found = halves.map(|half| byte_at(&store, half.start + page));
                assert_eq!(found, *held, "round {round} of {thread}");
            }
        };
        std::thread::scope(|scope| {
            let work = &work;
            let workers: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || work(thread)))
                .collect();
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    store.reclaim_zeros(0..u64::MAX);
                }
            });
            let failed = workers.into_iter().filter_map(|worker| worker.join().err());
            let failed = failed.count();
            over.store(true, Ordering::Relaxed);
            assert_eq!(failed, 0);
        });
        let pages = store.used() - store.table_bytes();
        assert_eq!(pages, store.allocated().unwrap(), "by st_blocks (E18)");
        store.discard(0..store.size());
        assert_eq!(
            (store.used(), store.allocated().unwrap()),
            (store.table_bytes(), 0)
        );
    }
}
