// SPDX-License-Identifier: MIT OR Apache-2.0
//! A number of slots that several parties share, with a line for those who found none.
//!
//! The slots of an unbound queue on one NUMA node; the parties are the queue's pwqs there, each
//! under the lock of its own pool, so no lock covers them all. [`super::active`] asks for slots
//! and gives them back. Kernel counterpart: `struct wq_node_nr_active`.
//!
//! Protocol, so that no party waits beside a free slot:
//!
//! ```text
//!   taker                               giver
//!   T1 try to take: fails
//!   T2 join the line                    G1 give the slot back
//!      fence                               fence
//!   T3 try to take once more            G2 is anyone in line? then it is my duty to serve
//! ```
//!
//! If T3 fails, the slot was given back after it, so the fence orders T2 before G2 and the giver
//! sees the line.

use crate::sys::sync::modelled::{fence, AtomicUsize, Mutex, Ordering};
use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub(crate) struct Budget<W> {
    max: AtomicUsize,         // A: set by the queue, under its own lock
    used: AtomicUsize,        // A
    waiting: AtomicUsize,     // A: length of `line`, written under its lock
    line: Mutex<VecDeque<W>>, // N
}

/// What the party at the head of the line got.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Turn {
    /// A slot, and its place in line is gone. If it still has items waiting it must queue anew.
    Slot,
    /// Nothing: it is not at the head any more. Look again.
    Moved,
    /// Nothing: all slots are in use. Whoever gives one back serves the line.
    Full,
}

impl<W: Clone + PartialEq> Budget<W> {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max: AtomicUsize::new(max),
            used: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            line: Mutex::new(VecDeque::new()),
        }
    }

    /// Makes room for so many parties, so that waiting never allocates.
    pub(crate) fn reserve(&self, parties: usize) {
        let mut line = self.line.lock();
        let missing = parties.saturating_sub(line.len());
        line.reserve(missing);
    }

    pub(crate) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// A new limit. The caller owes a service of the line, since there may be more slots now.
    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::SeqCst);
    }

    fn try_take(&self) -> bool {
        let max = self.max.load(Ordering::SeqCst);
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n < max).then_some(n + 1)
            })
            .is_ok()
    }

    /// Takes a slot, or stands in line.
    pub(crate) fn take_or_wait(&self, who: &W) -> bool {
        if self.try_take() {
            return true; // T1
        }
        let mut line = self.line.lock();
        if !line.contains(who) {
            line.push_back(who.clone()); // T2
        }
        self.waiting.store(line.len(), Ordering::Relaxed);
        // Pairs with the fence in `give_back`; see the protocol above for what would be lost.
        fence(Ordering::SeqCst);
        if self.try_take() {
            // T3
            line.retain(|w| w != who);
            self.waiting.store(line.len(), Ordering::Relaxed);
            return true;
        }
        false
    }

    /// A slot is free again; true if the caller now has to serve the line.
    #[must_use]
    pub(crate) fn give_back(&self) -> bool {
        self.used.fetch_sub(1, Ordering::AcqRel); // G1
                                                  // Pairs with the fence in `take_or_wait`.
        fence(Ordering::SeqCst);
        self.waiting.load(Ordering::Relaxed) > 0 // G2
    }

    /// Who is to be served next.
    pub(crate) fn head(&self) -> Option<W> {
        self.line.lock().front().cloned()
    }

    /// The party at the head tries to get its slot.
    /// # Context: the lock of the party's pool held.
    pub(crate) fn turn(&self, who: &W) -> Turn {
        let mut line = self.line.lock();
        if line.front() != Some(who) {
            return Turn::Moved;
        }
        if !self.try_take() {
            return Turn::Full;
        }
        line.pop_front();
        self.waiting.store(line.len(), Ordering::Relaxed);
        Turn::Slot
    }

    /// Back to the end of the line, with items still waiting.
    /// # Context: the lock of the party's pool held.
    pub(crate) fn wait_again(&self, who: &W) {
        let mut line = self.line.lock();
        if !line.contains(who) {
            line.push_back(who.clone());
        }
        self.waiting.store(line.len(), Ordering::Relaxed);
    }

    /// The party has nothing waiting any more.
    pub(crate) fn leave_line(&self, who: &W) {
        let mut line = self.line.lock();
        line.retain(|w| w != who);
        self.waiting.store(line.len(), Ordering::Relaxed);
    }
}
