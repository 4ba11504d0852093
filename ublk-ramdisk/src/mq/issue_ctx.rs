// SPDX-License-Identifier: MIT OR Apache-2.0
//! One call into the mirror: the thread it is on, where its results go, and what it has yet to
//! count.
//!
//! [`super::insert`] makes one for a submitter's thread, [`super::run`] and [`super::complete`] for
//! others. On a submitter's thread the numbers that every request raises go at once into the
//! submitter's own. Other threads gather them here and write them once per call, before the
//! requests are counted out: so a queue that is seen empty has been counted. A request of a
//! submitter costs no locked addition, a run one of each at most.

use super::counters::SubmitterCounters;
use super::hctx::HwQueue;
use super::hctx_state::Exit;
use super::operations::LocalCompletion;
use super::queue::Queue;
use super::request::Request;
use super::request_state::Generation;
use super::slot::{Rq, Slot};
use super::tokens::InFlight;

/// See the file's header.
pub(super) struct IssueCtx<'h> {
    local: &'h mut dyn LocalCompletion,
    /// The numbers of the submitter whose thread this is.
    submitter: Option<&'h SubmitterCounters>,
    accepted: u32,
    ended: u32,
    errors: u32,
}

impl<'h> IssueCtx<'h> {
    /// On any thread.
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

    /// On the thread that owns the submitter with these numbers.
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
    /// One that was kept. If its token turns out to have lost, `request` may be another one's, and
    /// nobody looks at it.
    pub(super) fn again(queue: &'r Queue, token: &InFlight, request: &'r Request) -> Self {
        Self {
            rq: token.rq,
            slot: queue.slot(token.rq),
            generation: token.generation,
            request,
        }
    }
}

/// An issue section. Its owner leaves it by a call; a panic of the driver or the front end leaves
/// it by dropping this, or quiesce would wait for ever.
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
