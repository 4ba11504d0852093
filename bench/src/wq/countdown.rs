// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tells a producer that all its items have run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, Thread};

/// Counts the items of one producer; the last one wakes it. The same for all contenders.
#[derive(Debug, Default)]
#[repr(align(128))] // its own cache lines, as there is one per producer
pub struct Countdown {
    left: AtomicUsize,
    producer: Mutex<Option<Thread>>,
}

impl Countdown {
    /// The calling thread is about to submit this number of items and to wait for them.
    pub fn expect(&self, items: usize) {
        *self.producer() = Some(thread::current());
        // Release, as the hand-over of the items need not order it.
        self.left.store(items, Ordering::Release);
    }

    /// An item has run.
    pub fn one(&self) {
        // AcqRel pairs with the Acquire in `wait`: what the items did is seen after it.
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // A copy: the producer may be at its next burst already.
            let producer = self.producer().clone();
            if let Some(producer) = producer {
                producer.unpark();
            }
        }
    }

    /// The thread that waits.
    fn producer(&self) -> MutexGuard<'_, Option<Thread>> {
        self.producer.lock().expect("no panic under this lock")
    }

    /// Waits until all have run.
    pub fn wait(&self) {
        while self.left.load(Ordering::Acquire) > 0 {
            thread::park();
        }
    }
}
