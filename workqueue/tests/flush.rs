// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 10: flush, drain and cancel.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use workqueue::*;

#[test]
fn s10_01_flush_waits_for_earlier_items_only() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let (early, late) = (Gate::new(), Gate::new());
    let (e, l) = (early.clone(), late.clone());
    q.enqueue(Call::new(move |_| e.pass())).unwrap();
    early.wait_for(1);
    let flusher = {
        let q = q.handle();
        std::thread::spawn(move || q.flush())
    };
    // The second item is enqueued before or after the flush begins; it is let go first if before.
    let second = Call::new(move |_| l.pass());
    late.open();
    q.enqueue(second).unwrap();
    early.open();
    flusher.join().unwrap().unwrap();
    q.flush().unwrap();
}

#[test]
fn s10_01_a_steady_stream_does_not_hold_a_flush() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (s, handle) = (stop.clone(), q.handle());
    let again = Call::new(move |me| {
        if !s.load(Ordering::SeqCst) {
            handle.enqueue(me.clone()).unwrap();
        }
    });
    q.enqueue(again.clone()).unwrap();
    for _ in 0..100 {
        q.flush().unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    q.drain().unwrap();
    assert!(again.runs() >= 100);
}

#[test]
fn s10_02_flush_of_an_empty_queue_returns_at_once() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    (0..100).for_each(|_| q.flush().unwrap());
}

#[test]
fn s10_03_forty_flushers_all_return_and_none_early() {
    let rt = runtime(2);
    for flags in [PERCPU, UNBOUND] {
        let q = rt.queue("q").flags(flags).build().unwrap();
        let ended = Arc::new(AtomicUsize::new(0));
        let gate = Gate::new();
        let flushers: Vec<_> = (0..40)
            .map(|n| {
                let (g, e) = (gate.clone(), ended.clone());
                q.enqueue_on(
                    n % 2,
                    Call::new(move |_| {
                        blocking(|| g.pass());
                        e.fetch_add(1, Ordering::SeqCst);
                    }),
                )
                .unwrap();
                let (q, e, before) = (q.handle(), ended.clone(), n + 1);
                std::thread::spawn(move || {
                    q.flush().unwrap();
                    assert!(e.load(Ordering::SeqCst) >= before);
                })
            })
            .collect();
        gate.wait_for(40);
        assert_eq!(ended.load(Ordering::SeqCst), 0);
        gate.open();
        flushers.into_iter().for_each(|f| f.join().unwrap());
    }
}

/// With sixteen colours a seventeenth flush must not close the colour that the first still waits
/// for: it would wait for newer items.
#[test]
fn s10_03_the_oldest_of_many_flushers_waits_for_nothing_newer() {
    const FLUSHERS: usize = 20;
    let rt = runtime(1);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    // The next of its items starts when the one before sleeps, which is the sign that it waits.
    let flushes = rt.queue("flushes").flags(PERCPU).build().unwrap();
    let done = Log::new();
    let gates: Vec<_> = (0..FLUSHERS)
        .map(|n| {
            let gate = Gate::new();
            let g = gate.clone();
            q.enqueue(Call::new(move |_| blocking(|| g.pass())))
                .unwrap();
            gate.wait_for(1);
            let (q, d) = (q.handle(), done.clone());
            flushes
                .enqueue(Call::new(move |_| {
                    q.flush().unwrap();
                    d.add(n);
                }))
                .unwrap();
            let sign = Call::noop();
            flushes.enqueue(sign.clone()).unwrap();
            sign.work.flush().unwrap();
            gate
        })
        .collect();
    assert!(done.all().is_empty());
    gates[0].open();
    until("the first flush returns", || !done.all().is_empty());
    assert_eq!(done.all(), [0]);
    gates[1..].iter().for_each(|gate| gate.open());
    flushes.flush().unwrap();
    assert_eq!(done.all().len(), FLUSHERS);
}

#[test]
fn s10_05_item_flush_returns_true_if_it_waited() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    let item = Call::new(move |me| {
        if me.runs() == 1 {
            g.pass();
        }
    });
    assert_eq!(item.work.flush(), Ok(false), "never queued");
    q.enqueue(item.clone()).unwrap();
    gate.wait_for(1);
    // Running and queued again: the queued instance is waited for.
    q.enqueue(item.clone()).unwrap();
    let flusher = {
        let item = item.clone();
        std::thread::spawn(move || {
            assert_eq!(item.work.flush(), Ok(true));
            assert_eq!(item.runs(), 2);
        })
    };
    until("the barrier is in", || rt.dump_queue(&q).contains("BAR"));
    gate.open();
    flusher.join().unwrap();
    assert_eq!(item.work.flush(), Ok(false), "idle again");
    assert_eq!(
        item.work.busy(),
        Busy {
            pending: false,
            running: false
        }
    );
}

#[test]
fn s10_07_all_flushers_of_a_running_item_return_after_that_run() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    let item = Call::new(move |_| g.pass());
    q.enqueue(item.clone()).unwrap();
    gate.wait_for(1);
    let flushers: Vec<_> = (0..5)
        .map(|_| {
            let item = item.clone();
            std::thread::spawn(move || item.work.flush())
        })
        .collect();
    until("all barriers are in", || {
        rt.dump_queue(&q).contains("5*BAR")
    });
    gate.open();
    for f in flushers {
        assert_eq!(f.join().unwrap(), Ok(true));
    }
}

#[test]
fn s10_08_drain_takes_chained_items_only() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let (g, handle) = (gate.clone(), q.handle());
    let chained = Call::noop();
    let (c, outcome) = (chained.clone(), Log::new());
    let o = outcome.clone();
    q.enqueue(Call::new(move |_| {
        g.pass();
        o.add(handle.enqueue(c.clone()).map_err(|e| e.reason()));
    }))
    .unwrap();
    gate.wait_for(1);
    let drainers: Vec<_> = (0..2)
        .map(|_| {
            let q = q.handle();
            std::thread::spawn(move || q.drain())
        })
        .collect();
    let refused = Call::noop();
    until("the drain is on", || match q.enqueue(refused.clone()) {
        Ok(()) => {
            // Too early: out again, or the next try would find it pending.
            drop(refused.work.cancel_sync().unwrap());
            false
        }
        Err(e) => e.reason() == Refusal::Draining,
    });
    gate.open();
    drainers
        .into_iter()
        .for_each(|d| d.join().unwrap().unwrap());
    assert_eq!(outcome.all(), [Ok(())]);
    assert_eq!(chained.runs(), 1);
    q.enqueue(refused).unwrap();
    q.flush().unwrap();
}

#[test]
fn s10_10_cancel_gives_the_pointer_back_and_does_not_wait() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    let item = Call::new(move |_| g.pass());
    q.enqueue(item.clone()).unwrap();
    gate.wait_for(1);
    assert!(item.work.cancel().is_none(), "running is not pending");
    q.enqueue(item.clone()).unwrap();
    let back = item.work.cancel().expect("pending");
    assert!(Arc::ptr_eq(&back, &item));
    assert!(
        item.work.busy()
            == Busy {
                pending: false,
                running: true
            }
    );
    gate.open();
    q.flush().unwrap();
    assert_eq!(item.runs(), 1);
}

#[test]
fn s10_11_cancel_sync_stops_a_self_requeueing_item() {
    let rt = runtime(2);
    for flags in [PERCPU, UNBOUND] {
        let q = rt.queue("q").flags(flags).build().unwrap();
        for _ in 0..100 {
            let handle = q.handle();
            let inside = Arc::new(AtomicBool::new(false));
            let i = inside.clone();
            let item = Call::new(move |me| {
                i.store(true, Ordering::SeqCst);
                let _refused_in_the_end = handle.enqueue(me.clone());
                i.store(false, Ordering::SeqCst);
            });
            q.enqueue(item.clone()).unwrap();
            let cancellers: Vec<_> = (0..2)
                .map(|_| {
                    let item = item.clone();
                    std::thread::spawn(move || item.work.cancel_sync().map(drop))
                })
                .collect();
            cancellers
                .into_iter()
                .for_each(|c| c.join().unwrap().unwrap());
            assert!(!inside.load(Ordering::SeqCst));
            assert!(!item.work.is_pending());
            // The last reference is ours: nothing is leaked, nothing dropped twice.
            q.flush().unwrap();
            assert_eq!(Arc::strong_count(&item), 1);
        }
    }
}

#[test]
fn s10_12_barriers_of_a_cancelled_inactive_item_go_on() {
    let rt = runtime(1);
    for flags in [PERCPU, UNBOUND] {
        let q = rt.queue("q").flags(flags).max_active(1).build().unwrap();
        let gate = Gate::new();
        let g = gate.clone();
        q.enqueue(Call::new(move |_| blocking(|| g.pass())))
            .unwrap();
        gate.wait_for(1);
        let item = Call::noop();
        q.enqueue(item.clone()).unwrap();
        let flusher = {
            let item = item.clone();
            std::thread::spawn(move || item.work.flush())
        };
        until("the barrier is in", || rt.dump_queue(&q).contains("BAR"));
        assert!(item.work.cancel().is_some());
        assert_eq!(flusher.join().unwrap(), Ok(true));
        gate.open();
        q.flush().unwrap();
        assert_eq!(item.runs(), 0);
    }
}

#[test]
fn s10_12_barriers_of_a_cancelled_active_item_stay_in_front_of_later_items() {
    // On a virtual clock nothing is found to use the CPU for too long: the later item stays alone.
    let (_clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (begun, begin) = (AtomicBool::new(false), AtomicBool::new(false));
    let shared = Arc::new((begun, begin));
    let s = shared.clone();
    q.enqueue(Call::new(move |_| {
        s.0.store(true, Ordering::SeqCst);
        spin_until(|| s.1.load(Ordering::SeqCst));
    }))
    .unwrap();
    until("the first one runs", || shared.0.load(Ordering::SeqCst));
    let item = Call::noop();
    q.enqueue(item.clone()).unwrap();
    let flushed = Arc::new(AtomicBool::new(false));
    let flusher = {
        let (item, flushed) = (item.clone(), flushed.clone());
        std::thread::spawn(move || {
            item.work.flush().unwrap();
            flushed.store(true, Ordering::SeqCst);
        })
    };
    until("the barrier is in", || rt.dump_queue(&q).contains("BAR"));
    let in_time = Arc::new(AtomicBool::new(false));
    let (seen, result) = (flushed.clone(), in_time.clone());
    q.enqueue(Call::new(move |_| {
        let began = std::time::Instant::now();
        spin_until(|| seen.load(Ordering::SeqCst) || began.elapsed() > HUNG / 4);
        result.store(seen.load(Ordering::SeqCst), Ordering::SeqCst);
    }))
    .unwrap();
    assert!(item.work.cancel().is_some());
    shared.1.store(true, Ordering::SeqCst);
    q.flush().unwrap();
    flusher.join().unwrap();
    assert!(in_time.load(Ordering::SeqCst), "the barrier ran too late");
}

#[test]
fn s10_13_certain_deadlocks_are_refused() {
    let rt = runtime(1);
    let q = rt.ordered("o", Flags::empty()).unwrap();
    let (handle, waiting, outcome) = (q.handle(), Call::noop(), Log::new());
    let (w, o) = (waiting.clone(), outcome.clone());
    q.enqueue(Call::new(move |me| {
        o.add(handle.flush());
        o.add(handle.drain());
        o.add(me.work.flush().map(drop));
        o.add(me.work.cancel_sync().map(drop));
        o.add(me.work.disable_sync().map(drop));
        handle.enqueue(w.clone()).unwrap();
        o.add(w.work.flush().map(drop));
    }))
    .unwrap();
    q.drain().unwrap();
    assert_eq!(outcome.all(), vec![Err(WaitError::WouldDeadlock); 6]);
    assert_eq!((waiting.runs(), q.stats().panicked), (1, 0));
}

#[test]
fn s05_17_a_run_may_wait_for_another_of_its_cpu() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (handle, second) = (q.handle(), Call::noop());
    let s = second.clone();
    let first = Call::new(move |_| {
        handle.enqueue(s.clone()).unwrap();
        assert_eq!(s.work.flush(), Ok(true));
    });
    q.enqueue(first.clone()).unwrap();
    first.work.flush().unwrap();
    assert_eq!((second.runs(), q.stats().panicked), (1, 0));
    assert!(q.stats().cm_wakeup >= 1);
}

/// Waits without a sleep, for two threads that have to be there at the same moment.
fn spin_until(condition: impl Fn() -> bool) {
    for looks in 1.. {
        if condition() {
            return;
        }
        if looks % 1024 == 0 {
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

/// One thread enqueues an item, another one sees it pending and waits with `wait`. Returns how
/// often that wait was over before the run.
fn early_returns(fresh: bool, wait: impl Fn(&Queue, &Call) -> Result<(), WaitError>) -> usize {
    const ROUNDS: usize = 2000;
    let rt = runtime(2);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let reused = Call::noop();
    let items: Vec<_> = (0..ROUNDS)
        .map(|_| if fresh { Call::noop() } else { reused.clone() })
        .collect();
    let round = AtomicUsize::new(0);
    std::thread::scope(|s| {
        s.spawn(|| {
            for (n, item) in items.iter().enumerate() {
                spin_until(|| round.load(Ordering::Acquire) > n);
                q.enqueue(item.clone()).unwrap();
            }
        });
        let mut early = 0;
        for (n, item) in items.iter().enumerate() {
            let before = item.runs();
            round.store(n + 1, Ordering::Release);
            spin_until(|| item.work.is_pending() || item.runs() > before);
            wait(&q, item).unwrap();
            early += usize::from(item.runs() == before);
            until("the run", || item.runs() > before);
            q.flush().unwrap();
        }
        early
    })
}

#[test]
fn s10_06_a_flush_waits_for_an_item_that_is_claimed_and_not_listed_yet() {
    let flush = |_: &Queue, item: &Call| item.work.flush().map(drop);
    assert_eq!(early_returns(true, flush), 0, "an item never queued before");
    assert_eq!(early_returns(false, flush), 0, "an item queued before");
}

#[test]
fn s10_01_a_queue_flush_waits_for_an_item_that_is_claimed_and_not_listed_yet() {
    let flush = |q: &Queue, _: &Call| q.flush();
    assert_eq!(early_returns(true, flush), 0, "an item never queued before");
    assert_eq!(early_returns(false, flush), 0, "an item queued before");
}
