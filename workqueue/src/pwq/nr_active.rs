// SPDX-License-Identifier: MIT OR Apache-2.0
//! A number of slots that several parties share, with a line for those who found none.
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
//!   T2 join the waiters, and say so        G  give the slot back; was anyone in line? then it is
//!   T3 try to take once more               my duty to serve
//! ```
//!
//! The slots in use and the length of the line are halves of one word:
//!
//! ```text
//!   63              32 31               0
//!  +------------------+------------------+
//!  |  parties in line |  slots in use    |
//!  +------------------+------------------+
//! ```
//!
//! Hence T2, T3 and G have one order: if T3 fails, the slot was given back after it, so G comes
//! after T2 and finds the line in the very word it changes. Taking and giving cost one atomic step
//! each.

use crate::sys::sync::modelled::{AtomicU64, AtomicUsize, Mutex, Ordering};
use std::collections::VecDeque;

/// One party in waiters.
const WAITER: u64 = 1 << 32;

/// The half of the word that counts slots.
const USED: u64 = WAITER - 1;

/// See the module.
#[derive(Debug)]
pub(crate) struct NrActive<W> {
    max: AtomicUsize, // A: set by the queue, under its own lock
    /// Slots in use, and the length of `line`, which is written under its lock.
    word: AtomicU64, // A
    waiters: Mutex<VecDeque<W>>, // N
}

/// What the party at the head of the line got.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum HeadResult {
    /// A slot, and its place in line is gone. If it still has items waiting it must queue anew.
    Slot,
    /// Nothing: it is not at the head any more. Look again.
    Moved,
    /// Nothing: all slots are in use. Whoever gives one back serves the waiters.
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

    /// Makes room for so many parties, so that waiting never allocates.
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

    /// A new limit. The caller owes a service of the waiters, since there may be more slots now.
    pub(crate) fn set_max(&self, max: usize) {
        // Release pairs with the Acquire in `try_take`; a party that still saw the former limit
        // has joined the line by the time it lets the line's lock go, and the service finds it.
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

    /// Says how long the line is.
    /// # Context: the line's lock held.
    fn publish_len(&self, waiters: &VecDeque<W>) {
        let parties = waiters.len() as u64 * WAITER;
        // AcqRel: T2 of the protocol; pairs with `release`, which finds the line in this word.
        let _ignored = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                Some(word & USED | parties)
            });
    }

    /// Takes a slot, or has the party that `who` names stand in waiters.
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

    /// A slot is free again; true if the caller now has to serve the waiters.
    #[must_use]
    pub(crate) fn release(&self) -> bool {
        // AcqRel: G of the protocol; pairs with `publish_len`.
        // guard: s08_06_line_not_served
        self.word.fetch_sub(1, Ordering::AcqRel) >= WAITER
    }

    /// Who is to be served next.
    pub(crate) fn head(&self) -> Option<W> {
        self.waiters.lock().front().cloned()
    }

    /// The party at the head tries to get its slot.
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

    /// Back to the end of the waiters, with items still waiting.
    /// # Context: the lock of the party's pool held.
    pub(crate) fn push_waiter(&self, who: &W) {
        let mut waiters = self.waiters.lock();
        if !waiters.contains(who) {
            waiters.push_back(who.clone());
        }
        self.publish_len(&waiters);
    }

    /// The party has nothing waiting any more.
    pub(crate) fn remove_waiter(&self, who: &W) {
        let mut waiters = self.waiters.lock();
        waiters.retain(|w| w != who);
        self.publish_len(&waiters);
    }
}
