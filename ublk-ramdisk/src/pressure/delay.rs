// SPDX-License-Identifier: MIT OR Apache-2.0
//! E16, `delay`: an accepted request goes on only after a time: the service time of a slow disk.
//!
//! Those that wait lie in a heap, the next one on top, made for all requests of the device, so
//! nothing is allocated; one timer serves them. The work is done on the workqueue, by a thread that
//! is no lane's.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use workqueue::{impl_has_delayed_work, new_delayed_work, DelayedWork, WorkItem};

use super::life::Life;
use super::slots::Slots;
use crate::mq::{Deferred, Hctx};

/// One that waits, in the order of its time and then of its arrival.
#[derive(Debug)]
struct Waiting {
    due: u64,
    number: u64,
    hctx: u16,
    tag: u16,
    deferred: Deferred,
}

impl Waiting {
    fn key(&self) -> (u64, u64) {
        (self.due, self.number)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

#[derive(Debug, Default)]
struct Line {
    heap: BinaryHeap<Reverse<Waiting>>,
    arrived: u64,
    ended: bool,
}

#[derive(Debug)]
pub(super) struct DelayLine {
    work: DelayedWork<DelayLine>,
    life: OnceLock<Life>,
    slots: Arc<Slots>,
    delay: AtomicU64,
    line: Mutex<Line>,
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
    pub(super) fn new(requests: usize, slots: Arc<Slots>) -> Self {
        Self {
            slots,
            work: new_delayed_work!("delay"),
            life: OnceLock::new(),
            delay: AtomicU64::new(0),
            line: Mutex::new(Line {
                heap: BinaryHeap::with_capacity(requests),
                ..Line::default()
            }),
        }
    }

    pub(super) fn start(&self, life: Life) {
        let before = self.life.set(life);
        debug_assert!(before.is_ok(), "started once");
    }

    /// The time from now on; those that wait keep theirs.
    pub(super) fn set(&self, ns: u64) {
        self.delay.store(ns, Relaxed);
    }

    /// How many wait.
    pub(super) fn len(&self) -> u64 {
        self.lock().heap.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request in.
    pub(super) fn put(self: &Arc<Self>, hctx: Hctx<'_>, tag: u16, deferred: Deferred) {
        let mut line = self.lock();
        let Some(life) = self.life.get().filter(|_| !line.ended) else {
            drop(line);
            return self.proceed(hctx, tag, deferred);
        };
        let delay = self.delay.load(Relaxed);
        let waiting = Waiting {
            due: life.clock.now().saturating_add(delay),
            number: line.arrived,
            hctx: hctx.index(),
            tag,
            deferred,
        };
        line.arrived += 1;
        let first = line.heap.peek().is_none_or(|Reverse(next)| waiting < *next);
        line.heap.push(Reverse(waiting));
        if first {
            // Under the lock, so that the timer and the heap agree.
            let _ended = life
                .wq
                .mod_delayed(Duration::from_nanos(delay), self.clone());
        }
    }

    /// Those whose time has come go on.
    fn serve(self: &Arc<Self>) {
        let Some((life, queue)) = self.life.get().and_then(|life| {
            let queue = life.queue.upgrade()?;
            Some((life, queue))
        }) else {
            return;
        };
        while let Some(next) = self.next(life) {
            self.proceed(queue.hw_queue(next.hctx), next.tag, next.deferred);
        }
    }

    /// One whose time has come. If there is none the timer is armed for the one that is next.
    fn next(self: &Arc<Self>, life: &Life) -> Option<Waiting> {
        let mut line = self.lock();
        let due = line.heap.peek()?.0.due;
        let now = life.clock.now();
        if due > now && !line.ended {
            let _ended = life
                .wq
                .mod_delayed(Duration::from_nanos(due - now), self.clone());
            return None;
        }
        line.heap.pop().map(|Reverse(next)| next)
    }

    fn proceed(&self, hctx: Hctx<'_>, tag: u16, deferred: Deferred) {
        if deferred.completes() {
            return hctx.queue().proceed(deferred);
        }
        // Its slot is free when it ends; by then the tag may be another request's.
        let held = hctx.take_token(tag) != 0;
        hctx.queue().proceed(deferred);
        if held {
            self.slots.release(hctx);
        }
    }

    /// No request is taken in any more, and those that wait go on at once.
    pub(super) fn end(self: &Arc<Self>) {
        self.lock().ended = true;
        if let Err(error) = self.work.disable_sync() {
            log::error!("delayed requests cannot be waited for: {error:?}");
        }
        self.serve();
    }
}
