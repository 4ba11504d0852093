// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that overstay: C35 to C39.

use super::common::*;
use std::sync::atomic::Ordering;
use std::time::Duration;
use ublk_ramdisk::mq::*;

const SECOND: Duration = Duration::from_secs(1);

fn timeouts(bed: &Bed) -> u64 {
    bed.queue.counters(0).timeouts
}

/// Moves the clock on in small steps; the workers catch up after each.
fn walk(bed: &Bed, time: Duration) {
    let step = 50 * MS;
    for _ in 0..time.as_millis() / step.as_millis() {
        bed.clock.advance(step);
        bed.settle();
    }
}

/// As [`walk`], for times in which nothing may happen.
fn leap(bed: &Bed, time: Duration) {
    bed.clock.advance(time);
    bed.settle();
}

/// Does this while a request with tag 0 is in queue_rq.
fn in_queue_rq(bed: &mut Bed, meanwhile: impl FnOnce(&Bed)) {
    bed.driver.gate.shut();
    let mut lane = bed.lanes[0].pop().unwrap();
    std::thread::scope(|scope| {
        let wire = &bed.wire;
        scope.spawn(move || lane.insert(&write(0), &mut at(wire, 0)));
        bed.driver.gate.wait_for(1);
        meanwhile(bed);
        bed.driver.gate.open();
    });
    bed.settle();
}

#[test]
fn c35_c36_the_handler_is_called_within_two_seconds_after_the_deadline() {
    let mut bed = Bed::in_turns(1, 8);
    leap(&bed, 250 * MS);
    bed.driver.always(Hold);
    bed.insert(0, write(0));
    leap(&bed, Duration::from_millis(29_999));
    assert_eq!(timeouts(&bed), 0, "never early");
    leap(&bed, 2 * SECOND);
    assert_eq!(timeouts(&bed), 1);
    bed.finish();
}

#[test]
fn c35_time_in_which_the_process_does_not_run_is_no_part_of_a_timeout() {
    let mut bed = Bed::in_turns(1, 8);
    bed.driver.always(Hold);
    bed.insert(0, write(0));
    for _ in 0..3 {
        leap(&bed, 7 * SECOND);
        bed.clock.advance_stopped(3600 * SECOND);
        bed.settle();
    }
    leap(&bed, 8 * SECOND);
    assert_eq!(timeouts(&bed), 0, "29 s have counted");
    leap(&bed, 3 * SECOND);
    assert_eq!(timeouts(&bed), 1);
    // A later request begins where the clock stands.
    bed.complete(0);
    bed.insert(0, write(1));
    leap(&bed, 29 * SECOND);
    assert_eq!(timeouts(&bed), 1);
    leap(&bed, 4 * SECOND);
    assert_eq!(timeouts(&bed), 2);
    bed.finish();
}

#[test]
fn c35_a_busy_request_does_not_time_out() {
    let mut bed = Bed::in_turns(1, 8);
    bed.driver.always(RESOURCE);
    bed.insert(0, write(0));
    leap(&bed, 100 * SECOND);
    walk(&bed, 2 * SECOND);
    assert_eq!(timeouts(&bed), 0);
    // Its time begins when it is in flight.
    bed.driver.always(Hold);
    bed.queue.run_hw_queue(0, false);
    leap(&bed, 29 * SECOND);
    assert_eq!(timeouts(&bed), 0);
    until("the handler is called", || {
        leap(&bed, 100 * MS);
        timeouts(&bed) == 1
    });
    bed.finish();
}

#[test]
fn c37_reset_timer_gives_a_full_period_and_each_expiry_calls_once() {
    let mut bed = Bed::in_turns(1, 8);
    bed.driver.always(Hold);
    bed.insert(0, write(0));
    for expiry in 1..=3 {
        until("the handler is called", || {
            leap(&bed, 100 * MS);
            timeouts(&bed) == expiry
        });
        leap(&bed, 28 * SECOND);
        assert_eq!(timeouts(&bed), expiry, "a full period, and once");
    }
    bed.finish();
}

#[test]
fn c37_done_leaves_the_request_to_the_driver() {
    let mut bed = Bed::in_turns(1, 8);
    bed.driver.always(Hold);
    *bed.driver.on_timeout.lock().unwrap() = Some(Box::new(|_, _| TimeoutAnswer::Done));
    bed.insert(0, write(0));
    until("the handler is called", || {
        leap(&bed, SECOND);
        timeouts(&bed) == 1
    });
    for _ in 0..5 {
        leap(&bed, 31 * SECOND);
    }
    assert_eq!((timeouts(&bed), bed.wire.count()), (1, 0));
    bed.complete(0);
    assert_eq!(bed.wire.count(), 1);
    bed.finish();
}

#[test]
fn c37_e16_a_request_the_driver_has_dropped_ends_with_timeout() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(Hold);
    *bed.driver.on_timeout.lock().unwrap() = Some(Box::new(|_, expired| {
        assert!(expired.complete(Status::Timeout));
        TimeoutAnswer::Done
    }));
    bed.insert(0, write(0));
    let _dropped = bed.driver.take_held(0);
    until("it has ended", || {
        bed.clock.advance(SECOND);
        bed.wire.count() == 1
    });
    assert_eq!(bed.wire.ends.lock().unwrap()[0], (0, 0, -libc::ETIMEDOUT));
    assert_eq!(bed.driver.take_calls().last(), Some(&Call::Complete(0)));
    bed.settle();
    bed.finish();
}

#[test]
fn c37_the_handler_is_called_when_no_queue_rq_is_going_on() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(Hold);
    bed.insert(0, write(1));
    bed.driver.always(OK);
    in_queue_rq(&mut bed, |bed| {
        // The other one expires meanwhile.
        until("timeout_work waits for queue_rq", || {
            bed.clock.advance(SECOND);
            bed.queue.snapshot(0).quiesced
        });
        assert_eq!(timeouts(bed), 0);
    });
    until("the handler is called", || timeouts(&bed) == 1);
    bed.settle();
    assert_eq!(bed.wire.count(), 1, "what was in queue_rq has ended");
    bed.complete(1);
    bed.finish();
}

/// The front end keeps it: that is no less in flight.
#[test]
fn c35_a_request_that_the_front_end_keeps_times_out() {
    let mut bed = Bed::in_turns(1, 8);
    bed.driver.always(Transfer);
    bed.wire.keep.store(true, Ordering::SeqCst);
    bed.insert(0, write(0));
    leap(&bed, 29 * SECOND);
    assert_eq!(timeouts(&bed), 0);
    leap(&bed, 3 * SECOND);
    assert_eq!(timeouts(&bed), 1);
    let (_, token) = bed.wire.kept.lock().unwrap().pop().unwrap();
    assert!(bed.queue.complete_remote(token, Ok(4096)));
    bed.finish();
}

/// The driver has put it off: it is accepted, so its clock runs.
#[test]
fn c35_a_request_that_the_driver_puts_off_times_out() {
    let mut bed = Bed::in_turns(1, 8);
    bed.driver.always(Defer);
    bed.insert(0, write(0));
    leap(&bed, 29 * SECOND);
    assert_eq!(timeouts(&bed), 0);
    leap(&bed, 3 * SECOND);
    assert_eq!(timeouts(&bed), 1);
    let deferred = bed.driver.put_off.lock().unwrap().pop().unwrap();
    bed.queue.proceed(deferred);
    bed.finish();
}

/// However long a driver takes in queue_rq, a request is not late before somebody keeps it; from
/// then on it has a full period.
#[test]
fn c35_the_time_of_a_request_begins_when_it_is_kept() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(Hold);
    in_queue_rq(&mut bed, |bed| {
        leap(bed, 100 * SECOND);
        assert!(!bed.queue.snapshot(0).quiesced, "nobody waits for queue_rq");
    });
    leap(&bed, 29 * SECOND);
    assert_eq!(timeouts(&bed), 0, "a full period from then on");
    until("the handler is called", || {
        leap(&bed, 100 * MS);
        timeouts(&bed) == 1
    });
    bed.complete(0);
    bed.finish();
}

/// The longest time there is is no time at all.
#[test]
fn c35_an_endless_timeout_never_ends() {
    let set = TagSet {
        timeout: Duration::MAX,
        ..TagSet::new(1, 8)
    };
    let mut bed = Bed::in_turns_with(set);
    leap(&bed, 250 * MS);
    bed.driver.always(Hold);
    bed.insert(0, write(0));
    for _ in 0..3 {
        leap(&bed, 1_000_000 * SECOND);
        assert_eq!(timeouts(&bed), 0);
    }
    assert!(bed.queue.abort(0, 0), "it can still be asked for");
    bed.settle();
    assert_eq!(timeouts(&bed), 1);
    bed.finish();
}

#[test]
fn c39_abort_calls_the_handler_at_once() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(Hold);
    bed.insert(0, write(0));
    bed.insert(0, write(1));
    assert!(bed.queue.abort(0, 1) && !bed.queue.abort(0, 2));
    bed.settle();
    assert_eq!(bed.driver.take_calls().last(), Some(&Call::Timeout(1)));
    assert_eq!((timeouts(&bed), bed.clock.now()), (1, Duration::ZERO));
    bed.finish();
}
