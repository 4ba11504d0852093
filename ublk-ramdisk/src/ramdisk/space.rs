// SPDX-License-Identifier: MIT OR Apache-2.0
//! The work items that make memory for the disk and give it back (E8, D2). They run on two workqueues:
//! "store", which nothing else can delay, and "reclaim".
//!
//! While there is plenty of memory, a write that lacks some makes it where it is served. Otherwise it
//! is refused with RESOURCE and gets an entry in [`Waiters`]. Then:
//! 1. `populate` takes the oldest entry, allocates and pins its range, and runs its hardware queue.
//! 2. If there is too little memory, `reclaim` looks for pages of zeros. With what it frees, 1 begins
//!    again.
//! 3. If it frees nothing, the store is exhausted. [`NoSpace`] decides how long requests wait.
//!
//! A thread that frees memory meanwhile (by a discard, a smaller disk, a higher limit) learns from the
//! budget that requests wait, and starts 1 again. A younger request never gets what an older one
//! waits for. All work items can run on a rescuer, allocate no heap memory, and hold no lock during a
//! system call.

mod reclaim;
mod works;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use workqueue::{impl_has_delayed_work, DelayedWork, RunClock, WorkItem};

use super::disk::Ramdisk;
use super::no_space::{Mode, NoSpace, NoSpaceTimeout, Step, DEFAULT_NO_SPACE_TIMEOUT};
use super::pending_ring::{Pending, PendingRing};
use super::store::{Shortage, Store};
use super::waiters::{Taken, Waiters};
use crate::mq::{InFlight, Queue, Request, Status, WeakQueue};
use crate::sys::memory::Headroom;
use crate::trace::{self, Reclaimed};
pub use works::SpaceWorks;

/// Time until the system is asked again after it had no memory. Unlike the budget it does not say when
/// it has some.
const SYSTEM_RETRY: Duration = Duration::from_millis(100);
/// The same while requests end with NOSPC, so that none waits.
const SYSTEM_PROBE: Duration = Duration::from_secs(1);
/// How often it is looked for a removal of the disk while requests wait for memory.
const REMOVAL_LOOK: Duration = Duration::from_millis(500);
/// Bytes that are cleared in one run, which takes half a millisecond: other work comes in between.
const CLEAR_RUN: u64 = 4 << 20;

/// How memory is made, limited and taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceOptions {
    /// How long requests wait for memory when there is none.
    pub no_space_timeout: NoSpaceTimeout,
    /// Pages of zeros are taken back when memory is short.
    pub reclaim: bool,
    /// Period of further looks for pages of zeros; none for no such looks.
    pub reclaim_every: Option<Duration>,
    /// A write makes its memory itself while there is plenty; otherwise it always waits for it.
    pub at_once: bool,
}

impl Default for SpaceOptions {
    fn default() -> Self {
        Self {
            no_space_timeout: DEFAULT_NO_SPACE_TIMEOUT,
            reclaim: true,
            reclaim_every: None,
            at_once: true,
        }
    }
}

/// Memory used, and requests that lack some (K2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpaceStats {
    /// Bytes used by pages of the disk and the store's tables.
    pub used: u64,
    /// Of those, bytes of the tables.
    pub tables: u64,
    /// Bytes that may be used; 0 for no limit.
    pub limit: u64,
    /// Bytes that the machine and the server's control groups can give above their reserve; none if
    /// that is not looked at.
    pub available: Option<u64>,
    /// Bytes that are left to the machine.
    pub reserve: u64,
    /// Bytes of pages of zeros that were given back so far.
    pub zero: u64,
    /// Requests that wait for memory now.
    pub parked: u64,
    /// Requests that have been given memory.
    pub populated: u64,
    /// Requests that ended with NOSPC at the end of the no-space timeout, or later.
    pub no_space: u64,
    /// Requests that ended with NOSPC to keep tags free (E11).
    pub above_cap: u64,
    /// Pages of 4 KiB that a power cut would take away; none without a volatile cache.
    pub unflushed: Option<u64>,
    /// The death of the server would make them flushed.
    pub death_flushes: bool,
    /// The disk is without power.
    pub off: bool,
    /// What becomes of a write that needs memory.
    pub mode: Mode,
    /// Time until those that wait end with NOSPC.
    pub no_space_in: Option<Duration>,
}

/// What a work item does.
#[derive(Clone, Copy, Debug)]
enum Duty {
    Populate,
    Discard,
    Clear,
    NoSpace,
    Reclaim,
    Scan,
    Release,
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
            Duty::Clear => space.clear(&ramdisk, store, &queue),
            Duty::NoSpace => space.no_space(&ramdisk, &queue),
            Duty::Reclaim => space.reclaim(store, &queue),
            Duty::Scan => space.scan(store, &queue),
            Duty::Release => {
                store.release_flushed();
                space.trace_memory(store);
            }
        }
    }
}

/// The work items of one device, and what they share.
pub(super) struct Space {
    pub(super) waiters: Waiters,
    no_space: NoSpace,
    discards: PendingRing,
    clears: PendingRing,
    options: SpaceOptions,
    queue: WeakQueue,
    /// Of `queue`, in traces.
    label: u32,
    store_queue: workqueue::Queue,
    reclaim_queue: workqueue::Queue,
    populate: Arc<Item>,
    discard: Arc<Item>,
    clear: Arc<Item>,
    timer: Arc<Item>,
    reclaim: Arc<Item>,
    scan: Arc<Item>,
    release: Arc<Item>,
    clock: RunClock,
    /// Set when the device is taken down: a long pass ends early.
    ending: AtomicBool,
    /// Is asked before the kernel is asked for memory; none if that is not to be.
    headroom: Option<Arc<Headroom>>,
    /// How often it is looked for a removal; none if that cannot be noticed.
    removal_look: Option<Duration>,
    /// See [`Space::began`].
    began: Box<[AtomicU64]>,
    /// Tags of a hardware queue.
    depth: usize,
    /// Requests of a hardware queue that may wait while the store is exhausted (E11).
    cap: u32,
    /// Start and end of the range for which the system had no memory last. It is tried again when no
    /// request waits.
    failed_at: [AtomicU64; 2],
    /// `NoSpace::frees` before the allocation that failed last.
    frees_seen: AtomicU64,
    /// Pages of zeros are taken back when memory is short.
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
            .field("waiters", &self.waiters)
            .field("no_space", &self.no_space)
            .finish_non_exhaustive()
    }
}

impl Space {
    /// Records how much memory the store uses, after some was made or given back.
    fn trace_memory(&self, store: &Store) {
        trace::memory(self.label, store.used());
    }

    /// Time by the runtime's clock while the process runs.
    fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Queues an item, or gives it a new delay if it is queued.
    fn modify(queue: &workqueue::Queue, item: &Arc<Item>, delay: Duration) {
        // Refused only while the device is being taken down.
        let _refused = queue.mod_delayed(delay, item.clone());
    }

    /// A request has begun to wait: queues the populate work.
    pub(super) fn kick(&self) {
        Self::modify(&self.store_queue, &self.populate, Duration::ZERO);
    }

    /// Queues a request whose memory is to be freed.
    pub(super) fn queue_discard(&self, token: InFlight, hctx: u16, request: Request) {
        self.discards.push(Pending::new(token, hctx, request));
        Self::modify(&self.store_queue, &self.discard, Duration::ZERO);
    }

    /// The store's epoch when a request was issued last.
    #[inline]
    pub(super) fn began(&self, hctx: u16, tag: u16) -> &AtomicU64 {
        &self.began[usize::from(hctx) * self.depth + usize::from(tag)]
    }

    /// A FLUSH has come: memory for flushed content is given back, if that is much or somebody needs it.
    pub(super) fn flushed(&self, is_much: bool) {
        if is_much || self.waiters.any() || !self.no_space.is(Mode::Enough) {
            Self::modify(&self.store_queue, &self.release, Duration::ZERO);
        }
    }

    /// Queues a request whose memory is to be cleared. It is present and pinned.
    pub(super) fn queue_clear(&self, token: InFlight, hctx: u16, request: Request) {
        self.clears.push(Pending::new(token, hctx, request));
        Self::modify(&self.store_queue, &self.clear, Duration::ZERO);
    }

    /// Requests of a hardware queue that may wait now; None for all.
    #[inline]
    pub(super) fn cap(&self) -> Option<u32> {
        self.no_space.is(Mode::Exhausted).then_some(self.cap)
    }

    /// True if requests that lack memory end at once.
    #[inline]
    pub(super) fn denies(&self) -> bool {
        self.no_space.is(Mode::Error)
    }

    /// Counts a write that ended with NOSPC at once.
    pub(super) fn count_denied(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    /// Counts a write that ended with NOSPC because too many wait.
    pub(super) fn count_above_cap(&self) {
        self.above_cap.fetch_add(1, Relaxed);
    }

    /// Makes memory for the requests that wait, the oldest first, until there is none left or none to
    /// be had.
    fn populate(&self, store: &Store, queue: &Queue) {
        if self.denies() && !self.probe(store) {
            return self.deny_all(queue);
        }
        while let Some(taken) = self.waiters.take_oldest() {
            if taken.range.end > store.size() {
                self.deny_taken(queue, &taken);
                continue;
            }
            let seen = self.no_space.frees();
            match self.make(store, taken.range.clone()) {
                Ok(made) => self.grant(store, queue, &taken, made),
                Err(Shortage::Image) => self.deny_taken(queue, &taken),
                Err(shortage) => {
                    self.frees_seen.store(seen, Relaxed);
                    self.waiters.put_back(&taken);
                    return self.on_shortage(store, queue, &taken, &shortage);
                }
            }
        }
    }

    /// Makes memory for a write that is being issued, and pins it, if the kernel can give it without a
    /// search (E8). The copy maps it, which takes less than a system call for it. Huge pages take too
    /// long. Called while no request waits.
    #[cold]
    pub(super) fn make_at_once(&self, store: &Store, range: &Range<u64>) -> bool {
        let Some(machine) = self.headroom.as_deref() else {
            return false;
        };
        let may = self.options.at_once && !store.is_hugetlb() && !self.denies();
        let made = may
            && machine.take_at_once(store.bytes_to_make(range), self.now())
            && store.populate_at_once(range.clone());
        if made {
            self.trace_memory(store);
        }
        made
    }

    /// Makes memory for a range, as [`Store::populate`], unless the machine is short of it: the kernel
    /// would wait for memory that nobody can free but this disk (E27). Huge pages are none of the
    /// machine's available memory.
    fn make(&self, store: &Store, range: Range<u64>) -> Result<u64, Shortage> {
        let lacks = |machine: &Headroom| {
            let bytes = store.bytes_to_make(&range);
            !store.is_hugetlb() && !store.is_present(&range) && !machine.take(bytes, self.now())
        };
        // guard: e27_reserve
        if self.headroom.as_deref().is_some_and(lacks) {
            return Err(Shortage::Reserve);
        }
        let made = store.populate(range.clone())?;
        store.map_pages(&range);
        self.trace_memory(store);
        Ok(made)
    }

    /// Gives a taken entry its memory, which is pinned, and runs its hardware queue. `made`: bytes that
    /// were allocated for it.
    fn grant(&self, store: &Store, queue: &Queue, taken: &Taken, made: u64) {
        if made > 0 {
            // In every mode: a pass of reclaim that found nothing may be about to report it. It looked
            // before this memory was there.
            self.memory_available();
        }
        self.forget_failure();
        if taken.range.end > store.size() {
            Self::unpin_beyond_end(store, &taken.range);
            return self.deny_taken(queue, taken);
        }
        self.populated.fetch_add(1, Relaxed);
        match self.waiters.grant(taken) {
            // guard: w14_run
            Some(hctx) => queue.restart_hw_queue(hctx),
            None => store.unpin(taken.range.clone()),
        }
    }

    /// Unpins a range for which memory was made while the disk became smaller, and gives back what of
    /// it lies beyond the end.
    fn unpin_beyond_end(store: &Store, range: &Range<u64>) {
        store.unpin(range.clone());
        store.discard(store.size().max(range.start)..range.end);
    }

    /// There is no memory for a taken entry.
    fn on_shortage(&self, store: &Store, queue: &Queue, taken: &Taken, shortage: &Shortage) {
        if store.release_flushed() > 0 {
            self.trace_memory(store);
            return self.kick();
        }
        if !matches!(shortage, Shortage::Budget) {
            if self.no_space.is(Mode::Enough) {
                log::warn!("no memory for the disk: {shortage}");
            }
            store.mark_waiting();
            self.failed_at[0].store(taken.range.start, Relaxed);
            self.failed_at[1].store(taken.range.end, Relaxed);
            let timeout = match self.denies() {
                true => SYSTEM_PROBE,
                false => SYSTEM_RETRY,
            };
            Self::modify(&self.store_queue, &self.populate, timeout);
        } else {
            self.forget_failure();
        }
        if self.reclaims.load(Relaxed) && !self.denies() {
            Self::modify(&self.reclaim_queue, &self.reclaim, Duration::ZERO);
        } else {
            self.exhausted(queue);
        }
    }

    /// Nothing can be freed: requests wait for the no-space timeout, or end.
    fn exhausted(&self, queue: &Queue) {
        let seen = self.frees_seen.load(Relaxed);
        match self.no_space.exhausted(self.now(), seen) {
            Step::Again => return self.kick(),
            Step::Deny => return self.deny_all(queue),
            // The timer may have none to end, but a removal to notice.
            Step::Wait if self.timer.work.is_pending() => {}
            Step::Wait | Step::Arm(_) => self.arm(),
        }
        let denied = self.waiters.deny_above(self.cap);
        self.above_cap.fetch_add(denied, Relaxed);
        if denied > 0 {
            self.run_all(queue);
        }
    }

    /// Ends all requests that wait, and runs their hardware queues.
    fn deny_all(&self, queue: &Queue) {
        let denied = self.waiters.deny_all();
        self.denied.fetch_add(denied, Relaxed);
        if denied > 0 {
            self.run_all(queue);
        }
    }

    /// Runs every hardware queue, as the end of a request does.
    fn run_all(&self, queue: &Queue) {
        for hctx in 0..queue.tag_set().nr_hw_queues {
            queue.restart_hw_queue(hctx);
        }
    }

    /// The no-space timer has expired, or it is time to look for a removal.
    fn no_space(&self, ramdisk: &Ramdisk, queue: &Queue) {
        let waiting = self.waiters.waiting();
        if waiting > 0 && ramdisk.is_removed() {
            log::warn!("the disk is being removed: {waiting} writes that wait for memory end");
            return self.set_no_space_timeout(NoSpaceTimeout::After(Duration::ZERO));
        }
        if self.no_space.expire(self.now(), waiting > 0) {
            log::warn!("out of memory: {waiting} writes end with ENOSPC, and those that follow");
            self.deny_all(queue);
            // The system does not say when it has memory again.
            Self::modify(&self.store_queue, &self.populate, SYSTEM_PROBE);
        } else {
            self.arm();
        }
    }

    /// Starts the no-space timer, which also looks for a removal. It is set again if the clock has
    /// moved meanwhile: a test moves it far.
    fn arm(&self) {
        const HARDLY: Duration = Duration::from_millis(1);
        let left = || {
            let (mode, timeout) = self.no_space.report(self.now());
            let look = (mode == Mode::Exhausted)
                .then_some(self.removal_look)
                .flatten();
            timeout.into_iter().chain(look).min()
        };
        while let Some(time) = left() {
            Self::modify(&self.store_queue, &self.timer, time);
            if left().is_none_or(|now| time.abs_diff(now) < HARDLY) {
                break;
            }
        }
    }

    /// There is memory again: stops the no-space timer.
    fn memory_available(&self) {
        if self.no_space.freed() {
            let _pending = self.timer.work.cancel();
        }
    }

    /// Memory was freed, or the limit raised, while a request waited.
    pub(super) fn freed(&self) {
        self.memory_available();
        self.kick();
    }

    /// Forgets for which range the system had no memory.
    fn forget_failure(&self) {
        self.failed_at[1].store(self.failed_at[0].load(Relaxed), Relaxed);
    }

    /// The disk has become smaller: ends the requests that wait beyond its end (H8).
    pub(super) fn shrunk(&self, store: &Store) {
        if self.waiters.deny_beyond(store.size()) > 0 {
            self.queue.upgrade().iter().for_each(|q| self.run_all(q));
        }
    }

    /// Waits for a run of the populate work that began when the disk was larger.
    /// # Context: not in a run of the store workqueue.
    pub(super) fn flush_populate(&self) {
        // An error means that the device is being taken down. No memory is made then.
        let _ended = self.populate.work.flush_queued();
    }

    /// Waits for the works that make memory or change the disk.
    /// # Context: as of [`Space::flush_populate`].
    pub(super) fn flush_works(&self) {
        self.flush_populate();
        let _ended = self.discard.work.flush_queued();
        let _ended = self.clear.work.flush_queued();
    }

    /// Denies a taken entry that lies beyond the end of the disk, or on what its image has lost.
    fn deny_taken(&self, queue: &Queue, taken: &Taken) {
        if let Some(hctx) = self.waiters.deny(taken) {
            queue.restart_hw_queue(hctx);
        }
    }

    /// Tries again the range for which the system had no memory, while requests end with NOSPC. True if
    /// there is memory now.
    fn probe(&self, store: &Store) -> bool {
        let [start, end] = [0, 1].map(|n| self.failed_at[n].load(Relaxed));
        if start == end || end > store.size() {
            return false; // the budget says when there is memory
        }
        match self.make(store, start..end) {
            Ok(_) => {
                match end > store.size() {
                    true => Self::unpin_beyond_end(store, &(start..end)),
                    false => store.unpin(start..end),
                }
                self.forget_failure();
                self.memory_available();
                true
            }
            Err(_) => {
                store.mark_waiting();
                Self::modify(&self.store_queue, &self.populate, SYSTEM_PROBE);
                false
            }
        }
    }

    /// Carries out all discards that wait, in order. Each ends when its memory is free (E18).
    fn discard(&self, store: &Store, queue: &Queue) {
        while let Some(pending) = self.discards.pop() {
            if store.is_off() {
                queue.complete_remote(pending.token, Err(Status::IoErr));
                continue;
            }
            let freed = store.discard(pending.range());
            if freed > 0 {
                trace::reclaim(queue.label(), Reclaimed::Discarded, freed);
                self.trace_memory(store);
            }
            queue.complete_remote(pending.token, Ok(0));
        }
    }

    /// Clears a piece of the first request in the ring, which then goes to the end of the ring.
    fn clear(&self, ramdisk: &Ramdisk, store: &Store, queue: &Queue) {
        let Some(mut pending) = self.clears.pop() else {
            return;
        };
        let zeroed = store.zero_pinned(pending.next(CLEAR_RUN));
        if zeroed.is_err() || pending.is_done() {
            ramdisk.finish(pending.hctx, &pending.request);
            queue.complete_remote(pending.token, zeroed.map(|()| 0).map_err(|_| Status::IoErr));
        } else {
            self.clears.push(pending);
        }
        if !self.clears.is_empty() {
            Self::modify(&self.store_queue, &self.clear, Duration::ZERO);
        }
    }

    /// Sets the no-space timeout, also for requests that wait already.
    pub(super) fn set_no_space_timeout(&self, timeout: NoSpaceTimeout) {
        match self.no_space.set_no_space_timeout(timeout, self.now()) {
            Step::Wait | Step::Again => {}
            Step::Arm(_) => self.arm(),
            Step::Deny => self.queue.upgrade().iter().for_each(|q| self.deny_all(q)),
        }
    }

    /// Returns the figures as they are now.
    pub(super) fn stats(&self, store: &Store) -> SpaceStats {
        let (mode, no_space_in) = self.no_space.report(self.now());
        SpaceStats {
            used: store.used(),
            tables: store.table_bytes(),
            limit: store.memory_limit(),
            available: self
                .headroom
                .as_ref()
                .and_then(|machine| machine.available().ok()),
            reserve: self
                .headroom
                .as_ref()
                .map_or(0, |machine| machine.reserve()),
            zero: self.zeros_freed.load(Relaxed),
            parked: self.waiters.waiting(),
            populated: self.populated.load(Relaxed),
            no_space: self.denied.load(Relaxed),
            above_cap: self.above_cap.load(Relaxed),
            unflushed: store.unflushed().map(|(pages, _)| pages),
            death_flushes: store.unflushed().is_some_and(|(_, outlives)| !outlives),
            off: store.is_off(),
            mode,
            no_space_in,
        }
    }
}
