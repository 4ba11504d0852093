// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mayday: a rescuer hears every call, also one that comes just before it is told to end.
//!
//! The parker is the crate's own; the steps are those of `Rescuer::list`, `wake` and `stop`, and
//! of the loop in `rescuer::run_rescuer`.

use crate::sys::sync::Parker;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

struct Rescuer {
    calls: Mutex<usize>,
    parker: Parker,
    stop: AtomicBool,
    answered: AtomicUsize,
}

impl Rescuer {
    fn call(&self) {
        *self.calls.lock().unwrap() += 1;
        self.parker.unpark();
    }

    fn run_rescuer(&self) {
        self.parker.adopt_current();
        loop {
            // Before the look at the list: calls from before the end are seen by that look.
            let stop = self.stop.load(Ordering::Acquire);
            loop {
                let mut calls = self.calls.lock().unwrap();
                if *calls == 0 {
                    break;
                }
                *calls -= 1;
                drop(calls);
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            if stop {
                return;
            }
            self.parker.park();
        }
    }
}

#[test]
fn s07_03_s07_13_every_call_is_answered_before_the_end() {
    loom::model(|| {
        let rescuer = Arc::new(Rescuer {
            calls: Mutex::new(0),
            parker: Parker::new(),
            stop: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
        });
        let own = rescuer.clone();
        let live = thread::spawn(move || own.run_rescuer());
        rescuer.call();
        let own = rescuer.clone();
        let other = thread::spawn(move || own.call());
        other.join().unwrap();
        rescuer.stop.store(true, Ordering::Release);
        rescuer.parker.unpark();
        live.join().unwrap();
        assert_eq!(rescuer.answered.load(Ordering::Relaxed), 2);
    });
}
