// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 8: max_active and min_active.

mod common;
use common::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use workqueue::*;

/// Items that stand at a gate, inside a declared section so that max_active alone limits them.
fn sleepers(q: &Queue, gate: &Arc<Gate>, cpu: usize, n: usize) -> Vec<Arc<Call>> {
    let items: Vec<_> = (0..n)
        .map(|_| {
            let g = gate.clone();
            Call::new(move |_| blocking(|| g.pass()))
        })
        .collect();
    items
        .iter()
        .for_each(|i| q.enqueue_on(cpu, i.clone()).unwrap());
    items
}

#[test]
fn s08_01_percpu_limit_is_per_cpu() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(PERCPU).max_active(3).build().unwrap();
    let gate = Gate::new();
    for cpu in 0..2 {
        sleepers(&q, &gate, cpu, 5);
    }
    gate.wait_for(6);
    assert!(q.congested(0) && q.congested(1));
    // Two pwqs are full; nothing else can have begun, as every slot holder stands at the gate.
    assert_eq!(q.stats().started, 6);
    gate.open();
    q.flush().unwrap();
    assert_eq!(q.stats().completed, 10);
    assert!(!q.congested(0));
}

#[test]
fn s08_02_inactive_items_keep_their_order() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).max_active(1).build().unwrap();
    let (gate, log) = (Gate::new(), Log::new());
    let g = gate.clone();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    for n in 0..20 {
        let l = log.clone();
        q.enqueue(Call::new(move |_| l.add(n))).unwrap();
    }
    gate.open();
    q.flush().unwrap();
    assert_eq!(log.all(), (0..20).collect::<Vec<_>>());
}

#[test]
fn s08_03_a_cancelled_item_gives_its_slot_to_the_next() {
    let rt = runtime(1);
    let hold = rt.queue("hold").flags(PERCPU).build().unwrap();
    let q = rt.queue("q").flags(PERCPU).max_active(1).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    // Keeps the CPU's pool from starting anything.
    hold.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    let (first, second) = (Call::noop(), Call::noop());
    q.enqueue(first.clone()).unwrap();
    q.enqueue(second.clone()).unwrap();
    assert!(q.congested(0));
    assert!(first.work.cancel().is_some());
    assert!(!q.congested(0), "the second item is active now");
    gate.open();
    q.flush().unwrap();
    assert_eq!((first.runs(), second.runs()), (0, 1));
}

#[test]
fn s08_04_unbound_limit_is_split_between_nodes() {
    // Two nodes of four CPUs: each gets half of 20.
    let rt = quiet().topology(machine(8, 2)).start().unwrap();
    let q = rt.queue("q").flags(UNBOUND).max_active(20).build().unwrap();
    let gate = Gate::new();
    sleepers(&q, &gate, 0, 15);
    gate.wait_for(10);
    assert!(q.congested(0));
    sleepers(&q, &gate, 4, 15);
    gate.wait_for(20);
    assert_eq!(q.stats().started, 20);
    gate.open();
    q.flush().unwrap();
    assert_eq!(q.stats().completed, 30);
}

#[test]
fn s08_04_pools_that_span_nodes_have_the_whole_limit() {
    let rt = quiet().topology(machine(8, 2)).start().unwrap();
    let attrs = Attrs {
        scope: Some(Scope::System),
        ..Attrs::new()
    };
    let q = rt
        .queue("q")
        .flags(UNBOUND)
        .max_active(20)
        .attrs(attrs)
        .build()
        .unwrap();
    let gate = Gate::new();
    sleepers(&q, &gate, 0, 15);
    sleepers(&q, &gate, 4, 15);
    gate.wait_for(20);
    assert_eq!(q.stats().started, 20);
    gate.open();
    q.flush().unwrap();
    assert_eq!(q.stats().completed, 30);
}

#[test]
fn s08_05_each_node_can_run_eight_interdependent_items() {
    let rt = quiet().topology(machine(8, 8)).start().unwrap();
    // A fair part would be two for each node.
    let q = rt.queue("q").flags(UNBOUND).max_active(16).build().unwrap();
    let gate = Gate::new();
    sleepers(&q, &gate, 0, 9);
    gate.wait_for(8);
    assert_eq!(q.stats().started, 8);
    q.set_min_active(9).unwrap();
    gate.wait_for(9);
    gate.open();
    q.flush().unwrap();
}

#[test]
fn s08_06_waiting_pwqs_of_a_node_are_served_in_turn() {
    let rt = runtime(4);
    let q = rt.queue("q").flags(UNBOUND).max_active(1).build().unwrap();
    let (gate, log) = (Gate::new(), Log::new());
    let g = gate.clone();
    q.enqueue_on(0, Call::new(move |_| g.pass())).unwrap();
    for cpu in 0..4 {
        for n in 0..3 {
            let l = log.clone();
            q.enqueue_on(cpu, Call::new(move |_| l.add((cpu, n))))
                .unwrap();
        }
    }
    gate.open();
    q.flush().unwrap();
    let expected: Vec<_> = (0..3)
        .flat_map(|n| (0..4).map(move |cpu| (cpu, n)))
        .collect();
    assert_eq!(log.all(), expected);
}

#[test]
fn s08_07_raising_activates_at_once_and_lowering_stops_nothing() {
    for flags in [PERCPU, UNBOUND] {
        let rt = runtime(1);
        let q = rt.queue("q").flags(flags).max_active(2).build().unwrap();
        let gate = Gate::new();
        sleepers(&q, &gate, 0, 10);
        gate.wait_for(2);
        q.set_max_active(6).unwrap();
        gate.wait_for(6);
        q.set_max_active(1).unwrap();
        assert_eq!((q.max_active(), q.stats().started), (1, 6));
        gate.open();
        q.flush().unwrap();
        assert_eq!(q.stats().completed, 10);
        for (asked, limit) in [(0, 1024), (1, 1), (1 << 20, 2048)] {
            q.set_max_active(asked).unwrap();
            let made = rt.queue("m").flags(flags).max_active(asked);
            let made = made.build().unwrap().max_active();
            assert_eq!((q.max_active(), made), (limit, limit));
        }
    }
}

#[test]
fn s08_07_s08_08_fixed_limits_are_refused() {
    let rt = runtime(1);
    let ordered = rt.ordered("o", Flags::empty()).unwrap();
    assert_eq!(ordered.set_max_active(5), Err(AttrError::NotAdjustable));
    assert_eq!(ordered.set_min_active(5), Err(AttrError::NotAdjustable));
    assert_eq!(ordered.max_active(), 1);
    let percpu = rt.queue("p").flags(PERCPU).build().unwrap();
    assert_eq!(percpu.set_min_active(5), Err(AttrError::NotAdjustable));
}

#[test]
fn s08_09_a_barrier_takes_no_slot() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).max_active(1).build().unwrap();
    let gate = Gate::new();
    let first = sleepers(&q, &gate, 0, 1).remove(0);
    gate.wait_for(1);
    let second = Call::noop();
    q.enqueue(second.clone()).unwrap();
    let flushers: Vec<_> = [first, second.clone()]
        .into_iter()
        .map(|item| std::thread::spawn(move || item.work.flush()))
        .collect();
    until("both barriers are in", || {
        rt.dump_queue(&q).matches("BAR").count() == 2
    });
    gate.open();
    for f in flushers {
        assert_eq!(f.join().unwrap(), Ok(true));
    }
    assert_eq!(second.runs(), 1);
}

#[test]
fn s08_max_active_is_never_exceeded_under_load() {
    let rt = runtime(4);
    let q = rt.queue("q").flags(UNBOUND).max_active(3).build().unwrap();
    q.set_min_active(0).unwrap();
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = (0..4)
        .map(|cpu| {
            let (q, inside, most) = (q.handle(), inside.clone(), most.clone());
            std::thread::spawn(move || {
                for _ in 0..500 {
                    let (inside, most) = (inside.clone(), most.clone());
                    let item = Call::new(move |_| {
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    });
                    q.enqueue_on(cpu, item).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    q.flush().unwrap();
    assert_eq!(q.stats().completed, 2000);
    assert!(most.load(Ordering::SeqCst) <= 3);
}
