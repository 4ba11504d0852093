// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state word of an item: who may queue it, whether it waits, where it last was.
//!
//! ```text
//!   63            32 31            16 15  9   8     7    4    3       2        1         0
//!  +----------------+----------------+-----+-------+-------+--------+--------+----------+---------+
//!  | pool number + 1| disable depth  |forks| INBOX | color | LINKED | QUEUED | INACTIVE | PENDING |
//!  +----------------+----------------+-----+-------+-------+--------+--------+----------+---------+
//! ```
//!
//! * PENDING: a run is owed. Taken by [`WorkState::claim`]; the caller that gets `Ours` owns the
//!   item until it hands it to a list or a timer, or gives the bit back.
//! * QUEUED: the item is on a list of the pool named in the word; changes only under that pool's
//!   lock. PENDING without QUEUED: with a timer, in an inbox, or on its way.
//! * INBOX: the item lies in the inbox of the pool named in the word, or is about to. A thread that
//!   takes that pool's lock finds it QUEUED instead, or is early and looks again.
//! * INACTIVE: held back by max_active (or a barrier, which never takes a slot). Pool lock.
//! * LINKED: the next entry of the list is a barrier that must move with this one. Pool lock.
//! * color: the flush generation the item counts for. Pool lock.
//! * forks: how many forks had made the process that took PENDING, by which a child tells items of
//!   its parent.
//! * depth: how many `disable` calls are open. Changed at any time, under no lock.
//! * pool: where the item is, or was last. Stays when the item has run.
//!
//! Each transition is one atomic read-modify-write, also where it changes nothing. That gives the
//! ordering guarantees to a caller whose claim fails. Kernel counterpart: `work_struct.data`, which
//! holds a pwq pointer or a pool number in turn; here the word always names the pool, and the pwq
//! is a number beside it.

use crate::sys::cpu;
use crate::sys::sync::modelled::{AtomicU64, Ordering};

const PENDING: u64 = 1 << 0;
const INACTIVE: u64 = 1 << 1;
const QUEUED: u64 = 1 << 2;
const LINKED: u64 = 1 << 3;
const INBOX: u64 = 1 << 8;
const COLOR_SHIFT: u32 = 4;
const COLOR_MASK: u64 = 0xf << COLOR_SHIFT;
const FORKS_SHIFT: u32 = 9;
const FORKS_MASK: u64 = 0x7f << FORKS_SHIFT;
const DEPTH_SHIFT: u32 = 16;
const DEPTH_MASK: u64 = 0xffff << DEPTH_SHIFT;
const POOL_SHIFT: u32 = 32;
const POOL_MASK: u64 = 0xffff_ffff << POOL_SHIFT;

/// The number of forks that made this process, as the word keeps it.
fn forks() -> u64 {
    u64::from(cpu::fork_generation()) << FORKS_SHIFT & FORKS_MASK
}

/// How many flush generations the word can tell apart.
pub(crate) const COLORS: u8 = 16;

/// One reading of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot(u64);

impl Snapshot {
    pub(crate) fn pending(self) -> bool {
        self.0 & PENDING != 0
    }

    pub(crate) fn queued(self) -> bool {
        self.0 & QUEUED != 0
    }

    /// True if the item can be found through the lock of the pool named in the word.
    pub(crate) fn with_pool(self) -> bool {
        self.0 & (QUEUED | INBOX) != 0
    }

    /// True if the item was pending already when a fork made this process. Nobody runs it here.
    pub(crate) fn is_pending_in_parent(self) -> bool {
        self.pending() && self.0 & FORKS_MASK != forks()
    }

    pub(crate) fn inactive(self) -> bool {
        self.0 & INACTIVE != 0
    }

    pub(crate) fn linked(self) -> bool {
        self.0 & LINKED != 0
    }

    pub(crate) fn color(self) -> u8 {
        ((self.0 & COLOR_MASK) >> COLOR_SHIFT) as u8
    }

    pub(crate) fn depth(self) -> u16 {
        ((self.0 & DEPTH_MASK) >> DEPTH_SHIFT) as u16
    }

    /// The pool the item is on or was last on; None before its first enqueue.
    pub(crate) fn pool(self) -> Option<u32> {
        ((self.0 >> POOL_SHIFT) as u32).checked_sub(1)
    }
}

/// What a caller who wants to queue an item has to do next.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Claim {
    /// The caller holds PENDING and puts the item somewhere, or calls `release`.
    Ours,
    /// Another caller owns the item. Its run sees everything this caller did before.
    AlreadyPending,
    /// The item is disabled. Nothing has changed.
    Disabled,
    /// The item was on another pool last and may still run there. Nothing has changed. Only
    /// [`WorkState::claim_for`] returns this.
    Elsewhere,
}

/// The word itself.
#[derive(Debug)]
pub(crate) struct WorkState(AtomicU64);

impl WorkState {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn load(&self) -> Snapshot {
        // Acquire: a reader that sees QUEUED or a pool number may follow it to that pool.
        Snapshot(self.0.load(Ordering::Acquire))
    }

    /// One read-modify-write that always writes, even if the value stays the same.
    fn rmw(&self, change: impl Fn(u64) -> u64) -> Snapshot {
        // AcqRel: pairs with itself, every transition with the next one of the same word. The two
        // that matter most are `claim` and `begin_run`:
        //   queuer: store event | claim (fails)       worker: begin_run | read events in the run
        // If the failing claim were a plain load, it could be ordered before the store. The run
        // could then miss the event although the caller was told that a run is still to come.
        match self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |v| Some(change(v)))
        {
            Ok(v) | Err(v) => Snapshot(v),
        }
    }

    /// Takes PENDING, unless it is set or the item is disabled.
    pub(crate) fn claim(&self) -> Claim {
        // guard: s02_13_claim_by_load
        let before = self.rmw(|v| {
            // guard: s02_18_claim_disabled
            if v & (PENDING | DEPTH_MASK) == 0 {
                v | forks() | PENDING
            } else {
                v
            }
        });
        if before.pending() {
            Claim::AlreadyPending
        // guard: s02_18_claim_disabled
        } else if before.depth() > 0 {
            Claim::Disabled
        } else {
            Claim::Ours
        }
    }

    /// As `claim`, for the inbox of `pool`. Fails with `Elsewhere` if the item was on another pool
    /// last.
    #[inline]
    pub(crate) fn claim_for(&self, pool: u32) -> Claim {
        let place = (u64::from(pool) + 1) << POOL_SHIFT;
        let fits = |v: u64| v & POOL_MASK == 0 || v & POOL_MASK == place;
        let before = self.rmw(|v| {
            if v & (PENDING | DEPTH_MASK) == 0 && fits(v) {
                place | forks() | INBOX | PENDING
            } else {
                v
            }
        });
        if before.pending() {
            Claim::AlreadyPending
        } else if before.depth() > 0 {
            Claim::Disabled
        } else if fits(before.0) {
            Claim::Ours
        } else {
            Claim::Elsewhere
        }
    }

    /// Reads the word for a caller that is refused by a queue, in the order of a claim.
    pub(crate) fn read_as_claim(&self) -> Snapshot {
        self.rmw(|v| v)
    }

    /// Gives PENDING back without a run: cancelled, or refused when its timer expired.
    pub(crate) fn release(&self) {
        self.0.fetch_and(POOL_MASK | DEPTH_MASK, Ordering::AcqRel);
    }

    /// The owner of PENDING puts the item on a list of `pool`.
    /// # Context: that pool's lock held.
    pub(crate) fn set_queued(&self, pool: u32, color: u8, inactive: bool) {
        let place = (u64::from(pool) + 1) << POOL_SHIFT | u64::from(color) << COLOR_SHIFT;
        let held_back = if inactive { INACTIVE } else { 0 };
        self.rmw(|v| v & (DEPTH_MASK | FORKS_MASK) | place | held_back | QUEUED | PENDING);
    }

    /// The owner of PENDING has taken the item off its list.
    /// # Context: the pool's lock held.
    pub(crate) fn set_taken_off(&self) {
        self.rmw(|v| v & !(QUEUED | INACTIVE | LINKED | COLOR_MASK));
    }

    /// A slot was found for an item held back so far.
    /// # Context: the pool's lock held.
    pub(crate) fn activate(&self) {
        self.rmw(|v| v & !INACTIVE);
    }

    /// A barrier now follows this entry.
    /// # Context: the pool's lock held.
    pub(crate) fn link(&self) {
        self.rmw(|v| v | LINKED);
    }

    /// The worker's last step before it calls the function. From here on the item may be queued
    /// again.
    /// # Context: the pool's lock held.
    pub(crate) fn begin_run(&self) {
        // guard: s02_04_pending_kept
        let kept = POOL_MASK | DEPTH_MASK;
        self.0.fetch_and(kept, Ordering::AcqRel);
    }

    /// Raises the disable depth. None if it is at its limit.
    pub(crate) fn disable(&self) -> Option<()> {
        let before = self.rmw(|v| {
            if v & DEPTH_MASK == DEPTH_MASK {
                v
            } else {
                v + (1 << DEPTH_SHIFT)
            }
        });
        (before.depth() != u16::MAX).then_some(())
    }

    /// Lowers the disable depth; Some(true) if it is 0 now, None if it was 0 before.
    pub(crate) fn enable(&self) -> Option<bool> {
        let before = self.rmw(|v| {
            if v & DEPTH_MASK == 0 {
                v
            } else {
                v - (1 << DEPTH_SHIFT)
            }
        });
        match before.depth() {
            0 => None,
            depth => Some(depth == 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_disturb_each_other() {
        let s = WorkState::new();
        assert_eq!(s.load().pool(), None);
        assert_eq!(s.claim(), Claim::Ours);
        s.set_queued(u32::MAX - 1, 15, true);
        s.link();
        let v = s.load();
        assert!(v.pending() && v.queued() && v.inactive() && v.linked());
        assert_eq!(
            (v.pool(), v.color(), v.depth()),
            (Some(u32::MAX - 1), 15, 0)
        );
        s.activate();
        assert!(!s.load().inactive() && s.load().linked());
        assert!(s.disable().is_some());
        assert_eq!(s.claim(), Claim::AlreadyPending);
        s.begin_run();
        assert_eq!(s.claim(), Claim::Disabled);
        assert_eq!(s.claim_for(u32::MAX - 1), Claim::Disabled);
        assert_eq!(s.load().pool(), Some(u32::MAX - 1));
        assert_eq!(s.enable(), Some(true));
        assert_eq!(s.enable(), None);
    }

    #[test]
    fn only_the_pool_it_was_on_last_has_the_item_in_its_inbox() {
        let s = WorkState::new();
        assert_eq!(s.claim_for(3), Claim::Ours);
        assert_eq!(s.claim_for(3), Claim::AlreadyPending);
        let v = s.load();
        assert!(v.pending() && v.with_pool() && !v.queued());
        assert_eq!(v.pool(), Some(3));
        s.set_queued(3, 1, false);
        assert!(s.load().queued());
        s.begin_run();
        assert_eq!(s.claim_for(4), Claim::Elsewhere);
        assert!(!s.load().with_pool() && !s.load().pending());
        assert_eq!(s.claim_for(3), Claim::Ours);
        s.release();
        assert!(!s.load().with_pool());
    }

    #[test]
    fn s02_19_depth_stops_at_its_limit() {
        let s = WorkState::new();
        for _ in 0..u16::MAX {
            assert!(s.disable().is_some());
        }
        assert!(s.disable().is_none());
        assert_eq!(s.load().depth(), u16::MAX);
        assert_eq!(s.enable(), Some(false));
    }
}
