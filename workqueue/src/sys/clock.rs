// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time as the runtime sees it: the machine's, or a virtual one that only moves when told to.
//!
//! Asked by the timer thread, the monitor and a manager that waits for the next attempt. The
//! virtual clock lets the timed scenarios of the documentation be checked to the millisecond on
//! a machine of any speed. Kernel counterpart: `jiffies` and the timer base.

use super::cpu;
use super::event::Event;
use super::sync::{Condvar, Mutex};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Which time a runtime lives by.
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
            Self::Virtual(v) => v.state.lock().now,
        }
    }

    /// As [`Clock::now`], possibly a tick behind: for statistics and idle times.
    pub(crate) fn coarse(&self) -> u64 {
        match self {
            Self::Real => cpu::monotonic_coarse_ns(),
            Self::Virtual(v) => v.state.lock().now,
        }
    }
}

/// Adds a duration to a moment without ever wrapping round.
pub(crate) fn after(now: u64, d: Duration) -> u64 {
    now.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// A clock for tests and simulations: it starts at 0 and moves only in [`VirtualClock::advance`].
#[derive(Debug, Default)]
pub struct VirtualClock {
    state: Mutex<VirtualState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct VirtualState {
    now: u64,
    /// Wake-up times of the threads inside `sleep`, so that a test can tell when all have arrived.
    sleepers: Vec<u64>,
    /// Helper threads that must look at the time again after each step.
    watchers: Vec<Weak<Notify>>,
}

impl VirtualClock {
    /// A clock that shows 0.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The time since the clock was made.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.state.lock().now)
    }

    /// Moves the time on and wakes whoever waited for it.
    pub fn advance(&self, d: Duration) {
        let watchers = {
            let mut state = self.state.lock();
            let now = after(state.now, d);
            state.now = now;
            // Those due leave the count here and not when they get to run, so that a test which
            // waits for the next sleepers does not count these again.
            state.sleepers.retain(|&t| t > now);
            state.watchers.retain(|w| w.strong_count() > 0);
            state.watchers.clone()
        };
        self.changed.notify_all();
        for watcher in watchers.iter().filter_map(Weak::upgrade) {
            watcher.notify();
        }
    }

    /// Sleeps until the clock has moved on by `d`. Whether the pool may use the CPU meanwhile is
    /// the caller's to declare, see [`crate::blocking`].
    pub fn sleep(&self, d: Duration) {
        let mut state = self.state.lock();
        let due = after(state.now, d);
        if due == state.now {
            return;
        }
        state.sleepers.push(due);
        self.changed.notify_all();
        while state.now < due {
            state = self.changed.wait(state);
        }
    }

    /// Waits until exactly `n` threads are inside [`VirtualClock::sleep`].
    pub fn wait_for_sleepers(&self, n: usize) {
        let mut state = self.state.lock();
        while state.sleepers.len() != n {
            state = self.changed.wait(state);
        }
    }

    fn watch(&self, who: &Arc<Notify>) {
        self.state.lock().watchers.push(Arc::downgrade(who));
    }
}

/// A wait that ends by a call or by the clock, whichever is first. A call made while nobody waits
/// is kept for the next wait.
///
/// The call takes no lock, unlike the rest of a wait.
#[derive(Debug)]
pub(crate) struct Notify {
    clock: Clock,
    told: Event,
}

impl Notify {
    pub(crate) fn new(clock: &Clock) -> Arc<Self> {
        let this = Arc::new(Self {
            clock: clock.clone(),
            told: Event::new(),
        });
        if let Clock::Virtual(v) = clock {
            v.watch(&this);
        }
        this
    }

    pub(crate) fn notify(&self) {
        self.told.give();
    }

    /// Waits for a call, at most until `deadline`.
    pub(crate) fn wait_until(&self, deadline: Option<u64>) {
        while !self.told.take() {
            let Some(deadline) = deadline else {
                self.told.sleep(None);
                continue;
            };
            let now = self.clock.now();
            if now >= deadline {
                return;
            }
            self.told.sleep(match self.clock {
                Clock::Real => Some(Duration::from_nanos(deadline - now)),
                // Moved by a call of its own, which gives the token to all who watch.
                Clock::Virtual(_) => None,
            });
        }
    }
}
