// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests and their ends: A, B, C30 to C33, C38.

use super::common::*;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, Mutex};
use ublk_ramdisk::mq::legacy::{Legacy, LegacyDriver, LegacyRequest};
use ublk_ramdisk::mq::*;

#[test]
fn a01_an_init_error_unwinds_every_hctx_made_so_far() {
    let bed = Bed::new(1, 1);
    let driver = Arc::new(Driver {
        fail_init: Some(3),
        ..Driver::new()
    });
    let wire = Arc::new(Wire::default());
    let error = RequestQueue::new(TagSet::new(5, 4), driver.clone(), wire, &bed.kblockd);
    let expected = TagSetError::Init {
        hctx: 3,
        status: Status::IoErr,
    };
    assert_eq!(error.unwrap_err(), expected);
    assert_eq!(*driver.inits.lock().unwrap(), [1, 2, 3, -3, -2, -1]);
    bed.finish();
}

#[test]
fn a01_a_bad_tag_set_makes_nothing() {
    let bed = Bed::new(1, 1);
    let (driver, wire) = (Arc::new(Driver::new()), Arc::new(Wire::default()));
    let made = RequestQueue::new(TagSet::new(1, 5000), driver.clone(), wire, &bed.kblockd);
    assert_eq!(made.unwrap_err(), TagSetError::Depth(5000));
    assert!(driver.inits.lock().unwrap().is_empty());
    bed.finish();
}

#[test]
fn a03_a08_every_tag_of_every_queue_ends_once_under_its_own_number() {
    let mut bed = Bed::new(3, 16);
    for hctx in 0..3 {
        for tag in 0..16 {
            bed.insert(hctx, write(tag));
        }
    }
    let mut ends = bed.wire.ends.lock().unwrap().clone();
    ends.sort_unstable();
    let expected: Vec<_> = (0..3)
        .flat_map(|h| (0..16).map(move |t| (h, t, 4096)))
        .collect();
    assert_eq!(ends, expected);
    bed.finish();
}

#[test]
fn a07_inserting_a_tag_that_is_in_flight_is_a_wrong_step() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(Hold);
    bed.insert(0, write(0));
    let lane = &mut bed.lanes[0][0];
    let wire = bed.wire.clone();
    let inserted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        lane.insert(&write(0), &mut at(&wire, 0));
    }));
    assert_eq!(inserted.is_err(), cfg!(debug_assertions));
    assert!(bed.queue.counters(0).bad_transitions > 0);
}

#[test]
fn a11_a_look_up_finds_requests_in_flight_only_and_delays_their_end() {
    let mut bed = Bed::new(1, 8);
    assert!(bed.queue.get(0, 0).is_none() && bed.queue.get(0, 9).is_none());
    bed.queue.stop_hw_queue(0);
    bed.insert(0, write(0));
    assert!(bed.queue.get(0, 0).is_none(), "listed is not in flight");
    bed.driver.always(Hold);
    bed.queue.start_hw_queue(0);
    let found = bed.queue.get(0, 0).unwrap();
    let second = bed.queue.get(0, 0).unwrap();
    assert_eq!((found.hctx(), found.request()), (0, write(0)));
    bed.complete(0);
    assert!(bed.queue.get(0, 0).is_none(), "completed");
    drop(found);
    assert_eq!(bed.wire.count(), 0, "somebody still looks at it");
    drop(second);
    assert_eq!(bed.wire.tags(), [0]);
    assert_eq!(bed.driver.take_calls().last(), Some(&Call::Complete(0)));
    bed.finish();
}

#[test]
fn a09_complete_runs_once_for_transfers_and_held_requests() {
    let mut bed = Bed::new(1, 8);
    bed.driver.reply(&[Transfer, Hold, OK]);
    for tag in 0..3 {
        bed.insert(0, write(tag));
    }
    bed.complete(1);
    let calls = bed.driver.take_calls();
    let completes: Vec<_> = calls
        .iter()
        .filter(|call| matches!(call, Call::Complete(_)))
        .collect();
    assert_eq!(completes, [&Call::Complete(0), &Call::Complete(1)]);
    bed.finish();
}

#[test]
fn f20_a_transfer_kept_by_the_front_end_ends_when_it_says() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(Transfer);
    bed.wire.keep.store(true, Ordering::SeqCst);
    bed.insert(0, read(0));
    // The same when a worker issues it.
    bed.queue.quiesce();
    bed.insert(0, write(1));
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(
        (bed.wire.count(), bed.queue.snapshot(0).busy),
        (0, vec![0, 1])
    );
    let kept = std::mem::take(&mut *bed.wire.kept.lock().unwrap());
    for ((_, token), outcome) in kept.into_iter().zip([Ok(2048), Err(Status::IoErr)]) {
        assert!(bed.queue.complete(token, outcome, &mut at(&bed.wire, 0)));
    }
    let expected = [(0, 0, 2048), (0, 1, -libc::EIO)];
    assert_eq!(*bed.wire.ends.lock().unwrap(), expected);
    bed.finish();
}

#[test]
fn b02_resource_is_tried_again_at_once_and_then_within_3_ms() {
    let mut bed = Bed::with(TagSet::new(1, 8), Driver::new());
    bed.driver.reply(&[RESOURCE, RESOURCE, RESOURCE]);
    bed.insert(0, write(0));
    assert_eq!(bed.driver.tags().len(), 2);
    bed.advance(3 * MS, || bed.driver.tags().len() == 3);
    bed.advance(3 * MS, || bed.wire.count() == 1);
    bed.finish();
}

/// The promise is checked in debug builds alone (B4).
#[cfg(debug_assertions)]
#[test]
fn b04_w03_dev_resource_without_any_promise_is_taken_for_resource() {
    let mut bed = Bed::with(TagSet::new(1, 8), Driver::new());
    bed.driver.reply(&[DEV_RESOURCE, DEV_RESOURCE]);
    bed.insert(0, write(0));
    let counted = bed.queue.counters(0);
    assert_eq!((counted.bad_dev_resource, counted.refused_resource), (2, 2));
    bed.advance(3 * MS, || bed.wire.count() == 1);
    // A waker is a promise, and so is a request in flight.
    bed.driver.waker.store(true, Ordering::SeqCst);
    bed.driver.reply(&[DEV_RESOURCE, DEV_RESOURCE]);
    bed.insert(0, write(0));
    bed.settle();
    assert_eq!(bed.queue.counters(0).bad_dev_resource, 2);
    assert!(!bed.queue.snapshot(0).run_pending);
    bed.finish();
}

#[test]
fn b05_every_other_status_ends_the_request_with_its_errno() {
    let mut bed = Bed::new(1, 32);
    let ending: Vec<_> = Status::all().filter(|s| s.may_be_final()).collect();
    for (&status, tag) in ending.iter().zip(0..) {
        bed.driver.reply(&[Error(status)]);
        bed.insert(0, write(tag));
        assert_eq!(
            bed.wire.ends.lock().unwrap().pop(),
            Some((0, tag, -status.errno()))
        );
    }
    for status in [Status::Resource, Status::DevResource] {
        bed.driver.reply(&[Error(status)]);
        bed.insert(0, write(31));
        until("it has been tried again", || {
            bed.settle();
            bed.queue.run_hw_queue(0, true);
            bed.wire.count() > 0
        });
        let end = bed.wire.ends.lock().unwrap().pop();
        assert_eq!(end, Some((0, 31, 4096)), "{status}");
    }
    bed.finish();
}

#[test]
fn b06_no_client_sees_a_busy_errno() {
    let mut bed = Bed::in_turns_with(TagSet::new(1, 8));
    bed.driver.always(RESOURCE);
    bed.insert_batch(0, &[write(0), write(1), read(2)]);
    for _ in 0..667 {
        bed.clock.advance(3 * MS);
        bed.settle();
    }
    assert_eq!(bed.wire.count(), 0, "two seconds of BUSY end nothing");
    bed.driver.always(OK);
    bed.advance(3 * MS, || bed.wire.count() == 3);
    assert!(bed
        .wire
        .ends
        .lock()
        .unwrap()
        .iter()
        .all(|end| end.2 == 4096));
    bed.finish();
}

#[test]
fn b06_a_driver_that_ends_with_again_gets_ioerr() {
    let mut bed = Bed::new(1, 8);
    bed.driver
        .reply(&[Error(Status::Again), End(Err(Status::Resource))]);
    bed.insert(0, write(0));
    bed.insert(0, write(1));
    let expected = [(0, 0, -libc::EIO), (0, 1, -libc::EIO)];
    assert_eq!(*bed.wire.ends.lock().unwrap(), expected);
    assert_eq!(bed.queue.counters(0).bad_results, 2);
}

/// An old driver: answers a list of numbers, and keeps what it does not end.
struct Old(Mutex<Vec<(i32, bool)>>);

impl LegacyDriver for Old {
    fn queue_rq(&self, _: Hctx<'_>, request: &LegacyRequest<'_>) -> i32 {
        let (answer, end) = self.0.lock().unwrap().pop().unwrap_or((0, true));
        if end {
            request.end(Ok(()));
        }
        answer
    }
}

#[test]
fn b07_the_three_old_answers_mean_ok_resource_and_ioerr() {
    let bed = Bed::new(1, 1);
    let script = vec![(99, false), (2, false), (0, false), (1, false), (0, true)];
    let driver = Arc::new(Legacy::new(Old(Mutex::new(script)), 1, 8));
    let wire = Arc::new(Wire::default());
    let queue = RequestQueue::new(
        TagSet::new(1, 8),
        driver.clone(),
        wire.clone(),
        &bed.kblockd,
    );
    let queue = queue.unwrap();
    let mut lane = queue.submitter(0, 0).unwrap();
    let mut insert = |tag| {
        lane.insert(&write(tag), &mut at(&wire, 0));
        bed.settle();
    };
    insert(0); // OK, ended inside
    insert(1); // BUSY, then OK and kept
    assert_eq!(queue.counters(0).refused_resource, 1);
    assert_eq!(*wire.ends.lock().unwrap(), [(0, 0, 4096)]);
    assert!(driver.end_request(&queue, 0, 1, Ok(())));
    assert!(!driver.end_request(&queue, 0, 1, Ok(())), "only once");
    insert(2); // ERROR
    insert(3); // 99
    let ends = wire.ends.lock().unwrap()[1..].to_vec();
    assert_eq!(ends, [(0, 1, 4096), (0, 2, -libc::EIO), (0, 3, -libc::EIO)]);
    bed.settle();
    assert_eq!(queue.fault_at_rest(), None);
    drop((lane, queue));
    bed.finish();
}

#[test]
fn c30_an_end_restarts_its_own_hctx_and_no_other() {
    let mut bed = Bed::new(2, 8);
    for hctx in 0..2 {
        bed.driver.reply(&[Hold, DEV_RESOURCE, DEV_RESOURCE]);
        bed.insert(hctx, read(hctx));
        bed.insert(hctx, read(hctx + 2));
    }
    bed.settle();
    bed.complete(0);
    bed.settle();
    assert_eq!(bed.wire.tags(), [0, 2]);
    assert!(!bed.queue.snapshot(0).restart && bed.queue.snapshot(1).restart);
    assert_eq!(bed.dispatch(1), [3]);
    bed.complete(1);
    bed.settle();
    assert_eq!(bed.wire.tags(), [0, 2, 1, 3]);
    bed.finish();
}

#[test]
fn c31_w12_a_batch_of_ends_restarts_once() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(Hold);
    bed.insert_batch(0, &[write(0), write(1), write(2)]);
    bed.driver.reply(&[DEV_RESOURCE, DEV_RESOURCE]);
    bed.insert(0, write(3));
    bed.settle();
    assert_eq!(bed.dispatch(0), [3]);
    let before = bed.queue.counters(0).restarted;
    let batch: Vec<_> = (0..3)
        .map(|tag| (bed.driver.take_held(tag), Ok(0)))
        .collect();
    bed.queue.complete_batch(0, batch, &mut at(&bed.wire, 0));
    bed.settle();
    assert_eq!(bed.queue.counters(0).restarted - before, 1);
    assert_eq!(bed.queue.snapshot(0).busy, [3]);
    bed.finish();
}

#[test]
fn c32_restart_stays_after_a_run_by_the_timer_and_costs_one_more_run() {
    let mut bed = Bed::with(TagSet::new(1, 8), Driver::new());
    bed.driver.reply(&[RESOURCE, RESOURCE, Hold]);
    bed.insert(0, write(0));
    bed.advance(3 * MS, || bed.queue.snapshot(0).busy == [0]);
    assert!(bed.queue.snapshot(0).restart);
    bed.complete(0);
    assert!(!bed.queue.snapshot(0).restart);
    assert_eq!(bed.queue.counters(0).restarted, 1);
    bed.finish();
}

#[test]
fn c33_one_ctx_without_busy_keeps_the_order_of_arrival() {
    let mut bed = Bed::new(1, 64);
    bed.queue.quiesce();
    for tag in (0..64).rev() {
        bed.insert(0, if tag % 2 == 0 { write(tag) } else { read(tag) });
    }
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(bed.driver.tags(), (0..64).rev().collect::<Vec<_>>());
    bed.finish();
}

/// How many races are forced: 10^6 on request.
fn races() -> usize {
    std::env::var("MQ_RACES").map_or(20_000, |text| text.parse().expect("MQ_RACES is a number"))
}

#[test]
fn c38_of_complete_and_timeout_one_wins_and_the_other_does_nothing() {
    let mut bed = Bed::new(1, 1);
    bed.driver.always(Hold);
    let (rounds, barrier) = (races(), Barrier::new(2));
    let won = Mutex::new([0, 0]);
    let mut lane = bed.lanes[0].pop().unwrap();
    std::thread::scope(|scope| {
        let (bed, barrier, won) = (&bed, &barrier, &won);
        scope.spawn(move || {
            for _ in 0..rounds {
                barrier.wait();
                // What the driver's timeout does: look the request up and complete it.
                let ended = bed
                    .queue
                    .get(0, 0)
                    .is_some_and(|rq| rq.complete(Status::Timeout));
                won.lock().unwrap()[1] += usize::from(ended);
                barrier.wait();
            }
        });
        for round in 1..=rounds {
            lane.insert(&write(0), &mut at(&bed.wire, 0));
            let token = bed.driver.take_held(0);
            barrier.wait();
            let ended = bed.queue.complete(token, Ok(4096), &mut at(&bed.wire, 0));
            won.lock().unwrap()[0] += usize::from(ended);
            barrier.wait();
            assert_eq!(
                bed.wire.count(),
                round,
                "ended once, neither twice nor never"
            );
        }
    });
    let [completed, timed_out] = *won.lock().unwrap();
    assert_eq!(completed + timed_out, rounds);
    let counted = bed.queue.counters(0);
    assert_eq!(
        (counted.ended, counted.errors),
        (completed as u64, timed_out as u64)
    );
    bed.finish();
}
