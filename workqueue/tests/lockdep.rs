// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 10.15: orders that can deadlock are reported, though nothing here ever hangs.
//!
//! `cargo test -p workqueue --features lockdep --test lockdep`. The tests share the records of the
//! process, so each has its own queue names, and its own functions.

mod common;
use common::*;
use std::sync::Arc;
use workqueue::sync::{Mutex, RwLock};
use workqueue::*;

/// The reports with all of these words in them.
fn reports(words: &[&str]) -> usize {
    let has_all = |r: &String| words.iter().all(|w| r.contains(w));
    lockdep_reports().into_iter().filter(has_all).count()
}

fn queue(rt: &Runtime, name: &str) -> OwnedQueue {
    rt.queue(name).flags(UNBOUND).build().unwrap()
}

/// Runs a closure, whose type is its function, and waits for it in a way that is not recorded.
fn run(q: &Queue, f: impl FnOnce() + Send + 'static) {
    let gate = Gate::new();
    let g = gate.clone();
    gate.open();
    q.try_spawn(move || {
        f();
        g.pass();
    })
    .unwrap();
    gate.wait_for(1);
}

#[test]
fn s10_15_two_locks_in_both_orders() {
    let (a, line) = (Mutex::new(()), line!());
    let place = format!("tests/lockdep.rs:{line}");
    let b = RwLock::new(());
    let take_both = || drop((a.lock(), b.read()));
    (0..3).for_each(|_| take_both());
    assert_eq!(reports(&[&place]), 0);
    // Three times the contrary, one report.
    (0..3).for_each(|_| drop((b.write(), a.lock())));
    assert_eq!(reports(&[&place]), 1, "{:?}", lockdep_reports());
}

#[test]
fn s10_15_trying_waits_for_nothing() {
    let (a, line) = (Mutex::new(()), line!());
    let place = format!("tests/lockdep.rs:{line}");
    let b = Mutex::new(());
    drop((a.lock(), b.lock()));
    drop((b.lock(), a.try_lock().unwrap()));
    assert_eq!(reports(&[&place]), 0);
}

#[test]
fn s10_15_two_queues_flushed_from_each_other() {
    let rt = runtime(1);
    let (a, b) = (queue(&rt, "one side"), queue(&rt, "other side"));
    let to = b.handle();
    run(&a, move || to.flush().unwrap());
    assert_eq!(reports(&["one side"]), 0);
    let to = a.handle();
    run(&b, move || to.flush().unwrap());
    assert_eq!(reports(&["queue one side", "queue other side"]), 1);
}

#[test]
fn s10_15_a_lock_held_around_a_flush_and_taken_in_the_run() {
    let rt = runtime(1);
    let q = queue(&rt, "locked around");
    let lock = Arc::new(Mutex::new(0));
    let own = lock.clone();
    run(&q, move || *own.lock() += 1);
    assert_eq!(reports(&["locked around"]), 0);
    let guard = lock.lock();
    q.flush().unwrap();
    drop(guard);
    assert_eq!(reports(&["locked around"]), 1, "{:?}", lockdep_reports());
}

struct Locker {
    lock: Mutex<u32>,
    work: Work<Locker>,
}

impl_has_work! { impl HasWork<Self> for Locker { self.work } }

impl WorkItem for Locker {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        *this.lock.lock() += 1;
    }
}

#[test]
fn s10_15_a_lock_held_around_a_synchronous_cancel() {
    let rt = runtime(1);
    let q = queue(&rt, "cancelled under a lock");
    let item = Arc::new(Locker {
        lock: Mutex::new(0),
        work: new_work!("locker"),
    });
    q.enqueue(item.clone()).unwrap();
    item.work.flush().unwrap();
    assert_eq!(reports(&["item locker"]), 0);
    let guard = item.lock.lock();
    assert!(item.work.cancel_sync().unwrap().is_none());
    assert_eq!((*guard, reports(&["item locker"])), (1, 1));
}

#[test]
fn s10_15_orders_that_agree_are_not_reported() {
    let rt = runtime(2);
    let (outer, inner) = (queue(&rt, "outer"), queue(&rt, "inner"));
    let lock = Arc::new(Mutex::new(0));
    for _ in 0..3 {
        let (to, l) = (inner.handle(), lock.clone());
        run(&outer, move || {
            to.flush().unwrap();
            *l.lock() += 1;
        });
        let l = lock.clone();
        run(&inner, move || *l.lock() += 1);
        outer.flush().unwrap();
    }
    assert_eq!(reports(&["outer"]) + reports(&["inner"]), 0);
}
