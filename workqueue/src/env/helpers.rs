// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the two helper threads of a runtime work on: timers, and the jobs of the monitor.
//!
//! The timer thread expires delayed items and the two timers of each pool. The monitor does what
//! takes long and what a worker may not do to its own pool; workers, timers and rescuers post. It
//! never waits for an item to end: that may need a job behind the present one. The threads
//! themselves are in [`crate::runtime`]. Kernel counterparts: `idle_cull_fn`, `pwq_release_workfn`,
//! which run as items of a system queue there.

use super::Env;
use crate::sys::clock::{Clock, Notify};
use crate::sys::run_clock::{RunClock, Sleeper};
use crate::sys::sync::Mutex;
use crate::sys::timer::{Timed, TimerIndex};
use crate::work::TimedItem;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// The two timers of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolTimer {
    /// The manager has been trying to make a worker for too long.
    Mayday,
    /// The longest-idle worker may have been idle for long enough.
    Cull,
}

/// A pool as the timer heap sees it.
pub(crate) trait PoolTimers: fmt::Debug + Send + Sync {
    fn place(&self, timer: PoolTimer) -> &TimerIndex;

    /// # Context: the timer thread, no lock of the crate held.
    fn expired(self: Arc<Self>, timer: PoolTimer);
}

/// What the runtime's timers carry.
#[derive(Debug)]
pub(crate) enum TimerEvent {
    /// A delayed item.
    Item(TimedItem),
    /// A timer of a pool.
    Pool(Arc<dyn PoolTimers>, PoolTimer),
}

impl Timed for TimerEvent {
    fn place(&self) -> &TimerIndex {
        match self {
            Self::Item(item) => item.place(),
            Self::Pool(pool, timer) => pool.place(*timer),
        }
    }
}

/// Something for the monitor to do once.
pub(crate) struct Job(Box<dyn FnOnce() + Send>);

impl Job {
    pub(crate) fn new(job: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(job))
    }

    pub(crate) fn run(self) {
        (self.0)();
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

#[derive(Debug, Default)]
struct Inbox {
    jobs: Vec<Job>,
    stop: bool,
    /// The thread has ended for good.
    closed: bool,
}

/// The inbox and the means to wake the thread.
#[derive(Debug)]
pub(crate) struct Monitor {
    inbox: Mutex<Inbox>, // Q
    /// The sampler is at work, or about to be.
    watching: AtomicBool, // A: set by a thread that finds a pool starving, cleared by the monitor
    pub(crate) samples: bool, // I: does this runtime sample at all?
    wake: Arc<Notify>,
}

impl Monitor {
    pub(crate) fn new(clock: &Clock, sample_period: Duration) -> Self {
        Self {
            inbox: Mutex::default(),
            watching: AtomicBool::new(false),
            // A virtual clock tells nothing about what threads really do.
            samples: matches!(clock, Clock::Real) && !sample_period.is_zero(),
            wake: Notify::new(clock),
        }
    }

    /// Items wait behind a run: makes the sampler look at it. Wakes the monitor once each time that
    /// pools begin to starve.
    pub(crate) fn watch_runs(&self) {
        // SeqCst, pairs with the swap in `take_watch`. Without it a pool could starve unwatched.
        //   here: pool starves (lock) | mark set?      monitor: clear mark | look at pools (lock)
        // If the look came first, the mark is clear when it is read here, unless another thread has
        // set it again for one more look. If it came second, it finds the pool.
        if self.samples
            && !self.watching.load(Ordering::SeqCst)
            && !self.watching.swap(true, Ordering::SeqCst)
        {
            self.wake.notify();
        }
    }

    /// Clears the mark of `watch_runs`; true if the sampler has to look at the pools.
    pub(crate) fn take_watch(&self) -> bool {
        self.watching.swap(false, Ordering::SeqCst)
    }

    /// The sampler found starving pools and looks again soon.
    pub(crate) fn keep_watching(&self) {
        self.watching.store(true, Ordering::SeqCst);
    }

    /// Sleeps until something is posted or changed, at most until `deadline`; `u64::MAX` is never.
    pub(crate) fn sleep_until(&self, clock: &RunClock, deadline: u64) {
        let due = Some(deadline).filter(|&at| at < u64::MAX);
        clock.sleep(Sleeper::Monitor, &self.wake, due);
    }

    pub(crate) fn post(&self, job: Job) {
        // After the end nothing is left that a job could concern.
        let _ignored = self.try_post(job);
    }

    /// As `post`; false if the job will never be done.
    #[must_use]
    pub(crate) fn try_post(&self, job: Job) -> bool {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            // Outside the lock: the job may own the last reference to something.
            drop(inbox);
            drop(job);
            return false;
        }
        inbox.jobs.push(job);
        drop(inbox);
        self.wake.notify();
        true
    }

    /// Runs the jobs that are left and takes no more. A thread that waits for its job finds it
    /// done, or finds the inbox closed.
    /// # Context: the thread has ended.
    pub(crate) fn close(&self) {
        self.run_jobs(|inbox| inbox.closed = true);
    }

    /// Wakes the thread because a setting has changed.
    pub(crate) fn wake(&self) {
        self.wake.notify();
    }

    /// A thread is about to `serve`.
    pub(crate) fn begin_thread(&self) {
        self.inbox.lock().stop = false;
    }

    /// Tells the thread to finish its jobs and end.
    pub(crate) fn stop(&self) {
        self.inbox.lock().stop = true;
        self.wake.notify();
    }

    /// Runs the posted jobs; true if the thread has to end.
    pub(crate) fn work_off(&self) -> bool {
        self.run_jobs(|inbox| inbox.stop)
    }

    /// Runs the posted jobs, and calls `then` under the lock once none is left.
    fn run_jobs<R>(&self, then: impl FnOnce(&mut Inbox) -> R) -> R {
        loop {
            let mut inbox = self.inbox.lock();
            let jobs = std::mem::take(&mut inbox.jobs);
            if jobs.is_empty() {
                return then(&mut inbox);
            }
            drop(inbox);
            jobs.into_iter().for_each(Job::run);
        }
    }
}

/// The state of a runtime's watchdog.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pub(crate) state: Mutex<WatchdogState>, // O
    /// When each CPU was last touched, by its number. Relaxed everywhere: a touch that is seen late
    /// changes a report by one look.
    pub(crate) touched: Box<[AtomicU64]>, // A: written by `watchdog_touch`
    /// The latest touch, which counts for unbound pools.
    pub(crate) touched_any: AtomicU64, // A: as above
}

#[derive(Debug)]
pub(crate) struct WatchdogState {
    pub(crate) thresh: Duration,
    pub(crate) last_look: u64,
    /// Looks that found a stall.
    pub(crate) stalls: u32,
}

impl Watchdog {
    /// CPU numbers are below `end`.
    pub(crate) fn new(thresh: Duration, end: usize) -> Self {
        Self {
            state: Mutex::new(WatchdogState {
                thresh,
                last_look: 0,
                stalls: 0,
            }),
            touched: (0..end).map(|_| AtomicU64::new(0)).collect(),
            touched_any: AtomicU64::new(0),
        }
    }

    pub(crate) fn thresh(&self) -> Duration {
        self.state.lock().thresh
    }

    /// Starts anew: earlier times count for no stall.
    pub(crate) fn begin(&self, now: u64) {
        self.state.lock().last_look = now;
        self.touched
            .iter()
            .chain([&self.touched_any])
            .for_each(|t| t.store(now, Ordering::Relaxed));
    }
}

impl Env {
    pub(crate) fn set_watchdog_thresh(&self, thresh: Duration) {
        if self.is_in_forked_child() {
            return;
        }
        self.watchdog.state.lock().thresh = thresh;
        self.watchdog.begin(self.clock.now());
        self.monitor.wake();
    }
}
