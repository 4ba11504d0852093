// SPDX-License-Identifier: MIT OR Apache-2.0
//! How requests end, once each (A8, C30, C31, C38), and how a driver gives one back that it had
//! accepted (C28, C29).
//!
//! [`super::dispatch`] hands in what ended inside it, front ends and drivers what they kept; the
//! result goes out through a [`LocalCompletion`] or the [`FrontEnd`](super::FrontEnd). Kernel
//! counterparts: `blk_mq_complete_request`, `blk_mq_end_request`, `blk_mq_end_request_batch`,
//! `blk_mq_requeue_request`, `blk_mq_kick_requeue_list`, `blk_mq_requeue_work`.
//!
//! Requests that are given back wait on lists of the device, not of a hardware queue. After a kick
//! requeue_work puts them where the next run finds them.
//!
//! The order within an end: the driver's complete, the slot becomes idle, the result is handed
//! out, the request is counted out. The tag may come back at once after the result has left, so
//! the slot is not touched after that; and a freeze waits until the result has left for the
//! front end.

use super::counters::SubmitterCounters;
use super::hctx::HwQueue;
use super::hctx_state::Exit;
use super::operations::LocalCompletion;
use super::queue::Queue;
use super::request::Request;
use super::request_state::{Completed, Generation, Put, Step};
use super::slot::{Rq, Slot, PASSTHROUGH, PREPARED};
use super::status::Status;
use super::tokens::{InFlight, Requeue};
use std::time::Duration;

impl Queue {
    /// Completes a request that was kept, with the number of bytes moved or an error. It ends on
    /// the calling thread, into `local`. False if it had been completed before (C38).
    pub fn complete(
        &self,
        token: InFlight,
        outcome: Result<u64, Status>,
        local: &mut dyn LocalCompletion,
    ) -> bool {
        self.assert_own(&token);
        let (hctx, mut cx) = (self.hctx_of(token.rq), IssueCtx::new(local));
        let decided = self.complete_kept(hctx, &token, outcome, &mut cx);
        cx.flush_counts(hctx);
        if decided == Completed::End {
            self.run_exit_actions(hctx, hctx.state.leave(1));
        }
        decided != Completed::Lost
    }

    /// As [`Queue::complete`], from a thread that is no submitter's: the result goes to the front
    /// end.
    pub fn complete_remote(&self, token: InFlight, outcome: Result<u64, Status>) -> bool {
        let hctx = self.hctx_of(token.rq);
        self.complete(token, outcome, &mut self.via_front_end(hctx))
    }

    /// Completes several requests of one hardware queue: RESTART is looked at once (C31).
    pub fn complete_batch(
        &self,
        hctx: u16,
        batch: impl IntoIterator<Item = (InFlight, Result<u64, Status>)>,
        local: &mut dyn LocalCompletion,
    ) {
        let (hctx, mut cx) = (self.hctx(hctx), IssueCtx::new(local));
        let mut ended = 0;
        for (token, outcome) in batch {
            self.assert_own(&token);
            debug_assert_eq!(self.hctx_of(token.rq).index, hctx.index);
            let decided = self.complete_kept(hctx, &token, outcome, &mut cx);
            ended += u32::from(decided == Completed::End);
        }
        cx.flush_counts(hctx);
        // guard: c31_batch
        self.run_exit_actions(hctx, hctx.state.leave(ended));
    }

    /// Takes a request that was kept out of flight, and ends it.
    #[inline]
    fn complete_kept(
        &self,
        hctx: &HwQueue,
        token: &InFlight,
        outcome: Result<u64, Status>,
        cx: &mut IssueCtx<'_>,
    ) -> Completed {
        let request = self.request_of(hctx, token.rq);
        let started = Started::again(self, token, &request);
        let outcome = self.unless_cut(token.rq, outcome);
        let decided = started.slot.state.complete(started.generation);
        self.decided(hctx, (started, decided), outcome, true, cx)
    }

    /// Completes a request that the driver has let go of, on the thread that issues it. True if it
    /// has ended and the caller counts it out. Hot path: keep this inlined.
    #[inline(always)]
    pub(super) fn complete_here(
        &self,
        hctx: &HwQueue,
        started: Started<'_>,
        outcome: Result<u64, Status>,
        cx: &mut IssueCtx<'_>,
    ) -> bool {
        let decided = started.slot.state.finish(started.generation);
        self.decided(hctx, (started, decided), outcome, true, cx) == Completed::End
    }

    /// Ends a request without the driver's complete. Somebody may have its token.
    #[inline(never)]
    pub(super) fn end_here(
        &self,
        hctx: &HwQueue,
        started: Started<'_>,
        outcome: Result<u64, Status>,
        cx: &mut IssueCtx<'_>,
    ) -> bool {
        let decided = started.slot.state.complete(started.generation);
        self.decided(hctx, (started, decided), outcome, false, cx) == Completed::End
    }

    /// Ends a request that the caller has taken out of flight, unless somebody holds a reference to
    /// it.
    #[inline(always)]
    fn decided(
        &self,
        hctx: &HwQueue,
        (started, decided): (Started<'_>, Completed),
        outcome: Result<u64, Status>,
        via_driver: bool,
        cx: &mut IssueCtx<'_>,
    ) -> Completed {
        match decided {
            Completed::End => {
                let result = self.result(hctx, outcome);
                let Started { rq, slot, .. } = started;
                self.end(hctx, (rq, slot), started.request, result, via_driver, cx);
            }
            Completed::Publish => self.publish(hctx, started.rq, outcome, via_driver),
            Completed::Lost => self.lost_race(hctx),
        }
        decided
    }

    #[cold]
    fn lost_race(&self, hctx: &HwQueue) {
        hctx.counters.lost_races.add(1);
    }

    /// Somebody holds a reference: the outcome waits in the slot until the last one is dropped.
    #[cold]
    fn publish(&self, hctx: &HwQueue, rq: Rq, outcome: Result<u64, Status>, via_driver: bool) {
        let slot = self.slot(rq);
        slot.publish(self.result(hctx, outcome), via_driver);
        if slot.state.put() == Put::End {
            self.end_published(rq);
        }
    }

    /// The last reference to a completed request has been dropped: ends it.
    pub(super) fn end_published(&self, rq: Rq) {
        let hctx = self.hctx_of(rq);
        let slot = self.slot(rq);
        let (result, via_driver) = slot.published();
        let mut local = self.via_front_end(hctx);
        let (request, mut cx) = (self.request_of(hctx, rq), IssueCtx::new(&mut local));
        self.end(hctx, (rq, slot), &request, result, via_driver, &mut cx);
        cx.flush_counts(hctx);
        self.run_exit_actions(hctx, hctx.state.leave(1));
    }

    /// Ends a request that the caller has taken out of flight. The caller counts it out.
    #[inline(always)]
    fn end(
        &self,
        hctx: &HwQueue,
        (rq, slot): (Rq, &Slot),
        request: &Request,
        result: i32,
        via_driver: bool,
        cx: &mut IssueCtx<'_>,
    ) {
        if via_driver {
            self.inner.driver.complete(self.view(hctx), request);
        }
        // Before the slot may be used again, and so before the result is out.
        self.trace_end(hctx, rq, result);
        self.time_end(hctx, rq, slot);
        if slot.state.retire() == Step::Wrong {
            self.bad_transition(hctx);
        }
        cx.end(request, result);
    }

    /// What the front end commits: bytes, 0, or minus errno.
    #[inline]
    fn result(&self, hctx: &HwQueue, outcome: Result<u64, Status>) -> i32 {
        match outcome {
            Ok(bytes) => i32::try_from(bytes).unwrap_or(i32::MAX),
            Err(status) if status.may_be_final() => -status.errno(),
            Err(_) => {
                hctx.counters.bad_results.add(1);
                -Status::IoErr.errno()
            }
        }
    }

    /// A request was not in the state that a step starts from (A7).
    #[cold]
    pub(super) fn bad_transition(&self, hctx: &HwQueue) {
        hctx.counters.bad_transitions.add(1);
        debug_assert!(false, "a request of hctx {} took a wrong step", hctx.index);
    }

    /// Puts a request that a driver or a front end has on the requeue list, where it waits for a kick.
    /// False if it was completed before.
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

    /// Runs requeue_work now, also if a later kick is pending (W9).
    pub fn kick_requeue_list(&self) {
        self.inner.works.mod_requeue(Duration::ZERO);
    }

    /// Runs requeue_work after `delay`.
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

/// One call into the mirror: the thread it is on, where its results go, and what it has counted.
///
/// A submitter's thread counts at once in the submitter's own numbers. Another thread counts here and
/// adds that to the queue's counters once, before the requests leave the queue: so the counters of an
/// empty queue are complete.
pub(super) struct IssueCtx<'h> {
    local: &'h mut dyn LocalCompletion,
    /// The numbers of the submitter whose thread this is.
    submitter: Option<&'h SubmitterCounters>,
    accepted: u32,
    ended: u32,
    errors: u32,
}

impl<'h> IssueCtx<'h> {
    /// Makes one for a thread that is no submitter's.
    #[inline]
    pub(super) fn new(local: &'h mut dyn LocalCompletion) -> Self {
        Self {
            local,
            submitter: None,
            accepted: 0,
            ended: 0,
            errors: 0,
        }
    }

    /// Makes one for the thread of the submitter with these counters.
    #[inline]
    pub(super) fn of_submitter(
        local: &'h mut dyn LocalCompletion,
        counters: &'h SubmitterCounters,
    ) -> Self {
        let mut cx = Self::new(local);
        cx.submitter = Some(counters);
        cx
    }

    /// Where results go.
    #[inline]
    pub(super) fn local(&mut self) -> &mut dyn LocalCompletion {
        self.local
    }

    /// The driver has accepted a request.
    #[inline]
    pub(super) fn accepted(&mut self) {
        match self.submitter {
            Some(counters) => counters.accepted.add_owned(1),
            None => self.accepted += 1,
        }
    }

    /// A request has ended: its result is handed out.
    #[inline]
    pub(super) fn end(&mut self, request: &Request, result: i32) {
        match (self.submitter, result) {
            (Some(counters), 0..) => counters.ended.add_owned(1),
            (Some(counters), _) => counters.errors.add_owned(1),
            (None, 0..) => self.ended += 1,
            (None, _) => self.errors += 1,
        }
        self.local.end(request, result);
    }

    /// Adds what was counted to the queue's counters, before the requests are counted out.
    #[inline]
    pub(super) fn flush_counts(&mut self, hctx: &HwQueue) {
        if self.submitter.is_none() && self.accepted | self.ended | self.errors != 0 {
            let counters = &hctx.counters;
            counters.add_ends(self.accepted, self.ended, self.errors);
            (self.accepted, self.ended, self.errors) = (0, 0, 0);
        }
    }
}

impl Drop for IssueCtx<'_> {
    #[inline]
    fn drop(&mut self) {
        debug_assert!(
            self.accepted | self.ended | self.errors == 0 || std::thread::panicking(),
            "requests that were not counted"
        );
    }
}

/// A request that has been started, on its way through a call.
#[derive(Clone, Copy)]
pub(super) struct Started<'r> {
    pub(super) rq: Rq,
    /// Looked up once, and handed on.
    pub(super) slot: &'r Slot,
    pub(super) generation: Generation,
    pub(super) request: &'r Request,
}

impl<'r> Started<'r> {
    /// A request that was kept. If its token has lost, `request` may be that of a later use of the tag,
    /// and is not used.
    pub(super) fn again(queue: &'r Queue, token: &InFlight, request: &'r Request) -> Self {
        Self {
            rq: token.rq,
            slot: queue.slot(token.rq),
            generation: token.generation,
            request,
        }
    }
}

/// An issue section. Its owner leaves it by a call. A panic of the driver or the front end leaves it
/// by dropping this; otherwise quiesce would wait for ever.
pub(super) struct Section<'a> {
    queue: &'a Queue,
    hctx: &'a HwQueue,
}

impl<'a> Section<'a> {
    /// The caller has just entered it.
    #[inline]
    pub(super) fn entered(queue: &'a Queue, hctx: &'a HwQueue) -> Self {
        Self { queue, hctx }
    }

    /// Leaves it.
    #[inline]
    pub(super) fn leave(self) {
        self.leave_and_end(0);
    }

    /// Leaves it, and counts out `n` requests that have ended within.
    #[inline]
    pub(super) fn leave_and_end(self, n: u32) {
        let (queue, hctx) = (self.queue, self.hctx);
        std::mem::forget(self);
        queue.run_exit_actions(hctx, hctx.state.leave_and_end_issue(n));
    }
}

impl Drop for Section<'_> {
    #[cold]
    fn drop(&mut self) {
        self.queue.time_abandoned(self.hctx);
        // guard: c25_section
        let exit: Exit = self.hctx.state.end_issue();
        self.queue.run_exit_actions(self.hctx, exit);
    }
}
