// SPDX-License-Identifier: MIT OR Apache-2.0
//! Insertion, running and dispatching: C1 to C20; what budgets have to do with it is in `budget`.

use super::common::*;
use std::time::Duration;
use ublk_ramdisk::mq::*;

#[test]
fn c01_a_lone_request_on_a_quiet_queue_is_issued_at_once() {
    let mut bed = Bed::new(1, 8);
    for tag in 0..3 {
        bed.insert(
            0,
            [read(0), write(1), request(2, Op::Flush)][usize::from(tag)],
        );
        assert_eq!(bed.driver.take_calls(), [q(tag, true)]);
    }
    assert_eq!(
        *bed.wire.ends.lock().unwrap(),
        [(0, 0, 4096), (0, 1, 4096), (0, 2, 0)]
    );
    assert_eq!(bed.queue.counters(0).queued, 0);
    bed.finish();
}

#[test]
fn c01_a_lone_request_is_listed_while_stopped_or_quiesced() {
    let mut bed = Bed::new(2, 8);
    bed.queue.stop_hw_queue(0);
    bed.insert(0, read(0));
    bed.queue.quiesce();
    bed.insert(1, read(0));
    bed.settle();
    assert!(bed.driver.take_calls().is_empty());
    assert_eq!(bed.queue.snapshot(0).ctx_lens, [1]);
    bed.queue.unquiesce();
    bed.queue.start_hw_queue(0);
    until("both have ended", || bed.wire.count() == 2);
    bed.finish();
}

#[test]
fn c01_on_a_busy_queue_a_lone_request_waits_if_it_is_the_only_queue_or_async() {
    let fua = write(3).with_fua(true);
    let cases = [
        (1, read(1), 1),
        (1, write(1), 1),
        (1, fua, 1),
        (2, read(1), 0),
        (2, request(1, Op::Flush), 0),
        (2, fua, 0),
        (2, write(1), 1),
    ];
    for (queues, request, expected) in cases {
        let mut bed = Bed::new(queues, 8);
        bed.driver.always(RESOURCE);
        bed.insert(0, write(0));
        assert!(bed.queue.snapshot(0).dispatch_busy > 0);
        let before = bed.queue.counters(0).queued;
        bed.driver.always(Hold);
        bed.insert(0, request);
        let listed = bed.queue.counters(0).queued - before;
        assert_eq!(listed, expected, "{queues} queues, {request:?}");
        bed.settle();
        bed.finish();
    }
}

#[test]
fn c02_a_refused_lone_request_is_tried_once_more_and_then_timed() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(RESOURCE);
    bed.insert(0, read(0));
    bed.settle();
    assert_eq!(bed.driver.take_calls(), [q(0, true), q(0, true)]);
    let (now, counted) = (bed.queue.snapshot(0), bed.queue.counters(0));
    assert_eq!(
        (now.dispatch.as_slice(), now.restart, now.run_pending),
        (&[0][..], true, true)
    );
    assert_eq!(
        (counted.run_sync, counted.run_async, counted.run_delayed),
        (1, 0, 1)
    );
    bed.driver.always(OK);
    bed.advance(HOUR, || bed.wire.count() == 1);
    bed.finish();
}

#[test]
fn c03_a_batch_is_issued_in_order_and_only_its_final_member_is_last() {
    let mut bed = Bed::new(1, 8);
    bed.driver.reply(&[RESOURCE, RESOURCE]);
    bed.insert(0, read(7));
    assert!(
        bed.queue.snapshot(0).dispatch_busy > 0,
        "and the queue is busy"
    );
    bed.driver.take_calls();
    bed.insert_batch(0, &[write(2), read(0), write(1)]);
    // Their ends then run the queue, on another thread.
    let calls = bed.driver.take_calls();
    assert_eq!(calls[..3], [q(2, false), q(0, false), q(1, true)]);
    assert_eq!(bed.wire.tags()[..3], [2, 0, 1]);
    bed.finish();
}

#[test]
fn c03_after_busy_the_refused_one_goes_to_dispatch_and_the_rest_to_the_ctx() {
    let mut bed = Bed::new(1, 8);
    bed.driver.reply(&[OK]);
    *bed.driver.otherwise.lock().unwrap() = RESOURCE;
    bed.insert_batch(
        0,
        &[
            write(0),
            write(1),
            write(2),
            request(3, Op::Flush),
            write(4),
        ],
    );
    bed.settle();
    let calls = bed.driver.take_calls();
    assert_eq!(calls[..3], [q(0, false), q(1, false), Call::CommitRqs(0)]);
    // The run that follows takes the dispatch list: the flush stands in front (C4).
    assert_eq!(calls[3..], [q(3, false)]);
    assert_eq!(bed.dispatch(0), [3, 1]);
    assert_eq!(bed.queue.snapshot(0).ctx_lens, [2]);
    bed.driver.take_calls();
    bed.driver.always(OK);
    bed.queue.run_hw_queue(0, false);
    assert_eq!(bed.driver.tags(), [3, 1, 2, 4]);
    bed.finish();
}

#[test]
fn c03_a_batch_is_listed_while_stopped_or_quiesced() {
    let mut bed = Bed::new(1, 8);
    bed.queue.stop_hw_queue(0);
    bed.insert_batch(0, &[write(0), write(1)]);
    bed.settle();
    assert!(bed.driver.take_calls().is_empty());
    bed.queue.start_hw_queue(0);
    assert_eq!(bed.driver.tags(), [0, 1]);
    bed.finish();
}

#[test]
fn c04_flush_goes_to_the_head_and_passthrough_to_the_tail_or_the_head() {
    let mut bed = Bed::new(1, 8);
    bed.queue.stop_hw_queue(0);
    bed.insert(0, write(0));
    bed.insert(0, write(1));
    bed.insert(0, request(2, Op::Flush));
    bed.insert_passthrough(0, write(3), false);
    bed.insert_passthrough(0, write(4), true);
    assert_eq!(bed.dispatch(0), [4, 2, 3]);
    assert_eq!(bed.queue.snapshot(0).ctx_lens, [2]);
    bed.queue.start_hw_queue(0);
    assert_eq!(bed.driver.tags(), [4, 2, 3, 0, 1]);
    bed.finish();
}

#[test]
fn c04_passthrough_overtakes_what_is_stuck_busy() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(RESOURCE);
    bed.insert_batch(0, &[write(0), write(1)]);
    bed.driver.reply(&[OK]);
    bed.insert_passthrough(0, write(5), true);
    assert_eq!(bed.wire.tags(), [5]);
    bed.finish();
}

#[test]
fn c05_while_something_is_left_over_no_ctx_is_touched() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(RESOURCE);
    bed.insert_batch(0, &[write(0), write(1), write(2)]);
    bed.settle();
    bed.driver.take_calls();
    for _ in 0..3 {
        bed.queue.run_hw_queue(0, false);
        assert_eq!(bed.driver.take_calls(), [q(0, true)]);
        assert_eq!(bed.queue.snapshot(0).ctx_lens, [2]);
    }
    assert!(bed.queue.snapshot(0).restart);
    bed.finish();
}

#[test]
fn c06_after_the_dispatch_list_ctxs_are_served_in_turn_one_by_one() {
    let set = TagSet {
        nr_ctxs: 3,
        rerun_delay: HOUR,
        ..TagSet::new(1, 16)
    };
    let mut bed = Bed::with(set, Driver::new());
    bed.driver.always(RESOURCE);
    bed.insert(0, write(15));
    bed.queue.quiesce();
    for (ctx, tag) in [(0, 0), (0, 1), (1, 2), (2, 3), (2, 4)] {
        bed.insert_by(0, ctx, write(tag));
    }
    bed.driver.take_calls();
    bed.driver.always(OK);
    bed.driver.reply(&[OK, OK, OK, RESOURCE, RESOURCE]);
    bed.queue.unquiesce();
    bed.settle();
    let tried = [15, 0, 2, 3, 3].map(|tag| q(tag, true));
    assert_eq!(bed.driver.take_calls()[..4], tried[..4]);
    bed.driver.always(OK);
    bed.queue.run_hw_queue(0, false);
    // The turn is remembered: after ctx 2 comes ctx 0.
    let tags = bed.driver.tags();
    assert_eq!(tags[tags.len() - 3..], [3, 1, 4]);
    bed.finish();
}

#[test]
fn c06_with_an_empty_dispatch_list_a_queue_that_was_busy_lately_serves_one_by_one() {
    let mut bed = Bed::new(1, 8);
    bed.driver.reply(&[RESOURCE, RESOURCE]);
    bed.insert(0, write(7));
    bed.queue.run_hw_queue(0, false);
    let now = bed.queue.snapshot(0);
    assert!(now.dispatch.is_empty() && now.dispatch_busy > 0, "{now:?}");
    quiesced_more(&mut bed, &[0, 1, 2]);
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(bed.driver.take_calls(), [0, 1, 2].map(|tag| q(tag, true)));
    bed.finish();
}

/// A run counts as having dispatched what the driver has accepted, from wherever it came.
#[test]
fn k02_a_run_counts_what_it_has_dispatched_from_the_list_and_from_the_ctxs() {
    let mut bed = Bed::in_turns(1, 32);
    // Runs by how many requests they have dispatched: none, one, two or three, four to seven, ...
    let runs = |bed: &Bed| bed.queue.counters(0).dispatched;
    let none = runs(&bed);
    quiesced(&mut bed, &[0, 1, 2, 3]);
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(runs(&bed)[3], none[3] + 1, "four from the software queue");
    bed.queue.quiesce();
    for tag in 8..16 {
        bed.insert_passthrough(0, write(tag), false);
    }
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(runs(&bed)[4], none[4] + 1, "eight from the dispatch list");
    bed.finish();
}

#[test]
fn c07_on_a_quiet_queue_all_ctxs_go_at_once_in_ctx_order() {
    let set = TagSet {
        nr_ctxs: 3,
        ..TagSet::new(1, 8)
    };
    let mut bed = Bed::with(set, Driver::new());
    bed.queue.quiesce();
    for (ctx, tag) in [(2, 0), (1, 1), (0, 2), (1, 3)] {
        bed.insert_by(0, ctx, write(tag));
    }
    bed.queue.unquiesce();
    bed.settle();
    let expected = [q(2, false), q(1, false), q(3, false), q(0, true)];
    assert_eq!(bed.driver.take_calls(), expected);
    bed.finish();
}

#[test]
fn c08_w11_a_flush_waits_for_one_request_in_hand_only() {
    let set = TagSet {
        nr_ctxs: 2,
        rerun_delay: HOUR,
        ..TagSet::new(1, 8)
    };
    let mut bed = Bed::with(set, Driver::new());
    bed.driver.always(RESOURCE);
    bed.insert(0, write(0));
    quiesced_more(&mut bed, &[1, 2, 3]);
    let mut lane = bed.lanes[0].pop().unwrap();
    let wire = bed.wire.clone();
    *bed.driver.hook.lock().unwrap() = Some(Box::new(move |tag| {
        if tag == 1 {
            lane.insert(&request(7, Op::Flush), &mut at(&wire, 0));
        }
    }));
    bed.driver.always(OK);
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(bed.driver.tags(), [0, 1, 7, 2, 3]);
    *bed.driver.hook.lock().unwrap() = None;
    bed.finish();
}

#[test]
fn c09_queue_rq_may_run_twice_at_once_for_one_hctx() {
    let set = TagSet {
        nr_ctxs: 2,
        ..TagSet::new(1, 8)
    };
    let mut bed = Bed::with(set, Driver::new());
    bed.driver.gate.shut();
    let lanes: Vec<_> = bed.lanes[0].drain(..).collect();
    std::thread::scope(|scope| {
        for (mut lane, tag) in lanes.into_iter().zip(0..) {
            let wire = &bed.wire;
            scope.spawn(move || lane.insert(&read(tag), &mut at(wire, 0)));
        }
        bed.driver.gate.wait_for(2);
        bed.driver.gate.open();
    });
    assert_eq!(bed.wire.count(), 2);
    bed.finish();
}

#[test]
fn c10_c11_the_refused_one_is_first_again_and_order_is_kept() {
    let mut bed = Bed::new(1, 8);
    quiesced(&mut bed, &[0, 1, 2, 3]);
    bed.driver.always(RESOURCE);
    bed.driver.reply(&[OK]);
    bed.queue.unquiesce();
    bed.settle();
    let calls = bed.driver.take_calls();
    assert_eq!(calls[..3], [q(0, false), q(1, false), Call::CommitRqs(0)]);
    assert_eq!(calls[3..], [q(1, false)], "the immediate re-run of C16");
    assert_eq!(bed.dispatch(0), [1, 2, 3]);
    bed.driver.always(OK);
    bed.queue.run_hw_queue(0, false);
    assert_eq!(
        bed.driver.take_calls(),
        [q(1, false), q(2, false), q(3, true)]
    );
    bed.finish();
}

#[test]
fn c13_an_error_ends_that_request_alone() {
    let mut bed = Bed::new(1, 8);
    bed.driver.reply(&[OK, Error(Status::Medium), OK]);
    bed.insert_batch(0, &[write(0), write(1), write(2)]);
    assert_eq!(
        bed.driver.take_calls(),
        [q(0, false), q(1, false), q(2, true)]
    );
    let expected = [(0, 0, 4096), (0, 1, -libc::ENODATA), (0, 2, 4096)];
    assert_eq!(*bed.wire.ends.lock().unwrap(), expected);
    bed.finish();
}

#[test]
fn c14_c20_a_list_or_a_direct_issue_counts_once_and_errors_are_not_busy() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(RESOURCE);
    bed.insert(0, write(0));
    assert_eq!(
        bed.queue.snapshot(0).dispatch_busy,
        3,
        "the direct issue and the run"
    );
    bed.driver.always(OK);
    bed.queue.run_hw_queue(0, false);
    assert_eq!(bed.queue.snapshot(0).dispatch_busy, 2);
    bed.driver
        .reply(&[Error(Status::IoErr), Error(Status::IoErr)]);
    bed.insert_batch(0, &[write(1), write(2)]);
    assert_eq!(bed.queue.snapshot(0).dispatch_busy, 1, "one list");
    bed.finish();
}

#[test]
fn c15_commit_rqs_tells_the_driver_that_no_last_request_will_come() {
    let cases: [(&[Reply], bool); 6] = [
        (&[OK, OK, OK], false),
        (&[OK, OK, RESOURCE], true),
        (&[RESOURCE], false),
        (&[OK, OK, Error(Status::IoErr)], true),
        (&[Error(Status::IoErr), Error(Status::IoErr), OK], false),
        (&[Error(Status::IoErr); 3], false),
    ];
    for (replies, expected) in cases {
        let mut bed = Bed::new(1, 8);
        bed.driver.reply(replies);
        bed.insert_batch(0, &[write(0), write(1), write(2)]);
        let calls = bed.driver.take_calls();
        let first_list = &calls[..calls.len().min(replies.len() + 1)];
        assert_eq!(
            first_list.contains(&Call::CommitRqs(0)),
            expected,
            "{replies:?}"
        );
        bed.finish();
    }
}

#[test]
fn c16_without_restart_leftovers_are_run_again_at_once() {
    let mut bed = Bed::new(1, 8);
    quiesced(&mut bed, &[0]);
    bed.driver.reply(&[RESOURCE]);
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(bed.driver.tags(), [0, 0]);
    assert_eq!(bed.queue.counters(0).run_delayed, 0);
    bed.finish();
}

#[test]
fn c17_after_dev_resource_the_mirror_adds_no_timer() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(Hold);
    bed.insert(0, write(0));
    bed.driver.always(DEV_RESOURCE);
    bed.insert(0, write(1));
    bed.settle();
    let counted = bed.queue.counters(0);
    assert_eq!((counted.run_delayed, counted.refused_dev_resource), (0, 2));
    assert!(!bed.queue.snapshot(0).run_pending);
    bed.driver.always(OK);
    bed.complete(0);
    bed.settle();
    assert_eq!(bed.wire.tags(), [0, 1], "the end ran the queue");
    bed.finish();
}

#[test]
fn c18_a_resource_only_device_is_tried_334_times_per_second() {
    let mut bed = Bed::with(TagSet::new(1, 8), Driver::new());
    quiesced(&mut bed, &[0]);
    bed.driver.always(RESOURCE);
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(
        bed.driver.tags().len(),
        2,
        "one at once, one run at once after it"
    );
    for step in 1..=333 {
        bed.clock.advance(2 * MS);
        bed.settle();
        assert_eq!(bed.driver.tags().len(), 1 + step, "not before 3 ms");
        bed.advance(MS, || bed.driver.tags().len() == 2 + step);
    }
    bed.driver.always(OK);
    bed.advance(3 * MS, || bed.wire.count() == 1);
    assert_eq!(bed.clock.now(), Duration::from_millis(1002));
    bed.finish();
}
