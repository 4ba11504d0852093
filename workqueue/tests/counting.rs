// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 5a: whom a CPU's pool counts, whom it wakes, when it starts the next item.
//!
//! A wait at a gate stands for burning the CPU, unless it is declared or the test says otherwise.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;
use workqueue::*;

/// An item that notes the thread it runs on.
fn noting(log: &Log<ThreadId>) -> Arc<Call> {
    let l = log.clone();
    Call::new(move |_| l.add(std::thread::current().id()))
}

/// Puts an item in front that stands at a gate.
fn stands(q: &Queue) -> Arc<Gate> {
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    gate
}

/// Runs that sleep at once; the pool has one worker more, and all are idle.
fn raise_workers(rt: &Runtime, q: &Queue, n: usize) {
    let gate = Gate::new();
    for _ in 0..n {
        let g = gate.clone();
        q.enqueue(Call::new(move |_| blocking(|| g.pass())))
            .unwrap();
    }
    gate.wait_for(n);
    gate.open();
    q.flush().unwrap();
    until("all are idle", || {
        let pools = rt.snapshot().expect("it is online").pools;
        pools.iter().all(|pool| pool.idle == pool.workers)
    });
}

#[test]
fn s05_02_the_worker_that_became_idle_last_is_woken() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    raise_workers(&rt, &q, 4);
    let log = Log::new();
    for _ in 0..100 {
        let item = noting(&log);
        q.enqueue(item.clone()).unwrap();
        item.work.flush().unwrap();
    }
    // After the first round the same one has always been idle for the shortest time.
    let threads = log.all();
    assert!(threads[10..].iter().all(|t| *t == threads[10]));
}

#[test]
fn s05_02_s05_03_one_is_woken_for_many_items() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    raise_workers(&rt, &q, 4);
    let (log, gate, before) = (Log::new(), stands(&q), q.stats().cm_wakeup);
    for _ in 0..50 {
        q.enqueue(noting(&log)).unwrap();
    }
    gate.open();
    q.flush().unwrap();
    // No run slept, so one worker took all of them, one after the other.
    let threads = log.all();
    assert!(threads.len() == 50 && threads.iter().all(|t| *t == threads[0]));
    assert_eq!(q.stats().cm_wakeup, before);
}

#[test]
fn s05_05_a_run_that_wakes_up_goes_on_beside_the_other_and_no_third_begins() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (sleep, burn_a, burn_b) = (Gate::new(), Gate::new(), Gate::new());
    let (s, a, b) = (sleep.clone(), burn_a.clone(), burn_b.clone());
    q.enqueue(Call::new(move |_| {
        blocking(|| s.pass());
        a.pass();
    }))
    .unwrap();
    sleep.wait_for(1);
    let tids = Log::new();
    let t = tids.clone();
    let second = Call::new(move |_| {
        // SAFETY: takes no argument and writes nothing.
        t.add(unsafe { libc::gettid() });
        b.pass();
    });
    q.enqueue(second.clone()).unwrap();
    burn_b.wait_for(1);
    // The sleeper wakes up: it goes on though the other one runs.
    sleep.open();
    burn_a.wait_for(1);
    let third = Call::noop();
    q.enqueue(third.clone()).unwrap();
    burn_b.open();
    second.work.flush().unwrap();
    // One of the two has ended; the other one still holds the CPU, so that the worker of the first
    // lies down instead of taking the next.
    let is_idle = |tid| {
        let line = rt.dump_worker(tid).unwrap_or_default();
        line.contains(": idle for ")
    };
    until("its worker has gone on to something", || {
        is_idle(tids.all()[0]) || third.runs() > 0
    });
    assert!(rt.dump_queue(&q).contains("pending: call"));
    assert_eq!(third.runs(), 0);
    burn_a.open();
    q.flush().unwrap();
    assert_eq!(third.runs(), 1);
}

#[test]
fn s05_08_an_uncounted_run_that_sleeps_and_wakes_changes_nothing() {
    let rt = runtime(1);
    let aside = PERCPU | Flags::CPU_INTENSIVE;
    let hog = rt.queue("hog").flags(aside).build().unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (sleep, end) = (Gate::new(), Gate::new());
    let (s, e) = (sleep.clone(), end.clone());
    hog.enqueue(Call::new(move |_| {
        blocking(|| s.pass());
        e.pass();
    }))
    .unwrap();
    sleep.wait_for(1);
    let gate = stands(&q);
    let next = Call::noop();
    q.enqueue(next.clone()).unwrap();
    sleep.open();
    end.wait_for(1);
    end.open();
    hog.flush().unwrap();
    // Neither its waking up nor its end has let the next item begin, nor kept a count too high.
    assert_eq!((next.runs(), hog.stats().cm_wakeup), (0, 0));
    gate.open();
    q.flush().unwrap();
    assert_eq!(next.runs(), 1);
}

#[test]
fn s05_06_a_run_that_yields_or_is_preempted_does_not_sleep() {
    let rt = Runtime::builder()
        .topology(machine(1, 1))
        .cpu_intensive_thresh(Duration::ZERO)
        .start()
        .unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (stop, entered) = (Arc::new(AtomicBool::new(false)), Gate::new());
    let (s, e) = (stop.clone(), entered.clone());
    entered.open();
    q.enqueue(Call::new(move |_| {
        e.pass();
        while !s.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }))
    .unwrap();
    entered.wait_for(1);
    let next = Call::noop();
    q.enqueue(next.clone()).unwrap();
    // The sampler looks again and again, each time finding the run able to run.
    let before = sleeps_of_monitors();
    until("it has looked many times", || {
        sleeps_of_monitors() >= before + 50
    });
    assert_eq!((next.runs(), q.stats().cm_wakeup), (0, 0));
    stop.store(true, Ordering::SeqCst);
    q.flush().unwrap();
    assert_eq!(next.runs(), 1);
}
