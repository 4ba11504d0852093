// SPDX-License-Identifier: MIT OR Apache-2.0
//! One worker as its pool sees it: why it counts as running or does not, and what it runs; and the
//! memory of a pool's next worker.
//!
//! Guarded by the pool's lock; [`super::workers`] keeps them all. A worker is made when a pool has
//! none left, perhaps because memory is short; then nothing should be allocated. [`super::worker`]
//! takes the [`ControlBlock`], puts it back if no thread could be made for it, and has a new one
//! made after a success. What the standard library allocates for a thread stays outside. Kernel
//! counterparts: `struct worker`, `enum worker_flags`; `alloc_worker`, without that care.

use crate::sys::sync::{Completion, Mutex, Parker};
use crate::sys::ShortText;
use crate::work::list::ItemList;
use crate::work::Identity;
use bitflags::bitflags;
use std::sync::Arc;
use std::thread::JoinHandle;

bitflags! {
    /// Why a worker counts as running, or does not. Changed under the pool's lock.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct WorkerFlags: u8 {
        /// On the idle list.
        const IDLE = 1 << 0;
        /// Not inside a batch of items.
        const PREP = 1 << 1;
        /// In an item that does not hold back others.
        const CPU_INTENSIVE = 1 << 2;
        /// The pool does not count its workers.
        const UNBOUND = 1 << 3;
        /// The pool counts again, this worker from its next batch on.
        const REBOUND = 1 << 4;
        /// Told to leave.
        const DIE = 1 << 5;
        /// Any of these: the pool does not count the worker.
        const NOT_RUNNING = Self::PREP.bits() | Self::CPU_INTENSIVE.bits()
            | Self::UNBOUND.bits() | Self::REBOUND.bits();
    }
}

/// A worker to wake once the pool's lock is released. Without the wake-up an item would wait beside
/// a sleeping worker.
#[derive(Debug)]
#[must_use]
pub(crate) enum Wake {
    /// No worker is needed, or none is idle.
    Nobody,
    /// The worker has been woken and has not taken the lock yet.
    AlreadyCalled,
    /// The caller wakes this one.
    Call(Arc<Parker>),
}

impl Wake {
    /// # Context: no pool lock held.
    pub(crate) fn perform(self) {
        if let Self::Call(parker) = self {
            parker.unpark();
        }
    }

    /// True if an idle worker comes, by this wake-up or by the one before.
    pub(crate) fn will_come(&self) -> bool {
        !matches!(self, Self::Nobody)
    }

    /// True if the caller has nothing to do.
    pub(crate) fn needs_no_call(&self) -> bool {
        !matches!(self, Self::Call(_))
    }
}

/// What the sampler knows of a worker, under its pool's lock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// The run that the rest belongs to.
    pub(super) run: u64,
    pub(super) cpu_ns: u64,
    /// CPU time when the run began or was last seen to wake; None until looked at.
    pub(super) burn_from: Option<u64>,
    pub(super) still: u8,
}

/// The current run of a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Current {
    pub(crate) item: Identity,
    pub(crate) function: &'static str,
    pub(crate) pwq: u32,
    pub(crate) color: u8,
    pub(crate) since: u64,
    /// The thread's CPU time when the run began, if that is measured.
    pub(crate) cpu_start: Option<u64>,
}

/// The thread behind a worker.
#[derive(Debug)]
pub(crate) struct WorkerThread {
    pub(crate) tid: i32,
    /// None for a rescuer, whose queue owns its thread. The creator holds the lock across the
    /// spawn, so a thread that joins finds the handle.
    pub(crate) handle: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// One worker as its pool sees it.
#[derive(Debug)]
pub(crate) struct WorkerState {
    /// The number in the thread's name; None for a rescuer.
    pub(crate) id: Option<usize>,
    pub(crate) flags: WorkerFlags,
    /// Inside a declared section.
    pub(crate) asleep: bool,
    /// Found asleep by the sampler.
    pub(crate) observed_asleep: bool,
    /// How many runs it has begun.
    pub(crate) runs: u64,
    pub(crate) sample: Sample,
    pub(crate) current: Option<Current>,
    /// The description of the current run, or of the last one.
    pub(crate) desc: ShortText,
    /// The run has set its description.
    pub(crate) own_desc: bool,
    /// Items that only this worker may run next: collisions, and barriers of the current run.
    pub(crate) scheduled: ItemList,
    pub(crate) idle_since: u64,
    /// Idle, and woken by a `kick`.
    pub(super) called: bool,
    pub(crate) parker: Arc<Parker>,
    pub(crate) thread: Arc<WorkerThread>,
    /// The bucket that lists the worker while it is busy.
    pub(super) busy_in: usize,
    /// Next busy worker of the same bucket.
    pub(super) busy_next: Option<usize>,
}

impl WorkerState {
    pub(crate) fn new(
        id: Option<usize>,
        flags: WorkerFlags,
        parker: Arc<Parker>,
        thread: Arc<WorkerThread>,
    ) -> Self {
        Self {
            id,
            flags,
            asleep: false,
            observed_asleep: false,
            runs: 0,
            sample: Sample::default(),
            current: None,
            desc: ShortText::default(),
            own_desc: false,
            scheduled: ItemList::new(),
            idle_since: 0,
            called: false,
            parker,
            thread,
            busy_in: 0,
            busy_next: None,
        }
    }

    /// True if this worker counts in `nr_running`.
    pub(crate) fn counted(&self) -> bool {
        !self.asleep
            && !self.observed_asleep
            && !self
                .flags
                .intersects(WorkerFlags::NOT_RUNNING | WorkerFlags::IDLE)
    }

    /// True if the end of the present run changes nothing but the counts of its item.
    #[inline]
    pub(super) fn is_in_plain_run(&self) -> bool {
        let ends_at_run = self.flags.intersects(WorkerFlags::CPU_INTENSIVE) || self.own_desc;
        !self.asleep && !self.observed_asleep && !ends_at_run && self.scheduled.is_empty()
    }
}

/// A worker without its thread.
#[derive(Debug)]
pub(super) struct ControlBlock {
    pub(super) parker: Arc<Parker>,
    pub(super) handle: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// The thread has come, or has left again.
    pub(super) ready: Completion,
    /// Here until the thread has joined the pool.
    worker: Mutex<Option<WorkerState>>,
}

impl ControlBlock {
    fn new() -> Arc<Self> {
        let (parker, handle) = (Arc::new(Parker::new()), Arc::default());
        let thread = Arc::new(WorkerThread {
            tid: 0,
            handle: Arc::clone(&handle),
        });
        let worker = WorkerState::new(None, WorkerFlags::PREP, parker.clone(), thread);
        Arc::new(Self {
            parker,
            handle,
            ready: Completion::new(),
            worker: Mutex::new(Some(worker)),
        })
    }

    /// The thread has come: this is its worker.
    pub(super) fn occupy(&self, id: usize, tid: i32) -> WorkerState {
        let mut worker = self.worker.lock().take().expect("one thread per block");
        worker.id = Some(id);
        Arc::get_mut(&mut worker.thread)
            .expect("the pool does not know it yet")
            .tid = tid;
        worker
    }

    /// True if no thread has joined the pool.
    pub(super) fn is_vacant(&self) -> bool {
        self.worker.lock().is_some()
    }
}

/// The block of a pool's next worker.
#[derive(Debug)]
pub(super) struct Prealloc(Mutex<Option<Arc<ControlBlock>>>);

impl Prealloc {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(ControlBlock::new())))
    }

    /// The block. A second one is allocated now, if several workers are made at a time.
    pub(super) fn take(&self) -> Arc<ControlBlock> {
        let spare = self.0.lock().take();
        spare.unwrap_or_else(ControlBlock::new)
    }

    /// Keeps the block for the next attempt, as no thread was made.
    pub(super) fn put_back(&self, block: Arc<ControlBlock>) {
        *self.0.lock() = Some(block);
    }

    /// Allocates the block of the next worker after one was used.
    pub(super) fn refill(&self) {
        let next = ControlBlock::new();
        self.0.lock().get_or_insert(next);
    }

    #[cfg(test)]
    fn peek(&self) -> Option<Arc<ControlBlock>> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::worker::create_worker;
    use crate::env::topology::Topology;
    use crate::Runtime;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::Arc;

    #[test]
    fn s07_17_the_next_workers_block_is_there_before_it_is_needed() {
        let fails = Arc::new(AtomicBool::new(false));
        let f = fails.clone();
        let builder = Runtime::builder().topology(Topology::one_cpu());
        let builder = builder.threads_by(move |_| match f.load(Ordering::SeqCst) {
            true => Err(libc::EAGAIN),
            false => Ok(()),
        });
        let rt = builder.build_early();
        let pool = rt.inner.pools_of(0).expect("it has its pools").normal;
        let first = pool.prealloc.peek().expect("before the first worker");
        rt.start().expect("threads can be made");
        assert!(!first.is_vacant());
        let second = pool.prealloc.peek().expect("after a success");
        assert!(!Arc::ptr_eq(&first, &second));
        // A failure uses nothing up: the next attempt allocates no other.
        fails.store(true, Ordering::SeqCst);
        for attempt in 1..4 {
            assert!(create_worker(&pool, attempt).is_err());
            let kept = pool.prealloc.peek().expect("after a failure");
            assert!(Arc::ptr_eq(&kept, &second) && kept.is_vacant());
        }
        fails.store(false, Ordering::SeqCst);
        create_worker(&pool, 1).expect("threads can be made");
        assert!(!second.is_vacant());
        assert!(pool.prealloc.peek().is_some_and(|next| next.is_vacant()));
    }
}
