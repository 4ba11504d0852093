// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue of the old design: as many lists and threads as there are CPUs, or one.
//!
//! Made by [`super::Machine`]; callers queue items, [`super::cpu_workqueue`] takes over. Kernel
//! counterparts: `struct workqueue_struct`, `__create_workqueue_key`, `queue_work`.

use super::cpu_workqueue::{served_by_caller, CpuWorkqueue};
use super::work::Work;
use super::MachineInner;
use crate::error::{AllocError, AttrError, Refusal, WaitError};
use crate::sys::sync::modelled::back_off;
use crate::sys::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// What kind of queue it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PerCpu,
    /// Per CPU, with threads at SCHED_FIFO.
    RealTime,
    Single,
    /// A singlethread queue that a freeze stops.
    Freezeable,
}

impl Kind {
    fn is_single(self) -> bool {
        matches!(self, Self::Single | Self::Freezeable)
    }
}

/// What its threads, its machine and its owner share.
#[derive(Debug)]
pub(super) struct QueueInner {
    pub(super) machine: Arc<MachineInner>, // I
    kind: Kind,                            // I
    /// One per possible CPU in order of their numbers, or one for a singlethread queue.
    pub(super) lists: Vec<Arc<CpuWorkqueue>>, // I
    destroyed: AtomicBool,                 // A: set once
    /// Held while threads are made or ended.
    threads: Mutex<()>,
}

impl QueueInner {
    fn list_of(&self, cpu: usize) -> Option<&Arc<CpuWorkqueue>> {
        self.lists
            .iter()
            .find(|l| self.kind.is_single() || l.cpu == Some(cpu))
    }

    pub(super) fn is_served_by_caller(&self) -> bool {
        self.lists.iter().any(|l| l.is_served_by_caller())
    }

    pub(super) fn wake_threads(&self) {
        self.lists.iter().for_each(|l| l.wake());
    }

    /// Makes the first threads, all or none of which stay.
    fn begin_threads(self: &Arc<Self>) -> Result<(), i32> {
        let _threads = self.threads.lock();
        let online = self.machine.add(self);
        let wanted = |l: &&Arc<CpuWorkqueue>| l.cpu.is_none_or(|c| online.contains(c));
        self.lists
            .iter()
            .filter(wanted)
            .try_for_each(|l| l.begin_thread())
    }

    /// True if the queue has all that it needs for this CPU to be online.
    pub(super) fn is_ready_on(&self, cpu: usize) -> bool {
        self.kind.is_single()
            || self.destroyed.load(Ordering::Relaxed)
            || self.list_of(cpu).is_some_and(|l| l.lock().served)
    }

    /// Makes the thread of a CPU that returns. Does nothing on a singlethread queue.
    pub(super) fn begin_thread_of(&self, cpu: usize) -> Result<(), i32> {
        let _threads = self.threads.lock();
        match self.list_of(cpu) {
            Some(list) if !self.is_ready_on(cpu) => list.begin_thread(),
            _ => Ok(()),
        }
    }

    /// Ends the thread of a CPU that leaves. Does nothing on a singlethread queue.
    pub(super) fn end_thread_of(&self, cpu: usize) {
        let _threads = self.threads.lock();
        if !self.kind.is_single() {
            if let Some(list) = self.list_of(cpu) {
                list.end_thread();
            }
        }
    }

    fn end_threads(&self) {
        let _threads = self.threads.lock();
        // Relaxed: `threads` orders it for those who make threads; enqueuers ask their list.
        self.destroyed.store(true, Ordering::Relaxed);
        self.lists.iter().for_each(|l| l.end_thread());
    }

    /// Lists an item on a CPU, by default the caller's, or else on the next one that is online.
    /// False if the queue has been destroyed.
    /// # Context: PENDING held.
    #[must_use]
    pub(super) fn insert_near(&self, cpu: Option<usize>, work: &Arc<Work>) -> bool {
        // The list of a CPU that is leaving refuses; the next look finds another CPU.
        let mut looks = 0;
        while !self.destroyed.load(Ordering::Relaxed) {
            let near = self.machine.online_near(cpu.unwrap_or_else(|| self.here()));
            let list = near.and_then(|cpu| self.list_of(cpu));
            if list.is_some_and(|l| l.insert(work)) {
                return true;
            }
            back_off(looks);
            looks = looks.saturating_add(1);
        }
        false
    }

    /// The CPU a caller counts as being on.
    fn here(&self) -> usize {
        let topology = &self.machine.topology;
        // Threads are not bound to simulated CPUs, so the list's own CPU counts.
        let own = topology.is_simulated().then(|| served_by_caller()?.cpu);
        own.flatten().unwrap_or_else(|| topology.current_cpu())
    }
}

/// A queue. Dropping it destroys it.
#[derive(Debug)]
pub struct Workqueue {
    pub(super) inner: Arc<QueueInner>,
}

impl Workqueue {
    pub(super) fn create(
        machine: &Arc<MachineInner>,
        name: &str,
        kind: Kind,
    ) -> Result<Self, AllocError> {
        if name.is_empty() || name.contains('\0') {
            return Err(AllocError::BadName(name.to_owned()));
        }
        if machine.is_in_forked_child() {
            return Err(AllocError::Destroyed);
        }
        let possible: Vec<_> = machine.topology.possible().iter().map(Some).collect();
        if possible.is_empty() {
            return Err(AllocError::Attrs {
                name: name.to_owned(),
                source: AttrError::EmptyMask(String::new()),
            });
        }
        let cpus = if kind.is_single() {
            vec![None]
        } else {
            possible
        };
        let queue = Self {
            inner: Arc::new_cyclic(|own| QueueInner {
                machine: machine.clone(),
                kind,
                lists: cpus
                    .into_iter()
                    .map(|cpu| CpuWorkqueue::new(machine, own.clone(), name, kind, cpu))
                    .collect(),
                destroyed: AtomicBool::new(false),
                threads: Mutex::new(()),
            }),
        };
        // On an error the drop of `queue` ends the threads that were made.
        queue
            .inner
            .begin_threads()
            .map_err(|errno| AllocError::Spawn {
                name: name.to_owned(),
                errno,
            })?;
        Ok(queue)
    }

    /// Queues an item on the caller's CPU. False if it is pending already, or the queue has been
    /// destroyed.
    ///
    /// An item that runs on one CPU and is queued on another meanwhile runs beside itself, unless
    /// the queue is a singlethread one.
    pub fn queue_work(&self, work: &Arc<Work>) -> bool {
        let queue = &self.inner;
        if queue.machine.is_in_forked_child() || work.is_of_parent() || !work.claim() {
            return false;
        }
        let listed = queue.insert_near(None, work);
        if !listed {
            work.release();
        }
        listed
    }

    /// Queues an item on a CPU. Ok(false) if it is pending already. On a singlethread queue the
    /// CPU means nothing.
    ///
    /// # Errors
    /// [`Refusal::InvalidCpu`] if the CPU is not online, [`Refusal::Destroyed`] if the queue has
    /// been destroyed.
    pub fn queue_work_on(&self, cpu: usize, work: &Arc<Work>) -> Result<bool, Refusal> {
        let queue = &self.inner;
        let forked = queue.machine.is_in_forked_child() || work.is_of_parent();
        if forked || queue.destroyed.load(Ordering::Relaxed) {
            return Err(Refusal::Destroyed);
        }
        if !queue.machine.online().contains(cpu) {
            return Err(Refusal::InvalidCpu);
        }
        if !work.claim() {
            return Ok(false);
        }
        if queue.list_of(cpu).is_some_and(|l| l.insert(work)) {
            return Ok(true);
        }
        work.release();
        Err(if queue.destroyed.load(Ordering::Relaxed) {
            Refusal::Destroyed
        } else {
            Refusal::InvalidCpu
        })
    }

    /// What each busy list of the queue is doing, one line each: for people and for tests.
    pub fn dump(&self) -> String {
        if self.inner.machine.is_in_forked_child() {
            return String::new();
        }
        self.inner
            .lists
            .iter()
            .filter_map(|l| l.describe())
            .collect()
    }

    /// Runs what has been queued, then ends all threads of the queue. A queue that is frozen is
    /// waited for until the thaw; so is it by the drop.
    ///
    /// # Errors
    /// [`WaitError::WouldDeadlock`] in a run of this queue; nothing has changed then.
    pub fn destroy_workqueue(&self) -> Result<(), WaitError> {
        if self.inner.machine.is_in_forked_child() {
            return Err(WaitError::Destroyed);
        }
        if self.inner.is_served_by_caller() {
            return Err(WaitError::WouldDeadlock);
        }
        self.flush_workqueue()?;
        self.inner.end_threads();
        Ok(())
    }
}

impl Drop for Workqueue {
    fn drop(&mut self) {
        // In a forked child there is no thread to end. On one of its own threads the queue ends
        // when that run has.
        if !self.inner.machine.is_in_forked_child() {
            self.inner.end_threads();
        }
    }
}
