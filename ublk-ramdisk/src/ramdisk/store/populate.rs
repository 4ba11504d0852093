// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making memory for a range, within the budget, all of it or none (E6 to E8).
//!
//! Called by the store workqueue and before the disk is there, never within queue_rq (J3). One
//! thread at a time allocates: the store workqueue's populate work is not reentrant.

use std::io;
use std::ops::Range;

use super::{pages_of, Store};
use crate::ramdisk::budget::Reservation;
use crate::sys::file;

/// Bytes that one system call allocates at most, so that a discard of other pages is not kept from
/// the file system for long.
const PIECE: u64 = 16 << 20;

/// Why there is no memory for a range.
#[derive(Debug, thiserror::Error)]
pub enum Shortage {
    /// The budget is used up. Whoever gives memory back calls what was given to
    /// [`Store::on_freed`].
    #[error("the memory limit is reached")]
    Budget,
    /// The system has none, and does not say when it has.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl Store {
    /// Allocates what is missing of a range and pins all of it. Answers the bytes allocated. The
    /// pins end with [`Store::unpin`]; nothing is pinned, allocated or reserved when this fails.
    pub fn populate(&self, range: Range<u64>) -> Result<u64, Shortage> {
        let pages = pages_of(&range, self.page_shift);
        let missing = pages.len() - self.states.pin(pages.clone());
        if missing == 0 {
            return Ok(0);
        }
        let result = self
            .budget
            .reserve_or_wait((missing as u64) << self.page_shift)
            .ok_or(Shortage::Budget)
            .and_then(|reserved| self.allocate(pages.clone(), reserved));
        if result.is_err() {
            self.states.unpin(pages);
        }
        result
    }

    /// Allocates the absent ones of these pinned pages. They are called present when all are there:
    /// nobody else makes absent pages present, and pinned ones are not punched.
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
        let made = (self.states.set_present(pages) as u64) << self.page_shift;
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

    /// The allocation has failed behind these pages: those that are not present hold memory that
    /// nobody will use. That they cannot be given back either changes nothing for the disk.
    fn undo(&self, pages: Range<usize>) {
        let mut at = pages.start;
        while let Some(run) = self.absent_run(at..pages.end) {
            at = run.end;
            let _ = file::punch_hole(&self.file, self.bytes_of(run));
        }
    }

    /// The first absent pages of these.
    fn absent_run(&self, pages: Range<usize>) -> Option<Range<usize>> {
        let start = pages.clone().find(|&page| !self.states.is_present(page))?;
        let end = (start..pages.end).find(|&page| self.states.is_present(page));
        Some(start..end.unwrap_or(pages.end))
    }

    /// Allocates the whole disk.
    pub fn preallocate(&self) -> Result<(), Shortage> {
        let range = 0..self.size();
        self.populate(range.clone())?;
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

    /// Bytes of the budget that the store's own tables take, whatever is written.
    pub fn table_bytes(&self) -> u64 {
        self.size().div_ceil(self.page_size()) * 4
    }

    /// Sets the budget; 0 for none. Less than what is used takes nothing away: nothing is allocated
    /// until use has fallen below it.
    pub fn set_memory_limit(&self, bytes: u64) {
        if self.budget.set_limit(bytes) {
            self.tell_freed();
        }
    }

    /// Says whom to tell, from the thread that frees, that there is memory for a range for which
    /// there was none. Only the first to ask is told.
    pub fn on_freed(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _only_the_first = self.freed.set(Box::new(tell));
    }

    /// Somebody waits though the budget is not used up.
    pub(in crate::ramdisk) fn wait_for_memory(&self) {
        self.budget.wait();
    }

    /// Pages have been punched. Nothing is no reason to tell anybody.
    pub(super) fn give_back(&self, bytes: u64) {
        if bytes > 0 && self.budget.give_back(bytes) {
            self.tell_freed();
        }
    }

    fn tell_freed(&self) {
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
}
