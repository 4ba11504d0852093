// SPDX-License-Identifier: MIT OR Apache-2.0
//! 13.6, 13.7 and 13.10: flush and cancel, and what they cannot do.

use super::common::*;
use super::*;

#[test]
fn s13_06_flush_waits_for_what_was_queued_on_every_cpu() {
    let q = on(3).build().create_workqueue("lgw").unwrap();
    let gate = Gate::new();
    let ended = Arc::new(AtomicUsize::new(0));
    for cpu in 0..3 {
        let (g, e) = (gate.clone(), ended.clone());
        let item = Work::new("item", move |_| {
            g.pass();
            e.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(q.queue_work_on(cpu, &item), Ok(true));
    }
    gate.wait_for(3);
    std::thread::scope(|s| {
        let flusher = s.spawn(|| {
            q.flush_workqueue().unwrap();
            ended.load(Ordering::SeqCst)
        });
        gate.open();
        assert_eq!(flusher.join().unwrap(), 3);
    });
}

/// Two items of one queue and CPU: the first waits until the second, or `rescue`, lets it go on.
/// `queue` takes the two bodies in order.
fn first_waits_for_second(
    queue: impl FnOnce(Box<dyn Fn() + Send + Sync>, Box<dyn Fn() + Send + Sync>),
) -> Arc<Gate> {
    let gate = Gate::new();
    let (waits, opens) = (gate.clone(), gate.clone());
    queue(
        Box::new(move || blocking(|| waits.pass())),
        Box::new(move || opens.open()),
    );
    gate
}

#[test]
fn s13_06_an_item_that_waits_for_a_later_one_deadlocks_here_and_not_on_cmwq() {
    let (m, events) = watched(1);
    let q = m.create_workqueue("lgd").unwrap();
    let gate = first_waits_for_second(|first, second| {
        assert!(q.queue_work(&Work::new("first", move |_| first())));
        assert!(q.queue_work(&Work::new("second", move |_| second())));
    });
    gate.wait_for(1);
    // The deadlock is complete: the second item is listed, the only thread that could run it is
    // inside the first, and the first cannot end before the second has run.
    assert_eq!(q.dump(), "lgd/0: running first; listed: second\n");
    until("there is that one thread", || {
        threads_named("lgd/") == ["lgd/0"]
    });
    let ran = Seen::Execution("lgd/0".into(), "second");
    assert!(!events.all().contains(&ran));
    // Only help from outside ends it.
    gate.open();
    q.flush_workqueue().unwrap();
    assert!(events.all().contains(&ran));

    // The same two items on a queue of today, and no thread helps.
    let rt = runtime(1);
    let q = rt.queue("lgd").flags(PERCPU).build().unwrap();
    let _gate = first_waits_for_second(|first, second| {
        q.try_spawn(first).unwrap();
        q.try_spawn(second).unwrap();
    });
    q.flush().unwrap();
    assert_eq!((q.stats().completed, q.stats().panicked), (2, 0));
}

/// What panics here: a function, what its panic was raised with, and what the function owned.
#[test]
fn s02_16_functions_and_drops_that_panic_end_no_thread_of_the_old_design() {
    struct Unkind;
    impl Drop for Unkind {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let m = on(1).build();
    let q = m.create_singlethread_workqueue("lgp").unwrap();
    let gate = Gate::new();
    let closed = gate.clone();
    let payload = Work::new("payload", move |_| {
        closed.pass();
        std::panic::panic_any(Unkind)
    });
    assert!(q.queue_work(&payload));
    let owned = Unkind;
    let owner = Work::new("owner", move |_| {
        let _kept = &owned;
    });
    assert!(q.queue_work(&owner));
    // The queue holds the last reference.
    drop(owner);
    gate.open();
    q.flush_workqueue().unwrap();
    let after = Log::new();
    let ran = after.clone();
    let last = Work::new("last", move |_| ran.add(()));
    assert!(q.queue_work(&last));
    q.flush_workqueue().unwrap();
    assert_eq!(after.all().len(), 1, "the thread has ended");
}

/// Five items of one queue, each of which flushes it; gives their ends and what they were told.
fn self_flushers(era: Era, name: &'static str) -> Vec<(usize, Result<(), WaitError>)> {
    listen();
    let q = Arc::new(on(1).era(era).build().create_workqueue(name).unwrap());
    let (gate, ends) = (Gate::new(), Log::new());
    let g = gate.clone();
    assert!(q.queue_work(&Work::new("hold", move |_| g.pass())));
    for n in 0..5 {
        let (own, e) = (q.clone(), ends.clone());
        let item = Work::new("self_flusher", move |_| {
            let outcome = own.flush_workqueue();
            e.add((n, outcome));
        });
        assert!(q.queue_work(&item));
    }
    gate.open();
    // A flush from outside may be over before all runs are, see below; the thread's end is not.
    q.destroy_workqueue().unwrap();
    ends.all()
}

#[test]
fn s13_07_a_self_flush_recurses_before_2_6_30() {
    let ends = self_flushers(Era::Before2_6_30, "lgrec");
    // Each runs the rest of the list before it ends.
    assert_eq!(ends, [4, 3, 2, 1, 0].map(|n| (n, Ok(()))));
    // The thread's own level is the first; the sixth is that of the last flush, which found
    // nothing to run.
    let text = "workqueue: legacy: lgrec/0: recursion depth exceeded: ";
    assert_eq!(
        warnings("lgrec"),
        [4, 5, 6].map(|depth| format!("{text}{depth}"))
    );
}

#[test]
fn s13_07_a_recursive_flush_lets_others_go_before_the_run_has_ended() {
    listen();
    let m = on(1).era(Era::Before2_6_30).build();
    let q = Arc::new(m.create_workqueue("lgear").unwrap());
    let (before, behind) = (Gate::new(), Gate::new());
    let (own, b1, b2) = (q.clone(), before.clone(), behind.clone());
    let item = Work::new("outer", move |_| {
        b1.pass();
        own.flush_workqueue().unwrap();
        b2.pass();
    });
    assert!(q.queue_work(&item));
    before.wait_for(1);
    std::thread::scope(|s| {
        let flusher = s.spawn(|| q.flush_workqueue());
        until("the barrier is listed", || q.dump().contains("barrier"));
        before.open();
        flusher.join().unwrap().unwrap();
    });
    assert_eq!(q.dump(), "lgear/0: running outer; listed: \n");
    behind.open();
    q.destroy_workqueue().unwrap();
}

#[test]
fn s13_07_a_self_flush_is_refused_from_2_6_30_on() {
    let ends = self_flushers(Era::From2_6_30, "lgref");
    let expected: Vec<_> = (0..5).map(|n| (n, Err(WaitError::WouldDeadlock))).collect();
    assert_eq!(ends, expected);
    assert_eq!(warnings("lgref").len(), 5, "{:?}", warnings("lgref"));
}

/// An item that is inside two runs at once, on CPUs 0 and 1, last queued on 1. Each run stands at
/// the gate of its CPU.
fn running_twice(q: &Workqueue) -> (Arc<Work>, [Arc<Gate>; 2]) {
    let gates = [Gate::new(), Gate::new()];
    let (g, n) = (gates.clone(), AtomicUsize::new(0));
    let item = Work::new("twice", move |_| {
        if let Some(gate) = g.get(n.fetch_add(1, Ordering::SeqCst)) {
            gate.pass();
        }
    });
    for (cpu, gate) in gates.iter().enumerate() {
        assert_eq!(q.queue_work_on(cpu, &item), Ok(true));
        gate.wait_for(1);
    }
    (item, gates)
}

#[test]
fn s13_10_flush_work_misses_a_run_elsewhere() {
    let q = on(2).build().create_workqueue("lgm").unwrap();
    let (item, gates) = running_twice(&q);
    gates[1].open();
    // It was queued on CPU 1 last, so the run that still goes on on CPU 0 is not waited for: were
    // it, this would never return, as no other thread opens that gate.
    item.flush_work().unwrap();
    assert_eq!(item.flush_work(), Ok(false));
    gates[0].open();
    q.flush_workqueue().unwrap();
}

#[test]
fn s13_10_cancel_visits_every_cpu_and_keeps_others_out() {
    let q = on(2).build().create_workqueue("lgc").unwrap();
    let (item, gates) = running_twice(&q);
    assert_eq!(q.queue_work_on(0, &item), Ok(true));
    std::thread::scope(|s| {
        let canceller = s.spawn(|| item.cancel_work_sync());
        until("the item is off, the first run waited for", || {
            q.dump().contains("lgc/0: running twice; listed: barrier\n")
        });
        assert_eq!(q.queue_work_on(1, &item), Ok(false), "kept out");
        gates[0].open();
        until("the second run is waited for", || {
            q.dump() == "lgc/1: running twice; listed: barrier\n"
        });
        assert_eq!(q.queue_work_on(0, &item), Ok(false), "kept out");
        gates[1].open();
        assert_eq!(canceller.join().unwrap(), Ok(true));
    });
    assert!(!item.is_pending());
    assert_eq!(q.dump(), "");
    assert_eq!(item.cancel_work_sync(), Ok(false));
    assert_eq!(q.queue_work_on(0, &item), Ok(true));
    q.flush_workqueue().unwrap();
}

#[test]
fn s13_10_an_item_that_waits_for_itself_gets_an_error() {
    let q = on(1).build().create_workqueue("lgi").unwrap();
    let outcomes = Log::new();
    let o = outcomes.clone();
    let item = Work::new("item", move |me| {
        o.add(me.flush_work());
        o.add(me.cancel_work_sync());
    });
    assert!(q.queue_work(&item));
    q.flush_workqueue().unwrap();
    assert_eq!(outcomes.all(), [Err(WaitError::WouldDeadlock); 2]);
}

#[test]
fn s13_10_flush_work_waits_for_the_queued_instance() {
    let q = on(1).build().create_workqueue("lgq").unwrap();
    let (gate, log) = (Gate::new(), Log::new());
    let (g, l) = (gate.clone(), log.clone());
    assert!(q.queue_work(&Work::new("hold", move |_| g.pass())));
    let logs = |name| {
        let l = l.clone();
        Work::new(name, move |me| l.add(me.name()))
    };
    let (first, second) = (logs("first"), logs("second"));
    assert!(q.queue_work(&first) && q.queue_work(&second));
    std::thread::scope(|s| {
        let flusher = s.spawn(|| (first.flush_work(), log.all()[0]));
        until("the barrier is behind the first item", || {
            q.dump().contains("listed: first, barrier, second")
        });
        gate.open();
        assert_eq!(flusher.join().unwrap(), (Ok(true), "first"));
    });
    q.flush_workqueue().unwrap();
    assert_eq!(first.flush_work(), Ok(false));
}
