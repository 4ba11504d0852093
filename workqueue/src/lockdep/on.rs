// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each thread holds, told to the notes of [`super::orders`].

use super::orders::{Class, Orders};
use crate::sys::sync::Mutex;
use std::cell::RefCell;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::LazyLock;

static ORDERS: LazyLock<Mutex<Orders>> = LazyLock::new(Mutex::default);

thread_local! {
    /// The numbers of what the thread holds, in the order it took them.
    static HOLDS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// The kind of a lock: the place in the program that made it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockClass(&'static Location<'static>);

/// The kind of a queue: each is its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueClass(usize);

/// Held by the calling thread as long as it lives, on that thread.
#[derive(Debug)]
pub(crate) struct Held(Vec<usize>);

impl Held {
    /// Before its holder ends.
    pub(crate) fn release(self) {}
}

impl Drop for Held {
    fn drop(&mut self) {
        // A thread that is being torn down holds nothing any more.
        let _torn_down = HOLDS.try_with(|holds| {
            let mut holds = holds.borrow_mut();
            for number in self.0.iter().rev() {
                if let Some(at) = holds.iter().rposition(|h| h == number) {
                    holds.remove(at);
                }
            }
        });
    }
}

impl LockClass {
    #[track_caller]
    pub(crate) const fn here() -> Self {
        Self(Location::caller())
    }

    fn number(self) -> usize {
        let name = || format!("the lock made at {}", self.0);
        ORDERS.lock().number(Class::Lock(self.0), name)
    }

    /// The lock is about to be waited for.
    pub(crate) fn acquire(self) -> Held {
        take(self.number())
    }

    /// The lock was got without a wait, which can be part of no deadlock until it is held.
    pub(crate) fn acquired_by_trying(self) -> Held {
        hold(self.number())
    }
}

impl QueueClass {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = || format!("queue {name}");
        Self(ORDERS.lock().number(Class::Queue(serial), name))
    }
}

fn function(name: &'static str, entry: usize) -> usize {
    let text = || format!("item {name}");
    ORDERS.lock().number(Class::Function(name, entry), text)
}

fn hold(number: usize) -> Held {
    HOLDS.with_borrow_mut(|holds| holds.push(number));
    Held(vec![number])
}

fn take(number: usize) -> Held {
    let report = HOLDS.with_borrow(|holds| ORDERS.lock().take(holds, number));
    // Without the lock: a program's logger may use locks of this crate.
    if let Some(report) = report {
        log::warn!("workqueue: {report}");
    }
    hold(number)
}

/// A run begins on the calling thread.
pub(crate) fn enter_run(queue: QueueClass, name: &'static str, entry: usize) -> Held {
    let (mut both, mut inner) = (take(queue.0), take(function(name, entry)));
    both.0.append(&mut inner.0);
    both
}

/// The calling thread is about to wait for the items of a queue.
pub(crate) fn touch_queue(queue: QueueClass) {
    drop(take(queue.0));
}

/// The calling thread is about to wait for an item of this function.
pub(crate) fn touch_function(name: &'static str, entry: usize) {
    drop(take(function(name, entry)));
}

/// The inversions found so far in this process, as they were logged. With the `lockdep` feature.
pub fn lockdep_reports() -> Vec<String> {
    ORDERS.lock().reports().to_vec()
}
