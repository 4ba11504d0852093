// SPDX-License-Identifier: MIT OR Apache-2.0
//! The atomics and locks of this folder. Under loom they are loom's, so that it can explore the
//! protocols that use them.

#[cfg(loom)]
pub(super) use loom::{
    sync::atomic::{fence, AtomicBool, AtomicU32, AtomicU64, Ordering},
    thread::yield_now,
};
#[cfg(not(loom))]
pub(super) use std::{
    sync::atomic::{fence, AtomicBool, AtomicU32, AtomicU64, Ordering},
    thread::yield_now,
};

#[cfg(loom)]
pub(super) use loom::sync::{Mutex, MutexGuard};
use std::sync::PoisonError;
#[cfg(not(loom))]
pub(super) use std::sync::{Mutex, MutexGuard};

/// Locks a mutex, poisoned or not: what these mutexes guard is consistent after every step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
