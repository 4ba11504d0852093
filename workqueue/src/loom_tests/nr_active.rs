// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slots of a node: no party waits beside a free slot, and never too many are in use.

use crate::pwq::nr_active::{HeadResult, NrActive};
use loom::sync::Arc;
use loom::thread;

/// What the crate does with the duty that `release` returns.
fn serve(nr_active: &NrActive<u32>) -> Vec<u32> {
    let mut served = Vec::new();
    while let Some(head) = nr_active.head() {
        match nr_active.take_for_head(&head) {
            HeadResult::Slot => served.push(head),
            HeadResult::Moved => {}
            HeadResult::Full => break,
        }
    }
    served
}

#[test]
fn s08_06_a_slot_given_back_reaches_a_waiting_party() {
    loom::model(|| {
        let nr_active = Arc::new(NrActive::new(1));
        assert!(nr_active.take_or_wait(|| 1));
        let other = nr_active.clone();
        let giver = thread::spawn(move || {
            if other.release() {
                serve(&other)
            } else {
                Vec::new()
            }
        });
        let at_once = nr_active.take_or_wait(|| 2);
        let served = giver.join().unwrap();
        assert_eq!(
            usize::from(at_once) + served.len(),
            1,
            "the second party waits beside a free slot"
        );
        assert_eq!(nr_active.used(), 1);
    });
}

#[test]
fn s08_04_two_takers_share_one_slot() {
    loom::model(|| {
        let nr_active = Arc::new(NrActive::new(1));
        let other = nr_active.clone();
        let t = thread::spawn(move || other.take_or_wait(|| 1));
        let here = nr_active.take_or_wait(|| 2);
        assert!(here != t.join().unwrap());
        assert!(nr_active.head().is_some());
    });
}
