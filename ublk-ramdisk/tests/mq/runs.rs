// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where and when a queue is run, held still, emptied: C21 to C29.

use super::common::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use ublk_ramdisk::mq::*;
use workqueue::CpuSet;

#[test]
fn c21_a_run_without_work_or_of_a_quiesced_queue_does_nothing() {
    let mut bed = Bed::new(1, 8);
    bed.queue.run_hw_queue(0, false);
    bed.queue.run_hw_queue(0, true);
    bed.queue.quiesce();
    bed.insert(0, write(0));
    bed.queue.run_hw_queue(0, false);
    bed.settle();
    let counted = bed.queue.counters(0);
    assert_eq!((counted.run_sync, counted.run_async), (0, 0));
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(bed.wire.count(), 1);
    bed.finish();
}

#[test]
fn c22_a_synchronous_run_on_a_foreign_cpu_goes_to_kblockd() {
    let set = TagSet {
        cpus: elsewhere(2),
        ..TagSet::new(2, 8)
    };
    let mut bed = Bed::with(set, Driver::new());
    bed.queue.stop_hw_queue(1);
    bed.insert(1, write(0));
    bed.queue.start_hw_queue(1);
    until("the run has come", || bed.wire.count() == 1);
    let counted = bed.queue.counters(1);
    assert_eq!((counted.run_sync, counted.run_async), (0, 1));
    bed.finish();
}

#[test]
fn c23_c27_queues_that_lose_their_cpus_are_emptied_and_run_elsewhere() {
    let set = TagSet {
        cpus: vec![CpuSet::single(0), CpuSet::single(1)],
        nr_ctxs: 2,
        ..TagSet::new(2, 8)
    };
    let mut bed = Bed::with(set, Driver::new());
    bed.queue.quiesce();
    bed.insert_by(1, 1, write(0));
    bed.insert_by(1, 0, write(1));
    bed.queue.set_online_cpus(CpuSet::single(0));
    assert!(bed.queue.snapshot(1).inactive && !bed.queue.snapshot(0).inactive);
    assert_eq!(
        (bed.dispatch(1), bed.queue.snapshot(1).ctx_map),
        (vec![1, 0], 0)
    );
    bed.queue.unquiesce();
    until("both have ended", || bed.wire.count() == 2);
    bed.queue.set_online_cpus(CpuSet::first(2));
    assert!(!bed.queue.snapshot(1).inactive);
    bed.finish();
}

#[test]
fn c24_a_stopped_queue_drops_runs_and_takes_insertions() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(RESOURCE);
    bed.insert(0, write(0));
    assert!(bed.queue.snapshot(0).run_pending);
    bed.queue.stop_hw_queue(0);
    assert!(
        !bed.queue.snapshot(0).run_pending,
        "stop cancels a pending run"
    );
    bed.driver.take_calls();
    bed.insert(0, write(1));
    bed.queue.run_hw_queue(0, true);
    bed.queue.delay_run_hw_queue(0, MS);
    assert!(!bed.queue.snapshot(0).run_pending);
    bed.queue.start_stopped_hw_queues(true);
    bed.settle();
    assert_eq!(bed.driver.take_calls().len(), 1);
    let before = bed.queue.counters(0);
    bed.queue.start_stopped_hw_queues(true);
    assert_eq!(bed.queue.counters(0), before, "nothing is stopped");
    bed.finish();
}

#[test]
fn c24_m05_a_driver_may_stop_the_queue_before_busy_and_start_it_at_the_end() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(Hold);
    bed.insert(0, write(0));
    let queue = bed.queue.handle();
    *bed.driver.hook.lock().unwrap() = Some(Box::new(move |_| queue.stop_hw_queue(0)));
    bed.driver.always(DEV_RESOURCE);
    bed.insert(0, write(1));
    bed.settle();
    assert_eq!(
        bed.driver.tags(),
        [0, 1],
        "stopped: the run that follows does not issue"
    );
    *bed.driver.hook.lock().unwrap() = None;
    bed.driver.always(OK);
    bed.complete(0);
    bed.queue.start_stopped_hw_queues(true);
    bed.settle();
    assert_eq!(bed.wire.tags(), [0, 1]);
    bed.finish();
}

#[test]
fn c25_quiesce_waits_for_queue_rq_nests_and_lets_completions_through() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(Hold);
    bed.insert(0, write(0));
    bed.driver.gate.shut();
    let quiesced = AtomicBool::new(false);
    let mut lane = bed.lanes[0].pop().unwrap();
    std::thread::scope(|scope| {
        let (wire, queue, quiesced) = (&bed.wire, &bed.queue, &quiesced);
        scope.spawn(move || lane.insert(&write(1), &mut at(wire, 0)));
        bed.driver.gate.wait_for(1);
        scope.spawn(move || {
            queue.quiesce();
            quiesced.store(true, Ordering::SeqCst);
        });
        until("quiescing has begun", || queue.snapshot(0).quiesced);
        assert!(!quiesced.load(Ordering::SeqCst));
        bed.driver.gate.open();
        until("quiesced", || quiesced.load(Ordering::SeqCst));
    });
    bed.complete(0);
    assert_eq!(bed.wire.tags(), [0], "completions go on");
    bed.queue.quiesce();
    let mut lane = bed.queue.submitter(0, 0).unwrap();
    lane.insert(&write(2), &mut at(&bed.wire, 0));
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(bed.driver.tags(), [0, 1]);
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(bed.driver.tags(), [0, 1, 2]);
    drop(lane);
    bed.finish();
}

#[test]
fn c26_w20_freeze_runs_what_is_parked_and_waits_for_every_end() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(RESOURCE);
    bed.insert_batch(0, &[write(0), write(1)]);
    bed.driver.always(Hold);
    let frozen = AtomicBool::new(false);
    let mut lane = bed.lanes[0].pop().unwrap();
    std::thread::scope(|scope| {
        let (queue, frozen) = (&bed.queue, &frozen);
        scope.spawn(move || {
            queue.freeze().unwrap();
            frozen.store(true, Ordering::SeqCst);
        });
        until("both are issued", || bed.queue.snapshot(0).busy == [0, 1]);
        assert!(!frozen.load(Ordering::SeqCst));
        let mut home = at(&bed.wire, 0);
        lane.insert(&write(2), &mut home);
        lane.insert_batch(&[write(3), write(4)], &mut home);
        assert_eq!(bed.queue.snapshot(0).usage, 2, "arrivals wait outside");
        bed.complete(0);
        bed.complete(1);
        until("frozen", || frozen.load(Ordering::SeqCst));
    });
    bed.queue.freeze().unwrap();
    bed.queue.unfreeze();
    assert_eq!(bed.wire.count(), 2, "freezing nests");
    bed.driver.always(OK);
    bed.queue.unfreeze();
    until("those outside have come in", || bed.wire.count() == 5);
    assert_eq!(bed.wire.tags()[2..], [2, 3, 4]);
    bed.finish();
}

/// What waits inside for an end is run by it, whoever came to the closed door meanwhile (C16, C30).
#[test]
fn c26_c30_an_arrival_at_a_frozen_queue_takes_no_end_from_what_is_parked() {
    let mut bed = Bed::new(1, 8);
    bed.driver.always(Hold);
    bed.insert(0, write(0));
    bed.driver.always(DEV_RESOURCE);
    bed.insert(0, write(1));
    bed.settle();
    let before = bed.driver.tags().len();
    let mut lane = bed.lanes[0].pop().unwrap();
    std::thread::scope(|scope| {
        let queue = &bed.queue;
        scope.spawn(move || queue.freeze().unwrap());
        until("the freeze has run the queue", || {
            let now = queue.snapshot(0);
            bed.driver.tags().len() > before && now.restart && now.dispatch == [1]
        });
        lane.insert(&write(2), &mut at(&bed.wire, 0));
        bed.driver.always(OK);
        bed.complete(0);
        until("both have ended", || bed.wire.count() == 2);
    });
    bed.queue.unfreeze();
    until("the other has come in", || bed.wire.count() == 3);
    bed.finish();
}

#[test]
fn c26_a_freeze_that_could_not_end_is_refused() {
    let mut bed = Bed::new(2, 8);
    bed.queue.stop_hw_queue(1);
    bed.insert(1, write(0));
    assert_eq!(bed.queue.freeze(), Err(WouldDeadlock { hctx: 1 }));
    bed.insert(0, write(0));
    assert_eq!(bed.wire.count(), 1, "and nothing is frozen");
    bed.queue.start_hw_queue(1);
    bed.queue.quiesce();
    bed.insert(0, write(1));
    assert_eq!(bed.queue.freeze(), Err(WouldDeadlock { hctx: 0 }));
    bed.queue.unquiesce();
    bed.settle();
    bed.queue.freeze().unwrap();
    bed.queue.unfreeze();
    bed.finish();
}

#[test]
fn c27_a_drained_ctx_leaves_its_requests_in_order_on_the_dispatch_list() {
    let set = TagSet {
        nr_ctxs: 2,
        ..TagSet::new(1, 8)
    };
    let mut bed = Bed::with(set, Driver::new());
    bed.queue.stop_hw_queue(0);
    for (ctx, tag) in [(0, 0), (1, 1), (1, 2)] {
        bed.insert_by(0, ctx, write(tag));
    }
    bed.insert_passthrough(0, write(3), false);
    bed.queue.drain_ctx(0, 1);
    assert_eq!(bed.dispatch(0), [3, 1, 2]);
    assert_eq!(bed.queue.snapshot(0).ctx_lens, [1, 0]);
    bed.finish();
}

fn requeue(kick: bool, prepared: bool) -> Reply {
    let kick = kick.then_some(Duration::ZERO);
    Reply::Again(Requeue { kick, prepared })
}

#[test]
fn c28_a_requeued_request_waits_for_a_kick_for_ever() {
    let mut bed = Bed::new(1, 8);
    bed.driver.reply(&[requeue(false, false)]);
    bed.insert(0, write(0));
    bed.queue.run_hw_queue(0, true);
    bed.clock.advance(10 * HOUR);
    bed.settle();
    assert_eq!((bed.wire.count(), bed.queue.snapshot(0).usage), (0, 1));
    bed.queue.delay_kick_requeue_list(5 * MS);
    bed.clock.advance(4 * MS);
    bed.settle();
    assert_eq!(bed.wire.count(), 0);
    bed.advance(MS, || bed.wire.count() == 1);
    assert_eq!(bed.queue.counters(0).requeued, 1);
    bed.finish();
}

#[test]
fn c28_w09_a_kick_now_pulls_a_later_one_in() {
    let mut bed = Bed::new(1, 8);
    bed.driver.reply(&[requeue(false, false)]);
    bed.insert(0, write(0));
    bed.queue.delay_kick_requeue_list(HOUR);
    bed.queue.kick_requeue_list();
    until("the kick has come", || bed.wire.count() == 1);
    // And so does a run.
    bed.driver.always(RESOURCE);
    bed.insert(0, write(1));
    bed.driver.always(OK);
    assert!(bed.queue.snapshot(0).run_pending);
    bed.queue.run_hw_queue(0, true);
    until("the run has come", || bed.wire.count() == 2);
    bed.finish();
}

#[test]
fn w08_a_kick_while_requeue_work_runs_has_it_run_again() {
    let mut bed = Bed::in_turns(1, 8);
    bed.driver.reply(&[requeue(false, false); 3]);
    bed.insert(0, write(0));
    bed.insert(0, write(1));
    // requeue_work is inside the driver with the first of its list, which is requeued once more.
    let (queue, mut kicks) = (bed.queue.handle(), 1);
    *bed.driver.hook.lock().unwrap() = Some(Box::new(move |_| {
        for _ in 0..std::mem::take(&mut kicks) {
            queue.kick_requeue_list();
        }
    }));
    bed.queue.kick_requeue_list();
    bed.settle();
    assert_eq!(bed.queue.counters(0).requeued, 3);
    assert_eq!(bed.wire.count(), 2, "the kick is not lost");
    bed.finish();
}

#[test]
fn c29_prepared_ones_go_to_the_tail_others_come_out_reversed_and_flushes_first() {
    let mut bed = Bed::new(1, 16);
    let plain = requeue(false, false);
    bed.driver.reply(&[
        plain,
        plain,
        requeue(false, true),
        requeue(false, true),
        plain,
    ]);
    for request in [
        write(0),
        write(1),
        write(2),
        write(3),
        request(4, Op::Flush),
    ] {
        bed.insert(0, request);
    }
    bed.queue.stop_hw_queue(0);
    bed.insert_passthrough(0, write(5), false);
    bed.queue.kick_requeue_list();
    bed.settle();
    assert_eq!(bed.dispatch(0), [4, 5, 2, 3]);
    bed.driver.take_calls();
    bed.queue.start_hw_queue(0);
    assert_eq!(bed.driver.tags(), [4, 5, 2, 3, 1, 0]);
    bed.finish();
}

#[test]
fn w17_run_all_leaves_a_pending_run_its_time() {
    let mut bed = Bed::with(TagSet::new(2, 8), Driver::new());
    bed.driver.always(RESOURCE);
    bed.insert(0, read(0));
    bed.clock.advance(2 * MS);
    bed.queue.delay_run_hw_queues(3 * MS);
    bed.driver.always(OK);
    bed.advance(MS, || bed.wire.count() == 1);
    bed.finish();
}

#[test]
fn w18_d05_a_longer_delay_postpones_a_queued_run_and_it_is_not_lost() {
    let mut bed = Bed::with(TagSet::new(1, 8), Driver::new());
    bed.driver.always(RESOURCE);
    bed.insert(0, read(0));
    bed.driver.always(OK);
    bed.clock.advance(2 * MS);
    bed.queue.delay_run_hw_queue(0, 3 * MS);
    bed.clock.advance(MS);
    bed.settle();
    assert_eq!(bed.wire.count(), 0);
    bed.advance(2 * MS, || bed.wire.count() == 1);
    bed.finish();
}
