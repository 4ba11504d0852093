// SPDX-License-Identifier: MIT OR Apache-2.0
//! One worker as its pool sees it: why it counts as running or does not, and what it runs.
//!
//! Guarded by the pool's lock; [`super::workers`] keeps them all. Kernel counterparts:
//! `struct worker`, `enum worker_flags`.

use crate::sys::short_text::ShortText;
use crate::sys::sync::{Mutex, Parker};
use crate::work::list::ItemList;
use crate::work::raw::Identity;
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
    /// Items that only this worker may run next: collisions, and barriers of the current run.
    pub(crate) scheduled: ItemList,
    pub(crate) idle_since: u64,
    /// Idle, and woken by a `kick`.
    pub(super) called: bool,
    pub(crate) parker: Arc<Parker>,
    pub(crate) thread: Arc<WorkerThread>,
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
            scheduled: ItemList::new(),
            idle_since: 0,
            called: false,
            parker,
            thread,
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
}
