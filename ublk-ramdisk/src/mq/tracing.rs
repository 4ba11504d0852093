// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the mirror tells [`crate::trace`] what happens. Nobody records: one relaxed load each.
//!
//! Kernel counterparts: the calls of `trace_block_rq_insert` and its siblings in blk-mq.

use super::hctx::HwQueue;
use super::issue::Refused;
use super::operations::Busy;
use super::queue::Queue;
use super::slot::{Rq, Slot, PARKED};
use super::source::Source;
use crate::trace::event::{self, Event, Kind};
use crate::trace::{is_on, of_hctx, record};
use std::time::Duration;

impl Queue {
    /// What tells this device's events from another's in a trace.
    pub fn label(&self) -> u32 {
        self.inner.label
    }

    #[inline]
    pub(super) fn trace_rq(&self, kind: Kind, hctx: &HwQueue, rq: Rq) {
        if is_on() {
            self.record_rq(kind, hctx, rq, 0, 0, None);
        }
    }

    #[cold]
    fn record_rq(
        &self,
        kind: Kind,
        hctx: &HwQueue,
        rq: Rq,
        how: u16,
        value: i64,
        source: Option<Source>,
    ) {
        let tag = self.tag_of(hctx, rq);
        let request = self.slot(rq).request(tag);
        record(Event {
            sector: request.offset() >> 9,
            sectors: u32::try_from(request.len() >> 9).unwrap_or(u32::MAX),
            op: Some(request.op()),
            fua: request.is_fua(),
            tag,
            how,
            value,
            source,
            ..of_hctx(kind, self.inner.label, hctx.index)
        });
    }

    /// Put on a software queue, or on the dispatch list.
    #[inline]
    pub(super) fn trace_insert(&self, hctx: &HwQueue, rq: Rq, on_ctx: bool) {
        if is_on() {
            let ctx = self.slot(rq).ctx();
            self.record_rq(Kind::Insert, hctx, rq, (!on_ctx).into(), ctx.into(), None);
        }
    }

    /// Given back by the driver after it was accepted.
    #[inline]
    pub(super) fn trace_requeue(&self, hctx: &HwQueue, rq: Rq) {
        if is_on() {
            self.record_rq(Kind::Requeue, hctx, rq, 1, 0, None);
        }
    }

    /// Ended, and about to be handed out.
    #[inline]
    pub(super) fn trace_end(&self, hctx: &HwQueue, rq: Rq, result: i32) {
        if is_on() {
            self.record_rq(Kind::Complete, hctx, rq, 0, result.into(), None);
            if result < 0 {
                self.record_rq(Kind::Error, hctx, rq, 0, result.into(), None);
            }
            self.record_rq(Kind::IoDone, hctx, rq, 0, result.into(), None);
        }
    }

    /// Refused, by the driver or for want of a budget: it waits for its next try from here on.
    pub(super) fn refused(&self, hctx: &HwQueue, rq: Rq, why: Refused, source: Source) {
        // Without a budget it has not even been started since the last time.
        let slot = self.slot(rq);
        self.unpark(hctx, rq, slot);
        slot.set(PARKED);
        hctx.counters.parked.add(1);
        if !is_on() {
            return;
        }
        let how = match why {
            Refused::Busy(Busy::Resource) | Refused::Alone => event::RESOURCE,
            Refused::Busy(Busy::DevResource) => event::DEV_RESOURCE,
            Refused::NoBudget => event::NO_BUDGET,
        };
        if why == Refused::NoBudget {
            self.record_rq(Kind::TagWait, hctx, rq, 0, 0, Some(source));
        } else {
            self.record_rq(Kind::Requeue, hctx, rq, 0, 0, None);
        }
        self.record_rq(Kind::Refuse, hctx, rq, how, 0, Some(source));
        self.record_rq(Kind::Park, hctx, rq, 0, 0, None);
    }

    /// A refused request is tried again, or ended without another try.
    #[inline]
    pub(super) fn unpark(&self, hctx: &HwQueue, rq: Rq, slot: &Slot) {
        if slot.has(PARKED) {
            self.unparked(hctx, rq, slot);
        }
    }

    #[cold]
    fn unparked(&self, hctx: &HwQueue, rq: Rq, slot: &Slot) {
        slot.clear(PARKED);
        hctx.counters.unparked.add(1);
        self.trace_rq(Kind::Unpark, hctx, rq);
    }

    /// About a hardware queue: a batch, a restart.
    #[inline]
    pub(super) fn trace_hctx(&self, kind: Kind, hctx: &HwQueue, value: u32) {
        if is_on() {
            record(Event {
                value: value.into(),
                ..of_hctx(kind, self.inner.label, hctx.index)
            });
        }
    }

    /// No budget, found before there was a request for it.
    #[inline]
    pub(super) fn trace_tag_wait(&self, hctx: &HwQueue, source: Source) {
        if is_on() {
            record(Event {
                source: Some(source),
                ..of_hctx(Kind::TagWait, self.inner.label, hctx.index)
            });
        }
    }

    /// A run: here, or on kblockd after so long.
    #[inline]
    pub(super) fn trace_run(&self, hctx: &HwQueue, delay: Option<Duration>) {
        if is_on() {
            let (how, nanos) = match delay {
                None => (event::RUN_SYNC, 0),
                Some(Duration::ZERO) => (event::RUN_ASYNC, 0),
                Some(delay) => (event::RUN_DELAYED, delay.as_nanos()),
            };
            record(Event {
                how,
                value: i64::try_from(nanos).unwrap_or(i64::MAX),
                ..of_hctx(Kind::Run, self.inner.label, hctx.index)
            });
        }
    }
}
