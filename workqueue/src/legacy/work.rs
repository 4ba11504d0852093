// SPDX-License-Identifier: MIT OR Apache-2.0
//! An item of the old design: a function, a PENDING mark, and where it was last queued.
//!
//! Made by callers; [`super::workqueue`] lists it, [`super::cpu_workqueue`] runs it. Kernel
//! counterpart: `struct work_struct`, whose one word holds the mark and the place.

use super::cpu_workqueue::CpuWorkqueue;
use crate::sys::sync::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

type Function = Box<dyn Fn(&Arc<Work>) + Send + Sync>;

/// An item: what [`super::Workqueue::queue_work`] takes.
pub struct Work {
    name: &'static str, // I
    function: Function, // I
    /// A run is owed, or somebody keeps others from asking for one.
    pending: AtomicBool, // A
    /// The list it was put on last. Changed by whoever holds PENDING.
    home: Mutex<Option<Arc<CpuWorkqueue>>>,
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
        })
    }

    /// The name it was given.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Is a run owed?
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Takes the PENDING mark; false if somebody has it.
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
