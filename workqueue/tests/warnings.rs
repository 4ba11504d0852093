// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections 10.14 and 10.16: waits that are warned of, and go on. Section 5.14: runs that are.
//!
//! The tests share one log, so each has its own queue names.

mod common;
use common::*;
use std::sync::{Arc, Mutex, Once};
use workqueue::*;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Keeper;

impl log::Log for Keeper {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // A logger may ask where the line comes from.
        let origin = current().map_or(String::new(), |run| format!(" [{}]", run.workqueue));
        LINES
            .lock()
            .unwrap()
            .push(format!("{}{origin}", record.args()));
    }

    fn flush(&self) {}
}

/// From now on all warnings are kept.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Keeper).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
}

/// A runtime of one CPU whose warnings are kept.
fn heard() -> Runtime {
    listen();
    runtime(1)
}

/// How many warnings have all of these words in them.
fn warnings(words: &[&str]) -> usize {
    let lines = LINES.lock().unwrap();
    let has_all = |line: &&String| words.iter().all(|w| line.contains(w));
    lines.iter().filter(has_all).count()
}

/// Runs `body` in an item of `queue` and waits for it.
fn in_run_of(queue: &Queue, body: impl Fn() + Send + Sync + 'static) {
    let item = Call::new(move |_| body());
    queue.enqueue(item.clone()).unwrap();
    item.work.flush().unwrap();
    assert_eq!((item.runs(), queue.stats().panicked), (1, 0));
}

/// An item runs on `queue` until a thread waits for it, which `wait` does on another thread.
fn while_it_stands(rt: &Runtime, queue: &Queue, wait: impl FnOnce(&Arc<Call>) + Send + 'static) {
    let gate = Gate::new();
    let g = gate.clone();
    let item = Call::new(move |_| blocking(|| g.pass()));
    queue.enqueue(item.clone()).unwrap();
    gate.wait_for(1);
    let i = item.clone();
    let waiter = std::thread::spawn(move || wait(&i));
    until("somebody waits", || rt.dump_queue(queue).contains("BAR"));
    gate.open();
    waiter.join().unwrap();
    queue.flush().unwrap();
}

#[test]
fn s10_14_an_item_flush_within_a_queue_with_a_rescuer() {
    let rt = heard();
    for (name, flags, expected) in [
        ("rescued", PERCPU | Flags::MEM_RECLAIM, 1),
        ("plain", PERCPU, 0),
    ] {
        let q = rt.queue(name).flags(flags).build().unwrap();
        let other = Call::noop();
        for _ in 0..3 {
            let (handle, o) = (q.handle(), other.clone());
            in_run_of(&q, move || {
                handle.enqueue(o.clone()).unwrap();
                assert!(o.work.flush().unwrap());
            });
        }
        assert_eq!(
            (other.runs(), warnings(&["same queue", name])),
            (3, expected)
        );
    }
}

#[test]
fn s10_14_an_item_flush_within_a_queue_of_one_slot() {
    let rt = heard();
    let q = rt.queue("narrow").flags(PERCPU).build().unwrap();
    let (gate, entered, over) = (Gate::new(), Gate::new(), Gate::new());
    let g = gate.clone();
    let standing = Call::new(move |_| blocking(|| g.pass()));
    q.enqueue(standing.clone()).unwrap();
    gate.wait_for(1);
    // Both have begun before the limit falls, so the flush can end.
    let (e, o) = (entered.clone(), over.clone());
    let flusher = Call::new(move |_| {
        e.open();
        e.pass();
        blocking(|| o.pass());
        assert!(standing.work.flush().unwrap());
    });
    q.enqueue(flusher).unwrap();
    entered.wait_for(1);
    q.set_max_active(1).unwrap();
    over.open();
    until("the warning", || warnings(&["same queue", "narrow"]) == 1);
    gate.open();
    q.flush().unwrap();
    assert_eq!(q.stats().panicked, 0);
}

#[test]
fn s10_14_a_reclaimer_that_waits_for_a_queue_without_a_rescuer_is_warned_of() {
    let rt = heard();
    let reclaim = PERCPU | Flags::MEM_RECLAIM;
    let reclaimer = rt.queue("reclaimer").flags(reclaim).build().unwrap();
    let helper = rt.queue("helper").flags(PERCPU).build().unwrap();
    let safe = rt.queue("safe").flags(reclaim).build().unwrap();
    for _ in 0..3 {
        let (h, s) = (helper.handle(), safe.handle());
        in_run_of(&reclaimer, move || {
            h.flush().unwrap();
            s.flush().unwrap();
        });
    }
    assert_eq!(warnings(&["makes memory free", "waits for helper"]), 1);
    assert_eq!(warnings(&["waits for safe"]), 0);
    // Neither does one from outside, nor from a run that frees no memory.
    let h = helper.handle();
    let plain = rt.queue("plain one").flags(PERCPU).build().unwrap();
    in_run_of(&plain, move || h.flush().unwrap());
    helper.flush().unwrap();
    assert_eq!(warnings(&["waits for helper"]), 1);
}

#[test]
fn s10_14_a_legacy_queue_is_not_warned_of() {
    let rt = heard();
    let old = rt.create_workqueue("old name").unwrap();
    let helper = rt.queue("helper of old").flags(PERCPU).build().unwrap();
    let h = helper.handle();
    in_run_of(&old, move || h.flush().unwrap());
    assert_eq!(warnings(&["waits for helper of old"]), 0);
}

#[test]
fn s10_14_a_wait_in_a_reclaim_scope_is_warned_of() {
    let rt = heard();
    let q = rt.queue("scoped").flags(PERCPU).build().unwrap();
    let cancelled = rt.queue("cancelled").flags(PERCPU).build().unwrap();
    drop(reclaim_scope());
    while_it_stands(&rt, &q, |item| assert!(item.work.flush().unwrap()));
    assert_eq!(warnings(&["waits for scoped"]), 0);
    while_it_stands(&rt, &q, |item| {
        let _outer = reclaim_scope();
        drop(reclaim_scope());
        item.work.flush().unwrap();
    });
    let scope = reclaim_scope();
    q.flush().unwrap();
    drop(scope);
    assert_eq!(warnings(&["makes memory free", "waits for scoped"]), 1);
    // A cancel may: it takes back what has not begun.
    while_it_stands(&rt, &cancelled, |item| {
        let _scope = reclaim_scope();
        assert!(item.work.cancel_sync().unwrap().is_none());
    });
    assert_eq!(warnings(&["waits for cancelled"]), 0);
}

#[test]
fn s10_16_a_flush_of_a_system_queue_works_and_warns_once() {
    let rt = heard();
    let before = warnings(&["system queue events"]);
    let item = Call::noop();
    for _ in 0..3 {
        rt.system_percpu().enqueue(item.clone()).unwrap();
        rt.system_percpu().flush().unwrap();
    }
    assert_eq!(item.runs(), 3);
    assert_eq!(warnings(&["system queue events"]), before + 1);
}

struct Hog {
    work: Work<Hog>,
}

impl_has_work! { impl HasWork<Self> for Hog { self.work } }

impl WorkItem for Hog {
    type Pointer = Arc<Self>;

    fn run(_: Arc<Self>) {
        // As long as several ticks of any kernel's clock, be it on the CPU or not.
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(30) {
            std::hint::spin_loop();
        }
    }
}

#[test]
fn s05_14_a_function_is_warned_of_at_its_fourth_violation() {
    listen();
    for (warn, name, expected) in [
        (4, "hog of four", [0, 0, 0, 1, 2, 2, 3]),
        (0, "silent hog", [0; 7]),
    ] {
        let rt = quiet()
            .topology(machine(1, 1))
            .cpu_intensive_thresh(std::time::Duration::from_millis(1))
            .cpu_intensive_warn(warn)
            .start()
            .unwrap();
        let q = rt.queue("q").flags(PERCPU).build().unwrap();
        let hog = Arc::new(Hog {
            work: Work::new(name),
        });
        // Not every run counts for sure: it may have slept, for a page or so.
        for (violations, warned) in (1..).zip(expected) {
            until("one more is counted", || {
                q.enqueue(hog.clone()).unwrap();
                q.flush().unwrap();
                q.stats().cpu_intensive == violations
            });
            assert_eq!(warnings(&[name, "has used the CPU"]), warned);
        }
    }
}

#[test]
fn s03_10_the_first_wait_in_a_bh_item_is_warned_of_in_its_run() {
    let rt = heard();
    let q = rt.queue("softirq").flags(Flags::BH).build().unwrap();
    for _ in 0..2 {
        let item = Call::new(|_| blocking(|| ()));
        q.enqueue(item.clone()).unwrap();
        item.work.flush().unwrap();
    }
    let stats = q.stats();
    assert_eq!((stats.panicked, stats.bh_blocked), (0, 2));
    assert_eq!(warnings(&["on BH queue softirq waits", "[softirq]"]), 1);
}
