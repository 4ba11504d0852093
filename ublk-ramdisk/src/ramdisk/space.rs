// SPDX-License-Identifier: MIT OR Apache-2.0
//! The work that makes memory for the disk and gives it back, on workqueues of its own (E8, D2):
//! "store", on which nothing else runs that could hold it up, and "reclaim".
//!
//! A write that lacks memory is refused with RESOURCE and has a place among the [`Parked`]. Then:
//! 1. `populate` takes the oldest, allocates and pins what it lacks, and has its hardware queue run;
//! 2. where there is too little it looks for pages of zeros (`reclaim`), and tries again with what was
//!    freed;
//! 3. where nothing was, the store is exhausted, and [`NoSpace`] decides how long requests wait.
//!
//! Whoever frees memory meanwhile (a discard, a smaller disk, a higher limit) is told so by the
//! budget and starts again at 1. A younger request is not given what an older one waits for. All of
//! it happens within the reserve of a rescuer, allocates no heap memory and takes no lock across a
//! system call.

mod reclaim;
mod works;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use workqueue::{impl_has_delayed_work, DelayedWork, VirtualClock, WorkItem};

use super::held::{Held, Job};
use super::no_space::{Mode, NoSpace, Patience, Step, DEFAULT_PATIENCE};
use super::parked::{Parked, Taken};
use super::store::{Shortage, Store};
use super::Ramdisk;
use crate::mq::{InFlight, Queue, Request, WeakQueue};
use crate::trace::{self, Reclaimed};
pub use works::SpaceWorks;

/// How soon the system is asked again when it had no memory: unlike the budget it does not say
/// when it has.
const SYSTEM_RETRY: Duration = Duration::from_millis(100);
/// The same when nobody waits, and requests are ended with NOSPC meanwhile.
const SYSTEM_PROBE: Duration = Duration::from_secs(1);
/// So many bytes are cleared in one run, so that other work has its turn: half a millisecond.
const CLEAR_RUN: u64 = 4 << 20;

/// How memory is made, limited and taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceOptions {
    /// How long requests wait for memory when there is none.
    pub patience: Patience,
    /// Are pages of zeros looked for when memory is short?
    pub reclaim: bool,
    /// And how often beside that?
    pub reclaim_every: Option<Duration>,
}

impl Default for SpaceOptions {
    fn default() -> Self {
        Self {
            patience: DEFAULT_PATIENCE,
            reclaim: true,
            reclaim_every: None,
        }
    }
}

/// What the store has and lacks (K2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpaceStats {
    /// Bytes used: pages of the disk, and the store's tables.
    pub used: u64,
    /// Of those, bytes of the tables.
    pub tables: u64,
    /// Bytes that may be used; 0 for no limit.
    pub limit: u64,
    /// Bytes of pages of zeros that were given back so far.
    pub zero: u64,
    /// Requests that wait for memory now.
    pub parked: u64,
    /// Requests that have been given memory.
    pub populated: u64,
    /// Requests that were ended with NOSPC when their patience was over, or later.
    pub no_space: u64,
    /// Requests that were ended with NOSPC to keep tags free (E11).
    pub above_cap: u64,
    /// What a write that needs memory can expect.
    pub mode: Mode,
    /// How long it is until those that wait are ended with NOSPC.
    pub no_space_in: Option<Duration>,
}

/// What an item is for.
#[derive(Clone, Copy, Debug)]
enum Duty {
    Populate,
    Discard,
    Clear,
    NoSpace,
    Reclaim,
    Scan,
}

struct Item {
    work: DelayedWork<Item>,
    ramdisk: Weak<Ramdisk>,
    duty: Duty,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Item { self.work }
}

impl WorkItem for Item {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let Some(ramdisk) = this.ramdisk.upgrade() else {
            return;
        };
        let (Some(space), store) = (ramdisk.space(), ramdisk.store()) else {
            return;
        };
        let Some(queue) = space.queue.upgrade() else {
            return; // the device is being taken down
        };
        match this.duty {
            Duty::Populate => space.populate(store, &queue),
            Duty::Discard => space.discard(store, &queue),
            Duty::Clear => space.clear(store, &queue),
            Duty::NoSpace => space.no_space(&queue),
            Duty::Reclaim => space.reclaim(store, &queue),
            Duty::Scan => space.scan(store, &queue),
        }
    }
}

/// What works for one device.
pub(super) struct Space {
    pub(super) parked: Parked,
    no_space: NoSpace,
    discards: Held,
    clears: Held,
    options: SpaceOptions,
    queue: WeakQueue,
    store_queue: workqueue::Queue,
    reclaim_queue: workqueue::Queue,
    populate: Arc<Item>,
    discard: Arc<Item>,
    clear: Arc<Item>,
    timer: Arc<Item>,
    reclaim: Arc<Item>,
    scan: Arc<Item>,
    clock: Option<Arc<VirtualClock>>,
    begun: Instant,
    /// The device is being taken down: a long pass ends early.
    ending: AtomicBool,
    /// Requests of a hardware queue that may wait while the store is exhausted (E11).
    cap: u32,
    /// Where the system had no memory last, to be tried when nobody waits: start and end.
    failed_at: [AtomicU64; 2],
    /// How often memory had been freed before the try to have some that failed last.
    frees_seen: AtomicU64,
    /// Are pages of zeros looked for?
    reclaims: AtomicBool,
    /// Bytes of pages of zeros given back so far.
    zeros_freed: AtomicU64,
    populated: AtomicU64,
    denied: AtomicU64,
    above_cap: AtomicU64,
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space")
            .field("parked", &self.parked)
            .field("no_space", &self.no_space)
            .finish_non_exhaustive()
    }
}

impl Space {
    /// Now, by the runtime's clock.
    fn now(&self) -> Duration {
        match &self.clock {
            Some(clock) => clock.now(),
            None => self.begun.elapsed(),
        }
    }

    fn modify(queue: &workqueue::Queue, item: &Arc<Item>, delay: Duration) {
        // What is refused now belongs to a device that is being taken down.
        let _refused = queue.mod_delayed(delay, item.clone());
    }

    /// Somebody has joined the line.
    pub(super) fn kick(&self) {
        Self::modify(&self.store_queue, &self.populate, Duration::ZERO);
    }

    /// Gives a request back whose memory is to be freed.
    pub(super) fn take_discard(&self, token: InFlight, request: Request) {
        self.discards.push(Job::new(token, request));
        Self::modify(&self.store_queue, &self.discard, Duration::ZERO);
    }

    /// Gives a request back whose memory is there, pinned, and to be cleared.
    pub(super) fn take_clear(&self, token: InFlight, request: Request) {
        self.clears.push(Job::new(token, request));
        Self::modify(&self.store_queue, &self.clear, Duration::ZERO);
    }

    /// How many requests of a queue may wait now; None for all.
    #[inline]
    pub(super) fn cap(&self) -> Option<u32> {
        self.no_space.is(Mode::Exhausted).then_some(self.cap)
    }

    /// Are requests that lack memory ended at once?
    #[inline]
    pub(super) fn denies(&self) -> bool {
        self.no_space.is(Mode::Error)
    }

    pub(super) fn count_denied(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    pub(super) fn count_above_cap(&self) {
        self.above_cap.fetch_add(1, Relaxed);
    }

    fn populate(&self, store: &Store, queue: &Queue) {
        if self.denies() && !self.probe(store) {
            return self.deny_all(queue);
        }
        while let Some(taken) = self.parked.take() {
            if taken.range.end > store.size() {
                self.gone(queue, &taken);
                continue;
            }
            let seen = self.no_space.frees();
            match store.populate(taken.range.clone()) {
                Ok(made) => self.grant(store, queue, &taken, made),
                Err(shortage) => {
                    self.frees_seen.store(seen, Relaxed);
                    self.parked.put_back(&taken);
                    return self.short(store, queue, &taken, &shortage);
                }
            }
        }
    }

    fn grant(&self, store: &Store, queue: &Queue, taken: &Taken, made: u64) {
        if made > 0 {
            // Whatever the mode is: a pass of reclaim that has found nothing may be about to say
            // so of the memory before this.
            self.enough();
        }
        self.has_not_failed();
        if taken.range.end > store.size() {
            Self::unpin_beyond_end(store, &taken.range);
            return self.gone(queue, taken);
        }
        self.populated.fetch_add(1, Relaxed);
        match self.parked.grant(taken) {
            // guard: w14_run
            Some(hctx) => queue.restart_hw_queue(hctx),
            None => store.unpin(taken.range.clone()),
        }
    }

    /// The disk became smaller while memory was made for this range, which is pinned. What was made
    /// is this call's to give back, and nothing else.
    fn unpin_beyond_end(store: &Store, range: &Range<u64>) {
        store.unpin(range.clone());
        store.discard(store.size().max(range.start)..range.end);
    }

    /// There was no memory for what was taken.
    fn short(&self, store: &Store, queue: &Queue, taken: &Taken, shortage: &Shortage) {
        if let Shortage::System(error) = shortage {
            if self.no_space.is(Mode::Enough) {
                log::warn!("no memory for the disk: {error}");
            }
            store.wait_for_memory();
            self.failed_at[0].store(taken.range.start, Relaxed);
            self.failed_at[1].store(taken.range.end, Relaxed);
            let patience = match self.denies() {
                true => SYSTEM_PROBE,
                false => SYSTEM_RETRY,
            };
            Self::modify(&self.store_queue, &self.populate, patience);
        } else {
            self.has_not_failed();
        }
        if self.reclaims.load(Relaxed) && !self.denies() {
            Self::modify(&self.reclaim_queue, &self.reclaim, Duration::ZERO);
        } else {
            self.exhausted(queue);
        }
    }

    /// Nothing can be freed.
    fn exhausted(&self, queue: &Queue) {
        let seen = self.frees_seen.load(Relaxed);
        match self.no_space.exhausted(self.now(), seen) {
            Step::Again => return self.kick(),
            Step::Deny => return self.deny_all(queue),
            Step::Wait => {}
            Step::Arm(_) => self.arm(),
        }
        let denied = self.parked.deny_above(self.cap);
        self.above_cap.fetch_add(denied, Relaxed);
        if denied > 0 {
            self.run_all(queue);
        }
    }

    fn deny_all(&self, queue: &Queue) {
        let denied = self.parked.deny_all();
        self.denied.fetch_add(denied, Relaxed);
        if denied > 0 {
            self.run_all(queue);
        }
    }

    fn run_all(&self, queue: &Queue) {
        for hctx in 0..queue.tag_set().nr_hw_queues {
            queue.restart_hw_queue(hctx);
        }
    }

    /// The no-space timer.
    fn no_space(&self, queue: &Queue) {
        let waiting = self.parked.waiting();
        if self.no_space.expire(self.now(), waiting > 0) {
            log::warn!("out of memory: {waiting} writes end with ENOSPC, and those that follow");
            self.deny_all(queue);
            // The system may have memory again without a word.
            Self::modify(&self.store_queue, &self.populate, SYSTEM_PROBE);
        }
    }

    /// Starts the no-space timer. The clock may have gone on since the time was said when it ends,
    /// and goes on: a test moves it by much.
    fn arm(&self) {
        const HARDLY: Duration = Duration::from_millis(1);
        let left = || self.no_space.report(self.now()).1;
        while let Some(time) = left() {
            Self::modify(&self.store_queue, &self.timer, time);
            if left().is_none_or(|now| time.abs_diff(now) < HARDLY) {
                break;
            }
        }
    }

    /// There is memory again.
    fn enough(&self) {
        if self.no_space.freed() {
            let _pending = self.timer.work.cancel();
        }
    }

    /// Memory was freed, or the limit raised, while somebody waited for it.
    pub(super) fn freed(&self) {
        self.enough();
        self.kick();
    }

    /// It is not the system that has no memory.
    fn has_not_failed(&self) {
        self.failed_at[1].store(self.failed_at[0].load(Relaxed), Relaxed);
    }

    /// The disk has become smaller: what waits beyond its end ends (H8).
    pub(super) fn shrunk(&self, store: &Store) {
        if self.parked.deny_beyond(store.size()) > 0 {
            self.queue.upgrade().iter().for_each(|q| self.run_all(q));
        }
    }

    /// Waits until memory is not being made for what the disk was before it became smaller.
    /// # Context: not in a run of the store workqueue.
    pub(super) fn settle(&self) {
        // An error is that the device is being taken down, and then nobody makes any.
        let _ended = self.populate.work.flush_queued();
    }

    /// There is no such part of the disk any more.
    fn gone(&self, queue: &Queue, taken: &Taken) {
        if let Some(hctx) = self.parked.deny(taken) {
            queue.restart_hw_queue(hctx);
        }
    }

    /// Requests are ended with NOSPC because the system had no memory: has it now? Answers whether
    /// there is.
    fn probe(&self, store: &Store) -> bool {
        let [start, end] = [0, 1].map(|n| self.failed_at[n].load(Relaxed));
        if start == end || end > store.size() {
            return false; // it is the budget's to say
        }
        match store.populate(start..end) {
            Ok(_) => {
                match end > store.size() {
                    true => Self::unpin_beyond_end(store, &(start..end)),
                    false => store.unpin(start..end),
                }
                self.has_not_failed();
                self.enough();
                true
            }
            Err(_) => {
                store.wait_for_memory();
                Self::modify(&self.store_queue, &self.populate, SYSTEM_PROBE);
                false
            }
        }
    }

    fn discard(&self, store: &Store, queue: &Queue) {
        while let Some(Job { token, request, .. }) = self.discards.pop() {
            let freed = store.discard(super::range(&request));
            if freed > 0 {
                trace::reclaim(queue.label(), Reclaimed::Discarded, freed);
            }
            queue.complete_remote(token, Ok(0));
        }
    }

    /// A piece of the first in the ring, which then goes to its end.
    fn clear(&self, store: &Store, queue: &Queue) {
        let Some(mut job) = self.clears.pop() else {
            return;
        };
        store.clear_pinned(job.next(CLEAR_RUN));
        if job.is_done() {
            store.unpin(super::range(&job.request));
            queue.complete_remote(job.token, Ok(0));
        } else {
            self.clears.push(job);
        }
        if !self.clears.is_empty() {
            Self::modify(&self.store_queue, &self.clear, Duration::ZERO);
        }
    }

    /// Another patience, for those that wait now too.
    pub(super) fn set_patience(&self, patience: Patience) {
        match self.no_space.set_patience(patience, self.now()) {
            Step::Wait | Step::Again => {}
            Step::Arm(_) => self.arm(),
            Step::Deny => self.queue.upgrade().iter().for_each(|q| self.deny_all(q)),
        }
    }

    pub(super) fn stats(&self, store: &Store) -> SpaceStats {
        let (mode, no_space_in) = self.no_space.report(self.now());
        SpaceStats {
            used: store.used(),
            tables: store.table_bytes(),
            limit: store.memory_limit(),
            zero: self.zeros_freed.load(Relaxed),
            parked: self.parked.waiting(),
            populated: self.populated.load(Relaxed),
            no_space: self.denied.load(Relaxed),
            above_cap: self.above_cap.load(Relaxed),
            mode,
            no_space_in,
        }
    }
}
