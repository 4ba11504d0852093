// SPDX-License-Identifier: MIT OR Apache-2.0
//! A number that can be taken from while it is above zero: the inside of semaphores, completions
//! and parkers.
//!
//! Whoever finds it at zero waits in a [`crate::blocking`] section.

use super::try_then_wait;
use crate::pool::concurrency::blocking;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// As much as can always be taken from.
const ENDLESS: usize = usize::MAX;

#[derive(Debug)]
pub(super) struct Count {
    value: Mutex<usize>,
    changed: Condvar,
}

fn lower(value: &mut usize) -> bool {
    let any = *value > 0;
    if any && *value != ENDLESS {
        *value -= 1;
    }
    any
}

impl Count {
    pub(super) const fn new(value: usize) -> Self {
        Self {
            value: Mutex::new(value),
            changed: Condvar::new(),
        }
    }

    /// Held for a few instructions only, so taking this one is not declared.
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self) -> usize {
        *self.lock()
    }

    pub(super) fn try_take(&self) -> bool {
        lower(&mut self.lock())
    }

    pub(super) fn take(&self) {
        let wait = || {
            let mut value = self.lock();
            while !lower(&mut value) {
                value = self
                    .changed
                    .wait(value)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        };
        try_then_wait(|| self.try_take().then_some(()), wait);
    }

    /// False if there was nothing to take within `limit`.
    pub(super) fn take_timeout(&self, limit: Duration) -> bool {
        if self.try_take() {
            return true;
        }
        if limit.is_zero() {
            return false;
        }
        blocking(|| {
            let begun = Instant::now();
            let mut value = self.lock();
            while !lower(&mut value) {
                let left = limit.saturating_sub(begun.elapsed());
                if left.is_zero() {
                    return false;
                }
                value = self
                    .changed
                    .wait_timeout(value, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
            true
        })
    }

    /// One more can be taken, up to `most`.
    pub(super) fn give(&self, most: usize) {
        let mut value = self.lock();
        if *value != ENDLESS {
            *value = value.saturating_add(1).min(most);
        }
        drop(value);
        self.changed.notify_one();
    }

    /// From now on anybody can take any number of times.
    pub(super) fn give_endlessly(&self) {
        *self.lock() = ENDLESS;
        self.changed.notify_all();
    }

    pub(super) fn reset(&self) {
        *self.lock() = 0;
    }
}
