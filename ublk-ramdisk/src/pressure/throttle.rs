// SPDX-License-Identifier: MIT OR Apache-2.0
//! E4, E15: bandwidth, by a token bucket of bytes that is filled 50 times a second. A request passes
//! while the balance is above zero, and may take it below zero: the next ticks repay.
//!
//! ```text
//!   queue_rq                                tick, on the workqueue
//!   balance <= 0                            balance += ticks, at most one tick's worth
//!   stop all hardware queues                above 0? start those that are stopped
//!   balance > 0 now? start them again
//! ```
//!
//! A tick between the first check and the stop finds nothing stopped. So the balance is checked again
//! after the stop (W6). Stop and start are read-modify-writes of the queue's word, so one of the two
//! threads sees the other's. Ticks go on until the balance is full; an idle disk has none. FLUSH,
//! DISCARD and WRITE_ZEROES take no tokens, but wait with the others while the queues are stopped.

use std::sync::atomic::{fence, AtomicBool, AtomicI64, AtomicU64, Ordering, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use workqueue::{impl_has_delayed_work, new_delayed_work, DelayedWork, WorkItem};

use super::timers::TimerContext;
use crate::mq::{Queue, Source};
use crate::trace::SourceState;

/// Ticks per second.
const TICKS: u64 = 50;
const TICK: u64 = 1_000_000_000 / TICKS;

#[derive(Debug)]
pub(super) struct Throttle {
    work: DelayedWork<Throttle>,
    context: OnceLock<TimerContext>,
    /// Bytes per tick; 0 without a limit.
    per_tick: AtomicI64,
    balance: AtomicI64,
    /// Is a tick to come?
    armed: AtomicBool,
    /// When the last one was due.
    last: AtomicU64,
    /// Refuses while the hardware queues are stopped because there are no tokens.
    pub(super) state: SourceState,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Throttle { self.work }
}

impl WorkItem for Throttle {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.tick();
    }
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self {
            work: new_delayed_work!("throttle"),
            context: OnceLock::new(),
            per_tick: AtomicI64::new(0),
            balance: AtomicI64::new(0),
            armed: AtomicBool::new(false),
            last: AtomicU64::new(0),
            state: SourceState::new(Source::Bandwidth),
        }
    }

    pub(super) fn start(&self, context: TimerContext) {
        let before = self.context.set(context);
        debug_assert!(before.is_ok(), "started once");
    }

    /// Ends the ticks, and waits for one that is running.
    pub(super) fn end(&self) {
        self.per_tick.store(0, Relaxed);
        if let Err(error) = self.work.disable_sync() {
            log::error!("the throttle cannot be waited for: {error:?}");
        }
    }

    /// Sets the limit, in MiB per second, and fills the balance. None: no limit.
    pub(super) fn set(&self, mbps: Option<u32>) {
        let per_tick = i64::from(mbps.unwrap_or(0)) * (1 << 20) / TICKS as i64;
        if self.per_tick.swap(per_tick, Relaxed) != per_tick {
            self.balance.store(per_tick, Relaxed);
            self.state.stop_refusing();
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.context.get().map_or(0, |context| context.now())
    }

    /// The balance; none without a limit.
    pub(super) fn balance(&self) -> Option<i64> {
        (self.per_tick.load(Relaxed) > 0).then(|| self.balance.load(Relaxed))
    }

    /// Is a tick to come, which starts the stopped queues?
    pub(super) fn is_armed(&self) -> bool {
        self.armed.load(Relaxed)
    }

    /// May a request of this many bytes pass? Takes them from the balance. Called by several threads at
    /// once.
    pub(super) fn admit(self: &Arc<Self>, bytes: u64) -> bool {
        if self.balance.load(Relaxed) <= 0 {
            return self.per_tick.load(Relaxed) == 0;
        }
        self.balance.fetch_sub(bytes as i64, Relaxed);
        if !self.armed.load(Relaxed) {
            self.arm();
        }
        true
    }

    /// Gives back what [`Throttle::admit`] took.
    pub(super) fn refund(&self, bytes: u64) {
        let most = self.per_tick.load(Relaxed);
        let back = |balance: i64| Some(balance.saturating_add(bytes as i64).min(most));
        let _always = self.balance.fetch_update(Relaxed, Relaxed, back);
    }

    /// Stops all hardware queues until the next tick. Called by queue_rq after a refusal.
    pub(super) fn stop(self: &Arc<Self>, queue: &Queue) {
        self.arm();
        queue.stop_hw_queues();
        self.state.begin_refusing();
        fence(Ordering::SeqCst);
        // guard: w06_recheck
        if self.balance.load(Relaxed) > 0 || self.per_tick.load(Relaxed) == 0 {
            self.state.stop_refusing();
            queue.start_stopped_hw_queues(true); // W6
        }
    }

    /// Starts the ticks, unless they run. The first one comes after a whole tick.
    #[cold]
    fn arm(self: &Arc<Self>) {
        let Some(context) = self.context.get() else {
            return;
        };
        if !self.armed.swap(true, Ordering::SeqCst) {
            self.last.store(context.now(), Relaxed);
            self.wait(context, TICK);
        }
    }

    /// Queues the next tick for `ns` nanoseconds from now.
    fn wait(self: &Arc<Self>, context: &TimerContext, ns: u64) {
        // Refused only when it has been ended.
        let _ended = context
            .wq
            .enqueue_delayed(Duration::from_nanos(ns), self.clone());
    }

    /// Fills the balance, and starts the hardware queues if a request may pass. Ends the ticks when the
    /// balance is full and nothing was taken since the last one.
    fn tick(self: &Arc<Self>) {
        let Some(context) = self.context.get() else {
            return;
        };
        let per_tick = self.per_tick.load(Relaxed);
        let (now, last) = (context.now(), self.last.load(Relaxed));
        // A tick that comes late makes up for those that were due since.
        let ticks = (now.saturating_sub(last) / TICK).max(1);
        self.last.store(last + ticks * TICK, Relaxed);
        let more = per_tick.saturating_mul(ticks as i64);
        let fill = |balance: i64| Some(balance.saturating_add(more).min(per_tick));
        let before = self
            .balance
            .fetch_update(Relaxed, Relaxed, fill)
            .unwrap_or(0);
        let after = before.saturating_add(more).min(per_tick);
        fence(Ordering::SeqCst);
        if after > 0 || per_tick == 0 {
            self.state.stop_refusing();
            if let Some(queue) = context.queue.upgrade() {
                queue.start_stopped_hw_queues(true);
            }
        }
        if per_tick == 0 || before == per_tick {
            // Full, and nothing was taken since the last tick.
            self.armed.store(false, Ordering::SeqCst);
            if self.balance.load(Ordering::SeqCst) < per_tick {
                self.arm();
            }
            return;
        }
        let next = last + (ticks + 1) * TICK;
        self.wait(context, next.saturating_sub(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mq::{Answer, Hctx, Issued, Kblockd, NoFrontEnd, Operations, RequestQueue, TagSet};
    use workqueue::{Runtime, VirtualClock};

    /// Nothing is ever inserted.
    struct Nobody;

    impl Operations for Nobody {
        fn queue_rq<'q>(&self, _: Hctx<'_>, _: Issued<'q>, _: bool) -> Answer<'q> {
            unreachable!("nothing to issue")
        }
    }

    fn bed(clock: Arc<VirtualClock>) -> (Runtime, RequestQueue, Arc<Throttle>) {
        let runtime = Runtime::builder().virtual_clock(clock);
        let runtime = runtime.start().expect("threads");
        let kblockd = Kblockd::new(&runtime).expect("a queue");
        let set = TagSet::new(2, 4);
        let queue = RequestQueue::new(set, Arc::new(Nobody), Arc::new(NoFrontEnd), &kblockd);
        let queue = queue.expect("a queue");
        let wq = Arc::new(runtime.queue("pressure").build().expect("a queue"));
        let throttle = Arc::new(Throttle::new());
        throttle.start(TimerContext::new(&runtime, &wq, &queue));
        (runtime, queue, throttle)
    }

    /// The time that tokens, delays and the second of PSI count.
    #[test]
    fn e13_e15_e16_time_in_which_the_process_does_not_run_is_none() {
        let clock = VirtualClock::new();
        let (_runtime, _queue, throttle) = bed(clock.clone());
        let begun = throttle.now();
        clock.advance_stopped(Duration::from_secs(3600));
        clock.advance(Duration::from_nanos(TICK));
        assert_eq!(throttle.now() - begun, TICK);
    }

    /// The tick comes after the check that found no token, and finds nothing stopped. The thread that
    /// stops the queues then starts them again itself.
    #[test]
    fn w06_tokens_that_come_between_the_check_and_the_stop_are_seen() {
        let (_runtime, queue, throttle) = bed(VirtualClock::new());
        throttle.set(Some(1));
        let stopped = || [0, 1].map(|hctx| queue.snapshot(hctx).stopped);
        let use_up = || {
            let left = throttle.balance().expect("there is a limit") as u64;
            assert!(throttle.admit(left) && !throttle.admit(1));
        };
        // The time stands still, so no tick comes but those that are called here.
        use_up();
        throttle.stop(&queue);
        assert_eq!(stopped(), [true; 2]);
        throttle.tick();
        assert_eq!(stopped(), [false; 2]);
        use_up();
        throttle.tick();
        throttle.stop(&queue);
        assert_eq!(stopped(), [false; 2], "there are tokens");
        throttle.end();
    }
}
