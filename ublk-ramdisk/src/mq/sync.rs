// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one place of `mq` that chooses between `std` and `loom`.
//!
//! What decides over wake-ups and endings (the packed words, the lists' locks) comes from here, so
//! that the models explore the code that ships. Payload that a lock or a packed word already
//! protects, and counters, are plain `std` atomics everywhere: modelling them would only multiply
//! the interleavings.

#[cfg(loom)]
pub(super) use loom::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::{Condvar as Inner, Mutex as Lock, MutexGuard};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::{Condvar as Inner, Mutex as Lock, MutexGuard};

use std::sync::atomic::{AtomicU64 as PlainU64, Ordering::Relaxed};
use std::sync::PoisonError;

/// A lock without poisoning: what it guards is whole after every step.
#[derive(Debug)]
pub(super) struct Mutex<T>(Lock<T>);

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Lock::new(value))
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a thread waits for a condition that others make true without a lock.
#[derive(Debug)]
pub(super) struct Waiters {
    lock: Mutex<()>,
    changed: Inner,
}

impl Waiters {
    pub(super) fn new() -> Self {
        Self {
            lock: Mutex::new(()),
            changed: Inner::new(),
        }
    }

    /// Returns once the condition holds.
    pub(super) fn wait_until(&self, condition: impl Fn() -> bool) {
        let mut guard = self.lock.lock();
        while !condition() {
            guard = self
                .changed
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The condition may hold now. The lock is taken in between, so that a waiter that has just
    /// found it false is asleep by the time of the call.
    #[cold]
    pub(super) fn wake(&self) {
        drop(self.lock.lock());
        self.changed.notify_all();
    }
}

/// A number that any thread raises, and anyone reads.
#[derive(Debug, Default)]
pub(crate) struct Count(PlainU64);

impl Count {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// As `add`, for a number that only the calling thread raises.
    #[inline]
    pub(crate) fn add_owned(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
