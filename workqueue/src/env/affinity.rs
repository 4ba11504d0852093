// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where threads may run: the CPUs of unbound queues, those the process is allowed, and the default
//! affinity scope.
//!
//! Changed by [`crate::runtime::cpus`]; read by enqueues without a lock. Threads bind themselves and
//! each other through here. Kernel counterparts: `wq_unbound_cpumask`, `wq_affn_dfl`.

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
    /// Where the default scope stands in `Scope::ALL`.
    scope: AtomicUsize, // A: written under P0
}

/// Where threads may be put.
#[derive(Debug)]
struct Masks {
    /// The mask of unbound queues as the program has set it; None for all CPUs, new ones too.
    asked: Option<CpuSet>,
    /// What is known of it.
    mask: CpuSet,
    /// Where the process may be at all at present.
    allowed: CpuSet,
}

impl Masks {
    fn bind(&self, tid: i32, cpus: &CpuSet) -> io::Result<()> {
        cpu::bind_thread(tid, cpus, &self.allowed)
    }

    /// As `bind`; anywhere if that cannot be.
    fn bind_or_free(&self, tid: i32, cpus: &CpuSet) {
        if self.bind(tid, cpus).is_err() {
            // The thread may just have ended, and needs no place then.
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

    /// Is the process allowed other CPUs than this goes by?
    pub(crate) fn allows_other_than(&self, allowed: &CpuSet) -> bool {
        self.masks.lock().allowed != *allowed
    }

    /// Threads are bound within these CPUs from now on.
    /// # Context: `attrs_lock` held.
    pub(crate) fn allow(&self, allowed: &CpuSet) {
        self.masks.lock().allowed = allowed.clone();
    }

    /// The unbound mask if these CPUs are known. Enqueues go by it after `publish`.
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
            // Release pairs with the Acquire in `is_unbound_cpu`: whoever finds a new CPU finds its
            // place in the queues. An enqueue that is just too late prefers a CPU it might have
            // avoided.
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

    /// The calling thread may go wherever unbound queues may. Allocates nothing.
    pub(crate) fn bind_current_to_unbound(&self) {
        self.bind_to_unbound(0);
    }

    /// A thread of this process may go wherever unbound queues may, or anywhere if that cannot be;
    /// 0 is the calling one. One that has just ended needs no place.
    pub(crate) fn bind_to_unbound(&self, tid: i32) {
        if self.cpus.is_simulated() {
            return;
        }
        // The mask stands still meanwhile, so that the last word is the newest mask's.
        let masks = self.affinity.masks.lock();
        masks.bind_or_free(tid, &masks.mask);
    }

    /// The calling thread goes where it belongs, as far as the process is allowed, or else where
    /// it is. Made-up CPUs bind nobody. Allocates nothing.
    pub(crate) fn bind_current(&self, cpus: &CpuSet) {
        if !self.cpus.is_simulated() {
            self.affinity.masks.lock().bind_or_free(0, cpus);
        }
    }

    /// As `bind_current`; false if none of the CPUs may be used.
    pub(crate) fn try_bind_current(&self, cpus: &CpuSet) -> bool {
        self.bind_other(0, cpus)
    }

    /// Another thread goes where it belongs; false if none of the CPUs may be used. One that has
    /// just ended needs no place.
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
