// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packed words by themselves.

use crate::mq::hctx_state::{Entry, HctxState, TIMED};
use crate::mq::request_state::{Completed, Generation, Put, RequestState, Step};
use crate::mq::shared_limit::DeviceSlots;
use loom::sync::Arc;
use loom::thread;

/// A request that is being issued, and its generation.
fn issued() -> (Arc<RequestState>, Generation) {
    let state = Arc::new(RequestState::new());
    let Step::Taken(generation) = state.start() else {
        unreachable!("it was idle")
    };
    (state, generation)
}

/// Takes a reference and drops it. Returns 1 if that ends the request.
fn look(state: &RequestState) -> usize {
    let found = state.get();
    usize::from(found.is_some() && state.put() == Put::End)
}

/// Returns 1 if the caller ends the request.
fn end(state: &RequestState, completed: Completed) -> usize {
    match completed {
        Completed::End => 1,
        Completed::Publish => usize::from(state.put() == Put::End),
        Completed::Lost => unreachable!("only this thread completes it"),
    }
}

/// C36: an arrival finds the timer gone, or keeps it.
#[test]
fn loom_c36_an_arrival_meets_the_timer_that_disarms() {
    loom::model(|| {
        let state = Arc::new(HctxState::new());
        assert!(state.set(TIMED));
        let other = state.clone();
        let timer = thread::spawn(move || other.untime());
        let (entry, arms, _) = state.enter(1);
        assert_eq!(entry, Entry::Issue);
        assert_eq!(timer.join().unwrap(), arms);
    });
}

/// A11: of the completer and the one that looks, exactly one ends the request.
#[test]
fn loom_a11_the_last_one_to_mark_in_flight_ends() {
    loom::model(|| {
        let (state, generation) = issued();
        state.mark_in_flight(generation);
        let other = state.clone();
        let looker = thread::spawn(move || look(&other));
        let here = end(&state, state.complete(generation));
        assert_eq!(here + looker.join().unwrap(), 1);
        assert_eq!(state.retire(), Step::Taken(generation));
    });
}

/// A11: a request that ends where it is issued owns its word, even while a thread still holds a
/// reference to the try before.
#[test]
fn loom_a11_who_looks_meets_a_request_that_is_issued_and_ended() {
    loom::model(|| {
        let (state, first) = issued();
        state.mark_in_flight(first);
        let other = state.clone();
        let looker = thread::spawn(move || look(&other));
        assert!(state.take_back(first));
        let Step::Taken(second) = state.start() else {
            unreachable!("it was taken back")
        };
        let here = end(&state, state.finish(second));
        assert_eq!(here + looker.join().unwrap(), 1);
        assert_eq!(state.retire(), Step::Taken(second));
    });
}

/// C38: the owner of the token may complete it before the section is left, and the tag
/// may be used again by then.
#[test]
fn loom_c38_complete_meets_the_end_of_the_section() {
    loom::model(|| {
        let (state, generation) = issued();
        let other = state.clone();
        let completer = thread::spawn(move || {
            assert_eq!(other.complete(generation), Completed::End);
            assert_eq!(other.retire(), Step::Taken(generation));
            other.start()
        });
        state.mark_in_flight(generation);
        let Step::Taken(next) = completer.join().unwrap() else {
            unreachable!("it was retired")
        };
        assert_eq!(state.finish(next), Completed::End);
    });
}

/// A7: BUSY and a completion from outside: one of the two.
#[test]
fn loom_a07_take_back_meets_complete() {
    loom::model(|| {
        let (state, generation) = issued();
        let other = state.clone();
        let completer = thread::spawn(move || other.complete(generation) == Completed::End);
        let back = state.take_back(generation);
        assert!(back != completer.join().unwrap());
    });
}

/// W4: a queue that is refused a slot while one is given back gets it, or is woken.
#[test]
fn loom_w04_joining_the_waiters_meets_a_slot_given_back() {
    loom::model(|| {
        let slots = Arc::new(DeviceSlots::new(1, 2));
        assert!(slots.take(0));
        let other = slots.clone();
        let giver = thread::spawn(move || {
            let mut woken = false;
            other.give_back(|hctx| woken |= hctx == 1);
            woken
        });
        let taken = slots.take(1);
        assert!(
            giver.join().unwrap() || taken,
            "it waits beside a free slot"
        );
    });
}
