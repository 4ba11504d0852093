// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 6: making workers while the pool goes on, and how many of them are kept.

mod common;
use common::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use workqueue::*;

/// A runtime of one CPU whose worker creations, after the first `free` ones, stand at a gate; and
/// the highest number that ever stood there at once.
fn slow_creation(free: usize) -> (Runtime, Arc<Gate>, Arc<AtomicUsize>) {
    let (gate, most) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let (inside, count) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (g, m) = (gate.clone(), most.clone());
    let rt = quiet()
        .topology(machine(1, 1))
        .threads_by(move |_| {
            if count.fetch_add(1, Ordering::SeqCst) >= free {
                let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                m.fetch_max(now, Ordering::SeqCst);
                g.pass();
                inside.fetch_sub(1, Ordering::SeqCst);
            }
            Ok(())
        })
        .start()
        .unwrap();
    (rt, gate, most)
}

/// Workers made by a start on one CPU: one for each of the two standard pools, and one for the
/// unbound pool of the system queues.
const AT_START: usize = 3;

#[test]
fn s06_06_the_pool_goes_on_while_a_worker_is_made() {
    let (rt, creation, _) = slow_creation(AT_START);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (first, second, third) = (Call::noop(), Call::noop(), Call::noop());
    q.enqueue(first.clone()).unwrap();
    // The only worker has become manager, and its creation takes long.
    creation.wait_for(1);
    // 6.4: the item waits, though the manager's thread could run it.
    q.enqueue(second.clone()).unwrap();
    q.enqueue(third.clone()).unwrap();
    assert!(second.work.cancel_sync().unwrap().is_some());
    assert!(third.work.disable_sync().unwrap().is_some());
    let dump = rt.dump_all();
    assert!(
        dump.contains("pending: call") && dump.contains("manager"),
        "{dump}"
    );
    assert_eq!(first.runs(), 0);
    creation.open();
    q.flush().unwrap();
    assert_eq!((first.runs(), second.runs(), third.runs()), (1, 0, 0));
    third.work.enable().unwrap();
}

#[test]
fn s06_03_s06_04_there_is_one_manager_and_others_do_not_wait_for_it() {
    // One creation more: the pool has two workers when the second one stands.
    let (rt, creation, most) = slow_creation(AT_START + 1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (sleep, log) = (Gate::new(), Log::new());
    let s = sleep.clone();
    q.enqueue(Call::new(move |_| blocking(|| s.pass())))
        .unwrap();
    sleep.wait_for(1);
    // The second worker finds no other one idle: it is the manager now.
    for n in 0..5 {
        let l = log.clone();
        q.enqueue(Call::new(move |_| l.add(n))).unwrap();
    }
    creation.wait_for(1);
    assert!(log.all().is_empty());
    // The first one comes back and takes the items, without waiting for the manager.
    sleep.open();
    until("the items have run", || log.all().len() == 5);
    assert_eq!(log.all(), [0, 1, 2, 3, 4]);
    assert_eq!(creation.arrived(), 1);
    creation.open();
    q.flush().unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

/// The line of the busy pool that the queue's items are on.
fn workers_of_unbound(rt: &Runtime) -> usize {
    let dump = rt.dump_all();
    let line = dump.lines().find(|l| l.starts_with("pool"));
    let line = line.expect("the pool is busy");
    let at = line.find("workers=").expect("it says how many") + "workers=".len();
    line[at..].split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn s06_07_idle_workers_are_kept_in_proportion_to_busy_ones() {
    for (busy, kept) in [(1, 2), (4, 2), (5, 3), (8, 3), (9, 4), (12, 4)] {
        let clock = VirtualClock::new();
        let rt = quiet()
            .topology(machine(1, 1))
            .virtual_clock(clock.clone())
            .start()
            .unwrap();
        let q = rt.queue("q").flags(UNBOUND).build().unwrap();
        let (gate, held) = (Gate::new(), Gate::new());
        for n in 0..20 {
            let g = if n < busy { held.clone() } else { gate.clone() };
            q.enqueue(Call::new(move |_| g.pass())).unwrap();
        }
        held.wait_for(busy);
        gate.wait_for(20 - busy);
        gate.open();
        until("the others have ended", || {
            q.stats().completed == 20 - busy as u64
        });
        // Each culling ends the workers that have been idle for long enough.
        until("the surplus has gone", || {
            clock.advance(Duration::from_secs(301));
            workers_of_unbound(&rt) <= busy + kept
        });
        // Further cullings end none.
        (0..10).for_each(|_| clock.advance(Duration::from_secs(301)));
        assert_eq!(workers_of_unbound(&rt), busy + kept, "{busy} busy");
        held.open();
        q.flush().unwrap();
    }
}

#[test]
fn s06_09_a_pool_at_rest_keeps_its_two_workers() {
    let clock = VirtualClock::new();
    let place = CpuPlace {
        cpu: 83,
        core: 0,
        cache: 0,
        node: 0,
    };
    let rt = quiet()
        .topology(Topology::simulated(vec![place]))
        .virtual_clock(clock.clone())
        .start()
        .unwrap();
    let names = || {
        let mut names = threads_named("kworker/83:");
        names.retain(|n| !n.ends_with('H'));
        names
    };
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let run = || {
        let item = Call::noop();
        q.enqueue(item.clone()).unwrap();
        item.work.flush().unwrap();
    };
    run();
    until("the second worker has come", || names().len() == 2);
    for _ in 0..20 {
        clock.advance(Duration::from_secs(3600));
        run();
    }
    assert_eq!(names(), ["kworker/83:0", "kworker/83:1"]);
    // A third comes when two sleep; when it has gone its number is free, and its thread joined.
    let gate = Gate::new();
    for _ in 0..2 {
        let g = gate.clone();
        q.enqueue(Call::new(move |_| blocking(|| g.pass())))
            .unwrap();
    }
    gate.wait_for(2);
    until("the third worker has come", || names().len() == 3);
    gate.open();
    q.flush().unwrap();
    until("it has gone", || {
        clock.advance(Duration::from_secs(301));
        names().len() == 2
    });
}
