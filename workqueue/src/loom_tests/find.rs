// SPDX-License-Identifier: MIT OR Apache-2.0
//! The search for an item that is in no place at the moment: a waiter never takes it for idle.
//!
//! The search, the state word and the inbox are the crate's own. The pools and the timer are the
//! model's, with loom's locks; a run is over as soon as it has begun.

use crate::wait::{find, NoPool, Place, Places};
use crate::work::list::Inbox;
use crate::work::pointer::{claim, claim_for, offer};
use crate::work::Item;
use crate::{Work, WorkItem};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex, MutexGuard};
use loom::thread;
use std::sync::Arc as StdArc;

struct Probe {
    work: Work<Probe>,
    bed: Arc<Bed>,
}

crate::impl_has_work! {
    impl HasWork<Self> for Probe { self.work }
}

impl WorkItem for Probe {
    type Pointer = StdArc<Self>;

    fn run(this: StdArc<Self>) {
        this.bed.runs.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Pool {
    listed: Mutex<Option<Item>>,
}

struct Bed {
    pools: [Pool; 2],
    /// Of the first pool.
    inbox: Inbox,
    timer: Mutex<Option<Item>>,
    runs: AtomicUsize,
}

impl Places for Bed {
    type Pool<'a> = (usize, MutexGuard<'a, Option<Item>>);
    type Run = ();

    fn lock<R>(&self, pool: u32, then: impl FnOnce(Self::Pool<'_>) -> R) -> Result<R, NoPool> {
        let number = pool as usize;
        let mut listed = self.pools[number].listed.lock().unwrap();
        if number == 0 {
            self.inbox.drain(|item| {
                item.state.set_queued(0, 0, false);
                *listed = Some(item);
            });
        }
        Ok(then((number, listed)))
    }

    fn run_in(&self, _: &Self::Pool<'_>) -> Option<()> {
        None
    }

    fn is_armed(&self) -> bool {
        self.timer.lock().unwrap().is_some()
    }
}

impl Bed {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            pools: Default::default(),
            inbox: Inbox::new(),
            timer: Mutex::new(None),
            runs: AtomicUsize::new(0),
        })
    }

    fn list(&self, pool: u32, item: Item) {
        let mut listed = self.pools[pool as usize].listed.lock().unwrap();
        item.state.set_queued(pool, 0, false);
        *listed = Some(item);
    }

    fn expire(&self, pool: u32) {
        // The heap's lock is released before the pool's is taken.
        let armed = self.timer.lock().unwrap().take();
        if let Some(item) = armed {
            self.list(pool, item);
        }
    }

    /// As a flush: runs what it finds queued, as the barrier's worker would.
    fn flush(&self, item: &Probe) {
        find(&item.work.raw().state, self, |place| match place {
            Place::Queued((number, mut listed)) => {
                let item = listed.take();
                let item = item.unwrap_or_else(|| panic!("not listed in pool {number}"));
                item.state.begin_run();
                item.run();
                Some(())
            }
            Place::Armed => {
                self.expire(0);
                None
            }
            _ => Some(()),
        });
    }
}

fn probe(bed: &Arc<Bed>) -> StdArc<Probe> {
    StdArc::new(Probe {
        work: crate::new_work!("probe"),
        bed: bed.clone(),
    })
}

/// One run in pool `pool`, so that the state word names it.
fn run_once(bed: &Arc<Bed>, item: &StdArc<Probe>, pool: u32) {
    let placed = offer(item.clone(), claim, |item, ()| bed.list(pool, item));
    assert!(placed.is_ok());
    bed.flush(item);
    assert_eq!(bed.runs.swap(0, Ordering::Relaxed), 1);
}

/// One thread hands the item in; the other is told that it is pending, flushes it and finds it run.
fn a_flush_sees_the_run(
    before: impl Fn(&Arc<Bed>, &StdArc<Probe>) + Send + Sync + 'static,
    hand_in: impl Fn(&Arc<Bed>, StdArc<Probe>) + Send + Sync + Copy + 'static,
) {
    loom::model(move || {
        let bed = Bed::new();
        let item = probe(&bed);
        before(&bed, &item);
        let (own, given) = (bed.clone(), item.clone());
        let owner = thread::spawn(move || hand_in(&own, given));
        // Told AlreadyPending. A plain load would be no scheduling point for loom beside the claim.
        if item.work.raw().state.read_as_claim().pending() {
            bed.flush(&item);
            let runs = bed.runs.load(Ordering::Relaxed);
            assert_eq!(runs, 1, "the flush was over before the run");
        }
        owner.join().unwrap();
        bed.flush(&item);
        assert_eq!(bed.runs.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn s10_06_claimed_and_not_listed() {
    a_flush_sees_the_run(
        |_, _| {},
        |bed, item| {
            let placed = offer(item, claim, |item, ()| bed.list(0, item));
            assert!(placed.is_ok());
        },
    );
}

#[test]
fn s10_06_taken_from_the_timer_and_not_listed() {
    let arm = |bed: &Arc<Bed>, item: &StdArc<Probe>| {
        let placed = offer(item.clone(), claim, |item, ()| {
            *bed.timer.lock().unwrap() = Some(item);
        });
        assert!(placed.is_ok());
    };
    a_flush_sees_the_run(arm, |bed, _| bed.expire(0));
}

#[test]
fn s10_06_on_its_way_to_another_pool() {
    a_flush_sees_the_run(
        |bed, item| run_once(bed, item, 0),
        |bed, item| {
            let placed = offer(item, claim, |item, ()| bed.list(1, item));
            assert!(placed.is_ok());
        },
    );
}

#[test]
fn s10_06_claimed_for_an_inbox_and_not_there() {
    a_flush_sees_the_run(
        |bed, _| bed.inbox.mark_owned(),
        |bed, item| {
            let placed = offer(
                item,
                |state| claim_for(state, 0),
                |item, for_inbox| {
                    assert!(for_inbox);
                    if let Err(item) = bed.inbox.push_if_owned(item) {
                        bed.list(0, item);
                    }
                },
            );
            assert!(placed.is_ok());
        },
    );
}

#[test]
fn s10_06_gone_to_another_pool_since_the_look_at_the_word() {
    loom::model(|| {
        let bed = Bed::new();
        let item = probe(&bed);
        let placed = offer(item.clone(), claim, |item, ()| bed.list(0, item));
        assert!(placed.is_ok());
        let (own, given) = (bed.clone(), item.clone());
        let other = thread::spawn(move || {
            own.flush(&given);
            let placed = offer(given, claim, |item, ()| own.list(1, item));
            assert!(placed.is_ok());
        });
        bed.flush(&item);
        other.join().unwrap();
        bed.flush(&item);
        assert_eq!(bed.runs.load(Ordering::Relaxed), 2);
    });
}
