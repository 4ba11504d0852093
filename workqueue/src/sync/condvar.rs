// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for a condition on what a [`Mutex`](super::Mutex) guards.
//!
//! Kernel counterpart: `wait_event` and `wake_up`.

use super::mutex::MutexGuard;
use crate::pool::concurrency::blocking;
use std::sync::{Condvar as StdCondvar, PoisonError};
use std::time::{Duration, Instant};

/// As [`std::sync::Condvar`].
#[derive(Debug, Default)]
pub struct Condvar {
    inner: StdCondvar,
}

impl Condvar {
    /// A condition nobody waits for.
    pub const fn new() -> Self {
        Self {
            inner: StdCondvar::new(),
        }
    }

    /// Lets the lock go and waits for a notification. May return without one. Ask for the
    /// condition first, or use [`Condvar::wait_while`].
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let wait = |guard| {
            self.inner
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner)
        };
        guard.exchange(|guard| (blocking(|| wait(guard)), ())).0
    }

    /// As [`Condvar::wait`], for `limit` at most; true if that has passed.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        let wait = |guard| {
            let (guard, outcome) = self
                .inner
                .wait_timeout(guard, limit)
                .unwrap_or_else(PoisonError::into_inner);
            (guard, outcome.timed_out())
        };
        guard.exchange(|guard| blocking(|| wait(guard)))
    }

    /// Waits as long as the condition holds; not at all if it does not.
    pub fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        while condition(&mut guard) {
            guard = self.wait(guard);
        }
        guard
    }

    /// As [`Condvar::wait_while`], for `limit` at most; true if the condition still holds then.
    pub fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        limit: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> (MutexGuard<'a, T>, bool) {
        let begun = Instant::now();
        while condition(&mut guard) {
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return (guard, true);
            }
            guard = self.wait_timeout(guard, left).0;
        }
        (guard, false)
    }

    /// Wakes one of those who wait.
    pub fn notify_one(&self) {
        self.inner.notify_one();
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.inner.notify_all();
    }
}
