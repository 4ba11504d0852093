// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making memory for a range, within the budget, all of it or none (E6 to E8).
//!
//! Called by the store workqueue, before the disk is there, and within queue_rq while there is plenty
//! of memory (E8). One thread at a time allocates.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::thread;

use super::{pages_of, Store};
use crate::ramdisk::budget::{Budget, Reservation};
use crate::ramdisk::sync::lock;
use crate::sys::file;

/// Bytes of a huge page, the unit of a store that is to have them (E28).
const UNIT: u64 = 2 << 20;
/// Bytes that one system call allocates at most. A discard of other pages may wait for it.
const PIECE: u64 = 16 << 20;
/// How often a thread that must not wait tries while another one makes memory, which takes
/// microseconds unless there is little of it.
const TRIES: u32 = 1000;

/// A way to reserve bytes of the budget.
pub(super) type Reserve = for<'b> fn(&'b Budget, u64) -> Option<Reservation<'b>>;

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
    /// What the page begins with cannot be read. There is memory.
    #[error("the image cannot be read")]
    Image,
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

    fn make(&self, range: Range<u64>, reserve: Reserve) -> Result<u64, Shortage> {
        let made = self.make_range(&range, reserve)?;
        let saved = self.save_or_make(&range, Some(reserve));
        saved.inspect_err(|_| self.unpin(range))?;
        Ok(made)
    }

    fn make_range(&self, range: &Range<u64>, reserve: Reserve) -> Result<u64, Shortage> {
        let pages = pages_of(range, self.page_shift);
        if self.in_units.load(Ordering::Relaxed) {
            // A fault gets a huge page, an allocation does not. Small pages are made if the limit has no
            // room for a unit.
            let unit = self.unit_of(pages.clone());
            let made = self.make_pages(unit, &pages, Budget::reserve, Store::map_run);
            if made.is_ok() {
                return made;
            }
        }
        self.make_pages(pages.clone(), &pages, reserve, Store::allocate_run)
    }

    /// Makes what is absent of `pages`, and keeps `used` of them pinned. A failure changes nothing.
    fn make_pages(
        &self,
        pages: Range<usize>,
        used: &Range<usize>,
        reserve: Reserve,
        make_run: fn(&Store, Range<usize>) -> io::Result<()>,
    ) -> Result<u64, Shortage> {
        // What is pinned is neither given back nor made by others.
        let missing = pages.len() - self.states.pin(pages.clone());
        let make = || {
            let reserved = reserve(&self.budget, (missing as u64) << self.page_shift);
            self.allocate(pages.clone(), reserved.ok_or(Shortage::Budget)?, make_run)
        };
        // A limit below what is there is no hindrance.
        let result = if missing == 0 { Ok(0) } else { make() };
        let kept = if result.is_ok() {
            used.clone()
        } else {
            pages.end..pages.end
        };
        self.states.unpin(pages.start..kept.start);
        self.states.unpin(kept.end..pages.end);
        result
    }

    /// Has memory made in units of a huge page, counted as such, wherever the limit has room for one.
    pub fn make_in_units(&self) {
        self.in_units.store(true, Ordering::Relaxed);
    }

    /// The pages that are made together with these.
    fn unit_of(&self, pages: Range<usize>) -> Range<usize> {
        let unit = (UNIT >> self.page_shift).max(1) as usize;
        let end = pages_of(&(0..self.size()), self.page_shift).end;
        let last = pages.end.next_multiple_of(unit).min(end);
        pages.start / unit * unit..last.max(pages.end)
    }

    /// Bytes that making a range may take.
    pub(in crate::ramdisk) fn bytes_to_make(&self, range: &Range<u64>) -> u64 {
        let pages = pages_of(range, self.page_shift);
        let made = match self.in_units.load(Ordering::Relaxed) {
            true => self.unit_of(pages),
            false => pages,
        };
        let bytes = (made.len() as u64) << self.page_shift;
        match self.keeps_flushed() {
            true => bytes + (range.end - range.start),
            false => bytes,
        }
    }

    /// Maps a populated range for this process, so that its memory is locked if the process's is. From
    /// then on it counts as data.
    pub(in crate::ramdisk) fn map_pages(&self, range: &Range<u64>) {
        // One that cannot be mapped now is mapped when it is touched.
        let _refused = self.map_run(pages_of(range, self.page_shift));
    }

    /// Allocates the absent ones of these pinned pages, and marks them present when all are
    /// allocated. Meanwhile no other thread marks pages present or claims pinned ones. With `making`
    /// held.
    fn allocate(
        &self,
        pages: Range<usize>,
        mut reserved: Reservation<'_>,
        make_run: fn(&Store, Range<usize>) -> io::Result<()>,
    ) -> Result<u64, Shortage> {
        let mut at = pages.start;
        while let Some(run) = self.absent_run(at..pages.end) {
            at = run.end;
            let made = make_run(self, run.clone());
            let made = made.map_err(Shortage::from);
            // guard: h18_filled
            let filled = made.and_then(|()| self.copy_base(&self.bytes_of(run.clone())));
            if let Err(shortage) = filled {
                self.undo(pages.start..run.end);
                return Err(shortage);
            }
        }
        let made = (self.states.mark_present(pages) as u64) << self.page_shift;
        reserved.commit(made);
        Ok(made)
    }

    /// Makes and maps pages. It does not tell a full file system from a missing file.
    fn map_run(&self, run: Range<usize>) -> io::Result<()> {
        self.mapping.populate(self.bytes_of(run))
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

    /// Bytes of the budget that the store's tables take: four for each page of the disk, and eight if a
    /// power cut takes away what is not flushed.
    pub fn table_bytes(&self) -> u64 {
        self.size().div_ceil(self.page_size()) * 4 + self.undo_table_bytes()
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
        store.set_memory_limit(store.table_bytes() + PAGE);
        store
            .populate(0..4 * PAGE)
            .expect("it needs nothing of a limit below what is there");
        assert!(store.pin_for_write(3 * PAGE..5 * PAGE).is_none());
    }

    #[test]
    fn e28_memory_is_made_and_counted_in_units_of_a_huge_page() {
        const MIB: u64 = 1 << 20;
        let store = store(3 * MIB / PAGE, 2 * MIB / PAGE + 1);
        store.make_in_units();
        store.populate(PAGE..2 * PAGE).unwrap();
        assert_eq!(store.allocated().unwrap(), 2 * MIB);
        assert_eq!(store.used(), store.table_bytes() + 2 * MIB);
        // The rest of the unit is there, and nobody holds it.
        assert!(store.pin_for_write(MIB..2 * MIB).is_some());
        store.unpin(MIB..2 * MIB);
        store.unpin(PAGE..2 * PAGE);
        assert_eq!(store.bytes_to_make(&(2 * MIB..2 * MIB + 1)), MIB);
        // Beside it the limit has room for one small page.
        store.populate(2 * MIB..2 * MIB + PAGE).unwrap();
        assert_eq!(store.allocated().unwrap(), 2 * MIB + PAGE);
        assert!(!store.populate_at_once(3 * MIB - PAGE..3 * MIB));
        store.unpin(2 * MIB..2 * MIB + PAGE);
        store.discard(0..3 * MIB);
        assert_eq!(store.allocated().unwrap(), 0);
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
