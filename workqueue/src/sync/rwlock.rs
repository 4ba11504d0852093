// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lock with many readers or one writer, whose waiters let the next item of their CPU begin.
//!
//! Kernel counterpart: `struct rw_semaphore`.

use super::mutex::taken;
use super::try_then_wait;
use crate::lockdep::{Held, LockClass};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{
    PoisonError, RwLock as StdRwLock, RwLockReadGuard as StdReadGuard,
    RwLockWriteGuard as StdWriteGuard,
};

/// As [`std::sync::RwLock`], without poisoning.
pub struct RwLock<T: ?Sized> {
    class: LockClass,
    inner: StdRwLock<T>,
}

impl<T> RwLock<T> {
    /// A lock that is free. With the `lockdep` feature, locks made by the same line of a program
    /// are taken for one kind, and a reader for a writer, since readers wait behind writers.
    #[track_caller]
    pub const fn new(value: T) -> Self {
        Self {
            class: LockClass::here(),
            inner: StdRwLock::new(value),
        }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.inner
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Takes the lock as one of many, waiting in a [`crate::blocking`] section if there is a
    /// writer.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        let held = self.class.acquire();
        let guard = try_then_wait(
            || taken(self.inner.try_read()),
            || self.inner.read().unwrap_or_else(PoisonError::into_inner),
        );
        RwLockReadGuard { guard, _held: held }
    }

    /// Takes the lock alone, waiting in a [`crate::blocking`] section if anybody has it.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        let held = self.class.acquire();
        let guard = try_then_wait(
            || taken(self.inner.try_write()),
            || self.inner.write().unwrap_or_else(PoisonError::into_inner),
        );
        RwLockWriteGuard { guard, _held: held }
    }

    /// Takes the lock as one of many if there is no writer.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        Some(RwLockReadGuard {
            guard: taken(self.inner.try_read())?,
            _held: self.class.acquired_by_trying(),
        })
    }

    /// Takes the lock alone if nobody has it.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        Some(RwLockWriteGuard {
            guard: taken(self.inner.try_write())?,
            _held: self.class.acquired_by_trying(),
        })
    }
}

impl<T: Default> Default for RwLock<T> {
    #[track_caller]
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// The lock is held for reading as long as this lives.
#[must_use = "the lock is free again when the guard is dropped"]
#[derive(Debug)]
pub struct RwLockReadGuard<'a, T: ?Sized> {
    guard: StdReadGuard<'a, T>,
    _held: Held,
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

/// The lock is held for writing as long as this lives.
#[must_use = "the lock is free again when the guard is dropped"]
#[derive(Debug)]
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    guard: StdWriteGuard<'a, T>,
    _held: Held,
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}
