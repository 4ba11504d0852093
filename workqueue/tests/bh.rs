// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections 3.3 and 3.10: BH queues. One item of a CPU after the other, in their order.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use workqueue::*;

const BH: Flags = Flags::BH;
const BH_HIGHPRI: Flags = Flags::BH.union(Flags::HIGHPRI);

/// A made-up machine with one CPU of this number, so that the names of its threads are its own.
fn one_cpu(cpu: usize) -> Topology {
    Topology::simulated(vec![CpuPlace {
        cpu,
        core: 0,
        cache: 0,
        node: 0,
    }])
}

#[test]
fn s03_03_what_goes_with_bh() {
    let rt = runtime(1);
    for others in [
        Flags::UNBOUND,
        Flags::FREEZABLE,
        Flags::MEM_RECLAIM,
        Flags::CPU_INTENSIVE,
        Flags::POWER_EFFICIENT,
    ] {
        let made = rt.queue("q").flags(BH | others).build();
        assert!(
            matches!(made, Err(AllocError::BadFlags { .. })),
            "{others:?}"
        );
    }
    let limited = rt.queue("q").flags(BH).max_active(1).build();
    assert!(matches!(limited, Err(AllocError::BadFlags { .. })));
    for good in [BH, BH_HIGHPRI, BH | PERCPU, BH_HIGHPRI | PERCPU] {
        let q = rt.queue("q").flags(good).build().unwrap();
        assert!(q.flags().contains(BH | PERCPU));
        assert_eq!(q.set_max_active(5), Err(AttrError::NotAdjustable));
        assert_eq!(q.set_min_active(5), Err(AttrError::NotAdjustable));
        assert_eq!(q.apply_attrs(Attrs::new()), Err(AttrError::NotUnbound));
        assert_eq!(q.max_active(), usize::MAX);
    }
}

#[test]
fn s03_10_the_first_bh_queue_of_a_priority_makes_its_threads() {
    let rt = quiet().topology(one_cpu(71)).start().unwrap();
    let bh = "kworker/bh71";
    assert!(threads_named(bh).is_empty());
    let queues = [1, 2].map(|_| rt.queue("q").flags(BH).build().unwrap());
    assert_eq!(threads_named(bh), ["kworker/bh71"]);
    rt.system_bh_highpri();
    rt.system_bh_highpri();
    assert_eq!(threads_named(bh), ["kworker/bh71", "kworker/bh71H"]);
    // They stay when the queue has gone, as the threads of all shared pools do.
    drop(queues);
    assert_eq!(threads_named(bh), ["kworker/bh71", "kworker/bh71H"]);
    rt.shutdown().unwrap();
    no_thread_named(bh);
}

#[test]
fn s03_10_items_begin_in_order_one_at_a_time() {
    for flags in [BH, BH_HIGHPRI] {
        let rt = runtime(2);
        let (a, b) = (
            rt.queue("a").flags(flags).build().unwrap(),
            rt.queue("b").flags(flags).build().unwrap(),
        );
        let (log, inside) = (Log::new(), Arc::new(AtomicBool::new(false)));
        for n in 0..200 {
            let (l, i) = (log.clone(), inside.clone());
            let item = Call::new(move |_| {
                assert!(!i.swap(true, Ordering::SeqCst), "two at once");
                l.add(n);
                std::thread::yield_now();
                i.store(false, Ordering::SeqCst);
            });
            // Two queues share the CPU's thread and its order.
            let q = if n % 3 == 0 { &a } else { &b };
            q.enqueue_on(1, item).unwrap();
        }
        a.flush().unwrap();
        b.flush().unwrap();
        assert_eq!(log.all(), (0..200).collect::<Vec<_>>());
        let (a, b) = (a.stats(), b.stats());
        assert_eq!(
            (a.panicked + b.panicked, a.completed + b.completed),
            (0, 200)
        );
    }
}

#[test]
fn s03_10_the_cpus_and_priorities_have_a_thread_each() {
    let rt = runtime(2);
    let normal = rt.queue("normal").flags(BH).build().unwrap();
    let high = rt.queue("high").flags(BH_HIGHPRI).build().unwrap();
    let gate = Gate::new();
    for (q, cpu) in [(&normal, 0), (&normal, 1), (&high, 0), (&high, 1)] {
        let g = gate.clone();
        q.enqueue_on(cpu, Call::new(move |_| g.pass())).unwrap();
    }
    gate.wait_for(4);
    gate.open();
    normal.flush().unwrap();
    high.flush().unwrap();
}

#[test]
fn s03_10_a_wait_lets_no_other_item_begin_and_is_counted() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(BH).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    let waits = Call::new(move |_| blocking(|| blocking(|| g.pass())));
    let next = Call::noop();
    q.enqueue(waits).unwrap();
    gate.wait_for(1);
    q.enqueue(next.clone()).unwrap();
    let dump = rt.dump_queue(&q);
    assert!(dump.contains("pending: call"), "{dump}");
    assert_eq!((next.runs(), q.stats().bh_blocked), (0, 1));
    gate.open();
    q.flush().unwrap();
    let stats = q.stats();
    assert_eq!((next.runs(), stats.bh_blocked, stats.cm_wakeup), (1, 1, 0));
}

#[test]
fn s03_10_a_synchronous_wait_is_counted_too() {
    let rt = runtime(1);
    let (bh, other) = (
        rt.queue("bh").flags(BH).build().unwrap(),
        rt.queue("other").flags(PERCPU).build().unwrap(),
    );
    let (item, h) = (Call::noop(), other.handle());
    let i = item.clone();
    bh.enqueue(Call::new(move |_| {
        let gate = Gate::new();
        let g = gate.clone();
        h.enqueue(Call::new(move |_| g.pass())).unwrap();
        gate.wait_for(1);
        h.enqueue(i.clone()).unwrap();
        gate.open();
        h.flush().unwrap();
    }))
    .unwrap();
    bh.flush().unwrap();
    assert_eq!((item.runs(), bh.stats().panicked), (1, 0));
    // Once at most, as the flush may find its items done.
    assert!(bh.stats().bh_blocked <= 1 && other.stats().bh_blocked == 0);
}

#[test]
fn s03_10_items_are_cancelled_flushed_and_delayed_like_others() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(BH).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    let front = Call::new(move |_| g.pass());
    q.enqueue(front.clone()).unwrap();
    gate.wait_for(1);
    let (gone, kept, later) = (Call::noop(), Call::noop(), Later::noop());
    q.enqueue(gone.clone()).unwrap();
    q.enqueue(kept.clone()).unwrap();
    q.enqueue_delayed(Duration::from_millis(3), later.clone())
        .unwrap();
    assert!(gone.work.cancel_sync().unwrap().is_some());
    assert!(kept.work.disable().unwrap().is_some());
    assert!(q.enqueue(kept.clone()).is_err() && kept.work.enable().unwrap());
    q.enqueue(kept.clone()).unwrap();
    gate.open();
    assert!(kept.work.flush().is_ok());
    q.flush().unwrap();
    assert_eq!((gone.runs(), kept.runs(), later.runs()), (0, 1, 0));
    clock.advance(Duration::from_millis(3));
    until("the delayed item has run", || later.runs() == 1);
    // One that waits for its time is queued by a flush.
    q.enqueue_delayed(Duration::from_secs(1), later.clone())
        .unwrap();
    later.work.flush().unwrap();
    assert_eq!(later.runs(), 2);
}

#[test]
fn s03_10_an_item_may_enqueue_itself_and_panic() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(BH).build().unwrap();
    let handle = q.handle();
    // More than two batches.
    let again = Call::new(move |me| {
        if me.runs() < 25 {
            handle.enqueue(me.clone()).unwrap();
        }
        if me.runs() == 12 {
            std::panic::panic_any("on purpose");
        }
    });
    q.enqueue(again.clone()).unwrap();
    q.drain().unwrap();
    assert_eq!((again.runs(), q.stats().panicked), (25, 1));
}

#[test]
fn s06_12_the_bh_system_queues_are_there_before_the_start() {
    let rt = quiet().topology(machine(2, 1)).build_early();
    let log = Log::new();
    for n in 0..5 {
        let l = log.clone();
        let q = [rt.system_bh(), rt.system_bh_highpri()][usize::from(n == 4)];
        q.enqueue_on(0, Call::new(move |_| l.add(n))).unwrap();
    }
    assert_eq!(rt.system_bh().name(), "events_bh");
    assert_eq!(rt.system_bh_highpri().name(), "events_bh_highpri");
    assert!(log.all().is_empty());
    rt.start().unwrap();
    rt.system_bh().flush().unwrap();
    rt.system_bh_highpri().flush().unwrap();
    let normal: Vec<_> = log.all().into_iter().filter(|&n| n < 4).collect();
    assert_eq!((log.all().len(), normal), (5, vec![0, 1, 2, 3]));
}

#[test]
fn s03_10_a_bh_queue_whose_threads_cannot_be_made_is_refused() {
    let (fails, tries) = (
        Arc::new(AtomicBool::new(true)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (f, t) = (fails.clone(), tries.clone());
    let clock = VirtualClock::new();
    let rt = quiet()
        .topology(machine(2, 1))
        .virtual_clock(clock.clone())
        .threads_by(move |attempt| {
            let is_bh = attempt.class == PoolClass::Bh;
            t.fetch_add(usize::from(is_bh), Ordering::SeqCst);
            if is_bh && f.load(Ordering::SeqCst) {
                Err(11)
            } else {
                Ok(())
            }
        })
        .start()
        .unwrap();
    assert_eq!(tries.load(Ordering::SeqCst), 0);
    let refused = rt.queue("q").flags(BH).build().map(drop);
    assert!(matches!(refused, Err(AllocError::Spawn { errno: 11, .. })));
    // A system queue is there in any case, and its threads come as soon as they can be made.
    let item = Call::noop();
    rt.system_bh_highpri().enqueue_on(1, item.clone()).unwrap();
    fails.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_secs(2));
    item.work.flush().unwrap();
    assert_eq!(item.runs(), 1);
    rt.queue("q").flags(BH).build().unwrap();
}

#[test]
fn s03_10_s11_10_items_run_also_when_their_cpu_has_left() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(BH).build().unwrap();
    let gate = Gate::new();
    let (g, log) = (gate.clone(), Log::new());
    q.enqueue_on(1, Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    for n in 0..20 {
        let l = log.clone();
        q.enqueue_on(1, Call::new(move |_| l.add(n))).unwrap();
        match n {
            5 => rt.set_online_cpus(Some(CpuSet::single(0))),
            15 => rt.set_online_cpus(None),
            _ => {}
        }
    }
    assert!(log.all().is_empty());
    gate.open();
    q.flush().unwrap();
    assert_eq!(log.all(), (0..20).collect::<Vec<_>>());
}
