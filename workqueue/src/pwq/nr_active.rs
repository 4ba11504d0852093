// SPDX-License-Identifier: MIT OR Apache-2.0
//! A number of slots that several parties share, with a list of those that wait for one.
//!
//! The slots of an unbound queue on one NUMA node; the parties are the queue's pwqs there, each
//! under the lock of its own pool, so no lock covers them all. [`super`] asks for slots
//! and gives them back. Kernel counterpart: `struct wq_node_nr_active`.
//!
//! Protocol, so that no party waits beside a free slot:
//!
//! ```text
//!   taker                               giver
//!   T1 try to take: fails
//!   T2 join the waiters, publish it     G  give the slot back; if a party waits,
//!   T3 try to take once more               serve the waiters
//! ```
//!
//! The slots in use and the number of waiting parties are halves of one word:
//!
//! ```text
//!   63              32 31               0
//!  +------------------+------------------+
//!  |  waiting parties |  slots in use    |
//!  +------------------+------------------+
//! ```
//!
//! So T2, T3 and G have one order. If T3 fails, the slot was given back after it. Then G comes
//! after T2 and finds the waiting party in the word it changes. Taking and giving back cost one
//! atomic step each.

use crate::sys::sync::modelled::{AtomicU64, AtomicUsize, Mutex, Ordering};
use std::collections::VecDeque;

/// One waiting party.
const WAITER: u64 = 1 << 32;

/// The half of the word that counts slots.
const USED: u64 = WAITER - 1;

/// See the module.
#[derive(Debug)]
pub(crate) struct NrActive<W> {
    max: AtomicUsize, // A: set by the queue, under its own lock
    /// Slots in use, and the length of `waiters`, which is written under its lock.
    word: AtomicU64, // A
    waiters: Mutex<VecDeque<W>>, // N
}

/// What the first waiting party got.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum HeadResult {
    /// A slot. It waits no longer; with more items it must wait again.
    Slot,
    /// Nothing: it is not the first any more. Look again.
    Moved,
    /// Nothing: all slots are in use. The party that gives one back serves the waiters.
    Full,
}

impl<W: Clone + PartialEq> NrActive<W> {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max: AtomicUsize::new(max),
            word: AtomicU64::new(0),
            waiters: Mutex::new(VecDeque::new()),
        }
    }

    /// Makes room for `parties`, so that waiting never allocates.
    pub(crate) fn reserve(&self, parties: usize) {
        let mut waiters = self.waiters.lock();
        let missing = parties.saturating_sub(waiters.len());
        waiters.reserve(missing);
    }

    pub(crate) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    pub(crate) fn used(&self) -> usize {
        (self.word.load(Ordering::Relaxed) & USED) as usize
    }

    /// Sets the limit. The caller serves the waiters afterwards, since there may be more slots now.
    pub(crate) fn set_max(&self, max: usize) {
        // Release pairs with the Acquire in `try_take`. A party that still saw the former limit is
        // in `waiters` when it releases that lock, and the service finds it.
        self.max.store(max, Ordering::Release);
    }

    fn try_take(&self) -> bool {
        let max = self.max.load(Ordering::Acquire) as u64;
        // AcqRel: pairs with itself, each change of the word with the next.
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (word & USED < max).then_some(word + 1)
            })
            .is_ok()
    }

    /// Writes the number of waiting parties to the word.
    /// # Context: the lock of `waiters` held.
    fn publish_len(&self, waiters: &VecDeque<W>) {
        let parties = waiters.len() as u64 * WAITER;
        // AcqRel: T2 of the protocol; pairs with `release`, which finds the number in this word.
        let _ignored = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                Some(word & USED | parties)
            });
    }

    /// Takes a slot, or makes the party that `who` names wait; true if it has a slot.
    pub(crate) fn take_or_wait(&self, who: impl FnOnce() -> W) -> bool {
        if self.try_take() {
            return true; // T1
        }
        let who = who();
        let mut waiters = self.waiters.lock();
        if !waiters.contains(&who) {
            waiters.push_back(who.clone());
        }
        // T2
        self.publish_len(&waiters);
        // guard: s08_06_second_look
        if self.try_take() {
            // T3
            waiters.retain(|w| *w != who);
            self.publish_len(&waiters);
            return true;
        }
        false
    }

    /// Gives a slot back; true if the caller now has to serve the waiters.
    #[must_use]
    pub(crate) fn release(&self) -> bool {
        // AcqRel: G of the protocol; pairs with `publish_len`.
        // guard: s08_06_line_not_served
        self.word.fetch_sub(1, Ordering::AcqRel) >= WAITER
    }

    /// The party that waits longest.
    pub(crate) fn head(&self) -> Option<W> {
        self.waiters.lock().front().cloned()
    }

    /// Takes a slot for the party that waits longest.
    /// # Context: the lock of the party's pool held.
    pub(crate) fn take_for_head(&self, who: &W) -> HeadResult {
        let mut waiters = self.waiters.lock();
        if waiters.front() != Some(who) {
            return HeadResult::Moved;
        }
        if !self.try_take() {
            return HeadResult::Full;
        }
        waiters.pop_front();
        self.publish_len(&waiters);
        HeadResult::Slot
    }

    /// The party waits again, behind all others.
    /// # Context: the lock of the party's pool held.
    pub(crate) fn push_waiter(&self, who: &W) {
        let mut waiters = self.waiters.lock();
        if !waiters.contains(who) {
            waiters.push_back(who.clone());
        }
        self.publish_len(&waiters);
    }

    /// The party waits no longer.
    pub(crate) fn remove_waiter(&self, who: &W) {
        let mut waiters = self.waiters.lock();
        waiters.retain(|w| w != who);
        self.publish_len(&waiters);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn s08_06_who_gets_a_slot_at_the_second_look_leaves_the_others_waiting() {
        let slots = NrActive::new(1);
        assert!(slots.take_or_wait(|| unreachable!("a slot is free")));
        assert!(!slots.take_or_wait(|| 'a'));
        let freed = || {
            assert!(slots.release(), "somebody waits");
            'b'
        };
        assert!(slots.take_or_wait(freed), "freed after the first look");
        assert_eq!(slots.head(), Some('a'));
        assert!(slots.release());
        assert_eq!(slots.take_for_head(&'a'), HeadResult::Slot);
        assert!(!slots.release(), "nobody waits");
    }
}
