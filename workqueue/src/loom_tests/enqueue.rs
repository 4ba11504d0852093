// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way into a pool: the state word, and the inbox.
//!
//! * Claim: who gets to queue, and what the run is promised to see.
//! * Cancel against requeue: after a synchronous cancel the item is neither listed nor running. The
//!   state word is the crate's own; the steps are those of `wait::item`'s `disable_sync`, of an item
//!   that queues itself in its run, and of the worker that runs it.
//! * The inbox of a pool: what is left there is met by the worker that was promised, or its queuer
//!   learns that it must take the lock. No item lies there for ever.

use crate::work::list::{Chain, Inbox};
use crate::work::pointer::{claim, offer};
use crate::work::state::{Claim, WorkState};
use crate::{Work, WorkItem};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::sync::Arc as StdArc;

#[test]
fn s02_02_one_of_two_claims_wins() {
    loom::model(|| {
        let state = Arc::new(WorkState::new());
        let other = state.clone();
        let t = thread::spawn(move || other.claim() == Claim::Ours);
        let here = state.claim() == Claim::Ours;
        assert!(here != t.join().unwrap());
    });
}

#[test]
fn s02_13_the_pending_run_sees_what_came_before_a_failed_claim() {
    loom::model(|| {
        let state = Arc::new(WorkState::new());
        let event = Arc::new(AtomicUsize::new(0));
        assert_eq!(state.claim(), Claim::Ours);
        let (s, e) = (state.clone(), event.clone());
        let worker = thread::spawn(move || {
            s.begin_run();
            e.load(Ordering::Relaxed)
        });
        event.store(1, Ordering::Relaxed);
        let claimed = state.claim() == Claim::Ours;
        let seen = worker.join().unwrap();
        assert!(claimed || seen == 1, "the event was lost");
    });
}

#[test]
fn s02_18_no_claim_succeeds_once_disable_has_returned() {
    loom::model(|| {
        let state = Arc::new(WorkState::new());
        let other = state.clone();
        let t = thread::spawn(move || {
            let claim = other.claim();
            if claim == Claim::Ours {
                other.release();
            }
        });
        assert!(state.disable().is_some());
        // A claim from before may still hold the bit; a new one is refused either way.
        assert_ne!(state.claim(), Claim::Ours);
        t.join().unwrap();
        assert_eq!(state.claim(), Claim::Disabled);
        assert_eq!(state.enable(), Some(true));
        assert_eq!(state.claim(), Claim::Ours);
    });
}

struct Bed {
    state: WorkState,
    /// The pool's lock: is the item listed, is it running?
    pool: Mutex<(bool, bool)>,
    runs: AtomicUsize,
}

impl Bed {
    /// The item's own call in its run. True if it was accepted.
    fn requeue(&self) -> bool {
        if self.state.claim() != Claim::Ours {
            return false;
        }
        let mut pool = self.pool.lock().unwrap();
        self.state.set_queued(0, 0, false);
        pool.0 = true;
        true
    }

    /// The worker: takes the item if it is listed, and runs it; the first run queues it anew.
    fn work(&self) {
        loop {
            {
                let mut pool = self.pool.lock().unwrap();
                if !pool.0 {
                    return;
                }
                *pool = (false, true);
                self.state.begin_run();
            }
            if self.runs.fetch_add(1, Ordering::Relaxed) == 0 {
                self.requeue();
            }
            self.pool.lock().unwrap().1 = false;
        }
    }

    /// As `wait::item::grab`: takes a pending instance back.
    fn grab(&self) -> bool {
        loop {
            let seen = self.state.load();
            if !seen.pending() {
                return false;
            }
            if seen.queued() {
                let mut pool = self.pool.lock().unwrap();
                if self.state.load().queued() {
                    assert!(pool.0, "QUEUED and not listed");
                    pool.0 = false;
                    self.state.set_taken_off();
                    drop(pool);
                    self.state.release();
                    return true;
                }
            }
            thread::yield_now();
        }
    }
}

#[test]
fn s10_11_after_a_cancel_the_item_is_neither_pending_nor_running() {
    loom::model(|| {
        let bed = Arc::new(Bed {
            state: WorkState::new(),
            pool: Mutex::new((false, false)),
            runs: AtomicUsize::new(0),
        });
        assert!(bed.requeue());
        let own = bed.clone();
        let worker = thread::spawn(move || own.work());
        assert!(bed.state.disable().is_some());
        let _taken_back = bed.grab();
        // The wait for a run that is going on, without the barrier.
        while bed.pool.lock().unwrap().1 {
            thread::yield_now();
        }
        let runs = bed.runs.load(Ordering::Relaxed);
        assert_eq!(*bed.pool.lock().unwrap(), (false, false));
        assert!(!bed.state.load().pending());
        worker.join().unwrap();
        assert_eq!(
            bed.runs.load(Ordering::Relaxed),
            runs,
            "it ran after the cancel"
        );
        assert_eq!(bed.state.enable(), Some(true));
    });
}

/// A pool as far as it matters here: what was met under its lock, in that order.
struct Model {
    inbox: Inbox,
    met: Mutex<Vec<usize>>,
}

struct Probe {
    work: Work<Probe>,
    number: usize,
    model: Arc<Model>,
    event: AtomicUsize,
}

crate::impl_has_work! {
    impl HasWork<Self> for Probe { self.work }
}

impl WorkItem for Probe {
    type Pointer = StdArc<Self>;
    fn run(_: StdArc<Self>) {}
}

impl Model {
    /// As `Pool::lock`, `meet` and all: what lies in the inbox comes first.
    fn lock(&self) -> loom::sync::MutexGuard<'_, Vec<usize>> {
        let mut met = self.met.lock().unwrap();
        self.inbox.drain(|item| {
            met.push(item.identity().address);
            item.run();
        });
        met
    }

    /// The holder of the lock has called a worker.
    fn promise(&self) {
        let _held = self.lock();
        self.inbox.mark_owned();
    }
}

fn probe(model: &Arc<Model>, number: usize) -> StdArc<Probe> {
    StdArc::new(Probe {
        work: crate::new_work!("probe"),
        number,
        model: model.clone(),
        event: AtomicUsize::new(0),
    })
}

/// Enqueues: into the inbox, or else under the lock.
fn queue(probe: StdArc<Probe>) {
    probe.event.store(probe.number, Ordering::Relaxed);
    let model = probe.model.clone();
    let placed = offer(probe, claim, |item, ()| {
        if let Err(item) = model.inbox.push_if_owned(item) {
            model.lock().push(item.identity().address);
            item.run();
        }
    });
    assert!(placed.is_ok());
}

fn model() -> Arc<Model> {
    Arc::new(Model {
        inbox: Inbox::new(),
        met: Mutex::new(Vec::new()),
    })
}

#[test]
fn s02_03_an_item_in_the_inbox_is_found_by_the_worker_on_its_way() {
    loom::model(|| {
        let model = model();
        model.promise();
        let own = model.clone();
        let worker = thread::spawn(move || drop(own.lock()));
        let (first, own) = (probe(&model, 1), model.clone());
        let queuer = thread::spawn(move || queue(probe(&own, 2)));
        queue(first);
        queuer.join().unwrap();
        worker.join().unwrap();
        // Without taking anything out first.
        assert_eq!(model.met.lock().unwrap().len(), 2, "an item was forgotten");
    });
}

#[test]
fn s02_05_items_of_one_queuer_are_found_in_order() {
    loom::model(|| {
        let model = model();
        model.promise();
        let own = model.clone();
        let worker = thread::spawn(move || drop(own.lock()));
        let items = [1, 2, 3].map(|number| probe(&model, number));
        let order: Vec<usize> = items
            .iter()
            .map(|p| p.work.raw().identity().address)
            .collect();
        let [first, rest @ ..] = items;
        queue(first);
        // As `enqueue_all`.
        let mut chain = Chain::default();
        for probe in rest {
            assert!(offer(probe, claim, |item, ()| chain.push(item)).is_ok());
        }
        model.inbox.push_all_if_owned(chain, |item| {
            model.lock().push(item.identity().address);
            item.run();
        });
        worker.join().unwrap();
        assert_eq!(*model.met.lock().unwrap(), order);
    });
}

#[test]
fn s02_12_what_came_before_the_enqueue_is_seen_by_the_next_holder_of_the_lock() {
    loom::model(|| {
        let model = model();
        model.promise();
        let item = probe(&model, 7);
        let (own, seen) = (model.clone(), item.clone());
        let worker = thread::spawn(move || {
            let met = own.lock();
            met.is_empty() || seen.event.load(Ordering::Relaxed) == 7
        });
        queue(item);
        assert!(worker.join().unwrap(), "the run missed what came before");
    });
}
