// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where requests come in: a lone one is issued on the spot, a batch in order, and what cannot be
//! issued is listed (C1 to C4).
//!
//! A front end's thread hands in through its [`Submitter`]; [`super::dispatch`] issues,
//! [`super::run`] takes over what was listed. Kernel counterparts: `blk_mq_submit_bio`,
//! `blk_mq_dispatch_list`, `blk_execute_rq_nowait`.

use super::complete::{IssueCtx, Section};
use super::dispatch::{ListIssue, Next};
use super::hctx::HwQueue;
use super::hctx_state::{Entry, FROZEN};
use super::issue::{Issue, Refused};
use super::operations::{LocalCompletion, ViaFrontEnd};
use super::queue::Queue;
use super::request::{Op, Request};
use super::slot::{Rq, AT_HEAD, PASSTHROUGH};
use crate::trace::Kind;
use std::sync::atomic::Ordering;

/// Inserts requests into one hardware queue through one software queue. It has one owner, which
/// inserts from one thread at a time.
#[derive(Debug)]
pub struct Submitter {
    queue: Queue,
    hctx: u16,
    ctx: u16,
}

impl Drop for Submitter {
    fn drop(&mut self) {
        self.queue.return_submitter(self.hctx, self.ctx);
    }
}

impl Submitter {
    pub(super) fn new(queue: Queue, hctx: u16, ctx: u16) -> Self {
        Self { queue, hctx, ctx }
    }

    /// The queue it leads to.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Inserts a lone request (C1). Results of requests that end within the call go to `local`.
    #[inline]
    pub fn insert(&mut self, request: &Request, local: &mut dyn LocalCompletion) {
        let (queue, hctx) = (&self.queue, self.queue.hctx(self.hctx));
        let counters = hctx.submitter(self.ctx);
        let number = counters.inserted.get();
        let rq = queue.admit(hctx, self.ctx, request, 0, queue.arrival(number, 1));
        counters.inserted.add_owned(1);
        let (entry, arm, exit) = hctx.state.enter(1);
        if arm {
            queue.arm_timeout(hctx);
        }
        match entry {
            Entry::Issue if may_issue_directly(queue, hctx, request) => {
                let mut cx = IssueCtx::of_submitter(local, counters);
                queue.issue_alone(hctx, self.ctx, rq, request, &mut cx);
            }
            Entry::Issue => {
                queue.list(hctx, self.ctx, rq);
                queue.leave_section(hctx);
                queue.run_hw_queue(self.hctx, !(queue.is_linux3() && request.is_sync()));
            }
            Entry::List => {
                queue.wake_waiters(exit);
                queue.list(hctx, self.ctx, rq);
                queue.run_hw_queue(self.hctx, true);
            }
            Entry::Frozen => {
                queue.wake_waiters(exit);
                queue.wait_for_thaw(hctx, rq);
            }
        }
    }

    /// Inserts requests that have arrived together, in this order (C3).
    pub fn insert_batch(&mut self, requests: &[Request], local: &mut dyn LocalCompletion) {
        let (queue, hctx) = (&self.queue, self.queue.hctx(self.hctx));
        let Ok(count) = u32::try_from(requests.len()) else {
            return;
        };
        if count == 0 {
            return;
        }
        let counters = hctx.submitter(self.ctx);
        let first = counters.inserted.get();
        let arrived = queue.arrival(first, count);
        queue.trace_hctx(Kind::Plug, hctx, 0);
        // Before they are counted in: an invalid tag panics and leaves nothing behind.
        for (request, number) in requests.iter().zip(first..) {
            let arrived = queue.if_timed(number, arrived);
            queue.admit(hctx, self.ctx, request, 0, arrived);
        }
        counters.inserted.add_owned(u64::from(count));
        let entry = queue.enter(hctx, count);
        let rqs = requests
            .iter()
            .map(|request| (queue.rq(self.hctx, request.tag()), request));
        if entry == Entry::Frozen {
            rqs.for_each(|(rq, _)| queue.wait_for_thaw(hctx, rq));
            return;
        }
        queue.trace_hctx(Kind::Unplug, hctx, count);
        if entry == Entry::List || queue.is_linux3() {
            rqs.for_each(|(rq, _)| queue.list(hctx, self.ctx, rq));
            if entry == Entry::Issue {
                queue.leave_section(hctx);
            }
            queue.run_hw_queue(self.hctx, true);
        } else {
            queue.issue_batch(hctx, rqs, &mut IssueCtx::of_submitter(local, counters));
        }
    }

    /// Inserts a control request of the project's own (C4). It skips the software queues, so that it
    /// can overtake requests that are refused again and again.
    pub fn insert_passthrough(
        &mut self,
        request: &Request,
        at_head: bool,
        local: &mut dyn LocalCompletion,
    ) {
        let (queue, hctx) = (&self.queue, self.queue.hctx(self.hctx));
        let counters = hctx.submitter(self.ctx);
        let number = counters.inserted.get();
        let flags = PASSTHROUGH | if at_head { AT_HEAD } else { 0 };
        let arrived = queue.arrival(number, 1);
        let rq = queue.admit(hctx, self.ctx, request, flags, arrived);
        counters.inserted.add_owned(1);
        let entry = queue.enter(hctx, 1);
        if entry == Entry::Frozen {
            return queue.wait_for_thaw(hctx, rq);
        }
        queue.list(hctx, self.ctx, rq);
        if entry == Entry::Issue {
            queue.leave_section(hctx);
        }
        queue.run_now(hctx, &mut IssueCtx::of_submitter(local, counters));
    }
}

/// True if a lone arrival may be issued ahead of what a busy driver has left (C1).
#[inline]
fn may_issue_directly(queue: &Queue, hctx: &HwQueue, request: &Request) -> bool {
    !queue.is_linux3()
        && (hctx.dispatch_busy() == 0 || (queue.hctxs().len() != 1 && request.is_sync()))
}

impl Queue {
    /// Returns the submitter of `ctx` of `hctx`. None if there is no such ctx, or if its submitter has
    /// an owner already.
    pub fn submitter(&self, hctx: u16, ctx: u16) -> Option<Submitter> {
        let set = &self.inner.set;
        if hctx >= set.nr_hw_queues || ctx >= set.nr_ctxs {
            return None;
        }
        let taken = &self.inner.submitters[self.submitter_index(hctx, ctx)];
        // Acquire pairs with the Release in `return_submitter`: one owner's counts after the
        // other's.
        let ours = !taken.swap(true, Ordering::Acquire);
        ours.then(|| Submitter::new(self.clone(), hctx, ctx))
    }

    pub(super) fn return_submitter(&self, hctx: u16, ctx: u16) {
        self.inner.submitters[self.submitter_index(hctx, ctx)].store(false, Ordering::Release);
    }

    fn submitter_index(&self, hctx: u16, ctx: u16) -> usize {
        usize::from(hctx) * usize::from(self.inner.set.nr_ctxs) + usize::from(ctx)
    }

    /// Fills the slot of an arrival.
    #[inline]
    fn admit(&self, hctx: &HwQueue, ctx: u16, request: &Request, flags: u32, arrived: u64) -> Rq {
        let rq = self.rq(hctx.index, request.tag());
        let slot = self.slot(rq);
        if !slot.state.is_idle() {
            self.bad_transition(hctx);
        }
        slot.fill(request, ctx, flags, arrived);
        self.trace_rq(Kind::IoStart, hctx, rq);
        rq
    }

    /// Counts arrivals in, with all that follows from that. Says where they go.
    #[inline]
    fn enter(&self, hctx: &HwQueue, arrivals: u32) -> Entry {
        let (entry, arm, exit) = hctx.state.enter(arrivals);
        if arm {
            self.arm_timeout(hctx);
        }
        self.wake_waiters(exit);
        entry
    }

    /// Issues a lone request; what is refused is listed and the queue run once (C2).
    #[inline]
    fn issue_alone(
        &self,
        hctx: &HwQueue,
        ctx: u16,
        rq: Rq,
        request: &Request,
        cx: &mut IssueCtx<'_>,
    ) {
        let section = Section::entered(self, hctx);
        let issue = match self.budget_for(hctx, rq) {
            true => self.issue(hctx, rq, request, true, cx),
            false => Issue::Refused(Refused::NoBudget),
        };
        match issue {
            Issue::Ended { .. } => {
                hctx.update_busy(false);
                cx.flush_counts(hctx);
                section.leave_and_end(1);
            }
            Issue::Kept => {
                hctx.update_busy(false);
                cx.flush_counts(hctx);
                section.leave();
            }
            Issue::Refused(Refused::NoBudget) => {
                self.list(hctx, ctx, rq);
                section.leave();
                self.run_now(hctx, cx);
            }
            Issue::Refused(why @ (Refused::Busy(_) | Refused::Skippable)) => {
                self.list_refused(hctx, rq);
                hctx.update_busy(why.is_busy());
                section.leave();
                self.run_now(hctx, cx);
            }
        }
    }

    /// Issues a batch in order; from the first refusal on it is listed (C3).
    fn issue_batch<'r>(
        &self,
        hctx: &HwQueue,
        mut batch: impl ExactSizeIterator<Item = (Rq, &'r Request)>,
        cx: &mut IssueCtx<'_>,
    ) {
        let section = Section::entered(self, hctx);
        let next = || {
            batch.next().map(|(rq, request)| Next {
                rq,
                request: Some(request),
                last: batch.len() == 0,
                budgeted: false,
            })
        };
        let (issued, left) = self.issue_each(hctx, next, cx);
        let left = left.into_iter().chain(batch.map(|(rq, _)| rq));
        self.batch_issued(hctx, section, issued, left, cx);
    }

    /// A batch has been issued up to the first refusal. `left` begins with the refused request.
    #[inline]
    fn batch_issued(
        &self,
        hctx: &HwQueue,
        section: Section<'_>,
        issued: ListIssue,
        mut left: impl Iterator<Item = Rq>,
        cx: &mut IssueCtx<'_>,
    ) {
        cx.flush_counts(hctx);
        hctx.update_busy(issued.refused.is_some_and(Refused::is_busy));
        let Some(refused) = issued.refused else {
            return section.leave_and_end(issued.ended);
        };
        self.run_exit_actions(hctx, hctx.state.leave(issued.ended));
        if let Refused::Busy(_) | Refused::Skippable = refused {
            left.next()
                .into_iter()
                .for_each(|rq| self.list_refused(hctx, rq));
        }
        left.for_each(|rq| self.list(hctx, self.slot(rq).ctx(), rq));
        section.leave();
        self.run_now(hctx, cx);
    }

    /// The driver has refused an arrival: it goes to the tail of the dispatch list.
    fn list_refused(&self, hctx: &HwQueue, rq: Rq) {
        hctx.counters.queued.add(1);
        hctx.dispatch_tail(&self.inner.slots, rq);
    }

    /// Puts a request where it waits for a run (C4).
    pub(super) fn list(&self, hctx: &HwQueue, ctx: u16, rq: Rq) {
        hctx.counters.queued.add(1);
        let (slot, slots) = (self.slot(rq), &self.inner.slots);
        if slot.has(AT_HEAD) || self.is_flush(hctx, rq) {
            slot.clear(AT_HEAD);
            self.trace_insert(hctx, rq, false);
            hctx.dispatch_head(slots, rq);
        } else if slot.has(PASSTHROUGH) {
            self.trace_insert(hctx, rq, false);
            hctx.dispatch_tail(slots, rq);
        } else {
            self.trace_insert(hctx, rq, true);
            hctx.ctxs.push_back(slots, ctx, rq);
        }
    }

    pub(super) fn is_flush(&self, hctx: &HwQueue, rq: Rq) -> bool {
        self.slot(rq).request(self.tag_of(hctx, rq)).op() == Op::Flush
    }

    /// Keeps an arrival at a frozen queue. It is not counted as inside (C26).
    #[cold]
    fn wait_for_thaw(&self, hctx: &HwQueue, rq: Rq) {
        hctx.frozen_arrivals.lock().push_back(&self.inner.slots, rq);
        // Pairs with the clearing of FROZEN: either that thaw finds the request, or this finds it
        // thawed.
        // guard: c26_look
        if !hctx.state.test_fenced(FROZEN) {
            self.admit_thawed(hctx);
        }
    }

    /// Admits the arrivals that have waited for the end of a freeze.
    pub(super) fn admit_thawed(&self, hctx: &HwQueue) {
        let mut waiting = hctx.frozen_arrivals.lock().take();
        while let Some(rq) = waiting.pop_front(&self.inner.slots) {
            let ctx = self.slot(rq).ctx();
            let entry = self.enter(hctx, 1);
            if entry == Entry::Frozen {
                self.wait_for_thaw(hctx, rq);
                continue;
            }
            self.list(hctx, ctx, rq);
            if entry == Entry::Issue {
                self.leave_section(hctx);
            }
        }
        self.run_hw_queue(hctx.index, true);
    }

    /// Runs the queue on the calling thread if that is allowed, else on kblockd (C22).
    fn run_now(&self, hctx: &HwQueue, cx: &mut IssueCtx<'_>) {
        self.run_with(hctx, false, cx);
    }

    /// The completion of a call on a thread that is no submitter's.
    pub(super) fn via_front_end(&self, hctx: &HwQueue) -> ViaFrontEnd<'_> {
        ViaFrontEnd::new(&*self.inner.front_end, hctx.index)
    }
}
