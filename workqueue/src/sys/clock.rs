// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time as the runtime sees it: the machine's, or a virtual one that moves on request only.
//!
//! Used by the timer thread, the monitor and a manager that waits for its next attempt. With the
//! virtual clock, tests check the timed scenarios of the documentation to the millisecond on a
//! machine of any speed. Kernel counterpart: `jiffies` and the timer base.

use super::cpu;
use super::sync::{Condvar, Mutex};
use super::turn_scheduler::{self, Seat, TurnScheduler};
use std::sync::{Arc, MutexGuard, Weak};
use std::time::Duration;

/// The clock of a runtime.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// CLOCK_MONOTONIC.
    #[default]
    Real,
    /// A clock that stands still until [`VirtualClock::advance`].
    Virtual(Arc<VirtualClock>),
}

impl Clock {
    /// Nanoseconds since the clock's beginning.
    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::Real => cpu::monotonic_ns(),
            Self::Virtual(v) => v.now_ns(),
        }
    }

    /// As [`Clock::now`], possibly a tick behind: for statistics and idle times.
    pub(crate) fn coarse(&self) -> u64 {
        match self {
            Self::Real => cpu::monotonic_coarse_ns(),
            Self::Virtual(v) => v.now_ns(),
        }
    }

    /// The scheduler of this clock's threads, if they take turns.
    pub(crate) fn turns(&self) -> Option<&Arc<TurnScheduler>> {
        match self {
            Self::Real => None,
            Self::Virtual(v) => v.turns.as_ref().filter(|t| t.is_of_this_process()),
        }
    }
}

/// Adds a duration to a time, without overflow.
pub(crate) fn after(now: u64, d: Duration) -> u64 {
    now.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// A clock for tests and simulations: it starts at 0 and moves only in [`VirtualClock::advance`].
///
/// # In turns
/// On a clock from [`VirtualClock::in_turns`] a runtime does the same in every run: its threads
/// take turns, in an order that depends only on what they do. The thread that made the clock is the
/// conductor: no other thread runs while it does. A simulation is a loop of
/// [`settle`](VirtualClock::settle), [`next_due`](VirtualClock::next_due) and
/// [`advance`](VirtualClock::advance):
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
/// use workqueue::{Runtime, VirtualClock};
/// let clock = VirtualClock::in_turns();
/// let runtime = Runtime::builder().virtual_clock(clock.clone()).start()?;
/// let queue = runtime.queue("sleepers").build()?;
/// let seen = Arc::new(Mutex::new(Vec::new()));
/// for ms in [2, 1] {
///     let (seen, clock) = (seen.clone(), clock.clone());
///     queue.try_spawn(move || {
///         workqueue::blocking(|| clock.sleep(Duration::from_millis(ms)));
///         seen.lock().unwrap().push(clock.now());
///     })?;
/// }
/// clock.settle();
/// while seen.lock().unwrap().len() < 2 {
///     let due = clock.next_due().expect("somebody waits");
///     clock.advance(due - clock.now());
///     clock.settle();
/// }
/// assert_eq!(*seen.lock().unwrap(), [1, 2].map(Duration::from_millis));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Items then may wait only for this clock, and must not take a lock that a thread without the turn
/// holds. All threads run freely again from the runtime's shutdown on, or from the end of the
/// conductor's thread.
///
/// In the child of a fork the parent's clock shows 0, and nothing waits for it.
#[derive(Debug)]
pub struct VirtualClock {
    state: Mutex<VirtualState>,
    changed: Condvar,
    turns: Option<Arc<TurnScheduler>>, // I
    forks: u32,                        // I: the fork generation of those who wait
}

#[derive(Debug, Default)]
struct VirtualState {
    now: u64,
    /// How much of it the process did not run.
    not_run: u64,
    /// Wake-up times of the threads inside `sleep`, so that a test can wait for them.
    sleepers: Vec<u64>,
    /// Helper threads that read the time again after each step.
    watchers: Vec<Weak<Notify>>,
    /// Threads that take turns and wait until a time: the time, a running number, the thread.
    waits: Vec<(u64, u64, Seat)>,
    next_wait: u64,
}

impl VirtualState {
    fn wait_until(&mut self, due: u64, seat: &Seat) -> u64 {
        let number = self.next_wait;
        self.next_wait += 1;
        self.waits.push((due, number, seat.clone()));
        number
    }

    fn forget(&mut self, number: u64) {
        self.waits.retain(|wait| wait.1 != number);
    }
}

impl VirtualClock {
    /// A clock that shows 0.
    pub fn new() -> Arc<Self> {
        Self::make(|| None)
    }

    /// A clock that shows 0 and whose threads take turns; the calling thread conducts.
    pub fn in_turns() -> Arc<Self> {
        Self::make(|| Some(TurnScheduler::new()))
    }

    fn make(turns: impl FnOnce() -> Option<Arc<TurnScheduler>>) -> Arc<Self> {
        cpu::watch_forks();
        Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            turns: turns(),
            forks: cpu::fork_generation(),
        })
    }

    /// None in the child of a fork, where a thread of the parent may hold the lock for ever.
    fn lock(&self) -> Option<MutexGuard<'_, VirtualState>> {
        (cpu::fork_generation() == self.forks).then(|| self.state.lock())
    }

    fn now_ns(&self) -> u64 {
        self.lock().map_or(0, |state| state.now)
    }

    /// Lets all other threads have their turns until each waits for a wake-up or for this clock.
    /// Does nothing unless called by the thread that made the clock with
    /// [`VirtualClock::in_turns`].
    pub fn settle(&self) {
        if let Some(turns) = &self.turns {
            turns.settle();
        }
    }

    /// The earliest time that a thread waits for; none if none waits. Known only on a clock from
    /// [`VirtualClock::in_turns`], after [`VirtualClock::settle`].
    pub fn next_due(&self) -> Option<Duration> {
        let due = self.lock()?.waits.iter().map(|wait| wait.0).min();
        due.map(Duration::from_nanos)
    }

    /// The time since the clock was made.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.now_ns())
    }

    /// Moves the time on and wakes the threads that waited for it.
    pub fn advance(&self, d: Duration) {
        self.step(d, Duration::ZERO);
    }

    /// As [`VirtualClock::advance`], as if the process did not run meanwhile: [`crate::RunClock`]
    /// stands still.
    pub fn advance_stopped(&self, d: Duration) {
        self.step(d, d);
    }

    pub(crate) fn not_run_ns(&self) -> u64 {
        self.lock().map_or(0, |state| state.not_run)
    }

    fn step(&self, d: Duration, not_run: Duration) {
        let watchers = {
            let Some(mut state) = self.lock() else {
                return;
            };
            state.not_run = after(state.not_run, not_run);
            let now = after(state.now, d);
            state.now = now;
            let mut due: Vec<_> = state.waits.extract_if(.., |wait| wait.0 <= now).collect();
            due.sort_by_key(|&(due, number, _)| (due, number));
            let disbanded = !due.iter().all(|(.., seat)| seat.wake());
            // Threads that are due leave the count here, not when they run. So a test that waits
            // for the next sleepers does not count them again.
            state.sleepers.retain(|&t| t > now);
            state.watchers.retain(|w| w.strong_count() > 0);
            match &self.turns {
                Some(_) if !disbanded => Vec::new(),
                _ => state.watchers.clone(),
            }
        };
        self.changed.notify_all();
        for watcher in watchers.iter().filter_map(Weak::upgrade) {
            watcher.notify();
        }
    }

    /// Sleeps until the clock has moved on by `d`. Declares nothing to the pool; see
    /// [`crate::blocking`].
    pub fn sleep(&self, d: Duration) {
        let Some(mut state) = self.lock() else {
            return;
        };
        let due = after(state.now, d);
        if due == state.now {
            return;
        }
        state.sleepers.push(due);
        self.changed.notify_all();
        while state.now < due {
            let seat = turn_scheduler::current().filter(|_| self.turns.is_some());
            if let Some(seat) = seat {
                let number = state.wait_until(due, &seat);
                drop(state);
                let in_turn = seat.block();
                state = self.state.lock();
                state.forget(number);
                if in_turn {
                    continue;
                }
            }
            if state.now < due {
                state = self.changed.wait(state);
            }
        }
    }

    /// Waits until exactly `n` threads are inside [`VirtualClock::sleep`].
    pub fn wait_for_sleepers(&self, n: usize) {
        let Some(mut state) = self.lock() else {
            return;
        };
        while state.sleepers.len() != n {
            state = self.changed.wait(state);
        }
    }

    fn watch(&self, who: &Arc<Notify>) {
        if let Some(mut state) = self.lock() {
            state.watchers.push(Arc::downgrade(who));
        }
    }
}

/// A wait that ends by a call or at a time, whichever is first. A call without a waiter is kept for
/// the next wait.
///
/// Its lock is held for a few instructions only and taken last.
#[derive(Debug)]
pub(crate) struct Notify {
    clock: Clock,
    called: Mutex<bool>,
    changed: Condvar,
    /// The waiter's seat, if threads take turns.
    seat: Mutex<Option<Seat>>,
}

impl Notify {
    pub(crate) fn new(clock: &Clock) -> Arc<Self> {
        let this = Arc::new(Self {
            clock: clock.clone(),
            called: Mutex::new(false),
            changed: Condvar::new(),
            seat: Mutex::default(),
        });
        if let Clock::Virtual(v) = clock {
            v.watch(&this);
        }
        this
    }

    pub(crate) fn notify(&self) {
        if !std::mem::replace(&mut *self.called.lock(), true) {
            self.changed.notify_all();
        }
        if self.clock.turns().is_some() {
            let waits = self.seat.lock().take();
            if let Some(seat) = waits {
                let _ignored = seat.wake();
            }
        }
    }

    /// Waits for a call, at most until `deadline`.
    pub(crate) fn wait_until(&self, deadline: Option<u64>) {
        while !std::mem::take(&mut *self.called.lock()) {
            if let Clock::Virtual(v) = &self.clock {
                if deadline.is_some_and(|deadline| v.now_ns() >= deadline) {
                    return;
                }
                if self.wait_in_turn(v, deadline) {
                    continue;
                }
            }
            let now = self.clock.now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return;
            }
            let limit = match self.clock {
                Clock::Real => deadline.map(|deadline| Duration::from_nanos(deadline - now)),
                // A step of the clock calls all who watch it.
                Clock::Virtual(_) => None,
            };
            let called = self.called.lock();
            if !*called {
                self.changed.wait_for(called, limit);
            }
        }
    }

    /// Waits for a call or the time as a thread that takes turns. False if the thread does not.
    fn wait_in_turn(&self, clock: &VirtualClock, deadline: Option<u64>) -> bool {
        let Some(seat) = turn_scheduler::current().filter(|_| clock.turns.is_some()) else {
            return false;
        };
        *self.seat.lock() = Some(seat.clone());
        let number = deadline.map(|due| clock.state.lock().wait_until(due, &seat));
        let in_turn = seat.block();
        *self.seat.lock() = None;
        number
            .into_iter()
            .for_each(|number| clock.state.lock().forget(number));
        in_turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s01_13_nothing_waits_for_the_clock_of_the_parent() {
        let clock = VirtualClock::in_turns();
        clock.advance(Duration::from_secs(1));
        let _held = clock.state.lock();
        let _table = clock.turns.as_ref().map(|turns| turns.hold_lock());
        assert!(cpu::is_true_in_child(|| {
            clock.advance(Duration::from_secs(1));
            clock.sleep(Duration::from_secs(1));
            clock.wait_for_sleepers(7);
            clock.settle();
            clock.now().is_zero() && clock.next_due().is_none()
        }));
    }
}
