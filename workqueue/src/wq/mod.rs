// SPDX-License-Identifier: MIT OR Apache-2.0
//! A workqueue as a caller holds it.
//!
//! Made by [`builder`]; callers enqueue through [`Queue`] into [`crate::enqueue`]. What the crate
//! keeps for a queue is in [`queue`]. Kernel counterpart: the functions that take a `struct
//! workqueue_struct *`.

pub(crate) mod attrs;

pub(crate) mod queue;

pub(crate) mod builder;

pub(crate) mod lifecycle;

pub(crate) mod limits;

pub(crate) mod spawn;

pub(crate) mod system;

use crate::enqueue;
use crate::error::{AttrError, EnqueueError, Refusal, WaitError};
use crate::work::delayed::{self, Modified};
use crate::work::pointer::{RawDelayedWorkItem, RawWorkItem};
use attrs::{Attrs, Flags};
use queue::{QueueInner, QueueStats};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// A handle to a queue. Handles are cheap to clone. Once the owner has destroyed the queue, every
/// enqueue is refused.
#[derive(Clone, Debug)]
pub struct Queue {
    pub(crate) inner: Arc<QueueInner>,
}

impl Queue {
    /// The queue's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The queue's flags, with POWER_EFFICIENT resolved and PERCPU or UNBOUND always set.
    pub fn flags(&self) -> Flags {
        self.inner.flags
    }

    /// True if it was made by one of the constructors of [`crate::compat`].
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

    /// Enqueues items in their order, at less cost than one by one. Passes over those that are
    /// pending or disabled, and over all that come after the queue has closed. Returns how many it
    /// has enqueued.
    ///
    /// ```
    /// # use workqueue::{impl_has_work, new_work, Runtime, Work, WorkItem};
    /// # use std::sync::Arc;
    /// # struct Page { work: Work<Page> }
    /// # impl_has_work! { impl HasWork<Self> for Page { self.work } }
    /// # impl WorkItem for Page { type Pointer = Arc<Self>; fn run(_: Arc<Self>) {} }
    /// # let runtime = Runtime::builder().start()?;
    /// # let queue = runtime.queue("pages").build()?;
    /// let pages: Vec<Arc<Page>> = (0..100).map(|_| Arc::new(Page { work: new_work!() })).collect();
    /// assert_eq!(queue.enqueue_all(&pages), 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn enqueue_all<T, const ID: u64>(&self, items: &[Arc<T>]) -> usize
    where
        Arc<T>: RawWorkItem<ID> + Send + 'static,
    {
        enqueue::enqueue_all(&self.inner, items)
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
        if self.inner.env.is_in_forked_child() {
            return Err(EnqueueError::new(Refusal::Destroyed, work));
        }
        let cpu = enqueue::cpu_of_node(&self.inner.env, node);
        enqueue::enqueue(&self.inner, cpu, work)
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

    /// Gives an item a new delay, if it is idle, armed or queued. Without a delay it is queued now.
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
        enqueue::enqueue_if(&self.inner, None, work, |state| match state.enable() {
            None => Err(Refusal::EnableUnderflow),
            Some(false) => Err(Refusal::Disabled),
            Some(true) => Ok(()),
        })
    }

    /// Waits until every item enqueued before the call has run or was cancelled.
    pub fn flush(&self) -> Result<(), WaitError> {
        self.inner.flush_from_outside()
    }

    /// Waits until the queue is empty; meanwhile only its own runs may enqueue.
    pub fn drain(&self) -> Result<(), WaitError> {
        self.inner.drain_from_outside()
    }

    /// The limit of active items, as set; `usize::MAX` on a BH queue, which has none. 0 in the
    /// child of a fork.
    pub fn max_active(&self) -> usize {
        self.inner.readable().map_or(0, |state| state.saved_max)
    }

    /// Sets how many items may be active at once, per CPU or, on unbound queues, in all; 0 for 1024.
    /// Above 2048 it is clamped with a warning.
    pub fn set_max_active(&self, max_active: usize) -> Result<(), AttrError> {
        self.inner.set_max_active(max_active)
    }

    /// Sets how many items each NUMA node may always have active. Unbound queues only.
    pub fn set_min_active(&self, min_active: usize) -> Result<(), AttrError> {
        self.inner.set_min_active(min_active)
    }

    /// True if the pwq of a CPU, with None of the caller's CPU, holds items back. A hint.
    pub fn congested(&self, cpu: impl Into<Option<usize>>) -> bool {
        self.inner.congested(cpu.into())
    }

    /// The attributes as they were set; the default ones in the child of a fork.
    pub fn attrs(&self) -> Attrs {
        let state = self.inner.readable();
        state.map_or_else(Attrs::new, |state| state.attrs.clone())
    }

    /// Changes the attributes of an unbound queue. On an error nothing changes. Items queued
    /// before finish where they are.
    pub fn apply_attrs(&self, attrs: Attrs) -> Result<(), AttrError> {
        self.inner.apply_attrs(attrs)
    }

    /// The queue's counters; all 0 in the child of a fork.
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

#[cfg(test)]
mod tests {
    use super::spawn::ClosureWork;
    use super::*;
    use crate::error::StartError;
    use crate::sys::cpu;
    use crate::work::state::Claim;
    use crate::work::Work;
    use crate::{blocking, current, set_worker_desc, worker_desc, Runtime, Topology};
    use std::sync::mpsc;

    /// In a forked child, inside a run: every call returns, and says that there is nothing.
    fn all_return(rt: &Runtime, early: &Runtime, q: &Queue, unbound: &Queue) -> bool {
        rt.freeze_begin();
        let frozen = rt.freeze_busy();
        rt.thaw();
        rt.set_online_cpus(None);
        rt.refresh_cpus();
        set_worker_desc("unseen");
        let item = Box::pin(ClosureWork {
            work: Work::new(""),
            f: || (),
        });
        let refused = unbound.enqueue_node(0, item).map_err(|e| e.reason());
        !frozen
            && blocking(|| worker_desc().is_none() && current().is_some())
            && q.stats() == QueueStats::default()
            && q.attrs() == Attrs::new()
            && q.max_active() == 0
            && q.set_max_active(3) == Err(AttrError::Destroyed)
            && unbound.set_min_active(3) == Err(AttrError::Destroyed)
            && unbound.apply_attrs(Attrs::new()) == Err(AttrError::Destroyed)
            && !q.congested(0)
            && refused == Err(Refusal::Destroyed)
            && rt.topology().possible() == &rt.online_cpus()
            && rt.unbound_cpumask() == rt.online_cpus()
            && rt.default_scope().name() == "cache_shard"
            && rt.system_bh().flush() == Err(WaitError::Destroyed)
            && early.start() == Err(StartError::Destroyed)
    }

    /// What another thread of the parent was just queueing is in no place, and nobody brings it to one.
    #[test]
    fn s01_13_no_call_of_a_forked_child_waits_for_an_item_that_was_claimed_and_not_listed() {
        let items = [(); 2].map(|()| ClosureWork {
            work: Work::new(""),
            f: || (),
        });
        let state = |n: usize| &items[n].work.raw().state;
        assert_eq!(state(0).claim(), Claim::Ours);
        assert_eq!(state(1).claim_for(7), Claim::Ours);
        let returns = |item: &ClosureWork<_>| {
            item.work.flush() == Err(WaitError::Destroyed)
                && item.work.cancel().is_none()
                && matches!(item.work.cancel_sync(), Err(WaitError::Destroyed))
                && matches!(item.work.disable_sync(), Err(WaitError::Destroyed))
        };
        assert!(cpu::is_true_in_child(|| items.iter().all(returns)));
    }

    #[test]
    fn s01_13_what_another_thread_had_locked_holds_no_call_of_a_forked_child_up() {
        let one_cpu = || Runtime::builder().topology(Topology::one_cpu());
        let rt = Arc::new(one_cpu().start().unwrap());
        let early = Arc::new(one_cpu().build_early());
        let flags = Flags::PERCPU | Flags::FREEZABLE;
        let q = rt.queue("q").flags(flags).build().unwrap();
        let unbound = rt.queue("u").flags(Flags::UNBOUND).build().unwrap();
        let pool = q.inner.pwqs()[0].pool.clone();
        let ((hold, held), (told, verdict)) = (mpsc::channel(), mpsc::channel());
        let (own, other, at_start) = (q.handle(), unbound.handle(), (rt.clone(), early.clone()));
        let run = move || {
            held.recv().unwrap();
            let calls = || all_return(&at_start.0, &at_start.1, &own, &other);
            told.send(cpu::is_true_in_child(calls)).unwrap();
        };
        q.try_spawn(run).map_err(|e| e.reason()).unwrap();
        {
            let _attrs = (rt.inner.attrs_lock.lock(), early.inner.attrs_lock.lock());
            let _queues = (q.inner.state.lock(), unbound.inner.state.lock());
            let _cpus = rt.inner.env.cpus.hold_locks();
            let begun = || pool.lock().workers.iter().any(|(_, w)| w.current.is_some());
            while !begun() {
                std::thread::yield_now();
            }
            let _pool = pool.lock();
            hold.send(()).unwrap();
            assert!(verdict.recv().unwrap(), "a call hangs or does not refuse");
        }
        q.flush().unwrap();
    }
}
