// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections 2.15 to 2.22: what a run may do, and what may be done to its item meanwhile.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use workqueue::*;

#[test]
fn s02_15_a_run_may_drop_the_last_reference() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Counts(Arc<AtomicUsize>);
    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    for _ in 0..100 {
        let c = Counts(dropped.clone());
        q.enqueue(Call::new(move |_| {
            let _held = &c;
        }))
        .unwrap();
    }
    q.flush().unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 100);
}

#[test]
fn s02_16_a_panic_ends_the_run_and_nothing_else() {
    let told = Log::new();
    let t = told.clone();
    let rt = quiet()
        .topology(machine(1, 1))
        .on_panic(move |p| {
            t.add((
                p.workqueue.to_owned(),
                *p.payload.downcast_ref::<&str>().unwrap(),
            ))
        })
        .start()
        .unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    q.enqueue(Call::new(|_| std::panic::panic_any("on purpose")))
        .unwrap();
    let after = Call::noop();
    q.enqueue(after.clone()).unwrap();
    q.flush().unwrap();
    assert_eq!(after.runs(), 1);
    let stats = q.stats();
    assert_eq!((stats.started, stats.completed, stats.panicked), (2, 2, 1));
    assert_eq!(told.all(), [("q".to_owned(), "on purpose")]);
}

#[test]
fn s02_17_an_open_blocking_section_is_closed_for_the_run() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    q.enqueue(Call::new(|_| std::mem::forget(BlockingGuard::new())))
        .unwrap();
    q.flush().unwrap();
    assert_eq!(q.stats().leaked_state, 1);
    // The worker counts again: with it inside an item that does not sleep, nothing else starts.
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    let second = Call::noop();
    q.enqueue(second.clone()).unwrap();
    gate.open();
    q.flush().unwrap();
    assert_eq!((second.runs(), q.stats().leaked_state), (1, 1));
}

#[test]
fn s02_18_a_disabled_item_is_refused_everywhere() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    let item = Call::noop();
    q.enqueue(item.clone()).unwrap();
    assert!(
        item.work.disable().unwrap().is_some(),
        "a pending instance comes back"
    );
    assert_eq!(
        q.enqueue(item.clone()).unwrap_err().reason(),
        Refusal::Disabled
    );
    assert!(!item.work.is_pending());
    let later = Later::noop();
    assert!(later.work.disable().unwrap().is_none());
    let delay = std::time::Duration::from_secs(1);
    assert_eq!(
        q.enqueue_delayed(delay, later.clone())
            .unwrap_err()
            .reason(),
        Refusal::Disabled
    );
    assert_eq!(
        q.mod_delayed(delay, later.clone()).unwrap_err().reason(),
        Refusal::Disabled
    );
    assert!(!later.work.is_pending());
    gate.open();
    q.flush().unwrap();
    assert_eq!(item.runs(), 0);
}

#[test]
fn s02_18_disable_sync_waits_for_the_run() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (gate, ended) = (Gate::new(), Arc::new(AtomicBool::new(false)));
    let (g, e) = (gate.clone(), ended.clone());
    let item = Call::new(move |_| {
        g.pass();
        e.store(true, Ordering::SeqCst);
    });
    q.enqueue(item.clone()).unwrap();
    gate.wait_for(1);
    let waiter = {
        let (item, ended) = (item.clone(), ended.clone());
        std::thread::spawn(move || {
            item.work.disable_sync().unwrap();
            assert!(ended.load(Ordering::SeqCst));
        })
    };
    until("the item is disabled", || {
        q.enqueue(item.clone())
            .is_err_and(|e| e.reason() == Refusal::Disabled)
    });
    gate.open();
    waiter.join().unwrap();
}

#[test]
fn s02_19_enable_counts_down_and_queues_nothing() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let item = Call::noop();
    assert_eq!(item.work.enable(), Err(EnableUnderflow));
    item.work.disable().unwrap();
    item.work.disable().unwrap();
    assert_eq!(
        q.enable_and_enqueue(item.clone()).unwrap_err().reason(),
        Refusal::Disabled
    );
    assert_eq!(item.work.enable(), Ok(true));
    assert!(!item.work.is_pending());
    item.work.disable().unwrap();
    q.enable_and_enqueue(item.clone()).unwrap();
    assert_eq!(
        q.enable_and_enqueue(item.clone()).unwrap_err().reason(),
        Refusal::EnableUnderflow
    );
    q.flush().unwrap();
    assert_eq!(item.runs(), 1);
}

#[test]
fn s02_21_current_tells_the_run() {
    let rt = runtime(1);
    let q = rt.queue("mine").flags(PERCPU).build().unwrap();
    assert_eq!(current(), None);
    let seen = Log::new();
    let s = seen.clone();
    let item = Call::new(move |_| s.add(current().expect("inside a run")));
    let address = std::ptr::from_ref(&item.work).addr();
    q.enqueue(item.clone()).unwrap();
    q.flush().unwrap();
    let expected = CurrentWork {
        work: address,
        function: "call",
        workqueue: "mine".into(),
        is_rescuer: false,
    };
    assert_eq!(seen.all(), [expected]);
}

#[test]
fn s02_22_the_description_is_cut_and_reset() {
    let rt = runtime(1);
    let q = rt.queue("mine").flags(PERCPU).build().unwrap();
    set_worker_desc("off a worker: nothing happens");
    assert_eq!(worker_desc(), None);
    let seen = Log::new();
    for text in [
        "",
        "0123456789012345678901234567890123",
        "012345678901234567890123456789\u{e9}",
    ] {
        let s = seen.clone();
        let set = move |_: &Arc<Call>| {
            s.add(worker_desc().unwrap());
            set_worker_desc(text);
            s.add(worker_desc().unwrap());
        };
        q.enqueue(Call::new(set)).unwrap();
    }
    q.flush().unwrap();
    let all = seen.all();
    assert_eq!(all[0], "mine");
    assert_eq!(all[2], "mine");
    assert_eq!(all[3], "0123456789012345678901234567890");
    assert_eq!(all[5], "012345678901234567890123456789");
}

#[test]
fn s02_16_hooks_and_payloads_that_panic_end_no_thread_of_the_crate() {
    struct Unkind;
    impl Drop for Unkind {
        fn drop(&mut self) {
            std::panic::panic_any(Unkinder);
        }
    }
    struct Unkinder;
    impl Drop for Unkinder {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let rt = quiet()
        .topology(machine(2, 1))
        .on_panic(|_| panic!("on purpose"))
        .on_cpus_changed(|_| panic!("on purpose"))
        .trace_sink(|_| panic!("on purpose"))
        .start()
        .unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    q.try_spawn(|| std::panic::panic_any(Unkind)).unwrap();
    q.flush().unwrap();
    assert_eq!(q.stats().panicked, 1);
    rt.set_online_cpus(Some(CpuSet::single(0)));
    assert_eq!(rt.online_cpus().len(), 1);
    q.try_spawn(|| ()).unwrap();
    q.flush().unwrap();
    assert_eq!(q.stats().completed, 2);
}
