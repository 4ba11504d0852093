// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stores in the kernel's pool of huge pages (hugetlbfs), whose size the administrator sets.
//!
//! A page fault that finds the pool empty is a SIGBUS, so only `populate` makes pages here too. The
//! pages of a whole disk are reserved when it is made, so that no write finds too few. A page that
//! is discarded goes back to the pool with its reservation.

use super::{pages_of, Store, StoreError};
use crate::sys::file;
use crate::sys::mmap::Mapping;

impl Store {
    /// True if the memory comes from the pool of huge pages.
    pub fn is_hugetlb(&self) -> bool {
        self.page_size() != 4096
    }

    /// Reserves all pages of the disk, if they come from the pool of huge pages. With a memory limit
    /// below the size it is not known which pages: then that many must be free now.
    pub fn reserve(&self) -> Result<(), StoreError> {
        if !self.is_hugetlb() {
            return Ok(());
        }
        let (size, limit) = (self.size(), self.memory_limit());
        let allowed = match limit {
            0 => size,
            _ => limit.saturating_sub(self.table_bytes()) & !(self.page_size() - 1),
        };
        if allowed >= size {
            return self.reserve_all();
        }
        let held = self.allocated().map_err(self.cannot("examine"))?;
        let needed = allowed.saturating_sub(held);
        match pool(self.page_size()) {
            available if needed > available => Err(too_little(needed, available)),
            _ => Ok(()),
        }
    }

    /// Has the kernel reserve all pages: only its own count is exact.
    fn reserve_all(&self) -> Result<(), StoreError> {
        let size = self.size();
        Mapping::reserve(&self.file, size as usize).map_err(|source| {
            let needed = size.saturating_sub(self.allocated().unwrap_or(0));
            match pool(self.page_size()) {
                available if needed > available => too_little(needed, available),
                // A limit of the mount or of the control group.
                _ => self.cannot("reserve huge pages for")(source),
            }
        })
    }

    /// Finds out what the file holds. The file system tells the number of pages, not which. A file
    /// that has some gets the others, and then has all.
    pub(super) fn adopt_huge_pages(&self) -> Result<(), StoreError> {
        let held = self.allocated().map_err(self.cannot("examine"))?;
        if held == 0 {
            return Ok(());
        }
        // All or nothing: a failed allocation would leave pages in the file.
        self.reserve_all()?;
        let all = 0..self.size();
        file::allocate(&self.file, all.clone()).map_err(self.cannot("allocate"))?;
        let found = self.states.mark_present(pages_of(&all, self.page_shift));
        self.budget.charge((found as u64) << self.page_shift);
        Ok(())
    }

    fn cannot(&self, step: &'static str) -> impl Fn(std::io::Error) -> StoreError {
        StoreError::system(step, self.size())
    }
}

fn too_little(needed: u64, available: u64) -> StoreError {
    let what = "free huge pages";
    StoreError::TooLittle {
        what,
        needed,
        available,
    }
}

/// Bytes of huge pages that are free and not reserved, or that the kernel may make. `page` is the
/// size of one in bytes.
fn pool(page: u64) -> u64 {
    let number = |name| {
        let folder = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page / 1024);
        let text = std::fs::read_to_string(format!("{folder}/{name}")).ok();
        text.and_then(|text| text.trim().parse::<u64>().ok())
            .unwrap_or(0)
    };
    let free = number("free_hugepages").saturating_sub(number("resv_hugepages"));
    let more = number("nr_overcommit_hugepages").saturating_sub(number("surplus_hugepages"));
    (free + more) * page
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ramdisk::store::{Readable, Shortage};

    /// A store, or None on a kernel without hugetlbfs. It needs no page in the pool.
    fn store(name: &str, size: u64) -> Option<Store> {
        match Store::hugetlb(size) {
            Err(StoreError::System {
                step: "create",
                source,
                ..
            }) => {
                println!("SKIP {name}: this kernel has no hugetlbfs: {source}");
                None
            }
            store => Some(store.expect("a store that holds nothing")),
        }
    }

    #[test]
    fn e06_g11_a_new_disk_of_huge_pages_holds_none() {
        let Some(store) = store("e06_g11_a_new_disk_of_huge_pages_holds_none", 1 << 30) else {
            return;
        };
        let page = store.page_size();
        let (range, empty) = (page..page + 4096, store.table_bytes());
        let length = store.file.metadata().expect("a length").len();
        assert_eq!(length, 1 << 30, "not that of the mapping");
        assert_eq!((store.used(), store.allocated().unwrap()), (empty, 0));
        assert!(matches!(store.pin_for_read(range.clone()), Readable::Hole));
        store.unpin(range.clone());
        assert!(store.pin_for_write(range.clone()).is_none());
        store.set_memory_limit(empty + page - 1);
        let refused = store.populate(range.clone());
        assert!(matches!(refused, Err(Shortage::Budget)), "{refused:?}");
        store.set_memory_limit(empty + page);
        // As many as the pool has, and no SIGBUS.
        let made = match store.populate(range) {
            Ok(made) => made,
            Err(Shortage::System(_)) => 0,
            Err(Shortage::Budget | Shortage::Reserve | Shortage::Image) => {
                panic!("a page is allowed")
            }
        };
        assert!([0, page].contains(&made));
        assert_eq!(store.used(), empty + made);
        assert_eq!(store.allocated().unwrap(), made);
    }

    #[test]
    fn l1_huge_pages_that_are_not_there_are_missed_at_once() {
        const TIB: u64 = 1 << 40;
        let name = "l1_huge_pages_that_are_not_there_are_missed_at_once";
        let Some(store) = store(name, 4 * TIB) else {
            return;
        };
        let missing = || match store.reserve() {
            Err(StoreError::TooLittle { needed, .. }) => needed,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(), 4 * TIB);
        store.set_memory_limit(store.table_bytes() + 4 * TIB);
        assert_eq!(missing(), 4 * TIB);
        store.set_memory_limit(store.table_bytes() + 2 * TIB);
        assert_eq!(missing(), 2 * TIB, "what the limit allows");
        let small = Store::anonymous(1 << 20, false).expect("a memfd");
        small.reserve().expect("nothing to reserve");
    }
}
