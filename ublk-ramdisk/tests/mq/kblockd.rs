// SPDX-License-Identifier: MIT OR Apache-2.0
//! kblockd: D1 to D9, as far as they are the mirror's and not the workqueue's.

use super::common::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use ublk_ramdisk::mq::*;
use workqueue::{Flags, Runtime, Topology, VirtualClock};

#[test]
fn d01_kblockd_has_the_flags_and_the_default_limit() {
    let bed = Bed::new(1, 1);
    let queue = bed.kblockd.queue();
    let flags = Flags::MEM_RECLAIM | Flags::HIGHPRI | Flags::PERCPU;
    assert_eq!((queue.name(), queue.flags()), ("kblockd", flags));
    assert_eq!(queue.max_active(), 1024);
    bed.finish();
}

#[test]
fn d02_a_lone_request_that_is_accepted_costs_kblockd_nothing() {
    let mut bed = Bed::new(1, 8);
    for _ in 0..100 {
        bed.insert(0, write(0));
        bed.insert_batch(0, &[read(1), read(2)]);
    }
    bed.settle();
    assert_eq!(bed.kblockd.queue().stats().started, 0);
    bed.finish();
}

#[test]
fn d03_a_run_queued_while_it_executes_is_executed_once_more() {
    let set = TagSet {
        cpus: elsewhere(1),
        ..TagSet::new(1, 8)
    };
    let mut bed = Bed::with(set, Driver::new());
    bed.queue.quiesce();
    bed.insert(0, write(0));
    bed.driver.gate.shut();
    bed.queue.unquiesce();
    bed.driver.gate.wait_for(1);
    bed.insert_passthrough(0, write(1), false);
    assert!(bed.queue.snapshot(0).run_pending);
    assert_eq!(bed.driver.tags(), [0], "never two executions at once");
    bed.driver.gate.open();
    until("both have ended", || bed.wire.count() == 2);
    bed.finish();
}

#[test]
fn d07_with_no_thread_to_be_had_64_busy_queues_all_resume() {
    let clock = VirtualClock::new();
    let fails = Arc::new(AtomicBool::new(false));
    let refuse = fails.clone();
    let rt = Runtime::builder()
        .sample_period(Duration::ZERO)
        .topology(Topology::simulated_nodes(2, 1))
        .virtual_clock(clock.clone())
        .threads_by(move |_| match refuse.load(Ordering::SeqCst) {
            true => Err(libc::EAGAIN),
            false => Ok(()),
        })
        .start()
        .unwrap();
    let mut bed = Bed::on(rt, clock, TagSet::new(64, 4), Driver::new());
    // The one worker there is wants another before it begins, and none can be made.
    fails.store(true, Ordering::SeqCst);
    bed.driver.always(RESOURCE);
    for hctx in 0..64 {
        bed.insert(hctx, write(0));
    }
    assert_eq!(bed.wire.count(), 0);
    bed.driver.reply(&[Again(Requeue::default())]);
    *bed.driver.otherwise.lock().unwrap() = OK;
    let all_but = |left: usize| {
        until("the rescuer has run them", || {
            bed.clock.advance(10 * MS);
            bed.wire.count() == 64 - left
        });
    };
    all_but(1);
    // The one that was requeued waits for the requeue list to move.
    bed.queue.kick_requeue_list();
    all_but(0);
    assert!(bed.kblockd.queue().stats().rescued > 0);
    fails.store(false, Ordering::SeqCst);
    // The pool waits on the same clock before it tries again to make a worker.
    let flushed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            bed.settle();
            flushed.store(true, Ordering::SeqCst);
        });
        until("the pool has a worker again", || {
            bed.clock.advance(100 * MS);
            flushed.load(Ordering::SeqCst)
        });
        bed.clock.advance(Duration::from_secs(10));
    });
    bed.finish();
}

#[test]
fn d09_removing_a_device_cancels_its_work_and_waits_for_it() {
    let mut bed = Bed::new(2, 8);
    bed.driver.always(RESOURCE);
    bed.insert(0, write(0));
    bed.queue.quiesce();
    bed.insert(1, write(0));
    bed.driver.gate.shut();
    bed.queue.unquiesce();
    bed.driver.gate.wait_for(1);
    let gone = AtomicBool::new(false);
    let Bed {
        queue,
        driver,
        clock,
        lanes,
        ..
    } = &mut bed;
    lanes.clear();
    let handle = queue.handle();
    let (other, wire) = (Bed::new(1, 1), Arc::new(Wire::default()));
    let spare = RequestQueue::new(TagSet::new(1, 1), driver.clone(), wire, &other.kblockd);
    let removed = std::mem::replace(queue, spare.unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(removed);
            gone.store(true, Ordering::SeqCst);
        });
        for _ in 0..100 {
            assert!(!gone.load(Ordering::SeqCst), "a run is going on");
            std::thread::yield_now();
        }
        driver.gate.open();
    });
    let calls = driver.take_calls().len();
    clock.advance(2 * HOUR);
    handle.run_hw_queues(true);
    handle.kick_requeue_list();
    bed.settle();
    assert_eq!(bed.driver.take_calls().len(), 0, "{calls} before");
    assert_eq!(bed.driver.inits.lock().unwrap()[..5], [1, 2, 1, -1, -2]);
    other.finish();
}
