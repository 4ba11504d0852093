// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making memory for a range, within the budget, all of it or none (E6 to E8).
//!
//! Called by the store workqueue, before the disk is there, and within queue_rq while there is plenty
//! of memory (E8). One thread at a time allocates.

use std::io;
use std::ops::Range;
use std::thread;

use super::{pages_of, Store};
use crate::ramdisk::budget::{Budget, Reservation};
use crate::ramdisk::sync::lock;
use crate::sys::file;

/// Bytes that one system call allocates at most. A discard of other pages may wait for it.
const PIECE: u64 = 16 << 20;
/// How often a thread that must not wait tries while another one makes memory, which takes
/// microseconds unless there is little of it.
const TRIES: u32 = 1000;

/// Why there is no memory for a range.
#[derive(Debug, thiserror::Error)]
pub enum Shortage {
    /// The budget is used up. [`Store::on_freed`] says when there is memory again.
    #[error("the memory limit is reached")]
    Budget,
    /// The machine, or a control group, would be left with less than its reserve (E27). Nothing says
    /// when there is more.
    #[error("no more than the reserve of the machine or of a control group is left")]
    Reserve,
    /// The system has none, and does not say when it has.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl Store {
    /// Allocates what is absent of a range, and pins all of it until [`Store::unpin`]. Returns the
    /// bytes allocated. If this fails nothing is pinned, allocated or reserved.
    pub fn populate(&self, range: Range<u64>) -> Result<u64, Shortage> {
        let _making = lock(&self.making);
        self.make(range, Budget::reserve_or_wait)
    }

    /// The same where a thread must not wait: false also if other threads make memory, or if the disk
    /// ends before the range. Nothing says when there is memory.
    pub(in crate::ramdisk) fn populate_at_once(&self, range: Range<u64>) -> bool {
        let making = (0..TRIES).find_map(|_| {
            let making = self.making.try_lock().ok();
            if making.is_none() {
                thread::yield_now();
            }
            making
        });
        let Some(_making) = making else {
            return false;
        };
        // A disk that has become smaller waits for what began before that: see `shrink`.
        range.end <= self.size() && self.make(range, Budget::reserve).is_ok()
    }

    /// Waits until no memory is made for a range that was checked before.
    pub(in crate::ramdisk) fn wait_for_makers(&self) {
        drop(lock(&self.making));
    }

    fn make<'s>(
        &'s self,
        range: Range<u64>,
        reserve: impl FnOnce(&'s Budget, u64) -> Option<Reservation<'s>>,
    ) -> Result<u64, Shortage> {
        let pages = pages_of(&range, self.page_shift);
        let missing = pages.len() - self.states.pin(pages.clone());
        if missing == 0 {
            return Ok(0);
        }
        let result = reserve(&self.budget, (missing as u64) << self.page_shift)
            .ok_or(Shortage::Budget)
            .and_then(|reserved| self.allocate(pages.clone(), reserved));
        if result.is_err() {
            self.states.unpin(pages);
        }
        result
    }

    /// Maps a populated range for this process, so that its memory is locked if the process's is. From
    /// then on it counts as data.
    pub(in crate::ramdisk) fn map_pages(&self, range: &Range<u64>) {
        self.mapping
            .populate(self.bytes_of(pages_of(range, self.page_shift)));
    }

    /// Allocates the absent ones of these pinned pages, and marks them present when all are
    /// allocated. Meanwhile no other thread marks pages present or claims pinned ones. With `making`
    /// held.
    fn allocate(
        &self,
        pages: Range<usize>,
        mut reserved: Reservation<'_>,
    ) -> Result<u64, Shortage> {
        let mut at = pages.start;
        while let Some(run) = self.absent_run(at..pages.end) {
            at = run.end;
            if let Err(error) = self.allocate_run(run.clone()) {
                self.undo(pages.start..run.end);
                return Err(error.into());
            }
        }
        let made = (self.states.mark_present(pages) as u64) << self.page_shift;
        reserved.commit(made);
        Ok(made)
    }

    fn allocate_run(&self, run: Range<usize>) -> io::Result<()> {
        let bytes = self.bytes_of(run);
        let piece = PIECE.max(self.page_size());
        let mut at = bytes.start;
        while at < bytes.end {
            let end = bytes.end.min(at + piece);
            file::allocate(&self.file, at..end)?;
            at = end;
        }
        Ok(())
    }

    /// Gives back what a failed allocation has made of these pages: those that are not present. If
    /// that fails too the file keeps memory that reads as zeros.
    fn undo(&self, pages: Range<usize>) {
        let mut at = pages.start;
        while let Some(run) = self.absent_run(at..pages.end) {
            at = run.end;
            let _ = file::punch_hole(&self.file, self.bytes_of(run));
        }
    }

    /// The first run of absent pages among these.
    fn absent_run(&self, pages: Range<usize>) -> Option<Range<usize>> {
        let start = pages.clone().find(|&page| !self.states.is_present(page))?;
        let end = (start..pages.end).find(|&page| self.states.is_present(page));
        Some(start..end.unwrap_or(pages.end))
    }

    /// Allocates the whole disk.
    pub fn preallocate(&self) -> Result<(), Shortage> {
        let range = 0..self.size();
        self.populate(range.clone())?;
        // Nothing is left to be done at the first touch of a page.
        self.map_pages(&range);
        self.unpin(range);
        Ok(())
    }

    /// Bytes the store uses of its budget: pages of the disk and its tables (E6).
    pub fn used(&self) -> u64 {
        self.budget.used()
    }

    /// The budget in bytes; 0 for none.
    pub fn memory_limit(&self) -> u64 {
        self.budget.limit()
    }

    /// Bytes of the budget that the store's tables take: four for each page of the disk.
    pub fn table_bytes(&self) -> u64 {
        self.size().div_ceil(self.page_size()) * 4
    }

    /// Sets the budget in bytes; 0 for none. One below what is used takes nothing away: nothing is
    /// allocated until use has fallen below it.
    pub fn set_memory_limit(&self, bytes: u64) {
        if self.budget.set_limit(bytes) {
            self.notify_freed();
        }
    }

    /// Sets the function that is called when there is memory again after an allocation has failed.
    /// It runs on the thread that frees. Only the first one is kept.
    pub fn on_freed(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _only_the_first = self.freed.set(Box::new(tell));
    }

    /// Marks that a request waits though the budget is not used up.
    pub(in crate::ramdisk) fn mark_waiting(&self) {
        self.budget.mark_waiting();
    }

    /// Takes bytes of punched pages off the budget. None of them is no reason to notify.
    pub(super) fn uncharge(&self, bytes: u64) {
        if bytes > 0 && self.budget.uncharge(bytes) {
            self.notify_freed();
        }
    }

    fn notify_freed(&self) {
        if let Some(tell) = self.freed.get() {
            tell();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn store(pages: u64, limit: u64) -> Store {
        let store = Store::anonymous(pages * PAGE, false).expect("a memfd");
        store.set_memory_limit(store.table_bytes() + limit * PAGE);
        store
    }

    #[test]
    fn e07_a_range_is_populated_whole_or_not_at_all() {
        let store = store(16, 4);
        store.populate(PAGE..2 * PAGE).unwrap();
        assert!(matches!(store.populate(0..5 * PAGE), Err(Shortage::Budget)));
        assert_eq!(store.allocated().unwrap(), PAGE, "nothing was taken");
        store.populate(512..4 * PAGE - 512).unwrap();
        assert_eq!(store.allocated().unwrap(), 4 * PAGE);
        assert_eq!(store.used(), store.table_bytes() + 4 * PAGE);
        store.populate(0..4 * PAGE).expect("all of it is there");
        assert!(store.pin_for_write(3 * PAGE..5 * PAGE).is_none());
    }

    #[test]
    fn e06_a_discard_gives_back_to_the_budget_and_tells_the_one_that_waits() {
        use std::sync::atomic::{AtomicU32, Ordering};
        use std::sync::Arc;
        let (store, told) = (store(16, 2), Arc::new(AtomicU32::new(0)));
        let tell = told.clone();
        store.on_freed(move || {
            tell.fetch_add(1, Ordering::Relaxed);
        });
        store.populate(0..2 * PAGE).unwrap();
        store.unpin(0..2 * PAGE);
        store.discard(0..PAGE);
        assert_eq!(told.load(Ordering::Relaxed), 0, "nobody waits");
        assert!(store.populate(0..4 * PAGE).is_err());
        store.discard(0..4 * PAGE);
        assert_eq!(told.load(Ordering::Relaxed), 1);
        assert_eq!(store.used(), store.table_bytes());
        store.populate(4 * PAGE..6 * PAGE).unwrap();
        assert!(store.populate(0..PAGE).is_err());
        store.set_memory_limit(0);
        assert_eq!(told.load(Ordering::Relaxed), 2);
        store.preallocate().unwrap();
        assert_eq!(store.allocated().unwrap(), 16 * PAGE);
    }

    #[test]
    fn e08_threads_that_make_memory_at_once_leak_nothing_and_stay_within_the_limit() {
        const PAGES: u64 = 64;
        let store = store(PAGES, 40);
        let made = std::sync::atomic::AtomicU32::new(0);
        thread::scope(|scope| {
            for seed in 1..=4_u64 {
                let (store, made) = (&store, &made);
                scope.spawn(move || {
                    let mut random = seed;
                    let mut next = |below: u64| {
                        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                        (random >> 33) % below
                    };
                    for round in 0..2000 {
                        let (first, len) = (next(PAGES - 8), 1 + next(7));
                        let range = first * PAGE..(first + len) * PAGE;
                        let pinned = match round % 3 {
                            0 => store.populate(range.clone()).is_ok(),
                            _ => store.populate_at_once(range.clone()),
                        };
                        assert!(store.used() <= store.memory_limit());
                        if pinned {
                            assert!(store.is_present(&range), "pinned and present");
                            store.unpin(range);
                            made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                        store.discard(next(PAGES) * PAGE..PAGES * PAGE);
                    }
                });
            }
        });
        assert!(made.into_inner() > 0);
        store.discard(0..PAGES * PAGE);
        assert_eq!(store.used(), store.table_bytes());
        assert_eq!(store.allocated().unwrap(), 0);
        store.shrink(8 * PAGE);
        assert!(
            !store.populate_at_once(8 * PAGE..9 * PAGE),
            "beyond the end"
        );
        assert!(store.populate_at_once(7 * PAGE..8 * PAGE));
    }
}
