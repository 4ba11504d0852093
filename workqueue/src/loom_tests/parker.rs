// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parker of a worker: no wake-up is lost, and what a waker did before is seen after.

use crate::sys::sync::Parker;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::Arc;
use loom::thread;

/// Parks until `wakers` threads have been heard of, each of which says so before it wakes.
fn wakers_are_heard(wakers: usize) {
    loom::model(move || {
        let shared = Arc::new((Parker::new(), AtomicUsize::new(0)));
        shared.0.adopt_current();
        let threads: Vec<_> = (0..wakers)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    shared.1.fetch_add(1, Ordering::Relaxed);
                    shared.0.unpark();
                })
            })
            .collect();
        while shared.1.load(Ordering::Relaxed) < wakers {
            // A lost wake-up is a thread that sleeps for ever, which loom reports.
            shared.0.park();
        }
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn s05_02_a_wake_up_is_not_lost() {
    wakers_are_heard(1);
}

#[test]
fn s05_02_of_two_wake_ups_neither_is_lost() {
    wakers_are_heard(2);
}
