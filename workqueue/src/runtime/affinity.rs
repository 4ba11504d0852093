// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all unbound queues go by: the CPUs they may use, and the default affinity scope.
//!
//! Programs change both through [`Runtime`] or the control registry; queues follow at once
//! ([`crate::wq::lifecycle`]), and so do the threads that belong to no queue's pool. Kernel
//! counterparts: `wq_unbound_cpumask`, `workqueue_apply_unbound_cpumask`, `wq_affn_dfl_set`.

use super::{Runtime, RuntimeInner};
use crate::error::AttrError;
use crate::sys::cpu;
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::Mutex;
use crate::wq::attrs::Scope;
use crate::wq::{QueueInner, DESTROYING};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(crate) struct Affinity {
    mask: Mutex<CpuSet>, // U: written under P0
    /// The same by CPU number, for the enqueue path.
    usable: Box<[AtomicBool]>, // A: written under P0
    /// Where the default scope stands in `Scope::ALL`.
    scope: AtomicUsize, // A: written under P0
}

fn place_of(scope: Scope) -> usize {
    let place = Scope::ALL.iter().position(|&s| s == scope);
    place.expect("ALL has all scopes")
}

impl Affinity {
    /// All possible CPUs may be used at first.
    pub(crate) fn new(possible: &CpuSet, scope: Scope) -> Self {
        let end = possible.iter().last().map_or(0, |c| c + 1);
        Self {
            mask: Mutex::new(possible.clone()),
            usable: (0..end)
                .map(|c| AtomicBool::new(possible.contains(c)))
                .collect(),
            scope: AtomicUsize::new(place_of(scope)),
        }
    }

    fn publish(&self, mask: &CpuSet) {
        *self.mask.lock() = mask.clone();
        for (cpu, usable) in self.usable.iter().enumerate() {
            // Relaxed: an enqueue that is just too late prefers a CPU it might have avoided.
            usable.store(mask.contains(cpu), Ordering::Relaxed);
        }
    }
}

impl RuntimeInner {
    /// The CPUs that unbound queues may use. Takes no lock.
    pub(crate) fn unbound_cpus(&self) -> CpuSet {
        let possible = self.topology.possible().iter();
        possible.filter(|&cpu| self.is_unbound_cpu(cpu)).collect()
    }

    pub(crate) fn is_unbound_cpu(&self, cpu: usize) -> bool {
        let usable = self.affinity.usable.get(cpu);
        usable.is_some_and(|usable| usable.load(Ordering::Relaxed))
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
        if self.topology.is_simulated() {
            return;
        }
        // The mask stands still meanwhile, so that the last word is the newest mask's.
        let mask = self.affinity.mask.lock();
        if cpu::bind_thread(tid, &mask).is_err() {
            let _ended = cpu::bind_thread(tid, self.topology.possible());
        }
    }

    fn unbound_queues(&self) -> Vec<Arc<QueueInner>> {
        let mut queues = self.queues();
        queues.retain(|q| q.is_unbound() && !q.is_mode(DESTROYING));
        queues
    }

    /// All queues, or none.
    pub(crate) fn set_unbound_cpus(self: &Arc<Self>, cpus: &CpuSet) -> Result<(), AttrError> {
        let mask = cpus.and(self.topology.possible());
        if mask.is_empty() {
            return Err(AttrError::EmptyMask(cpus.to_list()));
        }
        let _choice = self.attrs_lock.lock();
        let queues = self.unbound_queues();
        let mut plans = Vec::with_capacity(queues.len());
        for queue in &queues {
            let attrs = queue.state.lock().attrs.clone();
            // A plan that is dropped gives its pools back.
            plans.push(queue.plan(attrs, &mask).map_err(AttrError::Spawn)?);
        }
        self.affinity.publish(&mask);
        for (queue, plan) in queues.iter().zip(plans) {
            queue.install(plan);
            queue.adjust_limits();
        }
        self.spread_homeless();
        Ok(())
    }

    /// The threads that go by the unbound mask themselves: rescuers that wait to be called, and
    /// the workers of CPUs that have left.
    fn spread_homeless(&self) {
        let queues = self.queues();
        for rescuer in queues.iter().filter_map(|q| q.rescuer.as_ref()) {
            rescuer.follow_unbound_mask(self);
        }
        for pool in self.percpu_pools() {
            let st = pool.lock();
            if st.disassociated {
                st.workers
                    .iter()
                    .for_each(|(_, w)| self.bind_to_unbound(w.thread.tid));
            }
        }
    }

    pub(crate) fn set_default_scope(self: &Arc<Self>, scope: Scope) {
        let _choice = self.attrs_lock.lock();
        // Relaxed: who chooses pools holds `attrs_lock`; others only show it.
        let place = place_of(scope);
        self.affinity.scope.store(place, Ordering::Relaxed);
        for queue in self.unbound_queues() {
            queue.recompute_slots();
        }
    }

    pub(crate) fn require_alive(&self) -> Result<(), AttrError> {
        if self.is_in_forked_child() || self.is_stopped() {
            Err(AttrError::Destroyed)
        } else {
            Ok(())
        }
    }
}

impl Runtime {
    /// The CPUs that unbound queues may use.
    pub fn unbound_cpumask(&self) -> CpuSet {
        self.inner.unbound_cpus()
    }

    /// Changes the CPUs that unbound queues may use, as far as the machine has them. Queues whose
    /// own mask shares no CPU with it use all of them. Items queued before finish where they are.
    /// Also followed by rescuers that wait to be called and by workers whose CPU has left.
    ///
    /// # Errors
    /// [`AttrError::EmptyMask`] if no CPU would be left, [`AttrError::Spawn`] if a new pool cannot
    /// get its first thread; nothing changes then.
    pub fn set_unbound_cpumask(&self, cpus: &CpuSet) -> Result<(), AttrError> {
        self.inner.require_alive()?;
        self.inner.set_unbound_cpus(cpus)
    }

    /// The affinity scope of unbound queues that have not chosen one.
    pub fn default_scope(&self) -> Scope {
        self.inner.default_scope()
    }

    /// Changes the affinity scope of all unbound queues that have not chosen one. A CPU whose new
    /// pool cannot get a thread is served by its queue's default pool.
    ///
    /// # Errors
    /// [`AttrError::Destroyed`] after the runtime's end.
    pub fn set_default_scope(&self, scope: Scope) -> Result<(), AttrError> {
        self.inner.require_alive()?;
        self.inner.set_default_scope(scope);
        Ok(())
    }
}
