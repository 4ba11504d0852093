// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that sleep and those that wake them.
//!
//! * Kick and idle: no item waits beside a sleeping worker, none runs beside itself. The pool's
//!   state, its workers, the inbox and the parkers are the crate's own; the lock is loom's. What
//!   `Pool::lock`, `PoolGuard::drop`, `enqueue` and the worker's loop do with them is done here in
//!   the same steps.
//! * The parker: no wake-up is lost, and what a waker did before is seen after.
//! * Mayday: a rescuer hears every call, also one that comes just before it is told to end. The
//!   parker is the crate's own; the steps are those of `Rescuer::list`, `wake` and `stop`, and of the
//!   loop in `rescuer::run_rescuer`.

use crate::pool::run::take_first;
use crate::pool::worker_state::{Current, WorkerFlags, WorkerState, WorkerThread};
use crate::pool::PoolState;
use crate::sys::sync::Parker;
use crate::work::list::Inbox;
use crate::work::pointer::{claim, offer};
use crate::work::Item;
use crate::{Refusal, Work, WorkItem};
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex, MutexGuard};
use loom::thread;
use std::ops::{Deref, DerefMut};
use std::sync::Arc as StdArc;

struct Bed {
    state: Mutex<PoolState>,
    inbox: Inbox,
    ran: AtomicUsize,
}

struct Guard<'a>(&'a Bed, MutexGuard<'a, PoolState>);

impl Deref for Guard<'_> {
    type Target = PoolState;
    fn deref(&self) -> &PoolState {
        &self.1
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut PoolState {
        &mut self.1
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.1.will_be_locked_again() {
            self.0.inbox.mark_owned();
        }
    }
}

struct Probe {
    work: Work<Probe>,
    inside: AtomicBool,
    bed: Arc<Bed>,
}

crate::impl_has_work! {
    impl HasWork<Self> for Probe { self.work }
}

impl WorkItem for Probe {
    type Pointer = StdArc<Self>;

    fn run(this: StdArc<Self>) {
        let beside = this.inside.swap(true, Ordering::Relaxed);
        assert!(!beside, "an item runs beside itself");
        this.bed.ran.fetch_add(1, Ordering::Relaxed);
        this.inside.store(false, Ordering::Relaxed);
    }
}

fn probe(bed: &Arc<Bed>) -> StdArc<Probe> {
    StdArc::new(Probe {
        work: crate::new_work!("probe"),
        inside: AtomicBool::new(false),
        bed: bed.clone(),
    })
}

fn bed() -> Arc<Bed> {
    Arc::new(Bed {
        state: Mutex::new(PoolState::new(0)),
        inbox: Inbox::new(),
        ran: AtomicUsize::new(0),
    })
}

impl Bed {
    fn lock(&self) -> Guard<'_> {
        self.settle(self.state.lock().unwrap())
    }

    /// As `Pool::settle`.
    fn settle<'a>(&'a self, mut state: MutexGuard<'a, PoolState>) -> Guard<'a> {
        let _uncounted = state.end_list();
        self.inbox.drain(|item| list(&mut state, item));
        Guard(self, state)
    }

    /// A worker that is idle; its thread has yet to begin.
    fn join(&self, id: usize) -> (usize, StdArc<Parker>) {
        let parker = StdArc::new(Parker::new());
        let thread = StdArc::new(WorkerThread {
            tid: 0,
            handle: StdArc::default(),
        });
        let mut st = self.lock();
        assert_eq!(st.workers.reserve_id(), id);
        let worker = WorkerState::new(Some(id), WorkerFlags::PREP, parker.clone(), thread);
        let slot = st.workers.join(worker);
        st.workers.enter_idle(slot, 0);
        (slot, parker)
    }

    /// As `enqueue::push_to_inbox` and `enqueue::insert`.
    fn queue(&self, probe: StdArc<Probe>) -> Result<(), Refusal> {
        let placed = offer(probe, claim, |item, ()| {
            if let Err(item) = self.inbox.push_if_owned(item) {
                let mut st = self.lock();
                list(&mut st, item);
                let wake = st.kick();
                drop(st);
                wake.perform();
            }
        });
        placed.map_err(|e| e.reason())
    }

    /// As `run::run_one` and `PoolState::pass_on`.
    fn run<'a>(&'a self, mut st: Guard<'a>, slot: usize, mut item: Item) -> Guard<'a> {
        let current = Current {
            item: item.identity(),
            function: "probe",
            pwq: 0,
            color: 0,
            since: 0,
            cpu_start: None,
        };
        st.workers.set_current(slot, current);
        let wake = st.kick();
        item.state.begin_run();
        drop(st);
        wake.perform();
        loop {
            item.run();
            let mut state = self.state.lock().unwrap();
            let Some(next) = pass_on(&mut state, slot) else {
                let mut st = self.settle(state);
                st.workers.clear_current(slot);
                return st;
            };
            next.state.begin_run();
            item = next;
        }
    }

    /// Takes one item and what comes to the private list meanwhile.
    fn take_and_run<'a>(&'a self, mut st: Guard<'a>, slot: usize) -> Guard<'a> {
        if let Some(item) = take_first(&mut st, slot) {
            st = self.run(st, slot, item);
        }
        while let Some(item) = st.workers.get_mut(slot).scheduled.pop_front() {
            st = self.run(st, slot, item);
        }
        st
    }

    /// As `worker::worker_loop`, until `items` have run.
    fn serve(&self, slot: usize, parker: &Parker, items: usize) {
        parker.adopt_current();
        loop {
            // With a lost wake-up this is for ever, which loom reports.
            parker.park();
            let mut st = self.lock();
            st.workers.leave_idle(slot);
            while st.need_more_worker() {
                st.clear_flags(slot, WorkerFlags::PREP);
                loop {
                    st = self.take_and_run(st, slot);
                    if !st.keep_working() {
                        break;
                    }
                }
                st.set_flags(slot, WorkerFlags::PREP);
            }
            st.workers.enter_idle(slot, 0);
            if self.ran.load(Ordering::Relaxed) == items {
                return;
            }
            // As `worker::linger`.
            st.workers.set_called(slot, true);
            drop(st);
            let mut st = self.lock();
            if st.look_after_lingering(slot) {
                parker.unpark();
            }
        }
    }
}

fn pass_on(st: &mut PoolState, slot: usize) -> Option<Item> {
    if st.ended.slot != slot {
        st.end_list();
        st.ended.slot = slot;
    }
    if st.ended.ahead == 0 {
        st.ended.ahead = st.count_alike(slot, 16);
    }
    st.take_alike(0)
}

fn list(st: &mut PoolState, item: Item) {
    item.state.set_queued(0, 0, false);
    st.add_active(item, || 0);
}

#[test]
fn s05_02_s06_04_no_item_waits_beside_a_sleeping_worker() {
    loom::model(|| {
        let bed = bed();
        let (slot, parker) = bed.join(0);
        let own = bed.clone();
        let worker = thread::spawn(move || own.serve(slot, &parker, 2));
        let (own, other) = (bed.clone(), probe(&bed));
        let queuer = thread::spawn(move || own.queue(other));
        assert_eq!(bed.queue(probe(&bed)), Ok(()));
        assert_eq!(queuer.join().unwrap(), Ok(()));
        worker.join().unwrap();
        assert!(bed.lock().worklist.is_empty());
    });
}

#[test]
fn s02_03_s02_08_an_item_queued_in_its_run_goes_to_that_worker() {
    loom::model(|| {
        let bed = bed();
        let ((one, _), (two, _)) = (bed.join(0), bed.join(1));
        let item = probe(&bed);
        assert_eq!(bed.queue(item.clone()), Ok(()));
        // Both have been woken; what they find is a matter of order.
        let work_once = |bed: &Bed, slot| {
            let mut st = bed.lock();
            st.workers.leave_idle(slot);
            st = bed.take_and_run(st, slot);
            while !st.worklist.is_empty() {
                st = bed.take_and_run(st, slot);
            }
        };
        let own = bed.clone();
        let worker = thread::spawn(move || work_once(&own, one));
        let accepted = 1 + usize::from(bed.queue(item.clone()).is_ok());
        work_once(&bed, two);
        worker.join().unwrap();
        assert_eq!(bed.ran.load(Ordering::Relaxed), accepted);
        assert_eq!(StdArc::strong_count(&item), 1);
    });
}

/// Three items stand on the worklist, and a fourth comes. The worker passes on to the second while
/// another thread queues that anew and takes it.
#[test]
fn s02_08_an_item_that_was_passed_on_to_is_not_taken_by_another_worker() {
    loom::model(|| {
        let bed = bed();
        let ((one, _), (two, _)) = (bed.join(0), bed.join(1));
        let items: Vec<_> = (0..3).map(|_| probe(&bed)).collect();
        for item in &items {
            assert_eq!(bed.queue(item.clone()), Ok(()));
        }
        let mut st = bed.lock();
        st.workers.leave_idle(one);
        st.workers.leave_idle(two);
        // As long as both run what they took, each counts.
        st.clear_flags(one, WorkerFlags::PREP);
        drop(st);
        let own = bed.clone();
        let worker = thread::spawn(move || drop(own.take_and_run(own.lock(), one)));
        let accepted = 3 + usize::from(bed.queue(items[1].clone()).is_ok());
        let mut st = bed.lock();
        while !st.worklist.is_empty() {
            st = bed.take_and_run(st, two);
        }
        drop(st);
        worker.join().unwrap();
        assert_eq!(bed.ran.load(Ordering::Relaxed), accepted);
    });
}

/// Parks until `wakers` threads have been heard of, each of which says so before it wakes.
fn wakers_are_heard(wakers: usize) {
    loom::model(move || {
        let shared = Arc::new((Parker::new(), AtomicUsize::new(0)));
        shared.0.adopt_current();
        let threads: Vec<_> = (0..wakers)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    shared.1.fetch_add(1, Ordering::Relaxed);
                    shared.0.unpark();
                })
            })
            .collect();
        while shared.1.load(Ordering::Relaxed) < wakers {
            // A lost wake-up is a thread that sleeps for ever, which loom reports.
            shared.0.park();
        }
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn s05_02_a_wake_up_is_not_lost() {
    wakers_are_heard(1);
}

#[test]
fn s05_02_of_two_wake_ups_neither_is_lost() {
    wakers_are_heard(2);
}

struct Rescuer {
    calls: Mutex<usize>,
    parker: Parker,
    stop: AtomicBool,
    answered: AtomicUsize,
}

impl Rescuer {
    fn call(&self) {
        *self.calls.lock().unwrap() += 1;
        self.parker.unpark();
    }

    fn run_rescuer(&self) {
        self.parker.adopt_current();
        loop {
            // Before the look at the list: calls from before the end are seen by that look.
            let stop = self.stop.load(Ordering::Acquire);
            loop {
                let mut calls = self.calls.lock().unwrap();
                if *calls == 0 {
                    break;
                }
                *calls -= 1;
                drop(calls);
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            if stop {
                return;
            }
            self.parker.park();
        }
    }
}

#[test]
fn s07_03_s07_13_every_call_is_answered_before_the_end() {
    loom::model(|| {
        let rescuer = Arc::new(Rescuer {
            calls: Mutex::new(0),
            parker: Parker::new(),
            stop: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
        });
        let own = rescuer.clone();
        let live = thread::spawn(move || own.run_rescuer());
        rescuer.call();
        let own = rescuer.clone();
        let other = thread::spawn(move || own.call());
        other.join().unwrap();
        rescuer.stop.store(true, Ordering::Release);
        rescuer.parker.unpark();
        live.join().unwrap();
        assert_eq!(rescuer.answered.load(Ordering::Relaxed), 2);
    });
}
