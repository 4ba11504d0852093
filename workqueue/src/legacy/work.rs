// SPDX-License-Identifier: MIT OR Apache-2.0
//! An item of the old design: a function, a PENDING mark, and where it was last queued; and waiting
//! for it, or for a whole queue, CPU after CPU.
//!
//! Made by callers; [`super::workqueue`] lists it, [`super::cpu_workqueue`] runs it. A waiter puts
//! a barrier on a list. Kernel counterparts: `struct work_struct`, whose one word holds the mark
//! and the place; `flush_cpu_workqueue`, `flush_work`, `wait_on_work`, `try_to_grab_pending`.

use super::cpu_workqueue::{served_by_caller, CpuWorkqueue, Entry, ListState};
use super::keventd::Armed;
use super::workqueue::Workqueue;
use super::Era;
use crate::error::WaitError;
use crate::pool::context::blocking;
use crate::sys::cpu;
use crate::sys::sync::modelled::back_off;
use crate::sys::sync::{Completion, Mutex};
use crate::sys::timer::{TimerIndex, Timers};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

type Function = Box<dyn Fn(&Arc<Work>) + Send + Sync>;

/// An item: what [`super::Workqueue::queue_work`] takes.
pub struct Work {
    name: &'static str, // I
    function: Function, // I
    /// The item waits for a run, or a canceller keeps it from being queued.
    pending: AtomicBool, // A
    /// The list it was put on last. Changed by the owner of PENDING.
    home: Mutex<Option<Arc<CpuWorkqueue>>>,
    pub(super) timer: TimerIndex,
    /// The timers in which it was armed last. Changed by the owner of PENDING.
    pub(super) armed_in: Mutex<Option<Weak<Timers<Armed>>>>,
    forks: u32, // I: the fork generation of the process that made it
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("name", &self.name)
            .field("pending", &self.is_pending())
            .finish_non_exhaustive()
    }
}

impl Work {
    /// An item that calls `function` with itself, so that it can queue itself again.
    pub fn new(
        name: &'static str,
        function: impl Fn(&Arc<Self>) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            function: Box::new(function),
            pending: AtomicBool::new(false),
            home: Mutex::new(None),
            timer: TimerIndex::new(),
            armed_in: Mutex::default(),
            forks: cpu::fork_generation(),
        })
    }

    /// The name it was given.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// True if the item waits for a run.
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    #[cfg(test)]
    pub(super) fn hold_lock(&self) -> impl Sized + '_ {
        self.home.lock()
    }

    /// True in the child of a fork, where a thread of the parent may hold the item's lock for ever.
    pub(super) fn is_of_parent(&self) -> bool {
        cpu::fork_generation() != self.forks
    }

    /// Takes the PENDING mark; false if it is taken.
    #[must_use]
    pub(super) fn claim(&self) -> bool {
        // AcqRel, and written even if it is set already: pairs with `release`, so that the run
        // which is still to come sees what came before a claim that failed.
        !self.pending.swap(true, Ordering::AcqRel)
    }

    /// Gives the mark back: just before the function, or without a run.
    pub(super) fn release(&self) {
        // AcqRel: pairs with `claim`, see there.
        self.pending.swap(false, Ordering::AcqRel);
    }

    pub(super) fn home(&self) -> Option<Arc<CpuWorkqueue>> {
        self.home.lock().clone()
    }

    /// # Context: PENDING held, and the lock of `home`.
    pub(super) fn set_home(&self, home: &Arc<CpuWorkqueue>) {
        *self.home.lock() = Some(home.clone());
    }

    pub(super) fn call(self: &Arc<Self>) {
        (self.function)(self);
    }
}

impl ListState {
    fn place_of(&self, work: &Work) -> Option<usize> {
        self.list
            .iter()
            .position(|e| matches!(e, Entry::Item(w) if std::ptr::eq(&**w, work)))
    }

    fn is_running(&self, work: &Work) -> bool {
        self.current
            .as_ref()
            .is_some_and(|w| std::ptr::eq(&**w, work))
    }
}

/// Waits until the list is past what is on it now.
fn flush_cpu_workqueue(list: &CpuWorkqueue) {
    let done = {
        let mut st = list.lock();
        if st.list.is_empty() && st.current.is_none() || !st.served {
            return;
        }
        let end = st.list.len();
        list.insert_barrier(&mut st, end)
    };
    blocking(|| done.wait());
}

/// If the item runs from this list now, the barrier that ends with that run.
fn barrier_behind_run(list: &CpuWorkqueue, work: &Work) -> Option<Arc<Completion>> {
    let mut st = list.lock();
    st.is_running(work).then(|| list.insert_barrier(&mut st, 0))
}

impl Workqueue {
    /// Waits, CPU after CPU, for what had been queued there when its turn came.
    ///
    /// In a run of this queue: in the earlier era the list is run inside the run, to any depth,
    /// with a warning from the fourth level on; in the later one there is a warning and an error.
    /// Such a nested run serves other flushers too, so that these return while the run that flushes
    /// still goes on.
    ///
    /// # Errors
    /// [`WaitError::WouldDeadlock`], see above; the kernel hangs.
    pub fn flush_workqueue(&self) -> Result<(), WaitError> {
        let queue = &self.inner;
        if queue.machine.is_in_forked_child() {
            return Err(WaitError::Destroyed);
        }
        if queue.machine.era == Era::From2_6_30 {
            if let Some(own) = queue.lists.iter().find(|l| l.is_served_by_caller()) {
                let thread = &own.thread_name;
                log::warn!("workqueue: legacy: a run of {thread} flushes its own queue, which could never end");
                return Err(WaitError::WouldDeadlock);
            }
        }
        for list in &queue.lists {
            if list.is_served_by_caller() {
                list.run_workqueue();
            } else {
                flush_cpu_workqueue(list);
            }
        }
        Ok(())
    }
}

impl Work {
    /// Waits for the queued instance or else for the current run; true if there was one.
    ///
    /// Looks only at the CPU where the item was queued last: a run that still goes on elsewhere is
    /// missed.
    ///
    /// # Errors
    /// [`WaitError::WouldDeadlock`] in the item's own run; the kernel hangs.
    pub fn flush_work(&self) -> Result<bool, WaitError> {
        if self.is_of_parent() {
            return Err(WaitError::Destroyed);
        }
        let Some(list) = self.home() else {
            return Ok(false);
        };
        self.may_wait()?;
        let done = {
            let mut st = list.lock();
            if let Some(place) = st.place_of(self) {
                list.insert_barrier(&mut st, place + 1)
            } else if st.is_running(self) {
                list.insert_barrier(&mut st, 0)
            } else {
                return Ok(false);
            }
        };
        blocking(|| done.wait());
        Ok(true)
    }

    /// Takes the item off its timer or list and waits for its runs on all CPUs of the queue it was on last;
    /// true if it was pending. Until that is done the item cannot be queued.
    ///
    /// # Errors
    /// [`WaitError::WouldDeadlock`] in the item's own run; the kernel hangs.
    pub fn cancel_work_sync(&self) -> Result<bool, WaitError> {
        if self.is_of_parent() {
            return Err(WaitError::Destroyed);
        }
        self.may_wait()?;
        let mut looks = 0;
        let was_pending = loop {
            if self.claim() {
                break false;
            }
            if self.disarm() || self.take_off() {
                break true;
            }
            // It is about to be listed or about to run, or another canceller has it.
            back_off(looks);
            looks = looks.saturating_add(1);
        };
        self.wait_on_work();
        self.release();
        Ok(was_pending)
    }

    /// An error if the caller is the item's own run.
    fn may_wait(&self) -> Result<(), WaitError> {
        let serving = served_by_caller();
        if serving.is_some_and(|own| own.lock().is_running(self)) {
            return Err(WaitError::WouldDeadlock);
        }
        Ok(())
    }

    /// Takes a listed item off; its PENDING mark is the caller's then.
    fn take_off(&self) -> bool {
        let Some(list) = self.home() else {
            return false;
        };
        let mut st = list.lock();
        let Some(place) = st.place_of(self) else {
            return false;
        };
        let entry = st.list.remove(place);
        drop(st);
        drop(entry);
        true
    }

    /// Waits for the runs on all CPUs. PENDING is held, so no further one can begin.
    fn wait_on_work(&self) {
        let Some(home) = self.home() else {
            return;
        };
        for list in home.siblings() {
            if let Some(done) = barrier_behind_run(&list, self) {
                blocking(|| done.wait());
            }
        }
    }
}
