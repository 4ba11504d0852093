// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds requests that a driver has had for too long (C35 to C39).
//!
//! The timer is armed by the first request that enters an empty hardware queue, and stays armed
//! while there are any; timeout_work, on kblockd, looks through the slots. Kernel counterparts:
//! `blk_add_timer`, `blk_mq_timeout_work`, `blk_abort_request`. Here the timer is the delay of
//! timeout_work itself.
//!
//! A deadline is taken from a coarse clock, which may be some milliseconds behind, and rounded up
//! to whole seconds: never early, at most two seconds late (C36). It is taken when the driver or
//! the front end keeps the request, before the token is in their hands: one that ends where it is
//! issued never looks at the clock. Time in which the process does not run is not on this clock: a
//! timer that goes off before its deadline is set again.

use super::hctx::HwQueue;
use super::hctx_state::TIMED;
use super::operations::TimeoutAnswer;
use super::queue::Queue;
use super::slot::{Rq, ABANDONED, UNTIMED};
use super::status::Status;
use super::tokens::RequestRef;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;
/// How far the coarse clock may be behind: a tick of a kernel with HZ=100, and one more.
const COARSE: u64 = 20_000_000;

/// Returns what is added to the time at which a timeout begins: the period, and how far the clock may
/// be behind. In seconds and nanoseconds.
pub(super) fn timeout_period(period: Duration) -> (u64, u32) {
    let timeout_period = period.saturating_add(Duration::from_nanos(COARSE));
    (timeout_period.as_secs(), timeout_period.subsec_nanos())
}

/// What a walk over the slots found.
struct Walk {
    now: u64,
    expired: bool,
    /// The earliest deadline that has not passed.
    next: Option<u64>,
}

/// The sum of two times, each in seconds and nanoseconds on top, rounded up to whole seconds; in
/// nanoseconds.
#[inline]
fn deadline(now: (u64, u32), timeout_period: (u64, u32)) -> u64 {
    let nanos = u64::from(now.1) + u64::from(timeout_period.1);
    // guard: c36_up
    let begun = u64::from(nanos > 0) + u64::from(nanos > SECOND);
    let whole = now.0.saturating_add(timeout_period.0).saturating_add(begun);
    whole.saturating_mul(SECOND)
}

impl Queue {
    fn now(&self) -> u64 {
        self.inner.works.run_time().as_nanos() as u64
    }

    /// The deadline of a request that is kept from now on. Called often: seconds and nanoseconds
    /// are kept apart, so that rounding up needs no division.
    #[inline]
    pub(super) fn next_deadline(&self) -> u64 {
        deadline(self.inner.works.now(), self.inner.timeout_period)
    }

    /// Begins the timeout of a request whose token is about to be given away (C35).
    #[inline]
    pub(super) fn begin_timeout(&self, rq: Rq) {
        self.slot(rq).set_deadline(self.next_deadline());
    }

    /// A panic has ended an issue section of this hardware queue: the requests it has left in flight
    /// get a deadline. A request that another thread is issuing gets a new one when it is kept.
    #[cold]
    pub(super) fn time_abandoned(&self, hctx: &HwQueue) {
        for tag in 0..self.inner.set.queue_depth {
            let slot = self.slot(self.rq(hctx.index, tag));
            if slot.state.may_expire() {
                slot.set_deadline_if_untimed(self.next_deadline());
            }
        }
    }

    /// A request has entered a queue that the timer does not cover.
    #[cold]
    pub(super) fn arm_timeout(&self, hctx: &HwQueue) {
        if hctx.state.set(TIMED) {
            self.arm_at(self.next_deadline());
        }
    }

    /// The timer goes off at `deadline`, or before if it was armed before.
    fn arm_at(&self, deadline: u64) {
        let delay = deadline.saturating_sub(self.now()).saturating_add(COARSE);
        self.inner.works.arm_timeout(Duration::from_nanos(delay));
    }

    /// Has the timeout handler called for a request as soon as possible (C39). False if it is not in
    /// flight. Kernel counterpart: `blk_abort_request`.
    pub fn abort(&self, hctx: u16, tag: u16) -> bool {
        let Some(found) = self.get(hctx, tag) else {
            return false;
        };
        self.slot(found.in_flight.rq).set_deadline(0);
        self.inner.works.timeout_now();
        true
    }

    /// timeout_work.
    pub(super) fn timeout_work(&self) {
        let mut walk = self.walk(|_, _| {});
        if walk.expired {
            // A request that is expired may still be on its way into the driver, or out of it with
            // BUSY: the handler is called when all queue_rq that were going on have returned.
            self.quiesce();
            self.recover_abandoned();
            self.unquiesce();
            walk = self.walk(|hctx, rq| self.expire(hctx, rq));
        }
        let mut inside = false;
        for hctx in self.hctxs() {
            inside |= hctx.state.has(TIMED) && !hctx.state.untime();
        }
        // Requests that are parked or being issued have no deadline yet; theirs is later than a
        // full period from now.
        if inside {
            self.arm_at(walk.next.unwrap_or_else(|| self.next_deadline()));
        }
    }

    /// Goes through the requests in flight; `each` is called for those whose time is up.
    fn walk(&self, each: impl Fn(&HwQueue, Rq)) -> Walk {
        let mut walk = Walk {
            now: self.now(),
            expired: false,
            next: None,
        };
        for hctx in self.hctxs() {
            if hctx.state.usage() == 0 {
                continue;
            }
            for tag in 0..self.inner.set.queue_depth {
                let rq = self.rq(hctx.index, tag);
                let slot = self.slot(rq);
                if !slot.state.may_expire() {
                    continue;
                }
                match slot.deadline() {
                    UNTIMED => {}
                    deadline if deadline <= walk.now => {
                        walk.expired = true;
                        each(hctx, rq);
                    }
                    deadline => walk.next = Some(walk.next.map_or(deadline, |n| n.min(deadline))),
                }
            }
        }
        walk
    }

    /// No thread is in a section, so a request that is still ISSUED was left so by a panic of the front
    /// end. It counts as in flight from now on, and its timeout may end it.
    fn recover_abandoned(&self) {
        for hctx in self.hctxs().iter().filter(|hctx| hctx.state.usage() > 0) {
            let slots = (0..self.inner.set.queue_depth).map(|tag| self.rq(hctx.index, tag));
            for slot in slots.map(|rq| self.slot(rq)) {
                if slot.state.recover_abandoned() {
                    slot.set(ABANDONED);
                }
            }
        }
    }

    /// Calls the driver's handler for a request whose time is up, once. A request that a panic has left
    /// behind is ended instead: a driver that waits for its completion would wait for ever.
    fn expire(&self, hctx: &HwQueue, rq: Rq) {
        let Some(expired) = self.get_rq(rq) else {
            return;
        };
        let slot = self.slot(rq);
        // It may have been ended and started anew since the walk looked at it.
        if slot.deadline() > self.now() || !slot.state.set_timed_out(expired.in_flight.generation) {
            return;
        }
        hctx.counters.timeouts.add(1);
        if slot.has(ABANDONED) {
            expired.complete(Status::Timeout);
            return;
        }
        match self.ask_driver(hctx, &expired) {
            TimeoutAnswer::Done => {}
            TimeoutAnswer::ResetTimer => {
                slot.set_deadline(self.next_deadline());
                slot.state.clear_timed_out(expired.in_flight.generation);
            }
        }
    }

    fn ask_driver(&self, hctx: &HwQueue, expired: &RequestRef) -> TimeoutAnswer {
        self.inner.driver.timeout(self.view(hctx), expired)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn c36_a_deadline_is_never_early_and_less_than_a_second_later_than_it_must() {
        let nanos = [
            0,
            1,
            19_999_999,
            20_000_000,
            979_999_999,
            980_000_000,
            980_000_001,
        ];
        let nanos = || nanos.into_iter().chain([999_999_999]);
        for (now, period) in nanos().flat_map(|now| nanos().map(move |period| (now, period))) {
            let exact = Duration::new(7, now) + Duration::new(30, period);
            let found = deadline((7, now), timeout_period(Duration::new(30, period)));
            let exact = exact.as_nanos() as u64;
            assert!(found >= exact + COARSE, "{now} {period}: early");
            assert!(found < exact + COARSE + SECOND, "{now} {period}: late");
        }
        assert_eq!(deadline((7, 0), timeout_period(Duration::MAX)), u64::MAX);
    }
}
