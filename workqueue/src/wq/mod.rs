// SPDX-License-Identifier: MIT OR Apache-2.0
//! A workqueue as a caller holds it, and what the crate keeps for it.
//!
//! Made by [`builder`]; callers enqueue through [`Queue`] into [`crate::enqueue`]. Its pwqs lead to
//! the pools. Kernel counterpart: `struct workqueue_struct`.

pub(crate) mod flags;

pub(crate) mod attrs;

pub(crate) mod topology;

pub(crate) mod control;

pub(crate) mod builder;

pub(crate) mod limits;

pub(crate) mod lifecycle;

pub(crate) mod system;

pub(crate) mod on_cpu;

use crate::enqueue;
use crate::error::{AttrError, EnqueueError, Refusal, WaitError};
use crate::observe::stats::QueueStats;
use crate::pool::rescuer::Rescuer;
use crate::pwq::active::NodeActive;
use crate::pwq::{Pwq, PwqStats};
use crate::runtime::{Runtime, RuntimeInner};
use crate::sys::short_text::ShortText;
use crate::sys::sync::Mutex;
use crate::wait::flush::FlushState;
use crate::wait::reporters::Reporters;
use crate::work::delayed::{self, Modified};
use crate::work::pointer::{RawDelayedWorkItem, RawWorkItem};
use crate::work::{offer, spawn};
use attrs::Attrs;
use builder::QueueBuilder;
use flags::Flags;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use std::{fmt, mem};

/// Bits of [`QueueInner::mode`].
pub(crate) const DRAINING: u32 = 1 << 0;
pub(crate) const DESTROYING: u32 = 1 << 1;
pub(crate) const DESTROYED: u32 = 1 << 2;

/// The pwq that serves a CPU. Read by every enqueue from that CPU, written when the attributes
/// change; whoever holds it for reading keeps the pwq in the queue.
type Slot = RwLock<Option<Arc<Pwq>>>; // S

/// What the crate keeps for a queue.
pub(crate) struct QueueInner {
    pub(crate) name: String, // I
    /// The name, as it describes a worker at the beginning of each run.
    pub(crate) desc: ShortText, // I
    pub(crate) flags: Flags, // I
    pub(crate) ordered: bool, // I
    pub(crate) system: bool, // I: one of the ready-made queues
    pub(crate) legacy: bool, // I: made by one of the old constructors
    pub(crate) rt: Arc<RuntimeInner>, // I
    slots: Box<[Slot]>,      // S: by CPU number
    /// The limit in force; 0 while frozen.
    pub(crate) max_active: AtomicUsize, // A: written under W
    /// By node, and one more for pools that span nodes. Empty for per-CPU queues.
    pub(crate) nodes: Vec<Arc<NodeActive>>, // I
    pub(crate) rescuer: Option<Rescuer>, // I
    /// Pwqs that still have items of the colour that is being flushed.
    pub(crate) pwqs_to_flush: Reporters, // A: armed under W
    /// Who may enqueue. Read with the slot of the item's CPU held, and again under the lock of its
    /// pool if it is not left in the inbox: a drain which has set a bit, has waited for the slots
    /// and then visits each pool misses no item.
    pub(crate) mode: AtomicU32, // A: written under W
    pub(crate) counters: Counters, // A
    pub(crate) state: Mutex<QueueState>, // W
}

/// What the queue's lock guards.
#[derive(Debug)]
pub(crate) struct QueueState {
    /// All pwqs that have not been released, oldest first; the retiring ones among them.
    pub(crate) pwqs: Vec<Arc<Pwq>>,
    /// The pwqs that serve the CPUs of an unbound queue, and its default pwq.
    pub(crate) in_charge: Vec<Arc<Pwq>>,
    pub(crate) saved_max: usize,
    pub(crate) saved_min: usize,
    pub(crate) drainers: usize,
    pub(crate) flush: FlushState,
    pub(crate) attrs: Attrs,
    /// Counters of pwqs that are gone.
    pub(crate) past: PwqStats,
}

/// Counters that belong to no pwq. They only rise.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) panicked: AtomicU64,
    pub(crate) leaked_state: AtomicU64,
    pub(crate) refused_timer: AtomicU64,
    pub(crate) bh_blocked: AtomicU64,
}

impl fmt::Debug for QueueInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.name)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

impl QueueInner {
    pub(crate) fn is_unbound(&self) -> bool {
        self.flags.contains(Flags::UNBOUND)
    }

    /// The name of its rescuer, whether it has one or not.
    pub(crate) fn rescuer_name(&self) -> String {
        format!("kworker/R-{}", self.name)
    }

    pub(crate) fn has_rescuer(&self) -> bool {
        self.rescuer.is_some()
    }

    pub(crate) fn is_mode(&self, bits: u32) -> bool {
        self.mode.load(Ordering::SeqCst) & bits != 0
    }

    /// Is this a CPU the queue knows?
    pub(crate) fn has_cpu(&self, cpu: usize) -> bool {
        self.rt.cpus.is_known(cpu)
    }

    /// The pwq that serves `cpu`, held in place as long as the guard lives.
    pub(crate) fn slot(&self, cpu: usize) -> RwLockReadGuard<'_, Option<Arc<Pwq>>> {
        self.slots[cpu]
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another pwq in charge of `cpu`; the former comes back.
    pub(crate) fn set_slot(&self, cpu: usize, pwq: Option<Arc<Pwq>>) -> Option<Arc<Pwq>> {
        mem::replace(
            &mut *self.slots[cpu]
                .write()
                .unwrap_or_else(PoisonError::into_inner),
            pwq,
        )
    }

    /// Waits for every enqueue that has begun: those that begin after this see the queue's mode, of
    /// the others each has its item in a pool or an inbox.
    /// # Context: no lock behind S held.
    pub(crate) fn wait_for_enqueues(&self) {
        for slot in &self.slots {
            drop(slot.write().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Puts one pwq in charge of all CPUs in one step. An ordered queue needs that: were some CPUs
    /// still served by the former pwq, an item could overtake one that was enqueued before it.
    pub(crate) fn set_all_slots(&self, pwq: &Arc<Pwq>) {
        let mut slots: Vec<_> = self
            .slots
            .iter()
            .enumerate()
            .filter(|(cpu, _)| self.has_cpu(*cpu))
            .map(|(_, slot)| slot.write().unwrap_or_else(PoisonError::into_inner))
            .collect();
        slots.iter_mut().for_each(|s| **s = Some(pwq.clone()));
    }

    pub(crate) fn pwqs(&self) -> Vec<Arc<Pwq>> {
        self.state.lock().pwqs.clone()
    }
}

/// A handle to a queue. Handles are cheap to clone and do not keep the queue working: once its
/// owner has destroyed it, every enqueue is refused.
#[derive(Clone, Debug)]
pub struct Queue {
    pub(crate) inner: Arc<QueueInner>,
}

impl Queue {
    /// A queue of the process's runtime, to be configured.
    pub fn builder(name: &str) -> QueueBuilder {
        Runtime::global().queue(name)
    }

    /// An ordered queue of the process's runtime: one item at a time, in order.
    pub fn ordered(name: &str, flags: Flags) -> Result<OwnedQueue, crate::AllocError> {
        Runtime::global().ordered(name, flags)
    }

    /// The queue's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The queue's flags, with POWER_EFFICIENT resolved and PERCPU or UNBOUND always set.
    pub fn flags(&self) -> Flags {
        self.inner.flags
    }

    /// Was it made by one of the constructors of [`crate::compat`]?
    pub fn is_legacy(&self) -> bool {
        self.inner.legacy
    }

    /// Enqueues an item, to run near the calling CPU. Exactly one run follows each success.
    pub fn enqueue<W, const ID: u64>(&self, work: W) -> Result<(), EnqueueError<W>>
    where
        W: RawWorkItem<ID> + Send + 'static,
    {
        enqueue::enqueue(&self.inner, None, work)
    }

    /// Enqueues an item for a CPU. On an unbound queue the CPU selects the pool only.
    pub fn enqueue_on<W, const ID: u64>(&self, cpu: usize, work: W) -> Result<(), EnqueueError<W>>
    where
        W: RawWorkItem<ID> + Send + 'static,
    {
        enqueue::enqueue(&self.inner, Some(cpu), work)
    }

    /// Enqueues an item on an unbound queue for a NUMA node. A node that does not exist is ignored.
    pub fn enqueue_node<W, const ID: u64>(
        &self,
        node: usize,
        work: W,
    ) -> Result<(), EnqueueError<W>>
    where
        W: RawWorkItem<ID> + Send + 'static,
    {
        if !self.inner.is_unbound() {
            return Err(EnqueueError::new(Refusal::NotUnbound, work));
        }
        enqueue::enqueue(
            &self.inner,
            enqueue::cpu_of_node(&self.inner.rt, node),
            work,
        )
    }

    /// Enqueues an item once the time has passed. Pending meanwhile.
    pub fn enqueue_delayed<W, const ID: u64>(
        &self,
        delay: Duration,
        work: W,
    ) -> Result<(), EnqueueError<W>>
    where
        W: RawDelayedWorkItem<ID> + Send + 'static,
    {
        delayed::enqueue(&self.inner, None, delay, work)
    }

    /// As [`Queue::enqueue_delayed`], for a CPU.
    pub fn enqueue_delayed_on<W, const ID: u64>(
        &self,
        cpu: usize,
        delay: Duration,
        work: W,
    ) -> Result<(), EnqueueError<W>>
    where
        W: RawDelayedWorkItem<ID> + Send + 'static,
    {
        delayed::enqueue(&self.inner, Some(cpu), delay, work)
    }

    /// Gives an item a new delay, whether it is idle, waits for its time, or is queued. With no
    /// delay it is queued now.
    pub fn mod_delayed<W, const ID: u64>(
        &self,
        delay: Duration,
        work: W,
    ) -> Result<Modified<W>, EnqueueError<W>>
    where
        W: RawDelayedWorkItem<ID> + Send + 'static,
    {
        delayed::modify(&self.inner, None, delay, work)
    }

    /// As [`Queue::mod_delayed`], for a CPU.
    pub fn mod_delayed_on<W, const ID: u64>(
        &self,
        cpu: usize,
        delay: Duration,
        work: W,
    ) -> Result<Modified<W>, EnqueueError<W>>
    where
        W: RawDelayedWorkItem<ID> + Send + 'static,
    {
        delayed::modify(&self.inner, Some(cpu), delay, work)
    }

    /// Lowers an item's disable depth and enqueues it if that made it 0. Refused with `Disabled`
    /// if it is still disabled, with `EnableUnderflow` if it was not disabled.
    pub fn enable_and_enqueue<W, const ID: u64>(&self, work: W) -> Result<(), EnqueueError<W>>
    where
        W: RawWorkItem<ID> + Send + 'static,
    {
        let (enabled, work) = offer::with_raw(work, |raw| raw.state.enable());
        match enabled {
            None => Err(EnqueueError::new(Refusal::EnableUnderflow, work)),
            Some(false) => Err(EnqueueError::new(Refusal::Disabled, work)),
            Some(true) => self.enqueue(work),
        }
    }

    /// Runs a closure as an item of its own.
    pub fn try_spawn<F>(&self, f: F) -> Result<(), EnqueueError<F>>
    where
        F: FnOnce() + Send + 'static,
    {
        spawn::try_spawn(self, None, f)
    }

    /// Waits until every item enqueued before the call has run or was cancelled.
    pub fn flush(&self) -> Result<(), WaitError> {
        self.inner.flush_from_outside()
    }

    /// Waits until the queue is empty; meanwhile only its own runs may enqueue.
    pub fn drain(&self) -> Result<(), WaitError> {
        self.inner.drain_from_outside()
    }

    /// The limit of active items, as set; `usize::MAX` on a BH queue, which has none.
    pub fn max_active(&self) -> usize {
        self.inner.state.lock().saved_max
    }

    /// Sets how many items may be active at once, per CPU or, on unbound queues, in all.
    pub fn set_max_active(&self, max_active: usize) -> Result<(), AttrError> {
        self.inner.set_max_active(max_active)
    }

    /// Sets how many items each NUMA node may always have active. Unbound queues only.
    pub fn set_min_active(&self, min_active: usize) -> Result<(), AttrError> {
        self.inner.set_min_active(min_active)
    }

    /// Does the CPU's share of the queue hold items back? A hint.
    pub fn congested(&self, cpu: usize) -> bool {
        self.inner.congested(cpu)
    }

    /// The attributes as they were set.
    pub fn attrs(&self) -> Attrs {
        self.inner.state.lock().attrs.clone()
    }

    /// Changes the attributes of an unbound queue. On an error nothing changes. Items queued
    /// before finish where they are.
    pub fn apply_attrs(&self, attrs: Attrs) -> Result<(), AttrError> {
        self.inner.apply_attrs(attrs)
    }

    /// The queue's counters.
    pub fn stats(&self) -> QueueStats {
        self.inner.stats()
    }
}

/// The owner of a queue. Dropping it destroys the queue.
#[derive(Debug)]
pub struct OwnedQueue {
    queue: Queue,
}

impl OwnedQueue {
    pub(crate) fn new(inner: Arc<QueueInner>) -> Self {
        Self {
            queue: Queue { inner },
        }
    }

    /// A handle that does not own the queue.
    pub fn handle(&self) -> Queue {
        self.queue.clone()
    }

    /// Runs everything enqueued before, then takes the queue down.
    pub fn destroy(self) -> Result<(), WaitError> {
        let inner = self.queue.inner.clone();
        inner.destroy()
        // The drop that follows finds the queue destroyed, or tries once more.
    }
}

impl Deref for OwnedQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        &self.queue
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        self.queue.inner.destroy_on_drop();
    }
}
