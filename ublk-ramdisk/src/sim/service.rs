// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long requests take, and those that are taking their time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::random::Random;
use super::values::Service;
use crate::mq::{Data, InFlight, Request};

/// A request that will be moved when its time has come.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) token: InFlight,
    pub(super) queue: u16,
    pub(super) request: Request,
    pub(super) data: Data,
}

#[derive(Debug)]
struct Entry {
    due: u64,
    number: u64,
    kept: Kept,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.number) == (other.due, other.number)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// What is being served, by the time it will be done.
#[derive(Debug)]
pub(super) struct Serving {
    service: Service,
    random: Random,
    heap: BinaryHeap<Reverse<Entry>>,
    number: u64,
}

impl Serving {
    pub(super) fn new(service: Service, seed: u64, user: u64) -> Self {
        Self {
            service,
            random: Random::new(seed, user),
            heap: BinaryHeap::new(),
            number: 0,
        }
    }

    /// Begins with a request.
    pub(super) fn begin(&mut self, now: u64, kept: Kept) {
        let ns = |time: std::time::Duration| time.as_nanos() as u64;
        let takes = match self.service {
            Service::Fixed(time) => ns(time),
            Service::Exponential(mean) => self.random.exponential(ns(mean) as f64) as u64,
            Service::Between(least, most) => {
                ns(least) + self.random.below(ns(most) - ns(least) + 1)
            }
        };
        self.number += 1;
        self.heap.push(Reverse(Entry {
            due: now.saturating_add(takes),
            number: self.number,
            kept,
        }));
    }

    /// When the next one is done.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.heap.peek().map(|entry| entry.0.due)
    }

    /// One that is done; of several the one that was to be done first.
    pub(super) fn take_due(&mut self, now: u64) -> Option<Kept> {
        self.next_due().filter(|&due| due <= now)?;
        self.heap.pop().map(|entry| entry.0.kept)
    }
}
