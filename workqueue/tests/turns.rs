// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that take turns: a run is the same each time, with several CPUs, failing creations and a
//! rescuer in it.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use workqueue::*;

const MS: Duration = Duration::from_millis(1);

/// Goes from due time to due time until `end`.
fn pass_time(clock: &VirtualClock, end: Duration) {
    loop {
        clock.settle();
        match clock.next_due().filter(|due| *due <= end) {
            Some(due) => clock.advance(due.saturating_sub(clock.now())),
            None => break,
        }
    }
    clock.advance(end - clock.now());
    clock.settle();
}

type Line = (Duration, usize, usize);

/// Items that queue each other and sleep, on four CPUs, while no worker can be made for some time.
fn story() -> (Vec<Line>, QueueStats) {
    let clock = VirtualClock::in_turns();
    let fails = Arc::new(AtomicBool::new(false));
    let hook = fails.clone();
    let rt = quiet()
        .topology(machine(4, 1))
        .virtual_clock(clock.clone())
        .threads_by(move |_| match hook.load(Ordering::SeqCst) {
            true => Err(11),
            false => Ok(()),
        })
        .start()
        .unwrap();
    let flags = PERCPU | Flags::MEM_RECLAIM;
    let q = Arc::new(rt.queue("q").flags(flags).build().unwrap());
    let log = Log::new();
    let items: Vec<_> = (0..32usize)
        .map(|n| {
            let (log, clock, q) = (log.clone(), clock.clone(), q.clone());
            Later::new(move |item| {
                log.add((clock.now(), n, item.runs()));
                let (log, clock_there) = (log.clone(), clock.clone());
                q.try_spawn(move || log.add((clock_there.now(), 100 + n, 0)))
                    .unwrap();
                if n % 5 == 0 {
                    blocking(|| clock.sleep(MS));
                }
            })
        })
        .collect();
    for round in 0..20u32 {
        fails.store(round < 10, Ordering::SeqCst);
        for (n, item) in items.iter().enumerate() {
            let delay = MS * (n as u32 % 3);
            let _was_pending = q.mod_delayed_on(n % 4, delay, item.clone());
        }
        pass_time(&clock, clock.now() + 7 * MS);
    }
    fails.store(false, Ordering::SeqCst);
    pass_time(&clock, clock.now() + Duration::from_secs(5));
    let stats = q.stats();
    assert_eq!(clock.now(), 20 * 7 * MS + Duration::from_secs(5));
    (log.all(), stats)
}

#[test]
fn a_run_is_the_same_each_time() {
    let (log, stats) = story();
    assert!(log.len() >= 100, "{}", log.len());
    assert!(stats.rescued > 0, "{stats:?}");
    for round in 0..3 {
        let (again, others) = story();
        assert_eq!(again, log, "run {round}");
        assert_eq!(
            (others.completed, others.rescued, others.mayday),
            (stats.completed, stats.rescued, stats.mayday)
        );
    }
}

#[test]
fn no_other_thread_runs_while_the_conductor_does() {
    let clock = VirtualClock::in_turns();
    let rt = quiet()
        .topology(machine(2, 1))
        .virtual_clock(clock.clone())
        .start()
        .unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let item = Call::noop();
    for run in 0..50 {
        q.enqueue(item.clone()).unwrap();
        std::thread::yield_now();
        assert_eq!(item.runs(), run);
        clock.settle();
        assert_eq!(item.runs(), run + 1);
    }
    assert!(clock.next_due().is_some(), "the monitor looks at the CPUs");
}

#[test]
fn s14_04_the_threads_run_freely_once_their_conductor_has_ended() {
    let conductor = std::thread::spawn(|| {
        let clock = VirtualClock::in_turns();
        let rt = quiet().topology(machine(1, 1)).virtual_clock(clock);
        let rt = rt.start().unwrap();
        let q = rt.queue("q").flags(PERCPU).build().unwrap();
        q.enqueue(Call::noop()).unwrap();
        (rt, q)
    });
    let (rt, q) = conductor.join().unwrap();
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        q.flush().unwrap();
        drop(q);
        done.send(rt.shutdown()).unwrap();
    });
    assert_eq!(
        ended.recv_timeout(HUNG),
        Ok(Ok(())),
        "no thread has its turn"
    );
}

#[test]
fn s07_02_s11_09_periods_of_zero_mean_never() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (clock, fails) = (VirtualClock::in_turns(), Arc::new(AtomicBool::new(false)));
        let rt = quiet()
            .topology(machine(1, 1))
            .virtual_clock(clock.clone())
            .threads_by(fails_while(&fails))
            .cpu_poll(Duration::ZERO)
            .mayday_interval(Duration::ZERO)
            .watchdog_thresh(Duration::ZERO)
            .start()
            .unwrap();
        clock.settle();
        let due_at_rest = clock.next_due();
        let flags = PERCPU | Flags::MEM_RECLAIM;
        let q = rt.queue("q").flags(flags).build().unwrap();
        fails.store(true, Ordering::SeqCst);
        for _ in 0..2 {
            let clock = clock.clone();
            q.try_spawn(move || blocking(|| clock.sleep(100 * MS)))
                .map_err(|e| e.reason())
                .unwrap();
        }
        pass_time(&clock, 50 * MS);
        done.send((due_at_rest, q.stats().mayday, q.stats().rescued))
            .unwrap();
        fails.store(false, Ordering::SeqCst);
        pass_time(&clock, 2000 * MS);
        drop(q);
    });
    // A thread that never waits keeps the others from their turns.
    let seen = ended.recv_timeout(HUNG).expect("no thread runs in a loop");
    assert_eq!(seen, (None, 1, 1));
}
