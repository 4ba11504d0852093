// SPDX-License-Identifier: MIT OR Apache-2.0
//! E16, `delay`: an accepted request goes on only after a time, the service time of a slow disk.
//!
//! Delayed requests lie in a heap, the next one on top. It has room for all requests of the device, so
//! nothing is allocated. One timer on the workqueue serves them all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use workqueue::{impl_has_delayed_work, new_delayed_work, DelayedWork, WorkItem};

use super::slots::Slots;
use super::timers::TimerContext;
use crate::mq::{Deferred, Hctx};

/// A delayed request. The order is that of `due`, and then of arrival.
#[derive(Debug)]
struct Delayed {
    due: u64,
    number: u64,
    hctx: u16,
    tag: u16,
    deferred: Deferred,
}

impl Delayed {
    /// What requests are ordered by: when the delay is over, then the number of arrival.
    fn key(&self) -> (u64, u64) {
        (self.due, self.number)
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
    /// No request is delayed any more.
    ended: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct DelayLine {
    work: DelayedWork<DelayLine>,
    context: OnceLock<TimerContext>,
    slots: Arc<Slots>,
    delay: AtomicU64,
    requests: Mutex<Requests>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for DelayLine { self.work }
}

impl WorkItem for DelayLine {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.serve();
    }
}

impl DelayLine {
    /// Makes one with room for all `requests` of the device.
    pub(super) fn new(requests: usize, slots: Arc<Slots>) -> Self {
        Self {
            slots,
            work: new_delayed_work!("delay"),
            context: OnceLock::new(),
            delay: AtomicU64::new(0),
            requests: Mutex::new(Requests {
                heap: BinaryHeap::with_capacity(requests),
                ..Requests::default()
            }),
        }
    }

    pub(super) fn start(&self, context: TimerContext) {
        let before = self.context.set(context);
        debug_assert!(before.is_ok(), "started once");
    }

    /// Sets the delay, in nanoseconds, of requests that come from now on.
    pub(super) fn set(&self, ns: u64) {
        self.delay.store(ns, Relaxed);
    }

    /// Requests that are delayed at present.
    pub(super) fn len(&self) -> u64 {
        self.lock().heap.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delays a request.
    pub(super) fn put(self: &Arc<Self>, hctx: Hctx<'_>, tag: u16, deferred: Deferred) {
        let mut requests = self.lock();
        let Some(context) = self.context.get().filter(|_| !requests.ended) else {
            drop(requests);
            return self.proceed(hctx, tag, deferred);
        };
        let delay = self.delay.load(Relaxed);
        let delayed = Delayed {
            due: context.now().saturating_add(delay),
            number: requests.arrived,
            hctx: hctx.index(),
            tag,
            deferred,
        };
        requests.arrived += 1;
        let first = requests
            .heap
            .peek()
            .is_none_or(|Reverse(next)| delayed < *next);
        requests.heap.push(Reverse(delayed));
        if first {
            // Armed under the lock, so that the timer and the heap agree.
            let _ended = context
                .wq
                .mod_delayed(Duration::from_nanos(delay), self.clone());
        }
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
            self.proceed(queue.hw_queue(next.hctx), next.tag, next.deferred);
        }
    }

    /// Takes a request whose delay is over. If there is none, arms the timer for the next one.
    fn next(self: &Arc<Self>, context: &TimerContext) -> Option<Delayed> {
        let mut requests = self.lock();
        let due = requests.heap.peek()?.0.due;
        let now = context.now();
        if due > now && !requests.ended {
            let _ended = context
                .wq
                .mod_delayed(Duration::from_nanos(due - now), self.clone());
            return None;
        }
        requests.heap.pop().map(|Reverse(next)| next)
    }

    /// Has a request go on. One that ends without the disk's `complete` gives its slot back here.
    fn proceed(&self, hctx: Hctx<'_>, tag: u16, deferred: Deferred) {
        if deferred.completes() {
            return hctx.queue().proceed(deferred);
        }
        // The token is taken before: once the request has ended, its tag may be another's.
        let held = hctx.take_token(tag) != 0;
        hctx.queue().proceed(deferred);
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
