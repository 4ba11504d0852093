// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one place that chooses between `std` and `loom`.
//!
//! [`modelled`] holds what the lock-free protocols are made of (the state word, the budget of a
//! node); under `--cfg loom` these types come from loom, so that the models inside the crate run
//! the very code that ships. Everything else uses the plain lock below, which spins briefly and
//! then sleeps on a futex: the holder of a lock can be preempted in user space, hence no pure
//! spinlock anywhere.

use std::sync::{Condvar as StdCondvar, Mutex as StdMutex, MutexGuard, PoisonError};

#[cfg(all(loom, not(debug_assertions)))]
compile_error!("loom models need debug assertions: build them without --release");

#[cfg(not(loom))]
pub(crate) mod modelled {
    pub(crate) use super::Mutex;
    pub(crate) use std::sync::atomic::{fence, AtomicBool, AtomicU64, AtomicUsize, Ordering};
}

#[cfg(loom)]
pub(crate) mod modelled {
    pub(crate) use loom::sync::atomic::{fence, AtomicBool, AtomicU64, AtomicUsize, Ordering};

    /// Same face as the crate's own lock.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0
                .lock()
                .expect("no model panics while it holds a lock")
        }
    }
}

/// A lock without poisoning: a panic in the crate's own bookkeeping ends the process (see
/// [`crate::pool::worker`]), so a poisoned lock can only stem from a caller's hook, and the data
/// is whole then.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(StdMutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(StdMutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The condition variable that goes with [`Mutex`].
#[derive(Debug, Default)]
pub(crate) struct Condvar(StdCondvar);

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(StdCondvar::new())
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A one-shot event: completed once, waited for by any number of threads.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    done: Mutex<bool>,
    changed: Condvar,
}

impl Completion {
    pub(crate) const fn new() -> Self {
        Self {
            done: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn complete(&self) {
        *self.done.lock() = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_done(&self) -> bool {
        *self.done.lock()
    }

    pub(crate) fn wait(&self) {
        let mut done = self.done.lock();
        while !*done {
            done = self.changed.wait(done);
        }
    }
}

/// Lets one thread sleep until it is told otherwise. A token given while the thread is awake is
/// kept, so a wake-up is never lost; tokens do not add up.
///
/// Sits on `thread::park`, yet keeps its own token: the item functions that run on the same
/// thread may park and unpark it for purposes of their own.
#[derive(Debug, Default)]
pub(crate) struct Parker {
    token: std::sync::atomic::AtomicBool,
    thread: std::sync::OnceLock<std::thread::Thread>,
}

impl Parker {
    pub(crate) const fn new() -> Self {
        Self {
            token: std::sync::atomic::AtomicBool::new(false),
            thread: std::sync::OnceLock::new(),
        }
    }

    /// Names the calling thread as the one that parks here.
    pub(crate) fn adopt_current(&self) {
        let _first = self.thread.set(std::thread::current());
    }

    pub(crate) fn park(&self) {
        // Acquire pairs with the Release in `unpark`: what the waker did before is seen here.
        while !self.token.swap(false, std::sync::atomic::Ordering::Acquire) {
            std::thread::park();
        }
    }

    pub(crate) fn unpark(&self) {
        // Release pairs with the Acquire in `park`. The load of `thread` comes second: a thread
        // that adopts later looks at the token before it first sleeps.
        self.token.store(true, std::sync::atomic::Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
