// SPDX-License-Identifier: MIT OR Apache-2.0
//! How requests end: once each, by whoever takes them out of flight (A8, C30, C31, C38).
//!
//! [`super::dispatch`] hands in what ended inside it, transports and drivers what they kept; the
//! result goes out through a [`Home`] or the [`Transport`](super::Transport). Kernel counterparts:
//! `blk_mq_complete_request`, `blk_mq_end_request`, `blk_mq_end_request_batch`.
//!
//! The order within an end: the driver's complete, the slot becomes idle, the result is handed
//! out, the request is counted out. The tag may come back at once after the result has left, so
//! the slot is not touched after that; and a freeze waits until the result has left for the
//! transport.

use super::call::{Call, Started};
use super::custody::InFlight;
use super::hctx::HwQueue;
use super::operations::Home;
use super::queue::Queue;
use super::request::Request;
use super::request_state::{Completed, Put, Step};
use super::slot::{Rq, Slot};
use super::status::Status;

impl Queue {
    /// Completes a request that was kept: so many bytes, or why not. Ends on the calling thread,
    /// into `home`. False if somebody else had completed it (C38).
    pub fn complete(
        &self,
        token: InFlight,
        outcome: Result<u64, Status>,
        home: &mut dyn Home,
    ) -> bool {
        self.assert_own(&token);
        let (hctx, mut call) = (self.hctx_of(token.rq), Call::new(home));
        let request = self.request_of(hctx, token.rq);
        let started = Started::again(self, &token, &request);
        let outcome = self.unless_cut(token.rq, outcome);
        let decided = started.slot.state.complete(started.generation);
        let decided = self.decided(hctx, (started, decided), outcome, true, &mut call);
        call.write_down(hctx);
        if decided == Completed::End {
            self.departed(hctx, hctx.state.leave(1));
        }
        decided != Completed::Lost
    }

    /// As [`Queue::complete`], from a thread that is no lane's: the result goes to the transport.
    pub fn complete_away(&self, token: InFlight, outcome: Result<u64, Status>) -> bool {
        let hctx = self.hctx_of(token.rq);
        self.complete(token, outcome, &mut self.elsewhere(hctx))
    }

    /// Completes several requests of one hardware queue: RESTART is looked at once (C31).
    pub fn complete_batch(
        &self,
        hctx: u16,
        batch: impl IntoIterator<Item = (InFlight, Result<u64, Status>)>,
        home: &mut dyn Home,
    ) {
        let (hctx, mut call) = (self.hctx(hctx), Call::new(home));
        let mut ended = 0;
        for (token, outcome) in batch {
            self.assert_own(&token);
            debug_assert_eq!(self.hctx_of(token.rq).index, hctx.index);
            let request = self.request_of(hctx, token.rq);
            let started = Started::again(self, &token, &request);
            let outcome = self.unless_cut(token.rq, outcome);
            let decided = started.slot.state.complete(started.generation);
            let decided = self.decided(hctx, (started, decided), outcome, true, &mut call);
            ended += u32::from(decided == Completed::End);
        }
        call.write_down(hctx);
        // guard: c31_batch
        self.departed(hctx, hctx.state.leave(ended));
    }

    /// Completes a request on the way from the driver, whose token is back with the thread that
    /// issues it. True if it has ended and the caller counts it out. The way of nearly every
    /// request: no call of a function on it.
    #[inline(always)]
    pub(super) fn complete_here(
        &self,
        hctx: &HwQueue,
        started: Started<'_>,
        outcome: Result<u64, Status>,
        call: &mut Call<'_>,
    ) -> bool {
        let decided = started.slot.state.finish(started.generation);
        self.decided(hctx, (started, decided), outcome, true, call) == Completed::End
    }

    /// Ends a request without the driver's complete. Somebody may have its token.
    #[inline(never)]
    pub(super) fn end_here(
        &self,
        hctx: &HwQueue,
        started: Started<'_>,
        outcome: Result<u64, Status>,
        call: &mut Call<'_>,
    ) -> bool {
        let decided = started.slot.state.complete(started.generation);
        self.decided(hctx, (started, decided), outcome, false, call) == Completed::End
    }

    /// It has been decided who takes it out of flight: ends it, if that is the caller and nobody
    /// looks at it.
    #[inline(always)]
    fn decided(
        &self,
        hctx: &HwQueue,
        (started, decided): (Started<'_>, Completed),
        outcome: Result<u64, Status>,
        via_driver: bool,
        call: &mut Call<'_>,
    ) -> Completed {
        match decided {
            Completed::End => {
                let result = self.result(hctx, outcome);
                let Started { rq, slot, .. } = started;
                self.end(hctx, (rq, slot), started.request, result, via_driver, call);
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

    /// Somebody looks at it: the outcome waits in the slot for the last one to let go.
    #[cold]
    fn publish(&self, hctx: &HwQueue, rq: Rq, outcome: Result<u64, Status>, via_driver: bool) {
        let slot = self.slot(rq);
        slot.publish(self.result(hctx, outcome), via_driver);
        if slot.state.put() == Put::End {
            self.end_published(rq);
        }
    }

    /// The last one has let go of a completed request.
    pub(super) fn end_published(&self, rq: Rq) {
        let hctx = self.hctx_of(rq);
        let slot = self.slot(rq);
        let (result, via_driver) = slot.published();
        let mut home = self.elsewhere(hctx);
        let (request, mut call) = (self.request_of(hctx, rq), Call::new(&mut home));
        self.end(hctx, (rq, slot), &request, result, via_driver, &mut call);
        call.write_down(hctx);
        self.departed(hctx, hctx.state.leave(1));
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
        call: &mut Call<'_>,
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
        call.end(request, result);
    }

    /// What the transport commits: bytes, 0, or minus errno.
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
}
