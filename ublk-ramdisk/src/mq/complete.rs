// SPDX-License-Identifier: MIT OR Apache-2.0
//! How requests end: once each, by whoever takes them out of flight (A8, C30, C31, C38).
//!
//! [`super::dispatch`] hands in what ended inside it, transports and drivers what they kept; the
//! result goes out through a [`Home`] or the [`Transport`](super::Transport). Kernel counterparts:
//! `blk_mq_complete_request`, `blk_mq_end_request`, `blk_mq_end_request_batch`.
//!
//! The order within an end: the driver's complete, the slot becomes idle, the result is handed
//! out, the request is counted out. The tag may come back at once after the result has left, so
//! the slot is not touched after that; and whoever waits for a freeze waits until it has left.

use super::custody::InFlight;
use super::hctx::HwQueue;
use super::operations::Home;
use super::queue::Queue;
use super::request_state::{Completed, Generation, Put, Step};
use super::slot::Rq;
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
        let hctx = self.hctx_of(token.rq);
        let decided = self.decide(hctx, token.rq, token.generation, outcome, true, home);
        if decided == Completed::End {
            self.departed(hctx, hctx.state.leave(1));
        }
        decided != Completed::Lost
    }

    /// As [`Queue::complete`], from a thread that is no lane's: the result goes to the transport.
    pub fn complete_away(&self, token: InFlight, outcome: Result<u64, Status>) -> bool {
        let hctx = self.hctx_of(token.rq);
        self.complete(token, outcome, &mut self.away(hctx))
    }

    /// Completes several requests of one hardware queue: RESTART is looked at once (C31).
    pub fn complete_batch(
        &self,
        hctx: u16,
        batch: impl IntoIterator<Item = (InFlight, Result<u64, Status>)>,
        home: &mut dyn Home,
    ) {
        let hctx = self.hctx(hctx);
        let mut ended = 0;
        for (token, outcome) in batch {
            debug_assert_eq!(self.hctx_of(token.rq).index, hctx.index);
            let ended_here = self.complete_here(hctx, token.rq, token.generation, outcome, home);
            ended += u32::from(ended_here);
        }
        self.departed(hctx, hctx.state.leave(ended));
    }

    /// Completes a request on the way from the driver. True if it has ended and the caller counts
    /// it out.
    #[inline]
    pub(super) fn complete_here(
        &self,
        hctx: &HwQueue,
        rq: Rq,
        generation: Generation,
        outcome: Result<u64, Status>,
        home: &mut dyn Home,
    ) -> bool {
        self.decide(hctx, rq, generation, outcome, true, home) == Completed::End
    }

    /// As `complete_here`, for a request that ends without the driver's complete.
    #[inline]
    pub(super) fn end_here(
        &self,
        hctx: &HwQueue,
        rq: Rq,
        generation: Generation,
        outcome: Result<u64, Status>,
        home: &mut dyn Home,
    ) -> bool {
        self.decide(hctx, rq, generation, outcome, false, home) == Completed::End
    }

    /// Takes it out of flight and ends it, if nobody else has and nobody looks at it.
    #[inline]
    fn decide(
        &self,
        hctx: &HwQueue,
        rq: Rq,
        generation: Generation,
        outcome: Result<u64, Status>,
        via_driver: bool,
        home: &mut dyn Home,
    ) -> Completed {
        let decided = self.slot(rq).state.complete(generation);
        match decided {
            Completed::End => self.end(hctx, rq, self.result(hctx, outcome), via_driver, home),
            Completed::Publish => self.publish(hctx, rq, outcome, via_driver),
            Completed::Lost => hctx.counters.lost_races.add(1),
        }
        decided
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
        let (result, via_driver) = self.slot(rq).published();
        self.end(hctx, rq, result, via_driver, &mut self.away(hctx));
        self.departed(hctx, hctx.state.leave(1));
    }

    /// Ends a request that the caller has taken out of flight. The caller counts it out.
    #[inline]
    fn end(&self, hctx: &HwQueue, rq: Rq, result: i32, via_driver: bool, home: &mut dyn Home) {
        let (slot, tag) = (self.slot(rq), self.tag_of(hctx, rq));
        if via_driver {
            let request = slot.request(tag);
            self.inner.driver.complete(self.view(hctx), &request);
        }
        // Before the slot may be used again, and so before the result is out.
        self.trace_end(hctx, rq, result);
        self.time_end(hctx, rq);
        if slot.state.retire() == Step::Wrong {
            self.bad_transition(hctx);
        }
        let count = match result {
            0.. => &hctx.counters.ended,
            _ => &hctx.counters.errors,
        };
        count.add(1);
        home.end(tag, result);
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
