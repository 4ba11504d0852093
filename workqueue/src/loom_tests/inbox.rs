// SPDX-License-Identifier: MIT OR Apache-2.0
//! The inbox of a pool: what is left there is met by the worker that was promised, or its queuer
//! learns that it must take the lock. No item lies there for ever.

use crate::work::list::Inbox;
use crate::work::pointer::{claim, offer};
use crate::{Work, WorkItem};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::sync::Arc as StdArc;

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
        let items = [probe(&model, 1), probe(&model, 2)];
        let order: Vec<usize> = items
            .iter()
            .map(|p| p.work.raw().identity().address)
            .collect();
        items.into_iter().for_each(queue);
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
