// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state word: who gets to queue, and what the run is promised to see.

use crate::work::state::{Claim, WorkState};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::Arc;
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
