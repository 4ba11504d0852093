// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much memory the store may use, and how much it does (E6, E7).
//!
//! Memory is reserved here before it is allocated, and the reservation is either committed or comes
//! back by itself, on every way out. What is committed comes back when pages are punched.
//!
//! Whoever finds too little joins those that wait:
//!
//! ```text
//!   allocator: mark WAITING | fence | try once more       others: give back | fence | look for WAITING
//! ```
//!
//! Either the second try finds what was given back, or the giver finds the mark, takes it away and
//! wakes (W14). Raising the limit is a way of giving back.

use super::words::{fence, AtomicBool, AtomicU64, Ordering};

/// The account. All numbers are bytes.
#[derive(Debug)]
pub(super) struct Budget {
    /// Committed and reserved, with what the store's own tables take.
    used: AtomicU64,
    /// 0 for none.
    limit: AtomicU64,
    waiting: AtomicBool,
}

impl Budget {
    /// An account that begins with `fixed` bytes for tables, and has no limit.
    pub(super) fn new(fixed: u64) -> Self {
        Self {
            used: AtomicU64::new(fixed),
            limit: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// 0 for none.
    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Counts what is there already, limit or not.
    pub(super) fn adopt(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sets aside `bytes`, or nothing.
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

    /// As `reserve`; after None the next one to give something back is told that somebody waits.
    pub(super) fn reserve_or_wait(&self, bytes: u64) -> Option<Reservation<'_>> {
        self.reserve(bytes).or_else(|| {
            self.wait();
            // guard: w14_second_try
            self.reserve(bytes)
        })
    }

    /// The next one to give something back is told so.
    pub(super) fn wait(&self) {
        self.waiting.store(true, Ordering::Relaxed);
        // Pairs with the fence in `somebody_waits`, see above.
        // guard: w14_fences
        fence(Ordering::SeqCst);
    }

    /// Takes back what was committed. True if somebody waits, and the caller wakes.
    #[must_use]
    pub(super) fn give_back(&self, bytes: u64) -> bool {
        self.used.fetch_sub(bytes, Ordering::Release);
        self.somebody_waits()
    }

    /// Another limit, 0 for none; it may lie below what is used. True if it is a higher one and
    /// somebody waits, and the caller wakes: a lower one is no reason to try again.
    #[must_use]
    pub(super) fn set_limit(&self, limit: u64) -> bool {
        let old = self.limit.swap(limit, Ordering::Relaxed);
        let raised = old != 0 && (limit == 0 || limit > old);
        raised && self.somebody_waits()
    }

    fn somebody_waits(&self) -> bool {
        // Pairs with the fence in `wait`, see above.
        // guard: w14_fences
        fence(Ordering::SeqCst);
        self.waiting.load(Ordering::Relaxed) && self.waiting.swap(false, Ordering::Relaxed)
    }
}

/// Bytes set aside. What is not committed comes back when this is dropped. That wakes nobody: only
/// the allocator makes reservations, one at a time, and tries again by itself.
#[derive(Debug)]
#[must_use]
pub(super) struct Reservation<'b> {
    budget: &'b Budget,
    left: u64,
}

impl Reservation<'_> {
    /// So much of it has become memory.
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
    fn e07_what_is_not_committed_comes_back() {
        let budget = Budget::new(10);
        assert!(!budget.set_limit(110));
        let mut all = budget.reserve(100).unwrap();
        assert!(budget.reserve(1).is_none());
        all.commit(60);
        drop(all);
        assert_eq!(budget.used(), 70);
        assert!(!budget.give_back(60), "nobody waits");
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
        assert!(budget.give_back(49), "the one that waits is named, once");
        assert!(budget.reserve_or_wait(1).is_none());
        assert!(budget.give_back(1) && !budget.give_back(1));
        assert!(budget.reserve(1).is_some() && budget.reserve(2).is_none());
        assert!(budget.reserve_or_wait(2).is_none());
        assert!(budget.set_limit(0), "raising it wakes too");
        assert!(budget.reserve(1 << 40).is_some());
    }

    /// The leak test of E7: whatever becomes of a reservation, use returns to the same number.
    #[test]
    fn e07_a_million_faulted_requests_leave_nothing_behind() {
        let budget = Budget::new(7);
        let _ = budget.set_limit(1 << 20);
        let mut random = 1_u64;
        let mut kept = 0;
        for _ in 0..1_000_000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
            let bytes = (random >> 33) % (1 << 18);
            let Some(mut reserved) = budget.reserve(bytes) else {
                let _ = budget.give_back(kept);
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
        let _ = budget.give_back(kept);
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
            let giver = loom::thread::spawn(move || other.give_back(1));
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
