// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 5: which items of a CPU run at the same time.
//!
//! The timed scenarios use a virtual clock. "Burning" is sleeping on that clock without saying so:
//! the pool takes the run for a running one. "Sleeping" is the same in a declared section.

mod common;
use common::*;
use std::sync::Arc;
use std::time::Duration;
use workqueue::*;

const MS: Duration = Duration::from_millis(1);

/// One of the documentation's items: when it started is noted under its name.
fn burner(
    clock: &Arc<VirtualClock>,
    log: &Log<(&'static str, u128)>,
    name: &'static str,
    again: bool,
) -> Arc<Call> {
    let (c, l) = (clock.clone(), log.clone());
    Call::new(move |_| {
        l.add((name, c.now().as_millis()));
        c.sleep(MS * 5);
        blocking(|| c.sleep(MS * 10));
        if again {
            c.sleep(MS * 5);
        }
    })
}

/// Runs w0, w1 and w2 on one CPU; `sleepers` says how many of them are in the middle of something
/// after each 5 ms, so that the clock is moved on only when all have arrived there.
fn scenario(max_active: usize, others: Flags, sleepers: &[usize]) -> Vec<(&'static str, u128)> {
    let (clock, rt) = virtual_runtime(1);
    let q = rt
        .queue("q")
        .flags(PERCPU)
        .max_active(max_active)
        .build()
        .unwrap();
    let other = rt.queue("other").flags(PERCPU | others).build().unwrap();
    let second = if others == Flags::empty() {
        q.handle()
    } else {
        other.handle()
    };
    // All three are enqueued before the first can start.
    let (log, gate) = (Log::new(), Gate::new());
    let g = gate.clone();
    rt.system_percpu()
        .enqueue(Call::new(move |_| g.pass()))
        .unwrap();
    gate.wait_for(1);
    q.enqueue(burner(&clock, &log, "w0", true)).unwrap();
    second.enqueue(burner(&clock, &log, "w1", false)).unwrap();
    second.enqueue(burner(&clock, &log, "w2", false)).unwrap();
    gate.open();
    for &n in sleepers {
        clock.wait_for_sleepers(n);
        clock.advance(MS * 5);
    }
    q.flush().unwrap();
    second.flush().unwrap();
    log.all()
}

#[test]
fn s05_09_three_items_with_enough_slots() {
    // 0-5: w0 burns. 5-10: it sleeps, w1 burns. 10-15: both sleep, w2 burns. 15-20: w0 burns
    // again, the others sleep. 20-25: w2 sleeps.
    let starts = scenario(0, Flags::empty(), &[1, 2, 3, 3, 1]);
    assert_eq!(starts, [("w0", 0), ("w1", 5), ("w2", 10)]);
}

#[test]
fn s05_09_three_items_with_two_slots() {
    // 0-5: w0 burns. 5-10: it sleeps, w1 burns. 10-15: both sleep. 15-20: w0 burns again, w1
    // sleeps. 20-25: w2 burns. 25-35: it sleeps.
    let starts = scenario(2, Flags::empty(), &[1, 2, 2, 2, 1, 1, 1]);
    assert_eq!(starts, [("w0", 0), ("w1", 5), ("w2", 20)]);
}

#[test]
fn s05_09_the_others_on_a_cpu_intensive_queue() {
    // 0-5: w0 burns. 5-10: it sleeps, w1 and w2 burn. 10-15: all sleep. 15-20: w0 burns.
    let mut starts = scenario(0, Flags::CPU_INTENSIVE, &[1, 3, 3, 3]);
    starts.sort_unstable();
    assert_eq!(starts, [("w0", 0), ("w1", 5), ("w2", 5)]);
}

/// An item that stands at a gate without telling the pool, and one behind it.
fn hog_and_next(rt: &Runtime, q: &Queue, pool_of_next: &Queue) -> (Arc<Gate>, Arc<Call>) {
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    let next = Call::noop();
    pool_of_next.enqueue(next.clone()).unwrap();
    assert!(rt.dump_queue(pool_of_next).contains("call") || next.runs() == 1);
    (gate, next)
}

#[test]
fn s05_03_a_worker_that_ends_beside_a_running_one_takes_no_more() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    let sleeper = Call::new(move |_| blocking(|| g.pass()));
    q.enqueue(sleeper.clone()).unwrap();
    gate.wait_for(1);
    let (hog, next) = hog_and_next(&rt, &q, &q);
    let idle = || {
        let all = rt.snapshot().expect("it is online");
        let pool = all.pools.iter().find(|pool| pool.workers > 1);
        pool.map_or(0, |pool| pool.idle)
    };
    until("one worker is kept in hand", || idle() == 1);
    // Two run from now on, until the first has ended.
    gate.open();
    sleeper.work.flush().unwrap();
    until("its worker goes idle", || idle() == 2 || next.runs() == 1);
    assert_eq!(next.runs(), 0, "the other run has not ended");
    hog.open();
    q.flush().unwrap();
    assert_eq!(next.runs(), 1);
}

#[test]
fn s05_10_a_run_that_does_not_sleep_holds_the_cpu() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (gate, next) = hog_and_next(&rt, &q, &q);
    // Everything that could start it has happened: the enqueue has returned, and the pool's other
    // worker is idle.
    assert!(rt.dump_all().contains("pending: call"), "{}", rt.dump_all());
    assert_eq!(next.runs(), 0);
    gate.open();
    q.flush().unwrap();
    assert_eq!((next.runs(), q.stats().cm_wakeup), (1, 0));
}

#[test]
fn s05_12_a_run_of_a_cpu_intensive_queue_does_not_hold_the_cpu() {
    let rt = runtime(1);
    let hog = rt
        .queue("hog")
        .flags(PERCPU | Flags::CPU_INTENSIVE)
        .build()
        .unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    hog.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    let next = Call::noop();
    q.enqueue(next.clone()).unwrap();
    next.work.flush().unwrap();
    assert_eq!(next.runs(), 1);
    gate.open();
}

#[test]
fn s05_07_all_active_items_of_an_unbound_pool_start_at_once() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let gate = Gate::new();
    for _ in 0..30 {
        let g = gate.clone();
        q.enqueue(Call::new(move |_| g.pass())).unwrap();
    }
    gate.wait_for(30);
    gate.open();
}

#[test]
fn s03_09_highpri_and_normal_items_do_not_hold_each_other_back() {
    let rt = runtime(1);
    let high = rt
        .queue("high")
        .flags(PERCPU | Flags::HIGHPRI)
        .build()
        .unwrap();
    let normal = rt.queue("normal").flags(PERCPU).build().unwrap();
    let (gate, next) = hog_and_next(&rt, &normal, &high);
    next.work.flush().unwrap();
    assert_eq!(next.runs(), 1);
    gate.open();
}

#[test]
fn s05_15_a_declared_section_lets_the_next_item_start() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    // Nested sections count once: the worker is asleep until the outermost ends.
    q.enqueue(Call::new(move |_| {
        blocking(|| {
            blocking(|| ());
            g.pass();
        });
    }))
    .unwrap();
    gate.wait_for(1);
    let next = Call::noop();
    q.enqueue(next.clone()).unwrap();
    next.work.flush().unwrap();
    gate.open();
    q.flush().unwrap();
    assert_eq!(next.runs(), 1);
    // Off a worker it only calls.
    assert_eq!(blocking(|| 5), 5);
}

#[test]
fn s05_15_an_attempt_that_fails_is_followed_by_a_declared_wait() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| try_then_wait(|| None, || g.pass())))
        .unwrap();
    gate.wait_for(1);
    let next = Call::noop();
    q.enqueue(next.clone()).unwrap();
    next.work.flush().unwrap();
    gate.open();
    q.flush().unwrap();
    assert_eq!(next.runs(), 1);
}

#[test]
fn s05_15_an_attempt_that_succeeds_lets_nothing_else_begin() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| {
        g.pass();
        let found = try_then_wait(|| Some(1), || unreachable!("the attempt succeeds"));
        assert_eq!(found, 1);
    }))
    .unwrap();
    gate.wait_for(1);
    q.enqueue(Call::noop()).unwrap();
    gate.open();
    q.flush().unwrap();
    let stats = q.stats();
    assert_eq!((stats.cm_wakeup, stats.panicked), (0, 0));
}

#[test]
fn s05_15_a_section_ends_when_its_body_unwinds() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    q.enqueue(Call::new(|_| {
        blocking(|| std::panic::panic_any("on purpose"))
    }))
    .unwrap();
    q.flush().unwrap();
    let stats = q.stats();
    assert_eq!((stats.panicked, stats.leaked_state), (1, 0));
    let (gate, next) = hog_and_next(&rt, &q, &q);
    assert_eq!(next.runs(), 0);
    gate.open();
    q.flush().unwrap();
}

#[test]
fn s05_04_a_sleep_with_items_waiting_counts_one_wakeup() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (gate, sleep) = (Gate::new(), Gate::new());
    let (g, s) = (gate.clone(), sleep.clone());
    q.enqueue(Call::new(move |_| {
        g.pass();
        blocking(|| s.pass());
    }))
    .unwrap();
    gate.wait_for(1);
    let next = Call::noop();
    q.enqueue(next.clone()).unwrap();
    gate.open();
    next.work.flush().unwrap();
    assert_eq!(q.stats().cm_wakeup, 1);
    sleep.open();
    q.flush().unwrap();
}

/// A runtime with the sampler on.
fn watchful() -> RuntimeBuilder {
    Runtime::builder().topology(machine(1, 1))
}

#[test]
fn s05_19_an_undeclared_sleep_lets_the_next_item_start() {
    let rt = watchful().start().unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    let items: Vec<_> = (0..5).map(|_| Call::noop()).collect();
    items.iter().for_each(|i| q.enqueue(i.clone()).unwrap());
    // They could not run before the gate is opened if the sleep went unnoticed.
    items
        .iter()
        .for_each(|i| until("it has run", || i.runs() == 1));
    assert!(q.stats().cm_wakeup >= 1);
    gate.open();
    q.flush().unwrap();
}

#[test]
fn s05_13_a_run_that_burns_the_cpu_lets_the_next_item_start() {
    let rt = watchful().cpu_intensive_thresh(MS * 3).start().unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (s, gate) = (stop.clone(), Gate::new());
    gate.open();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| {
        g.pass();
        while !s.load(std::sync::atomic::Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }))
    .unwrap();
    gate.wait_for(1);
    let next = Call::noop();
    q.enqueue(next.clone()).unwrap();
    until("it has run", || next.runs() == 1);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    q.flush().unwrap();
    // At most once per run; the first run may be preempted and seen waiting, but never asleep.
    assert_eq!((q.stats().cpu_intensive, q.stats().cm_wakeup), (1, 0));
}

#[test]
fn s05_21_a_worker_found_asleep_counts_again_in_its_next_run() {
    let rt = watchful()
        .cpu_intensive_thresh(Duration::ZERO)
        .start()
        .unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    for _ in 0..20 {
        let gate = Gate::new();
        let g = gate.clone();
        q.enqueue(Call::new(move |_| g.pass())).unwrap();
        gate.wait_for(1);
        let next = Call::noop();
        q.enqueue(next.clone()).unwrap();
        until("it has run", || next.runs() == 1);
        gate.open();
        q.flush().unwrap();
    }
    // With the count wrong by one, an item behind a spinning run would start now.
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (s, entered) = (stop.clone(), Gate::new());
    entered.open();
    let e = entered.clone();
    q.enqueue(Call::new(move |_| {
        e.pass();
        while !s.load(std::sync::atomic::Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }))
    .unwrap();
    entered.wait_for(1);
    let next = Call::noop();
    q.enqueue(next.clone()).unwrap();
    assert!(
        rt.dump_queue(&q).contains("pending: call"),
        "{}",
        rt.dump_queue(&q)
    );
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    q.flush().unwrap();
    assert_eq!(next.runs(), 1);
}
