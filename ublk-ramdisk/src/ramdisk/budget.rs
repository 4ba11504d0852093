// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes of memory that the store uses, and their limit (E6, E7).
//!
//! Memory is reserved here before it is allocated. What is not committed of a reservation comes back
//! when it is dropped. What is committed comes back when pages are punched.
//!
//! An allocator that finds too little marks that it waits:
//!
//! ```text
//!   allocator: mark WAITING | fence | try once more       others: uncharge | fence | take WAITING
//! ```
//!
//! Either the second try finds what has come back, or the other thread finds the mark, clears it and
//! wakes (W14). Raising the limit works like giving back.

use super::sync::{fence, AtomicBool, AtomicU64, Ordering};

/// Bytes used and their limit.
#[derive(Debug)]
pub(super) struct Budget {
    /// Committed and reserved, with what the store's own tables take.
    used: AtomicU64,
    /// 0 for none.
    limit: AtomicU64,
    waiting: AtomicBool,
}

impl Budget {
    /// Begins with `fixed` bytes used, for tables, and no limit.
    pub(super) fn new(fixed: u64) -> Self {
        Self {
            used: AtomicU64::new(fixed),
            limit: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
        }
    }

    /// Bytes used now, reservations included.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit in bytes; 0 for none.
    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Counts bytes as used, even above the limit.
    pub(super) fn charge(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Reserves `bytes`, or nothing.
    pub(super) fn reserve(&self, bytes: u64) -> Option<Reservation<'_>> {
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let after = used.checked_add(bytes)?;
            let limit = self.limit.load(Ordering::Relaxed);
            if limit != 0 && after > limit {
                return None;
            }
            let (won, lost) = (Ordering::Acquire, Ordering::Relaxed);
            match self.used.compare_exchange(used, after, won, lost) {
                Ok(_) => {
                    return Some(Reservation {
                        budget: self,
                        left: bytes,
                    })
                }
                Err(now) => used = now,
            }
        }
    }

    /// Reserves as `reserve`. If it returns None, the next `uncharge` returns true.
    pub(super) fn reserve_or_wait(&self, bytes: u64) -> Option<Reservation<'_>> {
        self.reserve(bytes).or_else(|| {
            self.mark_waiting();
            // guard: w14_second_try
            self.reserve(bytes)
        })
    }

    /// Marks that a request waits: the next `uncharge` returns true.
    pub(super) fn mark_waiting(&self) {
        self.waiting.store(true, Ordering::Relaxed);
        // Pairs with the fence in `take_waiting`, see above.
        // guard: w14_fences
        fence(Ordering::SeqCst);
    }

    /// Counts bytes as not used any more. True if a request waits: the caller wakes.
    #[must_use]
    pub(super) fn uncharge(&self, bytes: u64) -> bool {
        self.used.fetch_sub(bytes, Ordering::Release);
        self.take_waiting()
    }

    /// Sets the limit, 0 for none. It may lie below what is used. True if it is higher than before and
    /// a request waits: the caller wakes.
    #[must_use]
    pub(super) fn set_limit(&self, limit: u64) -> bool {
        let old = self.limit.swap(limit, Ordering::Relaxed);
        let raised = old != 0 && (limit == 0 || limit > old);
        raised && self.take_waiting()
    }

    fn take_waiting(&self) -> bool {
        // Pairs with the fence in `mark_waiting`, see above.
        // guard: w14_fences
        fence(Ordering::SeqCst);
        self.waiting.load(Ordering::Relaxed) && self.waiting.swap(false, Ordering::Relaxed)
    }
}

/// Bytes reserved. What is not committed comes back when this is dropped. That wakes nobody: only the
/// allocator makes reservations, one at a time.
#[derive(Debug)]
#[must_use]
pub(super) struct Reservation<'b> {
    budget: &'b Budget,
    left: u64,
}

impl Reservation<'_> {
    /// Counts `bytes` of it as used.
    pub(super) fn commit(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.left);
        self.left -= bytes;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.left, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn e07_an_uncommitted_reservation_comes_back() {
        let budget = Budget::new(10);
        assert!(!budget.set_limit(110));
        let mut all = budget.reserve(100).unwrap();
        assert!(budget.reserve(1).is_none());
        all.commit(60);
        drop(all);
        assert_eq!(budget.used(), 70);
        assert!(!budget.uncharge(60), "nobody waits");
        assert_eq!(budget.used(), 10);
        assert!(budget.reserve(u64::MAX).is_none(), "no overflow");
    }

    #[test]
    fn e06_a_limit_below_what_is_used_takes_nothing_away() {
        let budget = Budget::new(0);
        budget.reserve(100).unwrap().commit(100);
        assert!(!budget.set_limit(50));
        assert!(budget.reserve_or_wait(1).is_none());
        assert_eq!(budget.used(), 100);
        assert!(budget.uncharge(49), "a waiter is reported once");
        assert!(budget.reserve_or_wait(1).is_none());
        assert!(budget.uncharge(1) && !budget.uncharge(1));
        assert!(budget.reserve(1).is_some() && budget.reserve(2).is_none());
        assert!(budget.reserve_or_wait(2).is_none());
        assert!(budget.set_limit(0), "raising it wakes too");
        assert!(budget.reserve(1 << 40).is_some());
    }

    /// The leak test of E7: whatever becomes of a reservation, use returns to the same number.
    #[test]
    fn e07_a_million_failed_allocations_leak_nothing() {
        let budget = Budget::new(7);
        let _ = budget.set_limit(1 << 20);
        let mut random = 1_u64;
        let mut kept = 0;
        for _ in 0..1_000_000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
            let bytes = (random >> 33) % (1 << 18);
            let Some(mut reserved) = budget.reserve(bytes) else {
                let _ = budget.uncharge(kept);
                kept = 0;
                continue;
            };
            // The allocation fails after a part, or not at all.
            let part = if random & 1 << 20 == 0 {
                bytes
            } else {
                bytes / 3
            };
            reserved.commit(part);
            kept += part;
        }
        let _ = budget.uncharge(kept);
        assert_eq!(budget.used(), 7);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::sync::Arc;

    /// Memory that is given back while somebody finds that there is none: the second try finds it,
    /// or the giver finds somebody waiting.
    #[test]
    fn loom_w14_memory_given_back_while_the_allocator_gives_up_is_not_missed() {
        loom::model(|| {
            let budget = Arc::new(Budget::new(0));
            let _ = budget.set_limit(1);
            budget.reserve(1).unwrap().commit(1);
            let other = budget.clone();
            let giver = loom::thread::spawn(move || other.uncharge(1));
            let found = budget.reserve_or_wait(1).is_some();
            let woken = giver.join().unwrap();
            assert!(found || woken, "parked for ever");
        });
    }

    #[test]
    fn loom_w14_a_limit_raised_while_the_allocator_gives_up_is_not_missed() {
        loom::model(|| {
            let budget = Arc::new(Budget::new(1));
            let _ = budget.set_limit(1);
            let other = budget.clone();
            let giver = loom::thread::spawn(move || other.set_limit(2));
            let found = budget.reserve_or_wait(1).is_some();
            let woken = giver.join().unwrap();
            assert!(found || woken, "parked for ever");
        });
    }

    /// Of several that give back one wakes.
    #[test]
    fn loom_e07_two_reservations_never_exceed_the_limit() {
        loom::model(|| {
            let budget = Arc::new(Budget::new(0));
            let _ = budget.set_limit(3);
            let other = budget.clone();
            let second = loom::thread::spawn(move || {
                let reserved = other.reserve(2);
                assert!(other.used() <= 3);
                reserved.is_some()
            });
            let first = budget.reserve(2);
            assert!(budget.used() <= 3);
            drop(first);
            let _ = second.join().unwrap();
            assert_eq!(budget.used(), 0);
        });
    }
}
