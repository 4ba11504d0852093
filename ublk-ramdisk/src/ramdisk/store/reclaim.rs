// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding pages that hold nothing but zeros and giving them back (E19, E21).
//!
//! Called by the reclaim workqueue alone. A page that a request uses is passed over; while one is
//! looked at, requests for it wait, as they do for a punch.

use std::ops::Range;

use super::{pages_of, Store};
use crate::ramdisk::page_state::Punch;

/// So many pages are given back with one system call at most.
const RUN: usize = 512;

impl Store {
    /// Gives back the pages of `range` that hold zeros. Answers the bytes.
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
            freed += self.punch_ours(start..page);
        }
        freed
    }

    /// Claims a page if nobody uses it and it holds zeros: nobody can use it then until it has been
    /// punched. It is claimed before it is looked at: to look at a page that is being punched would
    /// make it again (G11).
    fn claim_zeros(&self, page: usize) -> bool {
        if self.states.try_punch(page) != Punch::Ours {
            return false;
        }
        let zeros = self.holds_zeros(page);
        if !zeros {
            self.states.spared(page..page + 1);
        }
        zeros
    }

    fn holds_zeros(&self, page: usize) -> bool {
        static ZEROS: [u8; 4096] = [0; 4096];
        let bytes = self.bytes_of(page..page + 1);
        bytes.step_by(ZEROS.len()).all(|at| {
            let (left, right) = (self.address(at).as_ptr(), ZEROS.as_ptr());
            // SAFETY: the page is there and claimed, so nobody writes to it; it is a multiple of
            // 4096 bytes long and within the mapping.
            unsafe { libc::memcmp(left.cast(), right.cast(), ZEROS.len()) == 0 }
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    #[test]
    fn e19_zeros_are_given_back_and_nothing_else_is() {
        let store = Store::anonymous(2048 * PAGE, false).expect("a memfd");
        store.preallocate().unwrap();
        let marked = [3, 700, 701, 2047];
        for page in marked {
            let at = store.pin_for_write(page * PAGE..page * PAGE + PAGE);
            // SAFETY: the page is present and pinned.
            unsafe { at.unwrap().as_ptr().add(4095).write(1) };
            store.unpin(page * PAGE..page * PAGE + PAGE);
        }
        // Somebody uses a page of zeros: it stays (E21).
        assert!(store.pin_for_write(9 * PAGE..10 * PAGE).is_some());
        assert_eq!(store.reclaim_zeros(0..u64::MAX), (2048 - 5) * PAGE);
        assert_eq!(store.allocated().unwrap(), 5 * PAGE, "by st_blocks (E18)");
        assert_eq!(store.used(), store.table_bytes() + 5 * PAGE);
        store.unpin(9 * PAGE..10 * PAGE);
        assert_eq!(store.reclaim_zeros(0..u64::MAX), PAGE);
        for page in marked {
            let at = store.pin_for_write(page * PAGE..page * PAGE + PAGE);
            // SAFETY: the page is present and pinned.
            assert_eq!(unsafe { at.unwrap().as_ptr().add(4095).read() }, 1);
        }
    }
}
