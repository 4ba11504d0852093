// SPDX-License-Identifier: MIT OR Apache-2.0
//! One call into the mirror: whose thread it is on, where its results go, and what it has yet to
//! count.
//!
//! [`super::insert`] makes one for a lane's thread, [`super::run`] and [`super::complete`] for others;
//! [`super::dispatch`] is handed it. The numbers that every request raises go at once into the
//! lane's own on a lane's thread; others gather them here and write them once per call: a request
//! on a lane costs no locked addition, a run one of each at most. They are written before the
//! requests are counted out, so whoever sees a queue empty sees them.

use super::counters::LaneCounters;
use super::hctx::HwQueue;
use super::hctx_state::Exit;
use super::operations::Home;
use super::queue::Queue;
use super::request::Request;
use super::request_state::Generation;
use super::slot::{Rq, Slot};
use super::tokens::InFlight;

/// See the file's header.
pub(super) struct Call<'h> {
    home: &'h mut dyn Home,
    /// The numbers of the lane whose thread this is.
    lane: Option<&'h LaneCounters>,
    accepted: u32,
    ended: u32,
    errors: u32,
}

impl<'h> Call<'h> {
    /// On any thread.
    #[inline]
    pub(super) fn new(home: &'h mut dyn Home) -> Self {
        Self {
            home,
            lane: None,
            accepted: 0,
            ended: 0,
            errors: 0,
        }
    }

    /// On the thread that owns the lane with these numbers.
    #[inline]
    pub(super) fn of_lane(home: &'h mut dyn Home, lane: &'h LaneCounters) -> Self {
        let mut call = Self::new(home);
        call.lane = Some(lane);
        call
    }

    /// Where results go.
    #[inline]
    pub(super) fn home(&mut self) -> &mut dyn Home {
        self.home
    }

    /// The driver has accepted a request.
    #[inline]
    pub(super) fn accepted(&mut self) {
        match self.lane {
            Some(lane) => lane.accepted.add_owned(1),
            None => self.accepted += 1,
        }
    }

    /// A request has ended: its result is handed out.
    #[inline]
    pub(super) fn end(&mut self, request: &Request, result: i32) {
        match (self.lane, result) {
            (Some(lane), 0..) => lane.ended.add_owned(1),
            (Some(lane), _) => lane.errors.add_owned(1),
            (None, 0..) => self.ended += 1,
            (None, _) => self.errors += 1,
        }
        self.home.end(request, result);
    }

    /// Writes down what was counted, before anything of it is counted out.
    #[inline]
    pub(super) fn write_down(&mut self, hctx: &HwQueue) {
        if self.lane.is_none() && self.accepted | self.ended | self.errors != 0 {
            let counters = &hctx.counters;
            counters.add_ends(self.accepted, self.ended, self.errors);
            (self.accepted, self.ended, self.errors) = (0, 0, 0);
        }
    }
}

impl Drop for Call<'_> {
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

/// An issue section that its owner leaves by hand, and a panic of the driver or the transport by
/// itself: quiesce would wait for it for ever.
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
        queue.departed(hctx, hctx.state.leave_and_end_issue(n));
    }
}

impl Drop for Section<'_> {
    #[cold]
    fn drop(&mut self) {
        self.queue.time_abandoned(self.hctx);
        // guard: c25_section
        let exit: Exit = self.hctx.state.end_issue();
        self.queue.departed(self.hctx, exit);
    }
}
