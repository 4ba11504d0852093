// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accepted requests that go on later: after the delay of a rule, the service time of a slow disk, or
//! when a rule lets go of them (E16, E30).
//!
//! A request that the disk has accepted is put off with what is left to do, and keeps its slot. One that
//! the disk would keep by itself, such as a DISCARD, and one that a rule holds wait in front of the disk:
//! they are requeued when their time has come, and pass the rules then.
//!
//! They lie in a heap, the next one on top. It has room for all requests of the device, so nothing is
//! allocated. One timer on the workqueue serves them all. It also runs the hardware queues again for
//! requests that a rule refused with DEV_RESOURCE, every 3 ms until each of them has been tried: a run
//! that came before such a request was back on its list did not find it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use workqueue::{impl_has_delayed_work, new_delayed_work, DelayedWork, WorkItem};

use super::marks::{Marks, PASSED};
use super::slots::Slots;
use super::timers::TimerContext;
use super::KICK_DELAY;
use crate::mq::{Deferred, Hctx, InFlight, Requeue};
use crate::rules::RuleSet;

/// When a request that a rule holds goes on.
const NEVER: u64 = u64::MAX;

/// What goes on.
#[derive(Debug)]
enum What {
    /// A request that the disk has accepted.
    Accepted(Deferred),
    /// One that has not come to the disk, and the slot of the rule.
    Before(InFlight, usize),
    /// A run of the hardware queues.
    Rerun,
}

/// A delayed request. The order is that of `due`, and then of arrival.
#[derive(Debug)]
struct Delayed {
    due: u64,
    number: u64,
    hctx: u16,
    tag: u16,
    what: What,
}

impl Delayed {
    /// What requests are ordered by: when the delay is over, then the number of arrival.
    fn key(&self) -> (u64, u64) {
        (self.due, self.number)
    }

    /// Does a rule in one of these slots hold it?
    fn is_held_by(&self, slots: u128) -> bool {
        let is_its = |slot: usize| slots >> slot & 1 != 0;
        self.due == NEVER && matches!(self.what, What::Before(_, slot) if is_its(slot))
    }
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Delayed {}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

#[derive(Debug, Default)]
struct Requests {
    heap: BinaryHeap<Reverse<Delayed>>,
    /// Requests that have come so far.
    arrived: u64,
    /// By slot: the rules that may hold requests.
    holders: u128,
    /// A run of the hardware queues is to come.
    reruns: bool,
    /// No request is delayed any more.
    ended: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Waiting {
    work: DelayedWork<Waiting>,
    context: OnceLock<TimerContext>,
    slots: Arc<Slots>,
    pub(super) marks: Marks,
    pub(super) rules: RuleSet,
    /// Requests that were refused with DEV_RESOURCE by a rule and have not been tried since.
    pub(super) dev_refused: AtomicU64,
    requests: Mutex<Requests>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Waiting { self.work }
}

impl WorkItem for Waiting {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.serve();
    }
}

impl Waiting {
    /// Makes one with room for all `requests` of the device.
    pub(super) fn new(marks: Marks, slots: Arc<Slots>, rules: RuleSet) -> Self {
        Self {
            slots,
            rules,
            work: new_delayed_work!("delay"),
            context: OnceLock::new(),
            dev_refused: AtomicU64::new(0),
            requests: Mutex::new(Requests {
                // And the run of the hardware queues.
                heap: BinaryHeap::with_capacity(marks.len() + 1),
                ..Requests::default()
            }),
            marks,
        }
    }

    pub(super) fn start(&self, context: TimerContext) {
        let before = self.context.set(context);
        debug_assert!(before.is_ok(), "started once");
    }

    /// Requests that are delayed at present.
    pub(super) fn len(&self) -> u64 {
        let requests = self.lock();
        let all = requests.heap.iter();
        let delayed =
            all.filter(|Reverse(one)| one.due != NEVER && !matches!(one.what, What::Rerun));
        delayed.count() as u64
    }

    /// Requests that the rule in this slot holds.
    pub(super) fn held(&self, slot: usize) -> u64 {
        let requests = self.lock();
        let held = requests
            .heap
            .iter()
            .filter(|one| one.0.is_held_by(1 << slot));
        held.count() as u64
    }

    /// True if a run of the hardware queues is to come, for those that were refused with DEV_RESOURCE.
    pub(super) fn reruns(&self) -> bool {
        self.dev_refused.load(Relaxed) > 0
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delays a request that the disk has accepted.
    pub(super) fn put(self: &Arc<Self>, hctx: Hctx<'_>, tag: u16, deferred: Deferred) {
        let delay = self.marks.delay(hctx.index(), tag);
        self.insert(hctx, tag, What::Accepted(deferred), delay);
    }

    /// Delays a request in front of the disk, on behalf of the rule in `slot`; without a delay it is held
    /// until [`Waiting::release`].
    pub(super) fn hold(
        self: &Arc<Self>,
        hctx: Hctx<'_>,
        tag: u16,
        in_flight: InFlight,
        slot: usize,
        delay: Option<u64>,
    ) {
        self.insert(
            hctx,
            tag,
            What::Before(in_flight, slot),
            delay.unwrap_or(NEVER),
        );
    }

    /// Runs the hardware queues after 3 ms: a rule has refused a request with DEV_RESOURCE.
    pub(super) fn rerun_later(self: &Arc<Self>, hctx: Hctx<'_>) {
        if !std::mem::replace(&mut self.lock().reruns, true) {
            self.insert(hctx, 0, What::Rerun, KICK_DELAY.as_nanos() as u64);
        }
    }

    fn insert(self: &Arc<Self>, hctx: Hctx<'_>, tag: u16, what: What, delay: u64) {
        let mut requests = self.lock();
        let context = match self.context.get() {
            Some(context) if !requests.ended => context,
            _ => {
                drop(requests);
                return self.proceed(hctx, tag, what);
            }
        };
        let mut delayed = Delayed {
            due: context.now().saturating_add(delay),
            number: requests.arrived,
            hctx: hctx.index(),
            tag,
            what,
        };
        if delayed.due == NEVER && !delayed.is_held_by(requests.holders) {
            // The rule has gone since it was looked up.
            delayed.due = context.now();
        }
        requests.arrived += 1;
        let top = requests.heap.peek();
        let first = delayed.due != NEVER && top.is_none_or(|Reverse(next)| delayed < *next);
        let due = delayed.due;
        requests.heap.push(Reverse(delayed));
        if first {
            // Armed under the lock, so that the timer and the heap agree.
            self.arm(context, due);
        }
    }

    /// Has the timer serve what is due then. A refusal tells that it has been ended.
    fn arm(self: &Arc<Self>, context: &TimerContext, due: u64) {
        let left = Duration::from_nanos(due.saturating_sub(context.now()));
        let _ended = context.wq.mod_delayed(left, self.clone());
    }

    /// From now on the rules in these slots, and no others, may hold requests.
    pub(super) fn set_holders(&self, holders: u128) {
        self.lock().holders = holders;
    }

    /// Has the requests go on that the rules in these slots hold.
    pub(super) fn release(self: &Arc<Self>, slots: u128) {
        let Some(context) = self.context.get() else {
            return;
        };
        let mut requests = self.lock();
        let mut all = std::mem::take(&mut requests.heap).into_vec();
        for one in all.iter_mut().filter(|one| one.0.is_held_by(slots)) {
            one.0.due = context.now();
        }
        // The same memory.
        requests.heap = BinaryHeap::from(all);
        self.arm(context, 0);
    }

    /// Has the requests go on whose delay is over.
    fn serve(self: &Arc<Self>) {
        let Some((context, queue)) = self.context.get().and_then(|context| {
            let queue = context.queue.upgrade()?;
            Some((context, queue))
        }) else {
            return;
        };
        while let Some(next) = self.next(context) {
            self.proceed(queue.hw_queue(next.hctx), next.tag, next.what);
        }
    }

    /// Takes a request whose delay is over. If there is none, arms the timer for the next one.
    fn next(self: &Arc<Self>, context: &TimerContext) -> Option<Delayed> {
        let mut requests = self.lock();
        let due = requests.heap.peek()?.0.due;
        if due > context.now() && !requests.ended {
            if due != NEVER {
                self.arm(context, due);
            }
            return None;
        }
        requests.heap.pop().map(|Reverse(next)| next)
    }

    /// Has a request go on. One that ends without the disk's `complete` gives its slot back here.
    fn proceed(self: &Arc<Self>, hctx: Hctx<'_>, tag: u16, what: What) {
        if let What::Accepted(deferred) = what {
            if deferred.completes() {
                return hctx.queue().proceed(deferred);
            }
            // The token is taken before: once the request has ended, its tag may be another's.
            let held = hctx.take_token(tag) != 0;
            hctx.queue().proceed(deferred);
            return self.give_back(hctx, held);
        }
        let What::Before(in_flight, _) = what else {
            self.lock().reruns = false;
            hctx.queue().run_hw_queues(true);
            if self.reruns() && !self.lock().ended {
                self.rerun_later(hctx);
            }
            return;
        };
        self.rules.let_go(self.marks.number(hctx.index(), tag));
        self.marks.set(hctx.index(), tag, PASSED);
        let held = hctx.take_token(tag) != 0;
        let at_once = Requeue {
            kick: Some(Duration::ZERO),
            prepared: false,
        };
        let _ended_meanwhile = hctx.queue().requeue(in_flight, at_once);
        self.give_back(hctx, held);
    }

    fn give_back(&self, hctx: Hctx<'_>, held: bool) {
        if held {
            self.slots.release(hctx);
        }
    }

    /// Ends the delays: those that wait go on at once, and later requests are not delayed.
    pub(super) fn end(self: &Arc<Self>) {
        self.lock().ended = true;
        if let Err(error) = self.work.disable_sync() {
            log::error!("delayed requests cannot be waited for: {error:?}");
        }
        self.serve();
    }
}
