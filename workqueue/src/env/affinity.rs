// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where threads may run: the CPUs of unbound queues, those the process is allowed, and the default
//! affinity scope.
//!
//! Changed by [`crate::runtime::cpus`]; read by enqueues without a lock. Threads bind themselves
//! and each other through here. Kernel counterparts: `wq_unbound_cpumask`, `wq_affn_dfl`.

use super::topology::Scope;
use super::Env;
use crate::sys::cpu;
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::Mutex;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// See the module.
#[derive(Debug)]
pub(crate) struct Affinity {
    masks: Mutex<Masks>, // U: written under P0
    /// The unbound mask by CPU number, for the enqueue path.
    usable: Box<[AtomicBool]>, // A: written under P0
    /// The index of the default scope in `Scope::ALL`.
    scope: AtomicUsize, // A: written under P0
}

/// Where threads may be put.
#[derive(Debug)]
struct Masks {
    /// The mask of unbound queues as the program has set it; None for all CPUs, new ones too.
    asked: Option<CpuSet>,
    /// The known CPUs of it.
    mask: CpuSet,
    /// The CPUs that the process is allowed at present.
    allowed: CpuSet,
}

impl Masks {
    fn bind(&self, tid: i32, cpus: &CpuSet) -> io::Result<()> {
        cpu::bind_thread(tid, cpus, &self.allowed)
    }

    /// As `bind`; to all allowed CPUs if that fails.
    fn bind_or_free(&self, tid: i32, cpus: &CpuSet) {
        if self.bind(tid, cpus).is_err() {
            // Fails if the thread has just ended.
            let _ignored = self.bind(tid, &self.allowed);
        }
    }
}

fn index_of(scope: Scope) -> usize {
    let place = Scope::ALL.iter().position(|&s| s == scope);
    place.expect("ALL has all scopes")
}

impl Affinity {
    /// Relaxed: readers that choose pools hold `attrs_lock`; others only show it.
    /// # Context: `attrs_lock` held.
    pub(crate) fn set_scope(&self, scope: Scope) {
        self.scope.store(index_of(scope), Ordering::Relaxed);
    }

    /// All known CPUs may be used at first. CPU numbers are below `end`.
    pub(crate) fn new(known: &CpuSet, end: usize, scope: Scope) -> Self {
        let masks = Masks {
            asked: None,
            mask: known.clone(),
            allowed: known.clone(),
        };
        Self {
            usable: (0..end)
                .map(|c| AtomicBool::new(known.contains(c)))
                .collect(),
            masks: Mutex::new(masks),
            scope: AtomicUsize::new(index_of(scope)),
        }
    }

    /// True if the process is now allowed other CPUs than before.
    pub(crate) fn allows_other_than(&self, allowed: &CpuSet) -> bool {
        self.masks.lock().allowed != *allowed
    }

    /// Binds threads within these CPUs from now on.
    /// # Context: `attrs_lock` held.
    pub(crate) fn allow(&self, allowed: &CpuSet) {
        self.masks.lock().allowed = allowed.clone();
    }

    /// Computes the unbound mask for these known CPUs. Enqueues use it after `publish`.
    /// # Context: `attrs_lock` held.
    pub(crate) fn grow(&self, known: &CpuSet) -> CpuSet {
        let masks = &mut *self.masks.lock();
        masks.mask = match &masks.asked {
            Some(asked) => asked.and(known),
            None => known.clone(),
        };
        masks.mask.clone()
    }

    /// # Context: `attrs_lock` held.
    pub(crate) fn publish(&self) {
        let mask = self.masks.lock().mask.clone();
        for (cpu, usable) in self.usable.iter().enumerate() {
            // Release pairs with the Acquire in `is_unbound_cpu`: a thread that finds a new CPU
            // finds its place in the queues. A late enqueue prefers a CPU that has left the mask,
            // which works.
            usable.store(mask.contains(cpu), Ordering::Release);
        }
    }

    pub(crate) fn ask(&self, cpus: &CpuSet, known: &CpuSet) {
        self.masks.lock().asked = Some(cpus.clone());
        self.grow(known);
        self.publish();
    }
}

impl Env {
    /// The CPUs that unbound queues may use. Takes no lock.
    pub(crate) fn unbound_cpus(&self) -> CpuSet {
        let all = 0..self.affinity.usable.len();
        all.filter(|&cpu| self.is_unbound_cpu(cpu)).collect()
    }

    pub(crate) fn is_unbound_cpu(&self, cpu: usize) -> bool {
        let usable = self.affinity.usable.get(cpu);
        usable.is_some_and(|usable| usable.load(Ordering::Acquire))
    }

    pub(crate) fn default_scope(&self) -> Scope {
        Scope::ALL[self.affinity.scope.load(Ordering::Relaxed)]
    }

    /// Binds the calling thread to the unbound mask. Allocates nothing.
    pub(crate) fn bind_current_to_unbound(&self) {
        self.bind_to_unbound(0);
    }

    /// Binds a thread of this process to the unbound mask, or to all allowed CPUs if that fails; 0
    /// is the calling one. A thread that has just ended is ignored.
    pub(crate) fn bind_to_unbound(&self, tid: i32) {
        if self.cpus.is_simulated() {
            return;
        }
        // The lock keeps the mask as it is, so that the newest mask wins.
        let masks = self.affinity.masks.lock();
        masks.bind_or_free(tid, &masks.mask);
    }

    /// Binds the calling thread to the allowed ones of `cpus`, or to all allowed CPUs if there is
    /// none. Does nothing on simulated CPUs. Allocates nothing.
    pub(crate) fn bind_current(&self, cpus: &CpuSet) {
        if !self.cpus.is_simulated() {
            self.affinity.masks.lock().bind_or_free(0, cpus);
        }
    }

    /// As `bind_current`; false if none of the CPUs is allowed.
    pub(crate) fn try_bind_current(&self, cpus: &CpuSet) -> bool {
        self.bind_other(0, cpus)
    }

    /// Binds another thread; false if none of the CPUs is allowed. A thread that has just ended is
    /// ignored.
    pub(crate) fn bind_other(&self, tid: i32, cpus: &CpuSet) -> bool {
        self.cpus.is_simulated()
            || self
                .affinity
                .masks
                .lock()
                .bind(tid, cpus)
                .map_or_else(|e| e.raw_os_error() == Some(libc::ESRCH), |()| true)
    }
}
