// SPDX-License-Identifier: MIT OR Apache-2.0
//! The accounts: what was accepted, what became of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use workqueue::{EnqueueError, QueueStats, Refusal};

/// The account of one item.
#[derive(Default)]
pub struct Account {
    accepted: AtomicU64,
    refused: AtomicU64,
    runs: AtomicU64,
    back: AtomicU64,
    /// Pending instances that a modification took off and then could not place.
    lost_to_refusal: AtomicU64,
    overlaps: AtomicU64,
    inside: AtomicBool,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::SeqCst);
}

impl Account {
    /// The outcome of an enqueue.
    pub fn offered<W>(&self, outcome: Result<(), EnqueueError<W>>) {
        count(if outcome.is_ok() {
            &self.accepted
        } else {
            &self.refused
        });
    }

    /// The outcome of a cancellation.
    pub fn back<P>(&self, pointer: Option<P>) {
        if pointer.is_some() {
            count(&self.back);
        }
    }

    /// A modification was refused. If the queue did that after the item had been taken off, the
    /// item is idle now, and its pointer was dropped.
    pub fn modification_refused(&self, reason: Refusal) {
        count(&self.refused);
        if matches!(reason, Refusal::Draining | Refusal::Destroyed) {
            count(&self.lost_to_refusal);
        }
    }

    pub fn enter(&self) {
        count(&self.runs);
        if self.inside.swap(true, Ordering::SeqCst) {
            count(&self.overlaps);
        }
    }

    pub fn leave(&self) {
        self.inside.store(false, Ordering::SeqCst);
    }
}

/// The sum of many accounts.
#[derive(Clone, Copy, Default)]
pub struct Sum {
    pub queues: u64,
    accepted: u64,
    refused: u64,
    runs: u64,
    back: u64,
    at_most_lost: u64,
    overlaps: u64,
    stats: QueueStats,
}

impl Sum {
    pub fn account(&mut self, a: &Account) {
        let read = |c: &AtomicU64| c.load(Ordering::SeqCst);
        self.accepted += read(&a.accepted);
        self.refused += read(&a.refused);
        self.runs += read(&a.runs);
        self.back += read(&a.back);
        self.at_most_lost += read(&a.lost_to_refusal);
        self.overlaps += read(&a.overlaps);
    }

    pub fn queue(&mut self, stats: &QueueStats) {
        self.queues += 1;
        let s = &mut self.stats;
        s.started += stats.started;
        s.completed += stats.completed;
        s.cpu_intensive += stats.cpu_intensive;
        s.cm_wakeup += stats.cm_wakeup;
        s.repatriated += stats.repatriated;
        s.mayday += stats.mayday;
        s.rescued += stats.rescued;
        s.panicked += stats.panicked;
        s.refused_timer += stats.refused_timer;
    }

    pub fn add(&mut self, other: &Self) {
        let queues = self.queues + other.queues;
        self.queue(&other.stats);
        self.queues = queues;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.runs += other.runs;
        self.back += other.back;
        self.at_most_lost += other.at_most_lost;
        self.overlaps += other.overlaps;
    }

    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// What is wrong with the account of a queue that is gone.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let s = &self.stats;
        let ended = self.runs + self.back + s.refused_timer;
        // A refused modification does not tell whether there was something to lose.
        if ended > self.accepted || self.accepted - ended > self.at_most_lost {
            faults.push(format!(
                "{} accepted, but {} runs + {} back + {} timers refused (and at most {} modifications)",
                self.accepted, self.runs, self.back, s.refused_timer, self.at_most_lost
            ));
        }
        if (s.started, s.completed) != (self.runs, self.runs) {
            faults.push(format!(
                "{} runs, but {} started and {} completed",
                self.runs, s.started, s.completed
            ));
        }
        if self.overlaps > 0 {
            faults.push(format!("{} runs of an item beside itself", self.overlaps));
        }
        faults
    }

    pub fn line(&self) -> String {
        let s = &self.stats;
        format!(
            "{} queues, {} accepted = {} runs + {} back + {} timers refused + {} lost to refused modifications; \
             {} refused, {} panics, {} wake-ups, {} hogs, {} maydays, {} rescued",
            self.queues,
            self.accepted,
            self.runs,
            self.back,
            s.refused_timer,
            self.accepted.saturating_sub(self.runs + self.back + s.refused_timer),
            self.refused,
            s.panicked,
            s.cm_wakeup,
            s.cpu_intensive,
            s.mayday,
            s.rescued
        )
    }
}
