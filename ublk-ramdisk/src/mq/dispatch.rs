// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the lists to the driver: issues one request, a list, or the software queues one by one,
//! and puts back what is refused (C5 to C18).
//!
//! [`super::insert`] and [`super::run`] call in, inside an issue section; [`super::complete`] takes
//! over what has ended. Kernel counterparts: `blk_mq_dispatch_rq_list`, `blk_mq_do_dispatch_ctx`,
//! `__blk_mq_sched_dispatch_requests`.
//!
//! Why a refused request is never forgotten:
//!
//! ```text
//!   dispatcher                                   whoever ends a request of this hctx
//!   set RESTART                (mark)            give the driver's things back
//!   queue_rq: BUSY             (try)             lower usage, reading RESTART      (leave)
//!   append the leftovers       (append)            if set: clear it, queue a run
//!   read RESTART by writing    (look)
//!     clear: queue a run
//! ```
//!
//! All steps on the state word are read-modify-writes, so of mark and leave one is first. If leave
//! is, then try sees what was given back. If mark is, leave clears RESTART and queues a run; that
//! clearing is before or after look. If before, look finds RESTART clear and queues another run. If
//! after, the append is visible to the run that was queued. When RESTART was not marked before the
//! try, as in a run that took the software queues, look finds it clear and queues a run that marks.

use super::custody::{Accepted, Course, InFlight, Issued, Move, Moving};
use super::hctx::HwQueue;
use super::hctx_state::{RESTART, STOPPED};
use super::operations::{Answer, Busy, Home, Offer};
use super::queue::Queue;
use super::request::Request;
use super::request_state::{Generation, Step};
use super::slot::{Rq, RqList};
use super::source::Source;
use super::status::Status;
use crate::trace::Kind;
use std::time::Duration;

/// How soon all queues are run when a budget was taken for a request that was gone
/// (`BLK_MQ_BUDGET_DELAY`).
const BUDGET_DELAY: Duration = Duration::from_millis(3);

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// By the driver.
    Busy(Busy),
    /// By the driver, with RESOURCE; the others in the list are offered all the same (E10).
    Alone,
    /// Not even offered to it.
    NoBudget,
}

impl Refused {
    /// Does it say that the driver is busy (C19)? One that holds back only its like does not.
    pub(super) fn is_busy(self) -> bool {
        self != Self::Alone
    }
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Issue {
    /// It has ended; the caller counts it out. `accepted` unless queue_rq answered an error.
    Ended { accepted: bool },
    /// Somebody has it.
    Kept,
    /// It is the mirror's again; the caller lists it.
    Refused(Refused),
}

/// What became of a list.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub(super) struct ListIssue {
    /// Requests that ended; the caller counts them out.
    pub(super) ended: u32,
    /// Requests the driver accepted.
    pub(super) accepted: u32,
    /// Why it stopped, with the rest still in the list.
    pub(super) refused: Option<Refused>,
}

impl Queue {
    /// Takes the share of a limit that the request needs.
    #[inline]
    pub(super) fn budget_for(&self, hctx: &HwQueue, rq: Rq) -> bool {
        if !self.inner.has_budget {
            return true;
        }
        match self.take_budget(hctx) {
            Ok(token) => self.slot(rq).set_token(token),
            Err(source) => {
                self.refused(hctx, rq, Refused::NoBudget, source);
                return false;
            }
        }
        true
    }

    /// Starts one request and offers it to the driver. Its budget has been taken.
    /// # Context: inside an issue section of `hctx`.
    #[inline]
    pub(super) fn issue(&self, hctx: &HwQueue, rq: Rq, last: bool, home: &mut dyn Home) -> Issue {
        debug_assert!(hctx.state.issuing() > 0);
        let Some((generation, request)) = self.start(hctx, rq) else {
            return Issue::Kept;
        };
        let issued = Issued::new(rq, generation, request, self.slot(rq).token());
        match self.inner.driver.queue_rq(self.view(hctx), issued, last) {
            Answer::Ok(accepted) => self.accepted(hctx, rq, generation, &request, accepted, home),
            Answer::Busy(back, kind, source) => {
                match self.busy(hctx, rq, generation, kind, source) {
                    Issue::Refused(Refused::Busy(Busy::Resource)) if back.alone => {
                        Issue::Refused(Refused::Alone)
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
            Answer::Error(_, status) => {
                hctx.counters.refused_error.add(1);
                let ended = self.end_here(hctx, rq, generation, Err(status), home);
                self.ended_or_kept(ended, false)
            }
        }
    }

    /// IDLE to IN_FLIGHT, and the clock starts (C35).
    #[inline]
    fn start(&self, hctx: &HwQueue, rq: Rq) -> Option<(Generation, Request)> {
        let slot = self.slot(rq);
        slot.set_deadline(self.next_deadline());
        self.unpark(hctx, rq);
        self.trace_rq(Kind::Issue, hctx, rq);
        match slot.state.start() {
            Step::Taken(generation) => Some((generation, slot.request(self.tag_of(hctx, rq)))),
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
    fn accepted(
        &self,
        hctx: &HwQueue,
        rq: Rq,
        generation: Generation,
        request: &Request,
        accepted: Accepted<'_>,
        home: &mut dyn Home,
    ) -> Issue {
        hctx.counters.accepted.add(1);
        let token = InFlight { rq, generation };
        match accepted.course {
            Course::End(outcome) => {
                let bytes = if request.op().has_data() {
                    request.len()
                } else {
                    0
                };
                let outcome = outcome.map(|()| bytes);
                let ended = self.end_here(hctx, rq, generation, outcome, home);
                self.ended_or_kept(ended, true)
            }
            Course::Transfer(data) => {
                let moving = Moving::new(token, hctx.index, *request, data);
                match home.transfer(moving).what {
                    Move::Kept => Issue::Kept,
                    Move::Done(outcome) => {
                        let ended = self.complete_here(hctx, rq, generation, outcome, home);
                        self.ended_or_kept(ended, true)
                    }
                }
            }
            Course::Hold => Issue::Kept,
            Course::Requeue(how) => {
                self.requeue(token, how);
                Issue::Kept
            }
        }
    }

    /// The driver has refused it: it is the mirror's again, unless its timeout was quicker.
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

    /// Asked after DEV_RESOURCE (B3, B4): is there something that will run this queue?
    fn is_rerun_promised(&self, hctx: &HwQueue) -> bool {
        let in_flight = |tag| self.slot(self.rq(hctx.index, tag)).state.is_in_flight();
        hctx.state.has(STOPPED)
            || self.inner.driver.has_waker(hctx.index)
            || (0..self.inner.set.queue_depth).any(in_flight)
    }

    /// Issues a list from its head. What is left in it begins with the refused request (C10, C11);
    /// past one that was refused alone the rest is offered, as far as the driver says (E10).
    /// # Context: inside an issue section of `hctx`.
    pub(super) fn issue_list(
        &self,
        hctx: &HwQueue,
        list: &mut RqList,
        home: &mut dyn Home,
    ) -> ListIssue {
        self.issue_budgeted(hctx, list, false, home)
    }

    /// As `issue_list`; the first request's budget may have been taken already.
    fn issue_budgeted(
        &self,
        hctx: &HwQueue,
        list: &mut RqList,
        mut budgeted: bool,
        home: &mut dyn Home,
    ) -> ListIssue {
        let mut done = ListIssue::default();
        let mut told_last = false;
        let mut waiting = RqList::new();
        while let Some(rq) = list.pop_front(&self.inner.slots) {
            if done.refused.is_some() && !self.overtakes(hctx, rq) {
                waiting.push_back(&self.inner.slots, rq);
                continue;
            }
            let issue = if std::mem::take(&mut budgeted) || self.budget_for(hctx, rq) {
                let last = list.is_empty();
                let issue = self.issue(hctx, rq, last, home);
                told_last = last && matches!(issue, Issue::Kept | Issue::Ended { accepted: true });
                issue
            } else {
                Issue::Refused(Refused::NoBudget)
            };
            match issue {
                Issue::Ended { accepted } => {
                    done.ended += 1;
                    done.accepted += u32::from(accepted);
                }
                Issue::Kept => done.accepted += 1,
                Issue::Refused(Refused::Alone) => {
                    waiting.push_back(&self.inner.slots, rq);
                    done.refused = Some(Refused::Alone);
                }
                Issue::Refused(why) => {
                    list.push_front(&self.inner.slots, rq);
                    // One refused alone is owed a re-run by the mirror, this one perhaps not.
                    done.refused = done.refused.or(Some(why));
                    break;
                }
            }
        }
        waiting.append(&self.inner.slots, list);
        *list = waiting;
        if done.accepted > 0 && !told_last {
            self.inner.driver.commit_rqs(self.view(hctx));
        }
        done
    }

    /// Asked of those behind one that was refused alone.
    fn overtakes(&self, hctx: &HwQueue, rq: Rq) -> bool {
        let request = self.slot(rq).request(self.tag_of(hctx, rq));
        self.inner.driver.overtakes(self.view(hctx), &request)
    }

    /// Issues a list and puts back what is left. Answers how many were accepted, and why some were
    /// left, if any.
    /// # Context: inside an issue section of `hctx`.
    fn dispatch_list(
        &self,
        hctx: &HwQueue,
        mut list: RqList,
        budgeted: bool,
        home: &mut dyn Home,
    ) -> (u32, Option<Refused>) {
        if list.is_empty() {
            return (0, None);
        }
        let done = self.issue_budgeted(hctx, &mut list, budgeted, home);
        if done.ended > 0 {
            self.departed(hctx, hctx.state.leave(done.ended));
        }
        hctx.update_busy(done.refused.is_some_and(Refused::is_busy));
        if let Some(why) = done.refused {
            hctx.dispatch_append(&self.inner.slots, &mut list);
            self.see_to_rerun(hctx, why);
        }
        (done.accepted, done.refused)
    }

    /// After the leftovers have been put back: who runs the queue again (C16, C17)?
    fn see_to_rerun(&self, hctx: &HwQueue, why: Refused) {
        if !hctx.state.look(RESTART) {
            // Nobody owes it: whoever did has cleared the bit, and may have come too early.
            self.run_hw_queue(hctx.index, true);
        } else if why != Refused::Busy(Busy::DevResource) {
            self.delay_run_hw_queue(hctx.index, self.inner.set.rerun_delay);
        }
    }

    /// One pass of a run (C5 to C8). True if it stopped because the dispatch list has got something
    /// new: it is to be repeated.
    /// # Context: inside an issue section of `hctx`.
    pub(super) fn dispatch_pass(
        &self,
        hctx: &HwQueue,
        accepted: &mut u32,
        home: &mut dyn Home,
    ) -> bool {
        let list = hctx.take_dispatch();
        let one_by_one = if list.is_empty() {
            hctx.dispatch_busy() > 0
        } else {
            hctx.state.set(RESTART); // mark
            let (taken, left) = self.dispatch_list(hctx, list, false, home);
            *accepted += taken;
            match left {
                None => true,
                // What waits in the software queues may need nothing that is wanting.
                Some(Refused::Alone) => false,
                Some(_) => return false,
            }
        };
        if one_by_one {
            return self.serve_ctxs(hctx, accepted, home);
        }
        let all = hctx.ctxs.take_all(&self.inner.slots);
        *accepted += self.dispatch_list(hctx, all, false, home).0;
        false
    }

    /// Serves the software queues one request at a time (C6, C8). True if it stopped for the
    /// dispatch list.
    fn serve_ctxs(&self, hctx: &HwQueue, accepted: &mut u32, home: &mut dyn Home) -> bool {
        loop {
            if hctx.has_dispatch() {
                return true;
            }
            if !hctx.ctxs.any() {
                return false;
            }
            let token = match self.take_budget(hctx) {
                Ok(token) => token,
                Err(source) => {
                    self.trace_tag_wait(hctx, source);
                    return false; // whoever gives a share back runs this queue (C12)
                }
            };
            let Some((rq, next)) = hctx.ctxs.take_one(&self.inner.slots, hctx.dispatch_from())
            else {
                self.put_budget(hctx, token);
                return false;
            };
            self.slot(rq).set_token(token);
            hctx.set_dispatch_from(next);
            let mut one = RqList::new();
            one.push_back(&self.inner.slots, rq);
            let (taken, left) = self.dispatch_list(hctx, one, true, home);
            *accepted += taken;
            if left.is_some() {
                return false;
            }
        }
    }

    /// A share; 0 where there is no limit. That there is none is counted.
    fn take_budget(&self, hctx: &HwQueue) -> Result<u32, Source> {
        match self.inner.driver.budget() {
            None => Ok(0),
            Some(budget) => budget.get(hctx.index).ok_or_else(|| {
                hctx.counters.no_budget.add(1);
                hctx.counters.refused_by.add(budget.source());
                budget.source()
            }),
        }
    }

    /// Somebody else has taken the request meanwhile. Others may have been turned away for the
    /// share held here, so all queues are run soon (W19).
    fn put_budget(&self, hctx: &HwQueue, token: u32) {
        if let Some(budget) = self.inner.driver.budget() {
            budget.put(self.view(hctx), token);
            self.delay_run_hw_queues(BUDGET_DELAY);
        }
    }

    /// Offers a batch to a driver that takes several at once. Answers how many have ended.
    /// # Context: inside an issue section of `hctx`.
    pub(super) fn offer_all(&self, hctx: &HwQueue, list: &mut RqList, home: &mut dyn Home) -> u32 {
        if self.inner.has_budget {
            return 0;
        }
        let mut batch = Batch {
            queue: self,
            hctx,
            list,
            home,
            ended: 0,
        };
        self.inner.driver.queue_rqs(self.view(hctx), &mut batch);
        batch.ended
    }
}

/// A batch on offer.
struct Batch<'a> {
    queue: &'a Queue,
    hctx: &'a HwQueue,
    list: &'a mut RqList,
    home: &'a mut dyn Home,
    ended: u32,
}

impl Offer for Batch<'_> {
    fn each(
        &mut self,
        take: &mut dyn for<'q> FnMut(Issued<'q>) -> Result<Accepted<'q>, Issued<'q>>,
    ) {
        let slots = &self.queue.inner.slots;
        let mut left = RqList::new();
        while let Some(rq) = self.list.pop_front(slots) {
            let Some((generation, request)) = self.queue.start(self.hctx, rq) else {
                continue;
            };
            match take(Issued::new(rq, generation, request, 0)) {
                Ok(accepted) => {
                    let (queue, hctx) = (self.queue, self.hctx);
                    let issue = queue.accepted(hctx, rq, generation, &request, accepted, self.home);
                    self.ended += u32::from(matches!(issue, Issue::Ended { .. }));
                }
                Err(_) => {
                    if self.queue.slot(rq).state.take_back(generation) {
                        left.push_back(slots, rq);
                    } else {
                        self.hctx.counters.accepted.add(1);
                    }
                }
            }
        }
        *self.list = left;
    }
}
