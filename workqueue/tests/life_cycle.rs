// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 2: the life of an item, from enqueue to run.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use workqueue::*;

#[test]
fn s02_02_one_of_many_enqueues_wins() {
    let rt = runtime(4);
    let q = rt.queue("q").flags(PERCPU).max_active(1).build().unwrap();
    let gate = Gate::new();
    for cpu in 0..4 {
        let g = gate.clone();
        q.enqueue_on(cpu, Call::new(move |_| g.pass())).unwrap();
    }
    gate.wait_for(4);
    for _ in 0..50 {
        let item = Call::noop();
        let start = Arc::new(Barrier::new(4));
        let tries = (0..4).map(|cpu| {
            let (q, item, start) = (q.handle(), item.clone(), start.clone());
            std::thread::spawn(move || {
                start.wait();
                q.enqueue_on(cpu, item).map_err(|e| e.reason())
            })
        });
        let tries: Vec<_> = tries.collect();
        let results: Vec<_> = tries.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
        assert!(results
            .iter()
            .all(|r| matches!(r, Ok(()) | Err(Refusal::AlreadyPending))));
        assert!(item.work.cancel().is_some());
        assert_eq!(item.runs(), 0);
    }
    gate.open();
    q.drain().unwrap();
}

#[test]
fn s02_03_every_enqueue_runs_once() {
    let rt = runtime(2);
    for flags in [PERCPU, UNBOUND] {
        let q = rt.queue("q").flags(flags).build().unwrap();
        let items: Vec<_> = (0..1000).map(|_| Call::noop()).collect();
        items.iter().for_each(|i| q.enqueue(i.clone()).unwrap());
        q.flush().unwrap();
        assert!(items.iter().all(|i| i.runs() == 1));
        let stats = q.stats();
        assert_eq!((stats.started, stats.completed), (1000, 1000));
    }
}

#[test]
fn s02_04_pending_is_clear_inside_the_run() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let handle = q.handle();
    let item = Call::new(move |me| {
        assert!(!me.work.is_pending());
        assert!(me.work.busy().running);
        if me.runs() == 1 {
            handle.enqueue(me.clone()).unwrap();
            assert_eq!(
                handle.enqueue(me.clone()).unwrap_err().reason(),
                Refusal::AlreadyPending
            );
        }
    });
    q.enqueue(item.clone()).unwrap();
    q.drain().unwrap();
    assert_eq!(item.runs(), 2);
    assert_eq!(q.stats().panicked, 0);
}

#[test]
fn s02_05_items_of_one_pwq_start_in_order() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let log = Log::new();
    for n in 0..200 {
        let log = log.clone();
        q.enqueue(Call::new(move |_| log.add(n))).unwrap();
    }
    q.flush().unwrap();
    assert_eq!(log.all(), (0..200).collect::<Vec<_>>());
}

/// Requeues an item from several threads on several CPUs while it runs, and looks for overlap.
fn never_overlaps(flags: Flags) {
    let rt = runtime(4);
    let q = rt.queue("q").flags(flags).build().unwrap();
    let inside = Arc::new(AtomicBool::new(false));
    let overlap = Arc::new(AtomicBool::new(false));
    let (i, o) = (inside.clone(), overlap.clone());
    let item = Call::new(move |_| {
        if i.swap(true, Ordering::SeqCst) {
            o.store(true, Ordering::SeqCst);
        }
        std::thread::yield_now();
        i.store(false, Ordering::SeqCst);
    });
    let threads: Vec<_> = (0..4)
        .map(|cpu| {
            let (q, item) = (q.handle(), item.clone());
            std::thread::spawn(move || {
                let mut taken = 0;
                for n in 0..2000 {
                    taken += usize::from(q.enqueue_on((cpu + n) % 4, item.clone()).is_ok());
                }
                taken
            })
        })
        .collect();
    let taken: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
    q.drain().unwrap();
    assert!(!overlap.load(Ordering::SeqCst));
    assert_eq!(item.runs(), taken);
}

#[test]
fn s02_06_an_item_never_runs_twice_at_once_percpu() {
    never_overlaps(PERCPU);
}

#[test]
fn s02_06_an_item_never_runs_twice_at_once_unbound() {
    never_overlaps(UNBOUND);
}

#[test]
fn s02_07_s04_15_an_ordered_queue_keeps_its_order_though_an_item_runs_elsewhere() {
    let rt = runtime(1);
    let q = rt.ordered("o", Flags::empty()).unwrap();
    let (gate, log) = (Gate::new(), Log::new());
    let (g, l) = (gate.clone(), log.clone());
    let first = Call::new(move |_| {
        g.pass();
        l.add("first");
    });
    q.enqueue(first.clone()).unwrap();
    gate.wait_for(1);
    // What comes now goes to another pool, when the run is over.
    q.apply_attrs(Attrs {
        nice: 5,
        ..Attrs::new()
    })
    .unwrap();
    let l = log.clone();
    q.enqueue(Call::new(move |_| l.add("second"))).unwrap();
    q.enqueue(first).unwrap();
    gate.open();
    q.flush().unwrap();
    assert_eq!(log.all(), ["first", "second", "first"]);
}

#[test]
fn s02_07_a_running_item_is_queued_where_it_runs() {
    let events = Log::new();
    let sink = events.clone();
    let rt = quiet()
        .topology(machine(4, 1))
        .trace_sink(move |e| {
            if let TraceEvent::Queue { req_cpu, cpu, .. } = *e {
                sink.add((req_cpu, cpu));
            }
        })
        .start()
        .unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    let item = Call::new(move |_| g.pass());
    q.enqueue_on(1, item.clone()).unwrap();
    gate.wait_for(1);
    q.enqueue_on(3, item.clone()).unwrap();
    assert_eq!(events.all(), [(1, 1), (3, 1)]);
    gate.open();
    q.flush().unwrap();
    // It only ran there earlier, so the request decides now.
    q.enqueue_on(3, item.clone()).unwrap();
    q.flush().unwrap();
    assert_eq!(events.all().last(), Some(&(3, 3)));
    assert_eq!(item.runs(), 3);
    q.enqueue(item).unwrap();
    assert_eq!(events.all().last().unwrap().0, -1, "nobody has requested");
}

#[test]
fn s02_08_a_collision_is_run_by_the_worker_that_has_the_item() {
    // Two queues that map to the same pool: the item is queued on the other one while it runs.
    let rt = runtime(1);
    let (a, b) = (
        rt.queue("a").flags(UNBOUND).build().unwrap(),
        rt.queue("b").flags(UNBOUND).build().unwrap(),
    );
    let gate = Gate::new();
    let threads = Log::new();
    let (g, t) = (gate.clone(), threads.clone());
    let item = Call::new(move |me| {
        t.add(std::thread::current().id());
        if me.runs() == 1 {
            g.pass();
        }
    });
    a.enqueue(item.clone()).unwrap();
    gate.wait_for(1);
    b.enqueue(item.clone()).unwrap();
    // A later item of the same pool starts, although the collision was queued first.
    let other = Gate::new();
    let o = other.clone();
    b.enqueue(Call::new(move |_| o.pass())).unwrap();
    other.wait_for(1);
    assert_eq!(item.runs(), 1);
    gate.open();
    item.work.flush().unwrap();
    other.open();
    b.flush().unwrap();
    let threads = threads.all();
    assert_eq!(threads.len(), 2);
    assert_eq!(threads[0], threads[1]);
}

#[test]
fn s02_08_a_worker_does_not_go_on_to_an_item_that_another_runs() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (first, second) = (Gate::new(), Gate::new());
    let (f, s) = (first.clone(), second.clone());
    let item = Call::new(move |me| {
        if me.runs() == 1 {
            blocking(|| f.pass());
        }
    });
    q.enqueue_on(0, item.clone()).unwrap();
    first.wait_for(1);
    // Another worker begins while the item sleeps, and finds it among those behind.
    q.enqueue_on(0, Call::new(move |_| s.pass())).unwrap();
    second.wait_for(1);
    let last = Call::noop();
    for next in [
        Call::noop(),
        Call::noop(),
        item.clone(),
        Call::noop(),
        last.clone(),
    ] {
        q.enqueue_on(0, next).unwrap();
    }
    second.open();
    last.work.flush().unwrap();
    assert_eq!((last.runs(), item.runs()), (1, 1));
    first.open();
    q.flush().unwrap();
    assert_eq!(item.runs(), 2);
}

#[test]
fn s02_11_self_requeue_goes_to_the_tail() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let log = Log::new();
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    let (l, handle) = (log.clone(), q.handle());
    let again = Call::new(move |me| {
        l.add("again");
        if me.runs() < 3 {
            handle.enqueue(me.clone()).unwrap();
        }
    });
    q.enqueue(again).unwrap();
    let l = log.clone();
    q.enqueue(Call::new(move |_| l.add("other"))).unwrap();
    gate.open();
    q.drain().unwrap();
    assert_eq!(log.all(), ["again", "other", "again", "again"]);
}

#[test]
fn s02_13_an_event_stored_before_a_failed_enqueue_is_seen() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let event = Arc::new(AtomicUsize::new(0));
    let seen = Arc::new(AtomicUsize::new(0));
    let (e, s) = (event.clone(), seen.clone());
    let item = Call::new(move |_| {
        s.fetch_max(e.load(Ordering::Relaxed), Ordering::Relaxed);
    });
    for n in 1..=20_000 {
        event.store(n, Ordering::Relaxed);
        let _either_way_it_is_seen = q.enqueue(item.clone());
        if n % 1000 == 0 {
            q.flush().unwrap();
            assert_eq!(seen.load(Ordering::Relaxed), n);
        }
    }
}

struct Twice {
    first: Work<Twice, 1>,
    second: Work<Twice, 2>,
    log: Log<u64>,
}

impl_has_work! {
    impl HasWork<Self, 1> for Twice { self.first }
    impl HasWork<Self, 2> for Twice { self.second }
}

impl WorkItem<1> for Twice {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.log.add(1);
    }
}

impl WorkItem<2> for Twice {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.log.add(2);
    }
}

#[test]
fn s14_01_two_fields_of_one_struct_are_two_items() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let item = Arc::new(Twice {
        first: new_work!(),
        second: new_work!("second"),
        log: Log::new(),
    });
    q.enqueue::<_, 1>(item.clone()).unwrap();
    q.enqueue::<_, 2>(item.clone()).unwrap();
    q.flush().unwrap();
    assert_eq!(item.log.all(), [1, 2]);
}

#[test]
fn s14_01_a_boxed_item_and_a_closure_come_back_when_refused() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let handle = q.handle();
    let ran = Gate::new();
    ran.open();
    let r = ran.clone();
    q.try_spawn(move || r.pass()).unwrap();
    ran.wait_for(1);
    q.destroy().unwrap();
    let refused = handle
        .try_spawn(|| unreachable!("the queue is gone"))
        .unwrap_err();
    assert_eq!(refused.reason(), Refusal::Destroyed);
    let boxed = Box::pin(Alone {
        work: new_work!(),
        text: "still here",
    });
    let back = handle.enqueue(boxed).unwrap_err().into_inner();
    assert_eq!(back.text, "still here");
}

struct Alone {
    work: Work<Alone>,
    text: &'static str,
}

impl_has_work! {
    impl HasWork<Self> for Alone { self.work }
}

impl WorkItem for Alone {
    type Pointer = std::pin::Pin<Box<Self>>;

    fn run(this: Self::Pointer) {
        drop(this);
    }
}

#[test]
fn s14_a_work_field_is_at_most_64_bytes() {
    assert!(size_of::<Work<Call>>() <= 64);
}
