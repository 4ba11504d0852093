// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where requests come in: a lone one is issued on the spot, a batch in order, and what cannot be
//! issued is listed (C1 to C4).
//!
//! A transport's thread hands in through its [`Lane`]; [`super::dispatch`] issues, [`super::run`]
//! takes over what was listed. Kernel counterparts: `blk_mq_submit_bio`, `blk_mq_dispatch_list`,
//! `blk_execute_rq_nowait`.

use super::dispatch::{Issue, Refused};
use super::hctx::HwQueue;
use super::hctx_state::{Entry, FROZEN};
use super::operations::{Away, Home};
use super::queue::Queue;
use super::request::{Op, Request};
use super::slot::{Rq, RqList, AT_HEAD, PASSTHROUGH};
use crate::trace::Kind;

/// The way in to one hardware queue through one software queue. Has one owner, and that owner
/// inserts from one thread at a time.
#[derive(Debug)]
pub struct Lane {
    queue: Queue,
    hctx: u16,
    ctx: u16,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.queue.give_lane_back(self.hctx, self.ctx);
    }
}

impl Lane {
    pub(super) fn new(queue: Queue, hctx: u16, ctx: u16) -> Self {
        Self { queue, hctx, ctx }
    }

    /// The queue it leads to.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// A request has arrived alone (C1). Ends that happen within the call go to `home`.
    #[inline]
    pub fn insert(&mut self, request: &Request, home: &mut dyn Home) {
        let (queue, hctx) = (&self.queue, self.queue.hctx(self.hctx));
        hctx.count_inserted(self.ctx, 1);
        let rq = queue.take_in(hctx, self.ctx, request, 0);
        let (entry, arm, exit) = hctx.state.enter(1);
        if arm {
            queue.arm_timeout(hctx);
        }
        match entry {
            Entry::Issue if may_issue_directly(queue, hctx, request) => {
                queue.issue_alone(hctx, self.ctx, rq, home);
            }
            Entry::Issue => {
                queue.list(hctx, self.ctx, rq);
                queue.leave_section(hctx);
                queue.run_hw_queue(self.hctx, true);
            }
            Entry::List => {
                queue.woken(exit);
                queue.list(hctx, self.ctx, rq);
                queue.run_hw_queue(self.hctx, true);
            }
            Entry::Frozen => {
                queue.woken(exit);
                queue.wait_for_thaw(hctx, rq);
            }
        }
    }

    /// Several requests have arrived together, in this order (C3).
    pub fn insert_batch(&mut self, requests: &[Request], home: &mut dyn Home) {
        let (queue, hctx) = (&self.queue, self.queue.hctx(self.hctx));
        let Ok(count) = u32::try_from(requests.len()) else {
            return;
        };
        if count == 0 {
            return;
        }
        hctx.count_inserted(self.ctx, u64::from(count));
        queue.trace_hctx(Kind::Plug, hctx, 0);
        let (entry, arm, exit) = hctx.state.enter(count);
        if arm {
            queue.arm_timeout(hctx);
        }
        queue.woken(exit);
        if entry == Entry::Frozen {
            for request in requests {
                queue.wait_for_thaw(hctx, queue.take_in(hctx, self.ctx, request, 0));
            }
            return;
        }
        let mut list = RqList::new();
        for request in requests {
            list.push_back(
                &queue.inner.slots,
                queue.take_in(hctx, self.ctx, request, 0),
            );
        }
        queue.trace_hctx(Kind::Unplug, hctx, count);
        if entry == Entry::Issue {
            queue.issue_batch(hctx, &mut list, home);
        } else {
            queue.list_all(hctx, &mut list);
            queue.run_hw_queue(self.hctx, true);
        }
    }

    /// A control request of the project's own (C4): goes past the software queues, so that it can
    /// overtake requests that are stuck BUSY.
    pub fn insert_passthrough(&mut self, request: &Request, at_head: bool, home: &mut dyn Home) {
        let (queue, hctx) = (&self.queue, self.queue.hctx(self.hctx));
        hctx.count_inserted(self.ctx, 1);
        let flags = PASSTHROUGH | if at_head { AT_HEAD } else { 0 };
        let rq = queue.take_in(hctx, self.ctx, request, flags);
        let (entry, arm, exit) = hctx.state.enter(1);
        if arm {
            queue.arm_timeout(hctx);
        }
        queue.woken(exit);
        if entry == Entry::Frozen {
            return queue.wait_for_thaw(hctx, rq);
        }
        queue.list(hctx, self.ctx, rq);
        if entry == Entry::Issue {
            queue.leave_section(hctx);
        }
        queue.run_now(hctx, home);
    }
}

/// Asked of a lone arrival at an open queue (C1): may it go ahead of what a busy driver has left?
#[inline]
fn may_issue_directly(queue: &Queue, hctx: &HwQueue, request: &Request) -> bool {
    hctx.dispatch_busy() == 0 || (queue.hctxs().len() != 1 && request.is_sync())
}

impl Queue {
    /// Keeps an arrival in its slot.
    #[inline]
    fn take_in(&self, hctx: &HwQueue, ctx: u16, request: &Request, flags: u32) -> Rq {
        let rq = self.rq(hctx.index, request.tag());
        let slot = self.slot(rq);
        if !slot.state.is_idle() {
            self.bad_transition(hctx);
        }
        slot.fill(request, ctx, flags);
        self.trace_rq(Kind::IoStart, hctx, rq);
        rq
    }

    /// Issues a lone request; what is refused is listed and the queue run once (C2).
    fn issue_alone(&self, hctx: &HwQueue, ctx: u16, rq: Rq, home: &mut dyn Home) {
        let issue = match self.budget_for(hctx, rq) {
            true => self.issue(hctx, rq, true, home),
            false => Issue::Refused(Refused::NoBudget),
        };
        match issue {
            Issue::Ended { .. } => {
                hctx.update_busy(false);
                self.departed(hctx, hctx.state.leave_and_end_issue(1));
            }
            Issue::Kept => {
                hctx.update_busy(false);
                self.leave_section(hctx);
            }
            Issue::Refused(Refused::NoBudget) => {
                self.list(hctx, ctx, rq);
                self.leave_section(hctx);
                self.run_now(hctx, home);
            }
            Issue::Refused(why @ (Refused::Busy(_) | Refused::Alone)) => {
                hctx.counters.queued.add(1);
                hctx.dispatch_tail(&self.inner.slots, rq);
                hctx.update_busy(why.is_busy());
                self.leave_section(hctx);
                self.run_now(hctx, home);
            }
        }
    }

    /// Issues a batch in order; from the first refusal on it is listed (C3).
    fn issue_batch(&self, hctx: &HwQueue, list: &mut RqList, home: &mut dyn Home) {
        let offered = self.offer_all(hctx, list, home);
        let issued = self.issue_list(hctx, list, home);
        self.departed(hctx, hctx.state.leave(offered + issued.ended));
        if !list.is_empty() {
            if let Some(Refused::Busy(_) | Refused::Alone) = issued.refused {
                let refused = list.pop_front(&self.inner.slots);
                refused.into_iter().for_each(|rq| {
                    hctx.counters.queued.add(1);
                    hctx.dispatch_tail(&self.inner.slots, rq);
                });
            }
            self.list_all(hctx, list);
        }
        hctx.update_busy(issued.refused.is_some_and(Refused::is_busy));
        self.leave_section(hctx);
        if issued.refused.is_some() {
            self.run_now(hctx, home);
        }
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

    fn list_all(&self, hctx: &HwQueue, list: &mut RqList) {
        while let Some(rq) = list.pop_front(&self.inner.slots) {
            self.list(hctx, self.slot(rq).ctx(), rq);
        }
    }

    pub(super) fn is_flush(&self, hctx: &HwQueue, rq: Rq) -> bool {
        self.slot(rq).request(self.tag_of(hctx, rq)).op() == Op::Flush
    }

    /// The queue is frozen: the arrival waits outside, uncounted (C26).
    #[cold]
    fn wait_for_thaw(&self, hctx: &HwQueue, rq: Rq) {
        hctx.fetched.lock().push_back(&self.inner.slots, rq);
        // Pairs with the clearing of FROZEN: either that thaw finds the request, or this finds it
        // thawed.
        if !hctx.state.look(FROZEN) {
            self.let_in(hctx);
        }
    }

    /// The queue has thawed: those that wait outside come in.
    pub(super) fn let_in(&self, hctx: &HwQueue) {
        let mut waiting = hctx.fetched.lock().take();
        while let Some(rq) = waiting.pop_front(&self.inner.slots) {
            let ctx = self.slot(rq).ctx();
            let (entry, arm, exit) = hctx.state.enter(1);
            if arm {
                self.arm_timeout(hctx);
            }
            self.woken(exit);
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
    fn run_now(&self, hctx: &HwQueue, home: &mut dyn Home) {
        self.run_with(hctx, false, home);
    }

    pub(super) fn away(&self, hctx: &HwQueue) -> Away<'_> {
        Away {
            transport: &*self.inner.transport,
            queue: hctx.index,
        }
    }
}
