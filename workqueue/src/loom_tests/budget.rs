// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slots of a node: nobody waits beside a free one, and never too many are in use.

use crate::pwq::nr_active::{NrActive, Turn};
use loom::sync::Arc;
use loom::thread;

/// What the crate does with the duty that `give_back` returns.
fn serve(budget: &NrActive<u32>) -> Vec<u32> {
    let mut served = Vec::new();
    while let Some(head) = budget.head() {
        match budget.turn(&head) {
            Turn::Slot => served.push(head),
            Turn::Moved => {}
            Turn::Full => break,
        }
    }
    served
}

#[test]
fn s08_06_a_slot_given_back_reaches_whoever_waits() {
    loom::model(|| {
        let budget = Arc::new(NrActive::new(1));
        assert!(budget.take_or_wait(|| 1));
        let other = budget.clone();
        let giver = thread::spawn(move || {
            if other.give_back() {
                serve(&other)
            } else {
                Vec::new()
            }
        });
        let at_once = budget.take_or_wait(|| 2);
        let served = giver.join().unwrap();
        assert_eq!(
            usize::from(at_once) + served.len(),
            1,
            "the second party waits beside a free slot"
        );
        assert_eq!(budget.used(), 1);
    });
}

#[test]
fn s08_04_two_takers_share_one_slot() {
    loom::model(|| {
        let budget = Arc::new(NrActive::new(1));
        let other = budget.clone();
        let t = thread::spawn(move || other.take_or_wait(|| 1));
        let here = budget.take_or_wait(|| 2);
        assert!(here != t.join().unwrap());
        assert!(budget.head().is_some());
    });
}
