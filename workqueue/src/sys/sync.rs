// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one place that chooses between `std` and `loom`.
//!
//! [`modelled`] holds what the lock-free protocols are made of: the state word, the budget of a
//! node, the inbox of a pool, the parker of a worker. Under `--cfg loom` these types come from
//! loom, so that the models inside the crate run the very code that ships. Everything else uses the
//! plain lock below, which spins briefly and then sleeps on a futex: the holder of a lock can be
//! preempted in user space, hence no pure spinlock anywhere.

use super::turn_scheduler::{self, Seat};
use std::sync::{Condvar as StdCondvar, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(all(loom, not(debug_assertions)))]
compile_error!("loom models need debug assertions: build them without --release");

#[cfg(not(loom))]
pub(crate) mod modelled {
    pub(crate) use super::Mutex;
    pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    pub(crate) use std::thread::{current, park, Thread};
    use std::time::Duration;

    /// Waits before look number `tries` at what another thread is about to change. It sleeps after
    /// some tries: that thread may be preempted, and a real-time thread never yields to it.
    pub(crate) fn back_off(tries: u32) {
        match tries {
            0..64 => std::hint::spin_loop(),
            64..72 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(50)),
        }
    }
}

#[cfg(loom)]
pub(crate) mod modelled {
    pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    pub(crate) use loom::thread::{current, park, Thread};

    pub(crate) fn back_off(_tries: u32) {
        loom::thread::yield_now();
    }

    /// The interface of the crate's own lock.
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

/// A lock without poisoning. A panic in the crate's own bookkeeping ends the process (see
/// [`crate::pool::run`]). So a lock is poisoned only by a caller's hook, and the data is consistent
/// then.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(StdMutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(StdMutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// None while another thread holds it.
    #[cfg(test)]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
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

    /// As `wait`, for `limit` at most. May return without cause.
    pub(crate) fn wait_for<T>(&self, guard: MutexGuard<'_, T>, limit: Option<Duration>) {
        match limit {
            None => drop(self.wait(guard)),
            Some(limit) => drop(self.0.wait_timeout(guard, limit)),
        }
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
        turn_scheduler::note_change();
    }

    pub(crate) fn is_done(&self) -> bool {
        *self.done.lock()
    }

    pub(crate) fn wait(&self) {
        if turn_scheduler::poll_until(|| self.is_done()) {
            return;
        }
        let mut done = self.done.lock();
        while !*done {
            done = self.changed.wait(done);
        }
    }
}

/// Lets one thread sleep until it is woken. A wake-up while the thread is awake is kept as a token,
/// so none is lost; tokens do not add up. Waking costs a system call only if the thread sleeps.
///
/// Uses `thread::park` with a token of its own, because item functions on the same thread may park
/// and unpark it for their own purposes.
#[derive(Debug)]
pub(crate) struct Parker {
    token: modelled::AtomicU32, // A
    thread: std::sync::OnceLock<modelled::Thread>,
    /// Of a thread that takes turns with others.
    seat: std::sync::OnceLock<Seat>,
}

/// No token; the thread does not sleep.
const AWAKE: u32 = 0;
/// No token; the thread sleeps, or is about to sleep and reads the token once more.
const ASLEEP: u32 = 1;
/// A token: the current or next `park` ends.
const TOLD: u32 = 2;

impl Parker {
    pub(crate) fn new() -> Self {
        Self {
            token: modelled::AtomicU32::new(AWAKE),
            thread: std::sync::OnceLock::new(),
            seat: std::sync::OnceLock::new(),
        }
    }

    /// Makes the calling thread the one that parks here. Called before its first `park`.
    pub(crate) fn adopt_current(&self) {
        let _ignored = self.thread.set(modelled::current());
        if let Some(seat) = turn_scheduler::current() {
            let _ignored = self.seat.set(seat);
        }
    }

    /// Sleeps until woken. Does not spin before: a bound worker would keep the CPU from its waker,
    /// and for other workers spinning was measured to gain nothing.
    pub(crate) fn park(&self) {
        use modelled::Ordering::{AcqRel, Acquire};
        // AcqRel and Acquire here and below pair with the swap in `unpark`: what the waker did
        // before is seen after. The token is taken by a swap, because what a second waker did must
        // be seen, too.
        while self
            .token
            .compare_exchange(AWAKE, ASLEEP, AcqRel, Acquire)
            .map_or_else(|found| found != TOLD, |_| true)
        {
            // When the threads begin to run freely, a waker may have made the seat ready, which does
            // not unpark; it has left the token before.
            let told = |seat: &Seat| seat.block() || self.token.load(Acquire) == TOLD;
            if !self.seat.get().is_some_and(told) {
                modelled::park();
            }
        }
        self.token.swap(AWAKE, Acquire);
    }

    pub(crate) fn unpark(&self) {
        // AcqRel pairs with `park`; a thread found asleep has named itself before.
        // guard: s05_02_token_not_taken
        let found = self.token.swap(TOLD, modelled::Ordering::AcqRel);
        if found == ASLEEP {
            if self.seat.get().is_some_and(Seat::wake) {
                return;
            }
            if let Some(thread) = self.thread.get() {
                thread.unpark();
            }
        }
    }
}

impl Default for Parker {
    fn default() -> Self {
        Self::new()
    }
}

/// Puts a word that many threads write on cache lines of its own: two lines, as the machine fetches
/// them in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct OwnLine<T>(pub(crate) T);
