// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the mirror reports: of each request events to [`crate::trace`] and how long it took, and of
//! each hardware queue what it looks like at one moment.
//!
//! While nobody records, an event costs one relaxed load. Kernel counterparts: the calls of
//! `trace_block_rq_insert` and its siblings in blk-mq, and `blk_account_io_done`.

use super::counters::{LatencyStats, Source};
use super::hctx::HwQueue;
use super::hctx_state::{FROZEN, INACTIVE, QUIESCED, RESTART, STOPPED};
use super::issue::Refused;
use super::operations::Busy;
use super::queue::Queue;
use super::slot::{Rq, Slot, PARKED};
use crate::trace::event::{self, Event, Kind};
use crate::trace::{is_on, of_hctx, of_request, record};
use std::time::Duration;

impl Queue {
    /// The number of this device in traces.
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
        let request = self.request_of(hctx, rq);
        record(Event {
            how,
            value,
            source,
            ..of_request(kind, self.inner.label, hctx.index, &request)
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

    /// A run: on this thread, or on kblockd after this delay.
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

    /// Returns the arrival time of `count` requests, numbered from `first`; 0 if none is timed.
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

impl Queue {
    /// Returns the state of a hardware queue at this moment.
    pub fn snapshot(&self, hctx: u16) -> HctxSnapshot {
        let (queue, slots) = (self.hctx(hctx), &self.inner.slots);
        let tags = |list: Vec<Rq>| list.iter().map(|&rq| self.tag_of(queue, rq)).collect();
        let slot = |tag| self.slot(self.rq(hctx, tag));
        let in_flight =
            || (0..self.inner.set.queue_depth).filter(|&tag| slot(tag).state.is_in_flight());
        let holds = |&tag: &u16| slot(tag).token() != 0;
        // Both go on while they are read, and more may be tried again than were refused then.
        let unparked = queue.counters.unparked.get();
        let parked = queue.counters.parked.get().saturating_sub(unparked);
        HctxSnapshot {
            stopped: queue.state.has(STOPPED),
            restart: queue.state.has(RESTART),
            inactive: queue.state.has(INACTIVE),
            quiesced: queue.state.has(QUIESCED),
            frozen: queue.state.has(FROZEN),
            dispatch: tags(queue.dispatch_list(slots, self.inner.set.queue_depth.into())),
            ctx_map: queue.ctxs.map(),
            ctx_lens: queue.ctxs.lens(),
            busy: in_flight().collect(),
            usage: queue.state.usage(),
            dispatch_busy: queue.dispatch_busy(),
            run_pending: self.inner.works.run_is_pending(hctx),
            parked,
            slots_held: in_flight().filter(holds).count() as u64,
            slot_awaited: self
                .inner
                .driver
                .budget()
                .is_some_and(|budget| budget.is_awaited_by(hctx)),
        }
    }

    /// How many requests of a hardware queue the driver or the front end keeps. Those that are just being
    /// issued are not among them: they may be refused.
    pub fn count_kept(&self, hctx: u16) -> u64 {
        let slots = (0..self.inner.set.queue_depth).map(|tag| self.slot(self.rq(hctx, tag)));
        slots.filter(|slot| slot.state.is_kept()).count() as u64
    }

    /// Returns what is wrong with the counters of a device at rest, if anything. Every arrival must
    /// have ended once, every refusal must have been tried again, and nothing may wait (K5).
    pub fn fault_at_rest(&self) -> Option<String> {
        for hctx in 0..self.inner.set.nr_hw_queues {
            let now = self.snapshot(hctx);
            if now.usage != 0
                || !now.dispatch.is_empty()
                || now.ctx_map != 0
                || !now.busy.is_empty()
            {
                return Some(format!("hctx {hctx} is not at rest: {now:?}"));
            }
            if let Some(fault) = self.counters(hctx).fault_at_rest() {
                return Some(format!("hctx {hctx}: {fault}"));
            }
        }
        let parked = self.inner.requeue.lock().len();
        (parked != 0).then(|| format!("{parked} requests on the requeue lists"))
    }
}

/// A hardware queue at one moment, under the names of the kernel's debugfs.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct HctxSnapshot {
    /// Runs are dropped.
    pub stopped: bool,
    /// The next end runs the queue.
    pub restart: bool,
    /// None of its CPUs is online.
    pub inactive: bool,
    /// Nothing is issued.
    pub quiesced: bool,
    /// Nothing is taken in.
    pub frozen: bool,
    /// Tags on the dispatch list, in order.
    pub dispatch: Vec<u16>,
    /// Which software queues have requests.
    pub ctx_map: u64,
    /// How many each has.
    pub ctx_lens: Vec<u32>,
    /// Tags that the driver or the front end has.
    pub busy: Vec<u16>,
    /// Requests taken in and not ended.
    pub usage: u64,
    /// How busy the driver has lately been, 0 to 9.
    pub dispatch_busy: u32,
    /// True if a run is queued, now or for later.
    pub run_pending: bool,
    /// Requests that were refused and wait for their next try.
    pub parked: u64,
    /// Requests that hold a slot, which is a share of the driver's budget (E1).
    pub slots_held: u64,
    /// True if it waits to be run when a slot comes back.
    pub slot_awaited: bool,
}
