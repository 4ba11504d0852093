// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections 5.24 and 5.26: runs that use the CPU for too long while nothing waits behind them.

mod common;
use common::*;
use std::sync::Arc;
use std::time::Duration;
use workqueue::*;

/// Uses the CPU for long enough that the coarse clock moves on by several ticks on any kernel.
fn burn() {
    let begun = cpu_time();
    while cpu_time() - begun < Duration::from_millis(30) {
        std::hint::spin_loop();
    }
}

/// Does not sample, so that only the ends of runs tell.
fn unsampled() -> RuntimeBuilder {
    quiet()
        .topology(machine(1, 1))
        .cpu_intensive_thresh(Duration::from_millis(5))
}

fn run(q: &Queue, item: &Arc<Call>) {
    q.enqueue(item.clone()).unwrap();
    item.work.flush().unwrap();
}

#[test]
fn s05_24_a_cpu_intensive_run_is_counted_though_nothing_waits() {
    let rt = unsampled().start().unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let long = Call::new(|_| burn());
    // A page that must be read from a disk is a sleep too, so not every run counts for sure.
    until("a run is counted", || {
        run(&q, &long);
        q.stats().cpu_intensive >= 1
    });
    let stats = q.stats();
    assert!(stats.cpu_intensive <= long.runs() as u64, "once per run");
    assert!(stats.cpu_time >= Duration::from_millis(30));
}

#[test]
fn s05_24_a_run_that_sleeps_in_between_is_not_cpu_intensive() {
    let rt = unsampled().start().unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    for declared in [true, false] {
        let naps = Call::new(move |_| {
            burn();
            let nap = || std::thread::sleep(Duration::from_millis(1));
            if declared {
                blocking(nap);
            } else {
                nap();
            }
        });
        (0..3).for_each(|_| run(&q, &naps));
    }
    assert_eq!(q.stats().cpu_intensive, 0);
}

#[test]
fn s05_24_a_run_that_holds_back_no_item_is_not_counted() {
    let rt = unsampled().start().unwrap();
    for flags in [PERCPU | Flags::CPU_INTENSIVE, UNBOUND, Flags::BH] {
        let q = rt.queue("q").flags(flags).build().unwrap();
        let long = Call::new(|_| burn());
        (0..3).for_each(|_| run(&q, &long));
        assert_eq!(q.stats().cpu_intensive, 0, "{flags:?}");
    }
}

#[test]
fn s05_26_without_accounting_no_time_is_measured_and_no_cpu_intensive_run_found() {
    let rt = unsampled().cpu_accounting(false).start().unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let long = Call::new(|_| burn());
    (0..3).for_each(|_| run(&q, &long));
    let stats = q.stats();
    assert_eq!((stats.cpu_time, stats.cpu_intensive), (Duration::ZERO, 0));
    assert_eq!(stats.completed, 3);
}

#[test]
fn s05_13_without_a_threshold_no_run_is_cpu_intensive() {
    let rt = unsampled()
        .cpu_intensive_thresh(Duration::ZERO)
        .start()
        .unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let long = Call::new(|_| burn());
    (0..3).for_each(|_| run(&q, &long));
    assert_eq!(q.stats().cpu_intensive, 0);
}

#[test]
fn s05_13_a_new_threshold_applies_at_once() {
    let rt = unsampled().start().unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    rt.set_cpu_intensive_thresh(Duration::from_secs(3600));
    let (rt, counted) = (Arc::new(rt), Log::new());
    let (setter, log, own) = (rt.clone(), counted.clone(), q.handle());
    // Each run sets the threshold that it is judged by itself.
    let long = Call::new(move |item| {
        log.add(own.stats().cpu_intensive);
        burn();
        let far = item.runs() <= 3;
        let thresh = Duration::from_millis(if far { 3_600_000 } else { 5 });
        setter.set_cpu_intensive_thresh(thresh);
    });
    (0..3).for_each(|_| run(&q, &long));
    until("a run is counted", || {
        run(&q, &long);
        q.stats().cpu_intensive >= 1
    });
    assert_eq!(counted.all()[..4], [0; 4]);
    drop(long);
    drop(q);
    Arc::into_inner(rt).unwrap().shutdown().unwrap();
}
