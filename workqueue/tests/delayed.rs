// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 9: delayed work, on a virtual clock unless it says otherwise.

mod common;
use common::*;
use std::sync::Arc;
use std::time::{Duration, Instant};
use workqueue::*;

const MS: Duration = Duration::from_millis(1);

#[test]
fn s09_01_a_delayed_item_is_pending_and_never_early() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (c, log) = (clock.clone(), Log::new());
    let l = log.clone();
    let item = Later::new(move |_| l.add(c.now()));
    q.enqueue_delayed(MS * 5, item.clone()).unwrap();
    assert!(item.work.is_pending());
    assert_eq!(
        item.work.flush_queued(),
        Ok(false),
        "the timer is not touched"
    );
    clock.advance(MS * 4);
    q.flush().unwrap();
    assert!(item.work.is_pending() && item.runs() == 0);
    clock.advance(MS);
    until("it has run", || !log.all().is_empty());
    assert_eq!(log.all(), [MS * 5]);
}

#[test]
fn s09_01_never_early_on_the_real_clock() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (log, begun) = (Log::new(), Instant::now());
    let items: Vec<_> = (1..20)
        .map(|n| {
            let (l, delay) = (log.clone(), Duration::from_micros(700) * n);
            let due = begun.elapsed() + delay;
            let item = Later::new(move |_| l.add(begun.elapsed() >= due));
            q.enqueue_delayed(delay, item.clone()).unwrap();
            item
        })
        .collect();
    until("all have run", || log.all().len() == items.len());
    assert!(log.all().iter().all(|in_time| *in_time));
}

#[test]
fn s09_02_no_delay_queues_at_once() {
    // The clock stands still, so no timer could fire.
    let (_clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let item = Later::noop();
    q.enqueue_delayed(Duration::ZERO, item.clone()).unwrap();
    q.flush().unwrap();
    assert_eq!(item.runs(), 1);
}

#[test]
fn s09_03_a_further_enqueue_leaves_the_expiry_alone() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let item = Later::noop();
    q.enqueue_delayed(MS * 5, item.clone()).unwrap();
    assert_eq!(
        q.enqueue_delayed(MS, item.clone()).unwrap_err().reason(),
        Refusal::AlreadyPending
    );
    assert_eq!(
        q.enqueue(item.clone()).unwrap_err().reason(),
        Refusal::AlreadyPending
    );
    clock.advance(MS * 4);
    q.flush().unwrap();
    assert_eq!(item.runs(), 0);
    clock.advance(MS);
    until("it has run", || item.runs() == 1);
}

#[test]
fn s09_04_mod_delayed_from_every_state() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    let item = Later::new(move |_| g.pass());
    // Idle.
    assert!(matches!(
        q.mod_delayed(MS * 100, item.clone()),
        Ok(Modified::WasIdle)
    ));
    // Armed: pulled forward.
    assert!(matches!(
        q.mod_delayed(Duration::ZERO, item.clone()),
        Ok(Modified::WasPending(_))
    ));
    gate.wait_for(1);
    // Running and not pending: the run is not affected.
    assert!(matches!(
        q.mod_delayed(Duration::ZERO, item.clone()),
        Ok(Modified::WasIdle)
    ));
    // Queued: taken off and timed anew.
    assert!(matches!(
        q.mod_delayed(MS * 3, item.clone()),
        Ok(Modified::WasPending(_))
    ));
    gate.open();
    q.flush().unwrap();
    assert_eq!(item.runs(), 1);
    clock.advance(MS * 3);
    until("the new time has come", || item.runs() == 2);
    // Over the queue, the pointers: the item's own and those handed back are gone.
    q.flush().unwrap();
    assert_eq!(Arc::strong_count(&item), 1);
}

#[test]
fn s09_05_the_requested_or_the_arming_cpu_decides() {
    let (rt, clock, events) = four_cpus_watched();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let item = Later::noop();
    q.enqueue_delayed_on(2, MS, item.clone()).unwrap();
    assert!(events.all().is_empty(), "12.7: the event is at expiry");
    clock.advance(MS);
    until("it has run", || item.runs() == 1);
    assert_eq!(events.all(), [(2, 2)]);
    // Armed by a run on CPU 3, without a request.
    let (handle, i) = (q.handle(), item.clone());
    rt.system_percpu()
        .enqueue_on(
            3,
            Call::new(move |_| handle.enqueue_delayed(MS, i.clone()).unwrap()),
        )
        .unwrap();
    rt.system_percpu().flush().unwrap();
    clock.advance(MS);
    until("it has run", || item.runs() == 2);
    assert_eq!(events.all().last(), Some(&(-1, 3)));
    assert_eq!(
        q.enqueue_delayed_on(9, MS, item).unwrap_err().reason(),
        Refusal::InvalidCpu
    );
}

#[test]
fn s09_07_cancel_catches_timer_and_queue() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let item = Later::noop();
    q.enqueue_delayed(MS, item.clone()).unwrap();
    assert!(item.work.cancel().is_some());
    assert!(item.work.cancel().is_none());
    q.enqueue_delayed(MS, item.clone()).unwrap();
    assert!(item.work.cancel_sync().unwrap().is_some());
    clock.advance(MS * 10);
    q.flush().unwrap();
    assert_eq!((item.runs(), Arc::strong_count(&item)), (0, 1));
}

#[test]
fn s09_07_cancel_races_expiry() {
    let (clock, rt) = virtual_runtime(2);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let mut cancelled = 0;
    let item = Later::noop();
    for _ in 0..500 {
        q.enqueue_delayed(MS, item.clone()).unwrap();
        let ticker = {
            let clock = clock.clone();
            std::thread::spawn(move || clock.advance(MS))
        };
        cancelled += usize::from(item.work.cancel_sync().unwrap().is_some());
        assert!(!item.work.is_pending() && !item.work.busy().running);
        ticker.join().unwrap();
    }
    q.flush().unwrap();
    assert_eq!(item.runs() + cancelled, 500);
    assert_eq!(Arc::strong_count(&item), 1);
}

#[test]
fn s09_08_flush_queues_an_armed_item_now() {
    let (_clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let item = Later::noop();
    assert_eq!(item.work.flush(), Ok(false));
    q.enqueue_delayed(MS * 1000, item.clone()).unwrap();
    item.work.flush().unwrap();
    assert_eq!(item.runs(), 1);
}

#[test]
fn s09_08_flush_queued_waits_for_what_is_queued() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).max_active(1).build().unwrap();
    let gate = stand(&q, 0);
    let item = Later::noop();
    assert_eq!(item.work.flush_queued(), Ok(false));
    q.enqueue_delayed(MS, item.clone()).unwrap();
    assert_eq!(item.work.flush_queued(), Ok(false));
    assert!(item.work.is_pending());
    clock.advance(MS);
    until("the item is queued", || q.congested(0));
    let (own, gate) = (item.clone(), gate.clone());
    let flusher = std::thread::spawn(move || own.work.flush_queued());
    until("the flusher waits", || rt.dump_queue(&q).contains("BAR"));
    gate.open();
    assert_eq!(flusher.join().unwrap(), Ok(true));
    assert_eq!(item.runs(), 1);
}

#[test]
fn s09_09_s11_03_expiry_on_a_destroyed_queue_drops_the_item() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let handle = q.handle();
    let item = Later::noop();
    q.enqueue_delayed(MS, item.clone()).unwrap();
    q.destroy().unwrap();
    assert!(item.work.is_pending());
    clock.advance(MS);
    until("the pointer is dropped", || Arc::strong_count(&item) == 1);
    assert!(!item.work.is_pending() && item.runs() == 0);
    assert_eq!(handle.stats().refused_timer, 1);
    assert_eq!(
        handle.enqueue_delayed(MS, item).unwrap_err().reason(),
        Refusal::Destroyed
    );
}

#[test]
fn s11_05_shutdown_drops_armed_items() {
    let (_clock, rt) = virtual_runtime(1);
    let item = Later::noop();
    rt.system_percpu()
        .enqueue_delayed(MS, item.clone())
        .unwrap();
    rt.shutdown().unwrap();
    assert_eq!(Arc::strong_count(&item), 1);
    assert!(!item.work.is_pending());
}

#[test]
fn s09_10_equal_expiry_runs_in_arming_order() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt.ordered("o", Flags::empty()).unwrap();
    let log = Log::new();
    let items: Vec<_> = (0..50)
        .map(|n| {
            let l = log.clone();
            let item = Later::new(move |_| l.add(n));
            q.enqueue_delayed(MS, item.clone()).unwrap();
            item
        })
        .collect();
    clock.advance(MS);
    until("all have run", || log.all().len() == items.len());
    assert_eq!(log.all(), (0..50).collect::<Vec<_>>());
}

#[test]
fn s09_08_s10_06_a_flush_waits_for_an_item_that_has_just_left_its_timer() {
    let (clock, rt) = virtual_runtime(2);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let round = std::sync::Barrier::new(2);
    let early = std::thread::scope(|s| {
        s.spawn(|| {
            for _ in 0..3000 {
                round.wait();
                clock.advance(MS);
                round.wait();
            }
        });
        let mut early = 0;
        for _ in 0..3000 {
            // Never queued before: nothing but PENDING says that a run is owed.
            let item = Later::noop();
            q.enqueue_delayed(MS, item.clone()).unwrap();
            round.wait();
            item.work.flush().unwrap();
            early += usize::from(item.runs() == 0);
            round.wait();
            until("it has run", || item.runs() == 1);
        }
        early
    });
    assert_eq!(early, 0);
}

/// A queue that drains until the gate is opened, with the thread that drains it.
fn draining(rt: &Runtime) -> (OwnedQueue, Arc<Gate>, std::thread::JoinHandle<()>) {
    let q = rt.queue("draining").flags(UNBOUND).build().unwrap();
    let gate = stand(&q, None);
    let handle = q.handle();
    let drainer = std::thread::spawn(move || handle.drain().unwrap());
    until("it drains", || {
        q.enqueue(Call::noop()).err().map(|e| e.reason()) == Some(Refusal::Draining)
    });
    (q, gate, drainer)
}

#[test]
fn s02_03_s09_04_a_refused_mod_delayed_leaves_the_item_where_it_was() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gone = rt.queue("gone").flags(PERCPU).build().unwrap();
    let destroyed = gone.handle();
    gone.destroy().unwrap();
    let (draining, gate, drainer) = draining(&rt);
    let refused = |item: &Arc<Later>| {
        let reason = |q: &Queue, delay| q.mod_delayed(delay, item.clone()).unwrap_err().reason();
        assert_eq!(reason(&destroyed, MS), Refusal::Destroyed);
        assert_eq!(reason(&destroyed, Duration::ZERO), Refusal::Destroyed);
        assert_eq!(reason(&draining, Duration::ZERO), Refusal::Draining);
        assert!(item.work.is_pending());
    };
    let armed = Later::noop();
    q.enqueue_delayed(MS * 5, armed.clone()).unwrap();
    refused(&armed);
    let front = stand(&q, 0);
    let queued = Later::noop();
    q.enqueue_delayed(Duration::ZERO, queued.clone()).unwrap();
    refused(&queued);
    front.open();
    q.flush().unwrap();
    assert_eq!((armed.runs(), queued.runs()), (0, 1));
    clock.advance(MS * 5);
    until("the armed one has run", || armed.runs() == 1);
    gate.open();
    drainer.join().unwrap();
}

#[test]
fn s10_13_a_refused_flush_leaves_the_timer_armed() {
    let (clock, rt) = virtual_runtime(1);
    // Not started yet.
    let early = quiet().topology(machine(1, 1)).build_early();
    let q = early.queue("q").flags(PERCPU).build().unwrap();
    let item = Later::noop();
    q.enqueue_delayed(MS, item.clone()).unwrap();
    assert_eq!(item.work.flush(), Err(WaitError::NotOnline));
    assert_eq!(item.work.flush_queued(), Ok(false), "it is armed still");
    assert!(item.work.cancel().is_some());
    // From its own run, and from another run of its ordered queue.
    let ordered = rt.ordered("o", Flags::default()).unwrap();
    let handle = ordered.handle();
    let results = Log::new();
    let (log, q) = (results.clone(), handle.clone());
    let own = Later::new(move |me| {
        if me.runs() == 1 {
            q.enqueue_delayed(MS, me.clone()).unwrap();
            log.add(me.work.flush());
        }
    });
    ordered
        .enqueue_delayed(Duration::ZERO, own.clone())
        .unwrap();
    ordered.flush().unwrap();
    let (log, other) = (results.clone(), own.clone());
    let run = Call::new(move |_| log.add(other.work.flush()));
    ordered.enqueue(run).unwrap();
    ordered.flush().unwrap();
    assert_eq!(results.all(), [Err(WaitError::WouldDeadlock); 2]);
    assert_eq!(own.runs(), 1);
    clock.advance(MS);
    until("its time has come", || own.runs() == 2);
}

#[test]
fn s09_09_the_drop_of_a_refused_item_may_wait_and_panic() {
    struct Unkind {
        work: DelayedWork<Unkind>,
        gate: Arc<Gate>,
    }
    impl_has_delayed_work! {
        impl HasDelayedWork<Self> for Unkind { self.work }
    }
    impl WorkItem for Unkind {
        type Pointer = Arc<Self>;
        fn run(_: Arc<Self>) {}
    }
    impl Drop for Unkind {
        fn drop(&mut self) {
            blocking(|| self.gate.pass());
            panic!("on purpose");
        }
    }
    let (clock, rt) = virtual_runtime(1);
    let gone = rt.queue("gone").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let item = Unkind {
        work: new_delayed_work!(),
        gate: gate.clone(),
    };
    gone.enqueue_delayed(MS, Arc::new(item)).unwrap();
    let handle = gone.handle();
    gone.destroy().unwrap();
    clock.advance(MS);
    gate.wait_for(1);
    // Timers go on meanwhile.
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let other = Later::noop();
    q.enqueue_delayed(MS, other.clone()).unwrap();
    clock.advance(MS);
    until("the next timer has expired", || other.runs() == 1);
    gate.open();
    rt.system_percpu().flush().unwrap();
    assert_eq!(handle.stats().refused_timer, 1);
    assert_eq!(rt.system_percpu().stats().panicked, 1);
}
