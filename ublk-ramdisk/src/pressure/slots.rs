// SPDX-License-Identifier: MIT OR Apache-2.0
//! E1: a limit on the requests in flight of the whole device, if one is set.
//!
//! The mirror takes a slot for each request but FLUSH before it calls queue_rq. The slot comes back
//! when the request ends or is refused. Requests that are in flight when a limit is set hold no slot
//! and do not count.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use crate::mq::{Budget, DeviceSlots, Hctx, Queue, Source};
use crate::trace::SourceState;

/// The token of a request that holds a slot.
const HELD: u32 = 1;
/// There is no limit.
const NONE: i64 = -1;

#[derive(Debug)]
pub(super) struct Slots {
    slots: DeviceSlots,
    /// Slots in all. Kept while there is no limit, as requests may still give some back.
    made: AtomicI64,
    limit: AtomicI64,
    pub(super) state: SourceState,
}

impl Slots {
    pub(super) fn new(nr_hw_queues: u16) -> Self {
        Self {
            slots: DeviceSlots::new(0, nr_hw_queues),
            made: AtomicI64::new(0),
            limit: AtomicI64::new(NONE),
            state: SourceState::new(Source::Slots),
        }
    }

    /// Sets the limit. Called by one thread at a time.
    pub(super) fn set(&self, limit: Option<u32>, queue: Option<&Queue>) {
        if let Some(limit) = limit {
            // One call of `resize` can add no more than this.
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
            self.state.stop_refusing();
        }
    }

    /// Free slots; none without a limit.
    pub(super) fn free(&self) -> Option<u32> {
        (self.limit.load(Relaxed) != NONE).then(|| self.slots.free())
    }

    /// True if no request holds a slot.
    pub(super) fn is_at_rest(&self) -> bool {
        i64::from(self.slots.free()) == self.made.load(Relaxed)
    }

    /// A slot comes back. The slots count as exhausted until one comes back that nothing waits for.
    pub(super) fn release(&self, hctx: Hctx<'_>) {
        let awaited = self.slots.is_awaited();
        self.slots.release(hctx);
        if !awaited && self.state.refuses() {
            self.state.stop_refusing();
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
            self.state.begin_refusing();
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
