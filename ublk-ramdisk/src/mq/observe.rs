// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the mirror reports of each request: events to [`crate::trace`], and how long it took.
//!
//! While nobody records, an event costs one relaxed load. Kernel counterparts: the calls of
//! `trace_block_rq_insert` and its siblings in blk-mq, and `blk_account_io_done`.

use super::hctx::HwQueue;
use super::issue::Refused;
use super::latency::LatencyStats;
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

    /// Refused, by the driver or for lack of a budget: it waits for its next try.
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
            Refused::Busy(Busy::Resource) | Refused::Skippable => event::RESOURCE,
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

    /// Times one arrival of `arrivals`, rounded up to a power of two; 1 for each, 0 for none.
    /// Requests on their way keep what was decided when they arrived.
    pub fn time_one_of(&self, arrivals: u32) {
        self.inner.sampling.set(arrivals);
    }

    /// One of how many arrivals is timed; 0 if none is.
    pub fn timed_of(&self) -> u32 {
        self.inner.sampling.get()
    }

    /// How long the requests of a hardware queue took.
    pub fn latency(&self, hctx: u16) -> LatencyStats {
        self.hctx(hctx).latency.snapshot()
    }

    /// When these have arrived: now, or 0 if none of them is timed.
    #[inline]
    pub(super) fn arrival(&self, first: u64, count: u32) -> u64 {
        if self.inner.sampling.has(first, count) {
            self.moment()
        } else {
            0
        }
    }

    /// As `arrival`, for one request of a batch that arrived at `arrived`.
    #[inline]
    pub(super) fn if_timed(&self, number: u64, arrived: u64) -> u64 {
        if arrived != 0 && self.inner.sampling.has(number, 1) {
            arrived
        } else {
            0
        }
    }

    /// The time; never 0, which means none.
    #[cold]
    fn moment(&self) -> u64 {
        self.inner.works.now_exactly().max(1)
    }

    /// The request is about to be handed out.
    #[inline]
    pub(super) fn time_end(&self, hctx: &HwQueue, rq: Rq, slot: &Slot) {
        let arrived = slot.arrived();
        if arrived != 0 {
            self.record_latency(hctx, rq, arrived);
        }
    }

    #[cold]
    fn record_latency(&self, hctx: &HwQueue, rq: Rq, arrived: u64) {
        let op = self.slot(rq).request(self.tag_of(hctx, rq)).op();
        let nanos = self.moment().saturating_sub(arrived);
        hctx.latency.record(op, nanos);
    }
}
