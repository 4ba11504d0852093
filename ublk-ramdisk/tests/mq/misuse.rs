// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drivers and front ends that do what they must not: the device goes on, or a debug build says so.

use super::common::*;
use std::panic::{catch_unwind, AssertUnwindSafe};
#[cfg(debug_assertions)]
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use ublk_ramdisk::mq::*;

/// From now on queue_rq panics when it is given `tag`, once.
fn panics_at(bed: &Bed, tag: u16) {
    let hook = move |given| assert_ne!(given, tag, "this test's driver panics");
    *bed.driver.hook.lock().unwrap() = Some(Box::new(hook));
}

/// A tag that there is not, in the middle of a batch: nobody is counted in who will never end.
#[test]
fn c26_a_batch_with_a_tag_too_many_leaves_nothing_inside() {
    let mut bed = Bed::new(1, 8);
    let batch = [write(0), write(8)];
    let inserted = catch_unwind(AssertUnwindSafe(|| bed.insert_batch(0, &batch)));
    assert!(inserted.is_err(), "a queue of depth 8 has no tag 8");
    assert_eq!(bed.queue.snapshot(0).usage, 0);
    bed.queue.freeze().unwrap();
    bed.queue.unfreeze();
    bed.insert(0, write(1));
    assert_eq!(bed.wire.count(), 1);
    bed.finish();
}

/// C25 of a driver that panics: its request ends, the section it was in is left, and the others are
/// served.
#[test]
fn c25_a_driver_that_panics_loses_its_request_alone() {
    let set = TagSet {
        rerun_delay: HOUR,
        catch_panics: true,
        ..TagSet::new(1, 8)
    };
    let mut bed = Bed::with(set, Driver::new());
    panics_at(&bed, 0);
    bed.insert(0, write(0));
    let ioerr = -Status::IoErr.errno();
    assert_eq!(*bed.wire.ends.lock().unwrap(), [(0, 0, ioerr)]);
    panics_at(&bed, 2);
    bed.insert_batch(0, &[write(1), write(2), write(3)]);
    let ends = |bed: &Bed| bed.wire.ends.lock().unwrap().split_off(1);
    let ok = 4096;
    assert_eq!(ends(&bed), [(0, 1, ok), (0, 2, ioerr), (0, 3, ok)]);
    // On kblockd's thread too.
    bed.driver.take_calls();
    quiesced(&mut bed, &[4, 5, 6]);
    panics_at(&bed, 5);
    bed.queue.unquiesce();
    until("kblockd has run the queue", || bed.wire.count() == 4);
    bed.settle();
    assert_eq!(ends(&bed), [(0, 4, ok), (0, 5, ioerr), (0, 6, ok)]);
    // Would wait for ever for a section that was left open.
    bed.queue.quiesce();
    bed.queue.unquiesce();
    assert_eq!(bed.queue.counters(0).panics, 3);
    bed.finish();
}

/// Without being asked the mirror catches nothing: a server ends with the panic.
#[test]
fn c25_the_panic_of_a_driver_goes_on_unless_it_is_to_be_caught() {
    let mut bed = Bed::new(1, 8);
    panics_at(&bed, 0);
    let inserted = catch_unwind(AssertUnwindSafe(|| bed.insert(0, write(0))));
    assert!(inserted.is_err());
    assert_eq!(bed.queue.counters(0).panics, 0);
    assert!(bed.wire.ends.lock().unwrap().is_empty());
    // The request never ends, and the end of a device would wait for it.
    std::mem::forget(bed);
}

/// A front end that moves nothing.
struct Panics;

impl LocalCompletion for Panics {
    fn transfer<'m>(&mut self, _: DataTransfer<'m>) -> TransferAnswer<'m> {
        panic!("this test's transport panics");
    }

    fn end(&mut self, _: &Request, _: i32) {}
}

/// A front end that panics loses its thread, and what that thread had; nobody waits for the section
/// it was in.
#[test]
fn c25_a_front_end_that_panics_leaves_no_section_open() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(Transfer);
    for together in [false, true] {
        let lane = Mutex::new(&mut bed.lanes[0][0]);
        let thread = std::thread::scope(|scope| {
            let insert = || {
                let mut lane = lane.lock().unwrap();
                if together {
                    lane.insert_batch(&[write(1), write(2)], &mut Panics);
                } else {
                    lane.insert(&write(0), &mut Panics);
                }
            };
            scope.spawn(insert).join()
        });
        assert!(thread.is_err());
        bed.queue.quiesce();
        bed.queue.unquiesce();
    }
}

/// What it had is ended by its timeout, even if the driver asks for more time, as the disk's does.
#[test]
fn c37_what_a_front_end_that_panicked_had_times_out() {
    let mut bed = Bed::in_turns(1, 8);
    bed.driver.always(Transfer);
    let lane = &mut bed.lanes[0][0];
    let insert = || lane.insert(&write(0), &mut Panics);
    assert!(catch_unwind(AssertUnwindSafe(insert)).is_err());
    for _ in 0..2 {
        assert_eq!(bed.wire.count(), 0);
        bed.clock.advance(Duration::from_secs(31));
        bed.settle();
        if bed.wire.count() == 1 {
            break;
        }
    }
    assert_eq!(bed.wire.ends.lock().unwrap()[0].2, -libc::ETIMEDOUT);
    assert_eq!(bed.queue.snapshot(0).usage, 0);
    let calls = bed.driver.take_calls();
    assert_eq!(
        calls,
        [q(0, true), Call::Complete(0)],
        "its memory is unpinned"
    );
}

/// Two devices of one driver: debug builds tell their tokens apart.
#[test]
#[cfg(debug_assertions)]
fn a11_a_token_given_to_another_device_is_caught() {
    let (mut one, other) = (Bed::new(1, 8), Bed::new(1, 8));
    one.driver.always(Hold);
    let other_queue = other.queue.handle();
    let misuse: [fn(&Queue, InFlight); 3] = [
        |queue, token| {
            queue.complete_remote(token, Ok(0));
        },
        |queue, token| {
            queue.requeue(token, Requeue::default());
        },
        |queue, token| {
            let wire = Arc::new(Wire::default());
            queue.complete_batch(0, [(token, Ok(0))], &mut at(&wire, 0));
        },
    ];
    for (tag, misuse) in (0..).zip(misuse) {
        one.insert(0, write(tag));
        let token = one.driver.take_held(tag);
        let queue = other_queue.clone();
        let thread = std::thread::spawn(move || misuse(&queue, token));
        let why = thread.join().expect_err("a debug build says so");
        let why = why.downcast_ref::<String>().expect("a text");
        assert!(why.contains("a token of another device"), "{why}");
        // The token is lost with the thread; the request is still in flight.
        let found = one.queue.get(0, tag).expect("it is in flight");
        assert!(found.complete(Status::IoErr));
    }
    one.finish();
    other.finish();
}
