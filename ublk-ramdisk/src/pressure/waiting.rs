// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accepted requests that go on later: after the delay of a rule, the service time of a slow disk, or
//! when a rule lets go of them (E16, E30).
//!
//! A request that the disk has accepted is put off with what is left to do, and keeps its slot. One that
//! the disk would keep by itself, such as a DISCARD, and one that a rule holds wait in front of the disk:
//! they are requeued when their time has come, and pass the rules then.
//!
//! A heap says whose turn is next. Nothing is allocated: there is room for all requests of the device.
//! One timer on the workqueue serves them all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use workqueue::{impl_has_delayed_work, new_delayed_work, DelayedWork, WorkItem};

use super::marks::{Marks, PASSED};
use super::slots::Slots;
use super::timers::TimerContext;
use crate::mq::{Deferred, Hctx, InFlight, Requeue};
use crate::rules::RuleSet;
use crate::sys::lock::Lock;

/// What goes on.
#[derive(Debug)]
pub(super) enum What {
    /// A request that the disk has accepted.
    Accepted(Deferred),
    /// One that has not come to the disk.
    Before(InFlight),
    /// The same, held by the rule in this slot.
    Held(InFlight, usize),
}

#[derive(Debug, Default)]
struct Requests {
    /// When each goes on that is not held, the number of its arrival, and its place.
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    /// By place: see [`Marks::index`].
    what: Box<[Option<What>]>,
    /// Requests that have come so far.
    arrived: u64,
    /// By slot: the rules that may hold requests.
    holders: u128,
    /// No request is delayed any more.
    ended: bool,
}

impl Requests {
    /// The request goes on then.
    fn push(&mut self, due: u64, place: usize) {
        self.heap.push(Reverse((due, self.arrived, place)));
        self.arrived += 1;
    }

    /// The places of the requests that the rules in these slots hold.
    fn held(&self, slots: u128) -> impl Iterator<Item = usize> + '_ {
        let is_held = move |what: &Option<What>| match what {
            Some(What::Held(_, slot)) => slots >> slot & 1 != 0,
            _ => false,
        };
        let all = self.what.iter().enumerate();
        all.filter(move |(_, what)| is_held(what))
            .map(|(place, _)| place)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Waiting {
    work: DelayedWork<Waiting>,
    context: OnceLock<TimerContext>,
    slots: Arc<Slots>,
    pub(super) marks: Marks,
    pub(super) rules: RuleSet,
    requests: Lock<Requests>,
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
            requests: Lock::new(Requests {
                heap: BinaryHeap::with_capacity(marks.len()),
                what: (0..marks.len()).map(|_| None).collect(),
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
        self.requests.lock().heap.len() as u64
    }

    /// Requests that the rules in these slots hold.
    pub(super) fn held(&self, slots: u128) -> u64 {
        self.requests.lock().held(slots).count() as u64
    }

    /// Has a request wait this many nanoseconds, or until [`Waiting::release`] if a rule holds it.
    pub(super) fn put(self: &Arc<Self>, hctx: Hctx<'_>, tag: u16, what: What, delay: u64) {
        let mut requests = self.requests.lock();
        let context = match self.context.get() {
            Some(context) if !requests.ended => context,
            _ => {
                drop(requests);
                return self.proceed(hctx, tag, what);
            }
        };
        let place = self.marks.index(hctx.index(), tag);
        // A rule may have gone since it was looked up.
        let is_held = matches!(&what, What::Held(_, slot) if requests.holders >> slot & 1 != 0);
        requests.what[place] = Some(what);
        if !is_held {
            requests.push(context.now().saturating_add(delay), place);
            // Only the next one changes what the timer waits for.
            if requests
                .heap
                .peek()
                .is_some_and(|Reverse(top)| top.2 == place)
            {
                self.arm(context, &requests);
            }
        }
    }

    /// Has the timer serve the next one. With the lock, so that the timer and the heap agree.
    fn arm(self: &Arc<Self>, context: &TimerContext, requests: &Requests) {
        if let Some(Reverse((due, ..))) = requests.heap.peek() {
            let left = Duration::from_nanos(due.saturating_sub(context.now()));
            let _ended = context.wq.mod_delayed(left, self.clone());
        }
    }

    /// The rules in the slots `holders`, and no others, may hold requests from now on, and those that the
    /// rules in the slots `gone` hold go on.
    pub(super) fn release(self: &Arc<Self>, holders: Option<u128>, gone: u128) {
        let Some(context) = self.context.get() else {
            self.requests.lock().holders = holders.unwrap_or(0);
            return;
        };
        let mut requests = self.requests.lock();
        requests.holders = holders.unwrap_or(requests.holders);
        loop {
            let next = requests.held(gone).next();
            let Some(place) = next else { break };
            let what = &mut requests.what[place];
            // The rule has it no more.
            if let Some(What::Held(token, _)) = what.take() {
                *what = Some(What::Before(token));
            }
            requests.push(context.now(), place);
        }
        self.arm(context, &requests);
    }

    /// Has the requests go on whose delay is over.
    fn serve(self: &Arc<Self>) {
        let Some((context, queue)) = self.context.get().and_then(|context| {
            let queue = context.queue.upgrade()?;
            Some((context, queue))
        }) else {
            return;
        };
        while let Some((place, what)) = self.next(context) {
            let (hctx, tag) = self.marks.of_index(place);
            self.proceed(queue.hw_queue(hctx), tag, what);
        }
    }

    /// Takes a request whose delay is over. If there is none, arms the timer for the next one.
    fn next(self: &Arc<Self>, context: &TimerContext) -> Option<(usize, What)> {
        let mut requests = self.requests.lock();
        let Reverse((due, _, place)) = *requests.heap.peek()?;
        if due > context.now() && !requests.ended {
            self.arm(context, &requests);
            return None;
        }
        requests.heap.pop();
        let what = requests.what[place].take();
        Some((place, what.expect("it waits")))
    }

    /// Has a request go on. One that ends without the disk's `complete` gives its slot back here.
    fn proceed(&self, hctx: Hctx<'_>, tag: u16, what: What) {
        let is_completed = matches!(&what, What::Accepted(deferred) if deferred.completes());
        // The token is taken before: once the request has ended, its tag may be another's.
        let held = !is_completed && hctx.take_token(tag) != 0;
        match what {
            What::Accepted(deferred) => hctx.queue().proceed(deferred),
            What::Before(token) | What::Held(token, _) => {
                self.rules.let_go(self.marks.index(hctx.index(), tag));
                self.marks.set(hctx.index(), tag, PASSED);
                let at_once = Requeue {
                    kick: Some(Duration::ZERO),
                    prepared: false,
                };
                let _ended_meanwhile = hctx.queue().requeue(token, at_once);
            }
        }
        if held {
            self.slots.release(hctx);
        }
    }

    /// Ends the delays: those that wait go on at once, and later requests are not delayed.
    pub(super) fn end(self: &Arc<Self>) {
        self.release(Some(0), u128::MAX);
        self.requests.lock().ended = true;
        if let Err(error) = self.work.disable_sync() {
            log::error!("delayed requests cannot be waited for: {error:?}");
        }
        self.serve();
    }
}
