// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lock whose waiters let the next item of their CPU begin.
//!
//! Kernel counterpart: `struct mutex`. Not poisoned: a panic ends a run here, not the program, and
//! the next holder finds the data as the panic left it.

use super::try_then_wait;
use crate::lockdep::{Held, LockClass};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{
    Mutex as StdMutex, MutexGuard as StdMutexGuard, PoisonError, TryLockError, TryLockResult,
};

/// The guard of an attempt, poisoned or not; None if the lock is taken.
pub(super) fn taken<G>(attempt: TryLockResult<G>) -> Option<G> {
    match attempt {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// As [`std::sync::Mutex`], without poisoning.
///
/// ```
/// let total = workqueue::sync::Mutex::new(0);
/// *total.lock() += 2;
/// assert_eq!(total.into_inner(), 2);
/// ```
pub struct Mutex<T: ?Sized> {
    class: LockClass,
    inner: StdMutex<T>,
}

impl<T> Mutex<T> {
    /// A lock that is free. With the `lockdep` feature, locks made by the same line of a program
    /// are taken for one kind.
    #[track_caller]
    pub const fn new(value: T) -> Self {
        Self {
            class: LockClass::here(),
            inner: StdMutex::new(value),
        }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.inner
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Takes the lock, waiting for it in a [`crate::blocking`] section if it is taken.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        // Before the wait, so that an order that can deadlock is reported also if it now does.
        let held = self.class.acquire();
        let guard = try_then_wait(
            || taken(self.inner.try_lock()),
            || self.inner.lock().unwrap_or_else(PoisonError::into_inner),
        );
        MutexGuard {
            guard,
            class: self.class,
            held,
        }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = taken(self.inner.try_lock())?;
        Some(MutexGuard {
            guard,
            class: self.class,
            held: self.class.acquired_by_trying(),
        })
    }

    /// The value, which nobody else can be using.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> Default for Mutex<T> {
    #[track_caller]
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// The lock is held as long as this lives.
#[must_use = "the lock is free again when the guard is dropped"]
pub struct MutexGuard<'a, T: ?Sized> {
    guard: StdMutexGuard<'a, T>,
    class: LockClass,
    held: Held,
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// Has `wait` exchange the guard for another one of the same lock, as a condition variable
    /// does. The lock does not count as held meanwhile.
    pub(super) fn exchange<R>(
        self,
        wait: impl FnOnce(StdMutexGuard<'a, T>) -> (StdMutexGuard<'a, T>, R),
    ) -> (Self, R) {
        let Self { guard, class, held } = self;
        held.release();
        let (guard, result) = wait(guard);
        let held = class.acquire();
        (Self { guard, class, held }, result)
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guard.fmt(f)
    }
}
