// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the lists to the driver: issues a list, or the software queues one by one, and puts back
//! what is refused (C5 to C18).
//!
//! [`super::insert`] and [`super::run`] call in, inside an issue section; each request goes through
//! [`super::issue`]. Kernel counterparts: `blk_mq_dispatch_rq_list`, `blk_mq_do_dispatch_ctx`,
//! `__blk_mq_sched_dispatch_requests`.
//!
//! Why a refused request is never forgotten:
//!
//! ```text
//!   dispatcher                                   the end of a request of this hctx
//!   set RESTART                (mark)            give the driver's things back
//!   queue_rq: BUSY             (try)             lower usage, reading RESTART      (leave)
//!   append the leftovers       (append)            if set: clear it, queue a run
//!   test_fenced(RESTART)       (test)
//!     clear: queue a run
//! ```
//!
//! All steps on the state word are read-modify-writes, so of mark and leave one is first. If leave
//! is, then try sees what was given back. If mark is, leave clears RESTART and queues a run; that
//! clearing is before or after test. If before, test finds RESTART clear and queues another run. If
//! after, the append is visible to the run that was queued. When RESTART was not marked before the
//! try, as in a run that took the software queues, test finds it clear and queues a run that marks.

use super::complete::IssueCtx;
use super::counters::Source;
use super::hctx::HwQueue;
use super::hctx_state::RESTART;
use super::issue::{Issue, Refused};
use super::operations::Busy;
use super::queue::Queue;
use super::request::Request;
use super::slot::{Rq, RqList};
use super::tag_set::Rules;
use std::time::Duration;

/// Delay of the run of all queues after a budget was taken and no request was left for it
/// (`BLK_MQ_BUDGET_DELAY`).
const BUDGET_DELAY: Duration = Duration::from_millis(3);

/// The next request to issue.
pub(super) struct Next<'r> {
    pub(super) rq: Rq,
    /// The request, if the caller has it at hand.
    pub(super) request: Option<&'r Request>,
    pub(super) last: bool,
    /// True if its budget has been taken.
    pub(super) budgeted: bool,
}

/// The result of issuing a list.
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
        if !self.has_budget() {
            return true;
        }
        if self.is_flush(hctx, rq) {
            self.slot(rq).set_token(0); // a flush waits for no share (E1)
            return true;
        }
        match self.take_budget(hctx) {
            Ok(token) => self.slot(rq).set_token(token.unwrap_or(0)),
            Err(source) => {
                self.refused(hctx, rq, Refused::NoBudget, source);
                return false;
            }
        }
        true
    }

    /// Issues what `next` returns until it has no more, or until one is refused; that one is
    /// returned (C10).
    /// # Context: inside an issue section of `hctx`.
    #[inline]
    pub(super) fn issue_each<'r>(
        &self,
        hctx: &HwQueue,
        mut next: impl FnMut() -> Option<Next<'r>>,
        cx: &mut IssueCtx<'_>,
    ) -> (ListIssue, Option<Rq>) {
        let mut done = ListIssue::default();
        let mut told_last = false;
        let mut left = None;
        while let Some(Next {
            rq,
            request,
            last,
            budgeted,
        }) = next()
        {
            let issue = if budgeted || self.budget_for(hctx, rq) {
                let request = match request {
                    Some(request) => *request,
                    None => self.request_of(hctx, rq),
                };
                let issue = self.issue(hctx, rq, &request, last, cx);
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
                Issue::Refused(why) => {
                    done.refused = Some(why);
                    left = Some(rq);
                    break;
                }
            }
        }
        if done.accepted > 0 && !told_last {
            self.inner.driver.commit_rqs(self.view(hctx));
        }
        (done, left)
    }

    /// Issues a list from its head. What is left in it begins with the refused request (C11).
    /// Behind a refused request that may be skipped, the rest is offered if the driver wants it
    /// (E10). The budget of the first one may have been taken already.
    /// # Context: inside an issue section of `hctx`.
    pub(super) fn issue_list(
        &self,
        hctx: &HwQueue,
        list: &mut RqList,
        mut budgeted: bool,
        cx: &mut IssueCtx<'_>,
    ) -> ListIssue {
        let slots = &self.inner.slots;
        let (mut all, mut waiting) = (ListIssue::default(), RqList::new());
        loop {
            let next = || {
                let mut rq = list.pop_front(slots)?;
                while all.refused.is_some() && !self.overtakes(hctx, rq) {
                    waiting.push_back(slots, rq);
                    rq = list.pop_front(slots)?;
                }
                Some(Next {
                    rq,
                    request: None,
                    last: list.is_empty(),
                    budgeted: std::mem::take(&mut budgeted),
                })
            };
            let (done, left) = self.issue_each(hctx, next, cx);
            all.ended += done.ended;
            all.accepted += done.accepted;
            let (Some(why), Some(rq)) = (done.refused, left) else {
                break;
            };
            // The first refusal counts: after a skippable one the mirror owes a re-run.
            all.refused = all.refused.or(Some(why));
            if why == Refused::Skippable {
                waiting.push_back(slots, rq);
            } else {
                list.push_front(slots, rq);
                break;
            }
        }
        waiting.append(slots, list);
        *list = waiting;
        all
    }

    /// True if the driver wants this request, which stands behind a refused one that may be
    /// skipped.
    fn overtakes(&self, hctx: &HwQueue, rq: Rq) -> bool {
        let request = self.request_of(hctx, rq);
        self.inner.driver.overtakes(self.view(hctx), &request)
    }

    /// Issues a list and puts back what is left. Returns how many requests were accepted, and why
    /// some were left, if any.
    /// # Context: inside an issue section of `hctx`.
    fn dispatch_list(
        &self,
        hctx: &HwQueue,
        mut list: RqList,
        budgeted: bool,
        cx: &mut IssueCtx<'_>,
    ) -> (u32, Option<Refused>) {
        if list.is_empty() {
            return (0, None);
        }
        let done = self.issue_list(hctx, &mut list, budgeted, cx);
        if done.ended > 0 {
            cx.flush_counts(hctx);
            self.run_exit_actions(hctx, hctx.state.leave(done.ended));
        }
        hctx.update_busy(done.refused.is_some_and(Refused::is_busy));
        if let Some(why) = done.refused {
            hctx.dispatch_append(&self.inner.slots, &mut list);
            self.schedule_rerun(hctx, why);
        }
        (done.accepted, done.refused)
    }

    /// Decides, after the leftovers have been put back, what runs the queue again (C16, C17).
    fn schedule_rerun(&self, hctx: &HwQueue, why: Refused) {
        // guard: c16_look
        if !hctx.state.test_fenced(RESTART) {
            // No end owes a run: the one that cleared the bit may have come before the leftovers
            // were listed.
            self.run_hw_queue(hctx.index, true);
        } else if why != Refused::Busy(Busy::DevResource) {
            self.delay_run_hw_queue(hctx.index, self.inner.set.rerun_delay);
            // An end that has cleared the bit since has queued a run, and the delay above has
            // postponed it (W18).
            // guard: w18_look
            if !hctx.state.test_fenced(RESTART) {
                self.run_hw_queue(hctx.index, true);
            }
        }
    }

    /// One pass of a run (C5 to C8). True if it stopped because the dispatch list has got something
    /// new: it is to be repeated.
    /// # Context: inside an issue section of `hctx`.
    pub(super) fn dispatch_pass(
        &self,
        hctx: &HwQueue,
        accepted: &mut u32,
        cx: &mut IssueCtx<'_>,
    ) -> bool {
        let list = hctx.take_dispatch();
        let one_by_one = if list.is_empty() {
            hctx.dispatch_busy() > 0
        } else {
            hctx.state.set(RESTART); // mark
            let (taken, left) = self.dispatch_list(hctx, list, false, cx);
            *accepted += taken;
            match left {
                None => true,
                // Requests in the software queues may not need what was lacking.
                Some(Refused::Skippable) => false,
                Some(_) => return false,
            }
        };
        if one_by_one {
            return self.serve_ctxs(hctx, accepted, cx);
        }
        let all = hctx.ctxs.take_all(&self.inner.slots);
        *accepted += self.dispatch_list(hctx, all, false, cx).0;
        false
    }

    /// Serves the software queues one request at a time (C6, C8). True if it stopped for the
    /// dispatch list.
    fn serve_ctxs(&self, hctx: &HwQueue, accepted: &mut u32, cx: &mut IssueCtx<'_>) -> bool {
        loop {
            // guard: c08_stop
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
                    return false; // the thread that gives a share back runs this queue (C12)
                }
            };
            let Some((rq, next)) = hctx.ctxs.take_one(&self.inner.slots, hctx.dispatch_from())
            else {
                if let Some(token) = token {
                    // guard: w19_put
                    self.put_budget(hctx, token);
                }
                return false;
            };
            self.slot(rq).set_token(token.unwrap_or(0));
            hctx.set_dispatch_from(next);
            let mut one = RqList::new();
            one.push_back(&self.inner.slots, rq);
            let (taken, left) = self.dispatch_list(hctx, one, true, cx);
            *accepted += taken;
            if left.is_some() {
                return false;
            }
        }
    }

    /// Takes a share of the budget; None without a limit. A missing share is counted.
    fn take_budget(&self, hctx: &HwQueue) -> Result<Option<u32>, Source> {
        let Some(budget) = self.inner.driver.budget().filter(|_| self.has_budget()) else {
            return Ok(None);
        };
        budget.get(hctx.index).map(Some).ok_or_else(|| {
            hctx.counters.no_budget.add(1);
            hctx.counters.refused_by.add(budget.source());
            budget.source()
        })
    }

    /// The request was taken by another run meanwhile. Other queues may have been refused for lack
    /// of this share, so all of them are run soon (W19).
    fn put_budget(&self, hctx: &HwQueue, token: u32) {
        if let Some(budget) = self.inner.driver.budget() {
            budget.put(self.view(hctx), token);
            self.delay_run_hw_queues(BUDGET_DELAY);
        }
    }

    /// True if it is run by the rules of the kernels 3.x.
    #[inline]
    pub(super) fn is_linux3(&self) -> bool {
        self.inner.set.rules == Rules::Linux3
    }

    /// One run by the rules of the kernels 3.x (M1 to M3). It takes everything, the dispatch list
    /// in front of the software queues; what is left goes back to the head of the dispatch list,
    /// and the queue is run again at once, whatever the reason. There is no RESTART, no delay, no
    /// account of how busy the driver is, and no direct issue. Not modeled: a queued run that is
    /// queued again keeps its place (M4).
    /// # Context: inside an issue section of `hctx`.
    pub(super) fn dispatch_pass_linux3(
        &self,
        hctx: &HwQueue,
        accepted: &mut u32,
        cx: &mut IssueCtx<'_>,
    ) {
        let slots = &self.inner.slots;
        let mut list = hctx.take_dispatch();
        list.append(slots, &mut hctx.ctxs.take_all(slots));
        if list.is_empty() {
            return;
        }
        let done = self.issue_list(hctx, &mut list, false, cx);
        *accepted += done.accepted;
        if done.ended > 0 {
            cx.flush_counts(hctx);
            self.run_exit_actions(hctx, hctx.state.leave(done.ended));
        }
        if done.refused.is_some() {
            hctx.dispatch_prepend(slots, list);
            self.run_hw_queue(hctx.index, true);
        }
    }
}
