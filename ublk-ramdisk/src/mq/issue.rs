// SPDX-License-Identifier: MIT OR Apache-2.0
//! One request and the driver: it is started, offered, and goes on as the answer says (A7 to A10,
//! B1 to B6).
//!
//! [`super::dispatch`] calls in with each request whose turn it is, inside an issue section, and
//! puts back what is refused; [`super::insert`] with whole batches, for drivers that take several
//! requests at once. [`super::complete`] takes over what has ended. Kernel counterparts:
//! `blk_mq_start_request`, what the callers of `queue_rq` make of its answer, and
//! `__blk_mq_flush_list`.

use super::complete::{IssueCtx, Started};
use super::counters::Source;
use super::hctx::HwQueue;
use super::hctx_state::STOPPED;
use super::operations::{Answer, Busy};
use super::queue::Queue;
use super::request::{Data, Request};
use super::request_state::{Generation, Step};
use super::slot::{Rq, Slot, CUT, UNTIMED};
use super::status::Status;
use super::tokens::{Accepted, DataTransfer, Deferred, Disposition, Issued, Rest, TransferResult};
use crate::trace::Kind;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// By the driver.
    Busy(Busy),
    /// By the driver, with RESOURCE; the rest of the list is offered all the same (E10).
    Skippable,
    /// Not even offered to it.
    NoBudget,
}

impl Refused {
    /// True if it says that the driver is busy (C19). A skippable refusal does not.
    pub(super) fn is_busy(self) -> bool {
        self != Self::Skippable
    }
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Issue {
    /// It has ended; the caller counts it out. `accepted` unless queue_rq answered an error.
    Ended { accepted: bool },
    /// The driver, the front end or the requeue list has it.
    Kept,
    /// It is the mirror's again; the caller lists it.
    Refused(Refused),
}

impl Queue {
    /// Starts one request and offers it to the driver. Its budget has been taken.
    /// # Context: inside an issue section of `hctx`.
    #[inline]
    pub(super) fn issue(
        &self,
        hctx: &HwQueue,
        rq: Rq,
        request: &Request,
        last: bool,
        cx: &mut IssueCtx<'_>,
    ) -> Issue {
        debug_assert!(hctx.state.issuing() > 0);
        let slot = self.slot(rq);
        let Some(generation) = self.start(hctx, rq, slot) else {
            return Issue::Kept;
        };
        let started = Started {
            rq,
            slot,
            generation,
            request,
        };
        let token = if self.has_budget() { slot.token() } else { 0 };
        let issued = Issued::new(self, self.in_flight(rq, generation), request, token);
        match self.queue_rq(hctx, issued, last) {
            Answer::Ok(accepted) => self.accepted(hctx, started, accepted, cx),
            Answer::Busy(back, kind, source) => {
                match self.busy(hctx, rq, generation, kind, source) {
                    Issue::Refused(Refused::Busy(Busy::Resource)) if back.skippable => {
                        Issue::Refused(Refused::Skippable)
                    }
                    issue => issue,
                }
            }
            Answer::Error(_, Status::Resource) => {
                self.busy(hctx, rq, generation, Busy::Resource, Source::Driver)
            }
            Answer::Error(_, Status::DevResource) => {
                self.busy(hctx, rq, generation, Busy::DevResource, Source::Driver)
            }
            Answer::Error(_, status) => self.failed(hctx, started, status, cx),
        }
    }

    /// Calls the driver. Where that is asked for, a panic counts as an error of this request.
    #[inline]
    fn queue_rq<'q>(&self, hctx: &HwQueue, issued: Issued<'q>, last: bool) -> Answer<'q> {
        if !self.tag_set().catch_panics {
            return self.inner.driver.queue_rq(self.view(hctx), issued, last);
        }
        let spare = issued.spare();
        // The mirror's own state is not borrowed by the call, and the driver's is the driver's.
        let call = AssertUnwindSafe(|| self.inner.driver.queue_rq(self.view(hctx), issued, last));
        // guard: c25_panic
        catch_unwind(call).unwrap_or_else(|_| {
            hctx.counters.panics.add(1);
            Answer::Error(spare, Status::IoErr)
        })
    }

    /// The driver has answered an error: it ends with that.
    #[cold]
    fn failed(
        &self,
        hctx: &HwQueue,
        started: Started<'_>,
        status: Status,
        cx: &mut IssueCtx<'_>,
    ) -> Issue {
        hctx.counters.refused_error.add(1);
        let ended = self.end_here(hctx, started, Err(status), cx);
        self.ended_or_kept(ended, false)
    }

    /// IDLE to ISSUED. Its timeout does not begin yet: most requests end before that (C35).
    #[inline]
    pub(super) fn start(&self, hctx: &HwQueue, rq: Rq, slot: &Slot) -> Option<Generation> {
        slot.set_deadline(UNTIMED);
        self.unpark(hctx, rq, slot);
        self.trace_rq(Kind::Issue, hctx, rq);
        match slot.state.start() {
            Step::Taken(generation) => Some(generation),
            Step::Wrong => {
                self.bad_transition(hctx);
                None
            }
        }
    }

    fn ended_or_kept(&self, ended: bool, accepted: bool) -> Issue {
        if ended {
            Issue::Ended { accepted }
        } else {
            Issue::Kept
        }
    }

    /// The driver has accepted it: goes on as the answer says.
    #[inline]
    pub(super) fn accepted(
        &self,
        hctx: &HwQueue,
        started: Started<'_>,
        accepted: Accepted<'_>,
        cx: &mut IssueCtx<'_>,
    ) -> Issue {
        cx.accepted();
        let request = started.request;
        let token = || self.in_flight(started.rq, started.generation);
        match accepted.disposition {
            Disposition::Now(Rest::End(outcome)) => {
                let outcome = outcome.map(|()| request.data_len());
                let ended = self.end_here(hctx, started, outcome, cx);
                self.ended_or_kept(ended, true)
            }
            Disposition::Now(Rest::Transfer(data)) => {
                let transfer = DataTransfer::new(Some(self), token(), hctx.index, request, data);
                match cx.local().transfer(transfer).what {
                    TransferResult::Kept => {
                        started.slot.state.mark_in_flight(started.generation);
                        Issue::Kept
                    }
                    TransferResult::Done(outcome) => {
                        let ended = self.complete_here(hctx, started, outcome, cx);
                        self.ended_or_kept(ended, true)
                    }
                }
            }
            Disposition::Now(Rest::Part(data, bytes)) => {
                started.slot.set(CUT);
                self.move_late(hctx, started, (data, bytes), Some(self), cx)
            }
            Disposition::Defer(rest) => {
                // guard: c35_defer
                self.begin_timeout(started.rq);
                started.slot.state.mark_in_flight(started.generation);
                let in_flight = token();
                let deferred = Deferred { in_flight, rest };
                let driver = &self.inner.driver;
                driver.deferred(self.view(hctx), request, deferred);
                Issue::Kept
            }
            Disposition::Hold => {
                started.slot.state.mark_in_flight(started.generation);
                Issue::Kept
            }
            Disposition::Requeue(how) => {
                self.requeue(token(), how);
                Issue::Kept
            }
        }
    }

    /// As a transfer, of the request's first bytes alone, or later. `untimed` as in `DataTransfer::new`.
    #[cold]
    fn move_late(
        &self,
        hctx: &HwQueue,
        started: Started<'_>,
        (data, bytes): (Data, u64),
        untimed: Option<&Self>,
        cx: &mut IssueCtx<'_>,
    ) -> Issue {
        let part = started.request.shortened(bytes);
        let token = self.in_flight(started.rq, started.generation);
        let transfer = DataTransfer::new(untimed, token, hctx.index, &part, data);
        match cx.local().transfer(transfer).what {
            TransferResult::Kept => {
                started.slot.state.mark_in_flight(started.generation);
                Issue::Kept
            }
            TransferResult::Done(outcome) => {
                let outcome = self.unless_cut(started.rq, outcome);
                let ended = self.complete_here(hctx, started, outcome, cx);
                self.ended_or_kept(ended, true)
            }
        }
    }

    /// The outcome of a request that was kept: an error if not all of its bytes were to be moved.
    pub(super) fn unless_cut(&self, rq: Rq, outcome: Result<u64, Status>) -> Result<u64, Status> {
        match self.slot(rq).has(CUT) {
            true => Err(outcome.err().unwrap_or(Status::IoErr)),
            false => outcome,
        }
    }

    /// Carries out the deferred disposition of a request, on a thread that is no submitter's.
    pub fn proceed(&self, deferred: Deferred) {
        let Deferred { in_flight, rest } = deferred;
        self.assert_own(&in_flight);
        let hctx = self.hctx_of(in_flight.rq);
        let request = self.request_of(hctx, in_flight.rq);
        let mut local = self.via_front_end(hctx);
        let mut cx = IssueCtx::new(&mut local);
        let started = Started::again(self, &in_flight, &request);
        let issue = match rest {
            Rest::End(outcome) => {
                let outcome = outcome.map(|()| request.data_len());
                let ended = self.end_here(hctx, started, outcome, &mut cx);
                self.ended_or_kept(ended, true)
            }
            Rest::Transfer(data) => {
                self.move_late(hctx, started, (data, request.len()), None, &mut cx)
            }
            Rest::Part(data, bytes) => {
                started.slot.set(CUT);
                self.move_late(hctx, started, (data, bytes), None, &mut cx)
            }
        };
        cx.flush_counts(hctx);
        if matches!(issue, Issue::Ended { .. }) {
            self.run_exit_actions(hctx, hctx.state.leave(1));
        }
    }

    /// The driver has refused it: it is the mirror's again, unless its timeout has ended it before.
    fn busy(
        &self,
        hctx: &HwQueue,
        rq: Rq,
        generation: Generation,
        kind: Busy,
        source: Source,
    ) -> Issue {
        if !self.slot(rq).state.take_back(generation) {
            hctx.counters.accepted.add(1);
            hctx.counters.lost_races.add(1);
            return Issue::Kept;
        }
        let kind = match kind {
            // guard: b04_promise
            Busy::DevResource if cfg!(debug_assertions) && !self.is_rerun_promised(hctx) => {
                hctx.counters.bad_dev_resource.add(1);
                Busy::Resource
            }
            kind => kind,
        };
        match kind {
            Busy::Resource => hctx.counters.refused_resource.add(1),
            Busy::DevResource => hctx.counters.refused_dev_resource.add(1),
        }
        hctx.counters.refused_by.add(source);
        self.refused(hctx, rq, Refused::Busy(kind), source);
        Issue::Refused(Refused::Busy(kind))
    }

    /// True if something will run this queue, after DEV_RESOURCE (B3, B4).
    fn is_rerun_promised(&self, hctx: &HwQueue) -> bool {
        let in_flight = |tag| self.slot(self.rq(hctx.index, tag)).state.is_in_flight();
        hctx.state.has(STOPPED)
            || self.inner.driver.has_waker(hctx.index)
            || (0..self.inner.set.queue_depth).any(in_flight)
    }
}
