// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state word: who gets to queue, and what the run is promised to see; after a synchronous
//! cancel the item is neither listed nor running.
//!
//! The state word is the crate's own; the steps of the cancel are those of `wait::item`'s
//! `disable_sync`, of an item that queues itself in its run, and of the worker that runs it.

use crate::work::state::{Claim, WorkState};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

#[test]
fn s02_02_one_of_two_claims_wins() {
    loom::model(|| {
        let state = Arc::new(WorkState::new());
        let other = state.clone();
        let t = thread::spawn(move || other.claim() == Claim::Ours);
        let here = state.claim() == Claim::Ours;
        assert!(here != t.join().unwrap());
    });
}

#[test]
fn s02_13_the_pending_run_sees_what_came_before_a_failed_claim() {
    loom::model(|| {
        let state = Arc::new(WorkState::new());
        let event = Arc::new(AtomicUsize::new(0));
        assert_eq!(state.claim(), Claim::Ours);
        let (s, e) = (state.clone(), event.clone());
        let worker = thread::spawn(move || {
            s.begin_run();
            e.load(Ordering::Relaxed)
        });
        event.store(1, Ordering::Relaxed);
        let claimed = state.claim() == Claim::Ours;
        let seen = worker.join().unwrap();
        assert!(claimed || seen == 1, "the event was lost");
    });
}

#[test]
fn s02_18_no_claim_succeeds_once_disable_has_returned() {
    loom::model(|| {
        let state = Arc::new(WorkState::new());
        let other = state.clone();
        let t = thread::spawn(move || {
            let claim = other.claim();
            if claim == Claim::Ours {
                other.release();
            }
        });
        assert!(state.disable().is_some());
        // A claim from before may still hold the bit; a new one is refused either way.
        assert_ne!(state.claim(), Claim::Ours);
        t.join().unwrap();
        assert_eq!(state.claim(), Claim::Disabled);
        assert_eq!(state.enable(), Some(true));
        assert_eq!(state.claim(), Claim::Ours);
    });
}

struct Bed {
    state: WorkState,
    /// The pool's lock: is the item listed, is it running?
    pool: Mutex<(bool, bool)>,
    runs: AtomicUsize,
}

impl Bed {
    /// The item's own call in its run. True if it was accepted.
    fn requeue(&self) -> bool {
        if self.state.claim() != Claim::Ours {
            return false;
        }
        let mut pool = self.pool.lock().unwrap();
        self.state.set_queued(0, 0, false);
        pool.0 = true;
        true
    }

    /// The worker: takes the item if it is listed, and runs it; the first run queues it anew.
    fn work(&self) {
        loop {
            {
                let mut pool = self.pool.lock().unwrap();
                if !pool.0 {
                    return;
                }
                *pool = (false, true);
                self.state.begin_run();
            }
            if self.runs.fetch_add(1, Ordering::Relaxed) == 0 {
                self.requeue();
            }
            self.pool.lock().unwrap().1 = false;
        }
    }

    /// As `wait::item::grab`: takes a pending instance back.
    fn grab(&self) -> bool {
        loop {
            let seen = self.state.load();
            if !seen.pending() {
                return false;
            }
            if seen.queued() {
                let mut pool = self.pool.lock().unwrap();
                if self.state.load().queued() {
                    assert!(pool.0, "QUEUED and not listed");
                    pool.0 = false;
                    self.state.set_taken_off();
                    drop(pool);
                    self.state.release();
                    return true;
                }
            }
            thread::yield_now();
        }
    }
}

#[test]
fn s10_11_after_a_cancel_the_item_is_neither_pending_nor_running() {
    loom::model(|| {
        let bed = Arc::new(Bed {
            state: WorkState::new(),
            pool: Mutex::new((false, false)),
            runs: AtomicUsize::new(0),
        });
        assert!(bed.requeue());
        let own = bed.clone();
        let worker = thread::spawn(move || own.work());
        assert!(bed.state.disable().is_some());
        let _taken_back = bed.grab();
        // The wait for a run that is going on, without the barrier.
        while bed.pool.lock().unwrap().1 {
            thread::yield_now();
        }
        let runs = bed.runs.load(Ordering::Relaxed);
        assert_eq!(*bed.pool.lock().unwrap(), (false, false));
        assert!(!bed.state.load().pending());
        worker.join().unwrap();
        assert_eq!(
            bed.runs.load(Ordering::Relaxed),
            runs,
            "it ran after the cancel"
        );
        assert_eq!(bed.state.enable(), Some(true));
    });
}
