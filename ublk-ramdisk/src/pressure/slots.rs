// SPDX-License-Identifier: MIT OR Apache-2.0
//! E1: a device-wide limit on requests in flight, which may be there or not.
//!
//! The mirror takes a slot for each request but FLUSH before it offers it; the slot comes back when
//! the request ends or is refused. Requests that were under way when a limit is set hold none and
//! do not count.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use crate::mq::{Budget, DeviceSlots, Hctx, Queue, Source};
use crate::trace::Gate;

/// The token of a request that holds a slot.
const HELD: u32 = 1;
/// There is no limit.
const NONE: i64 = -1;

#[derive(Debug)]
pub(super) struct Slots {
    slots: DeviceSlots,
    /// How many there are in all. Also kept while there is no limit: requests may still bring some
    /// of them back.
    made: AtomicI64,
    limit: AtomicI64,
    pub(super) gate: Gate,
}

impl Slots {
    pub(super) fn new(nr_hw_queues: u16) -> Self {
        Self {
            slots: DeviceSlots::new(0, nr_hw_queues),
            made: AtomicI64::new(0),
            limit: AtomicI64::new(NONE),
            gate: Gate::new(Source::Slots),
        }
    }

    /// Another limit. Called by one thread at a time.
    pub(super) fn set(&self, limit: Option<u32>, queue: Option<&Queue>) {
        if let Some(limit) = limit {
            // No more than one step can add or take away, so that what was made is what is there.
            let limit = limit.min(i32::MAX as u32);
            let before = self.made.swap(limit.into(), Relaxed);
            let by = (i64::from(limit) - before) as i32;
            match queue {
                Some(queue) => self.slots.resize(by, queue),
                None => self.slots.provide(by),
            }
        }
        self.limit.store(limit.map_or(NONE, i64::from), Relaxed);
        if limit.is_none() {
            self.gate.open();
        }
    }

    /// How many are free; none without a limit.
    pub(super) fn free(&self) -> Option<u32> {
        (self.limit.load(Relaxed) != NONE).then(|| self.slots.free())
    }

    /// One comes back. While somebody waits it is as good as taken: the slots are exhausted until
    /// one comes back for which nobody does.
    pub(super) fn release(&self, hctx: Hctx<'_>) {
        let awaited = self.slots.is_awaited();
        self.slots.release(hctx);
        if !awaited && !self.gate.is_open() {
            self.gate.open();
        }
    }
}

impl Budget for Slots {
    fn get(&self, hctx: u16) -> Option<u32> {
        if self.limit.load(Relaxed) == NONE {
            return Some(0);
        }
        let taken = self.slots.take(hctx);
        if !taken {
            self.gate.close();
        }
        taken.then_some(HELD)
    }

    fn put(&self, hctx: Hctx<'_>, token: u32) {
        if token == HELD {
            self.release(hctx);
        }
    }

    fn is_awaited_by(&self, hctx: u16) -> bool {
        self.slots.is_awaited_by(hctx)
    }
}
