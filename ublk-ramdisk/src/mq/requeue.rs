// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that a driver gives back after it has accepted them (C28, C29).
//!
//! They wait on lists of the device, not of a hardware queue, until somebody kicks; requeue_work
//! then puts them where the next run finds them. Kernel counterparts: `blk_mq_requeue_request`,
//! `blk_mq_kick_requeue_list`, `blk_mq_requeue_work`.

use super::custody::{InFlight, Requeue};
use super::queue::Queue;
use super::slot::{Rq, RqList, Slots, PASSTHROUGH, PREPARED};
use std::time::Duration;

/// Who waits for requeue_work.
#[derive(Debug)]
pub(super) struct RequeueLists {
    requests: RqList,
    flushes: RqList,
}

impl RequeueLists {
    pub(super) fn new() -> Self {
        Self {
            requests: RqList::new(),
            flushes: RqList::new(),
        }
    }

    /// Lists those that wait, as far as there is room.
    pub(super) fn list_into(&self, slots: &Slots, out: &mut Vec<Rq>) {
        self.requests.list_into(slots, out);
        self.flushes.list_into(slots, out);
    }

    pub(super) fn len(&self) -> u32 {
        self.requests.len() + self.flushes.len()
    }
}

impl Queue {
    /// Gives a request back that a driver or a transport has. It stays in the line until somebody
    /// kicks. False if it was completed before.
    pub fn requeue(&self, token: InFlight, how: Requeue) -> bool {
        self.assert_own(&token);
        let (hctx, slot) = (self.hctx_of(token.rq), self.slot(token.rq));
        if !slot.state.take_back(token.generation) {
            hctx.counters.lost_races.add(1);
            return false;
        }
        hctx.counters.requeued.add(1);
        self.trace_requeue(hctx, token.rq);
        if how.prepared {
            slot.set(PREPARED);
        }
        {
            let flush = self.is_flush(hctx, token.rq);
            let mut lists = self.inner.requeue.lock();
            let list = if flush {
                &mut lists.flushes
            } else {
                &mut lists.requests
            };
            list.push_back(&self.inner.slots, token.rq);
        }
        if let Some(delay) = how.kick {
            self.delay_kick_requeue_list(delay);
        }
        true
    }

    /// Has the requeue lists worked off now, also if a later kick is pending (W9).
    pub fn kick_requeue_list(&self) {
        self.inner.works.mod_requeue(Duration::ZERO);
    }

    /// Has them worked off after `delay`.
    pub fn delay_kick_requeue_list(&self, delay: Duration) {
        self.inner.works.mod_requeue(delay);
    }

    /// requeue_work: takes both lists at once and runs all queues.
    pub(super) fn requeue_work(&self) {
        let (mut requests, mut flushes) = {
            let mut lists = self.inner.requeue.lock();
            (lists.requests.take(), lists.flushes.take())
        };
        let slots = &self.inner.slots;
        while let Some(rq) = requests.pop_front(slots) {
            let (hctx, slot) = (self.hctx_of(rq), self.slot(rq));
            if slot.has(PREPARED | PASSTHROUGH) {
                slot.clear(PREPARED);
                hctx.dispatch_tail(slots, rq);
            } else {
                // Each to the head, so that a group comes out reversed, as in the kernel.
                hctx.ctxs.push_front(slots, slot.ctx(), rq);
            }
        }
        while let Some(rq) = flushes.pop_front(slots) {
            self.hctx_of(rq).dispatch_head(slots, rq);
        }
        self.run_hw_queues(false);
    }
}
