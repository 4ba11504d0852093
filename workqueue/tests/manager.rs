// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 6: making workers while the pool goes on, and how many of them are kept.

mod common;
use common::*;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
        .on_create_worker(move |_| {
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
    // The second worker finds nobody idle behind it: it is the manager now.
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
fn s06_07_so_many_idle_workers_are_kept_beside_the_busy_ones() {
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
        // Each look lets go whoever has been idle for long enough by then.
        until("the surplus has gone", || {
            clock.advance(Duration::from_secs(301));
            workers_of_unbound(&rt) <= busy + kept
        });
        // Further looks find nobody to let go.
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
        let tasks = common::tasks().into_iter();
        let name = |t: std::fs::DirEntry| std::fs::read_to_string(t.path().join("comm")).ok();
        let mut names: Vec<_> = tasks
            .filter_map(name)
            .map(|n| n.trim_end().to_owned())
            .filter(|n| n.starts_with("kworker/83:") && !n.ends_with('H'))
            .collect();
        names.sort_unstable();
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

thread_local! {
    static WAS_ASKED_FIRST: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn s06_06_each_thread_runs_the_start_hook_before_any_item() {
    let fails = Arc::new(AtomicBool::new(false));
    let classes = Log::new();
    let told = classes.clone();
    let rt = quiet()
        .topology(machine(1, 1))
        .create_cooldown(Duration::from_millis(20))
        .on_create_worker(fails_while(&fails))
        .on_thread_start(move |start| {
            assert!(!WAS_ASKED_FIRST.replace(true), "once per thread");
            let has_cpu = !matches!(start.class, PoolClass::Unbound | PoolClass::Rescuer);
            assert_eq!(start.cpu, has_cpu.then_some(0), "{start:?}");
            told.add(start.class);
        })
        .start()
        .unwrap();
    let reclaim = PERCPU | Flags::MEM_RECLAIM;
    for flags in [reclaim, PERCPU, PERCPU | Flags::HIGHPRI, UNBOUND, Flags::BH] {
        let q = rt.queue("q").flags(flags).build().unwrap();
        // The first one is run by its rescuer, the others by workers.
        fails.store(flags == reclaim, Ordering::SeqCst);
        let asked = Log::new();
        let a = asked.clone();
        q.enqueue(Call::new(move |_| a.add(WAS_ASKED_FIRST.get())))
            .unwrap();
        q.flush().unwrap();
        fails.store(false, Ordering::SeqCst);
        assert_eq!(asked.all(), [true], "{flags:?}");
    }
    for class in [
        PoolClass::PerCpu,
        PoolClass::PerCpuHighpri,
        PoolClass::Unbound,
        PoolClass::Bh,
        PoolClass::Rescuer,
    ] {
        assert!(classes.all().contains(&class), "{class:?}");
    }
}

/// A thread that stands in the hook is no worker yet: its pool is helped as if it could make none.
#[test]
fn s07_11_a_thread_that_is_slow_to_start_is_not_counted_on() {
    let (gate, slow) = (Gate::new(), Arc::new(AtomicBool::new(false)));
    let (g, s) = (gate.clone(), slow.clone());
    let rt = quiet()
        .topology(machine(1, 1))
        .on_thread_start(move |_| {
            if s.load(Ordering::SeqCst) {
                g.pass();
            }
        })
        .start()
        .unwrap();
    let plain = rt.queue("plain").flags(PERCPU).build().unwrap();
    let reclaim = PERCPU | Flags::MEM_RECLAIM;
    let reclaim = rt.queue("reclaim").flags(reclaim).build().unwrap();
    slow.store(true, Ordering::SeqCst);
    let waits = Call::noop();
    plain.enqueue(waits.clone()).unwrap();
    gate.wait_for(1);
    for _ in 0..3 {
        let item = Call::noop();
        reclaim.enqueue(item.clone()).unwrap();
        reclaim.flush().unwrap();
        assert_eq!(item.runs(), 1);
    }
    assert_eq!(waits.runs(), 0);
    gate.open();
    plain.flush().unwrap();
    assert_eq!(waits.runs(), 1);
}
