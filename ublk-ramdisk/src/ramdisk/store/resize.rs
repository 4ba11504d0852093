// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing the size of a store that is in use (H8).

use std::sync::atomic::Ordering;

use super::{pages_of, Store, StoreError};
use crate::sys::file;

impl Store {
    /// Makes the store larger. The new part reads as zeros. The kernel is told afterwards (H8).
    pub fn grow(&self, size: u64) -> Result<(), StoreError> {
        let capacity = self.mapping.len() as u64;
        if size > capacity {
            return Err(StoreError::BeyondCapacity {
                asked: size,
                capacity,
            });
        }
        self.check_shrink(size)?;
        let system = || StoreError::system("grow to", size);
        if self.file.metadata().map_err(system())?.len() < size {
            file::set_len(&self.file, size).map_err(system())?;
        }
        // What a larger disk left there.
        self.discard(self.size()..size);
        self.set_size(size);
        Ok(())
    }

    /// Fails if the size is not whole huge pages of a store that is made of them.
    pub fn check_shrink(&self, size: u64) -> Result<(), StoreError> {
        let page = self.page_size();
        if self.is_hugetlb() && !size.is_multiple_of(page) {
            return Err(StoreError::PartialPage { size, page });
        }
        Ok(())
    }

    /// Makes the store smaller: requests beyond `size` are refused from now on. [`Store::free_tail`]
    /// gives the memory back.
    pub fn shrink(&self, size: u64) {
        self.set_size(size);
    }

    /// Sets the size, and charges the budget for what the tables grow by (E6). Everything counts as
    /// flushed: what lay behind an end does not come back.
    fn set_size(&self, size: u64) {
        let before = self.table_bytes();
        self.size.store(size, Ordering::Release);
        self.flush();
        let after = self.table_bytes();
        match after.checked_sub(before) {
            Some(more) => self.budget.charge(more),
            None => self.uncharge(before - after),
        }
    }

    /// Gives back what lies between the end of the disk and `old_size`, and cuts the file to the
    /// disk's size, which a later server takes from it. False if a request still uses some of it: the
    /// caller tries again.
    ///
    /// A request that was checked before the shrink touches pages that are present, and no others. So
    /// the file is cut when none is present there. The caller sees to it that no memory is made beyond
    /// the end any more.
    pub fn free_tail(&self, old_size: u64) -> bool {
        let tail = self.size()..old_size;
        self.discard(tail.clone());
        let whole = tail.start.next_multiple_of(self.page_size())..tail.end;
        let freed = pages_of(&whole, self.page_shift).all(|page| !self.states.is_present(page));
        if freed {
            self.cut_file();
        }
        freed
    }

    /// Cuts the file to the disk's size, if it is longer. A failure leaves it a tail of zeros.
    pub(super) fn cut_file(&self) {
        let size = self.size();
        let is_longer = self.file.metadata().is_ok_and(|meta| meta.len() > size);
        if is_longer {
            if let Err(error) = file::set_len(&self.file, size) {
                log::warn!("cannot cut the backing file to {size} bytes: {error}");
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::ops::Range;

    const PAGE: u64 = 4096;

    fn written(store: &Store, range: Range<u64>) {
        store.populate(range.clone()).unwrap();
        store.unpin(range);
    }

    #[test]
    fn e06_h08_the_tables_are_charged_at_every_size() {
        let store = Store::anonymous(128 * PAGE, false).unwrap();
        for size in [256, 32, 48, 16, 256].map(|pages| pages * PAGE) {
            let old = store.size();
            if size > old {
                store.grow(size).unwrap();
            } else {
                store.shrink(size);
                assert!(store.free_tail(old));
            }
            assert_eq!(store.used(), store.table_bytes(), "{old} to {size}");
            let length = store.file.metadata().unwrap().len();
            assert_eq!(length, size, "a later server takes the size from it");
            written(&store, 0..PAGE);
            assert_eq!(store.used(), store.table_bytes() + PAGE);
            store.discard(0..PAGE);
        }
    }
}
