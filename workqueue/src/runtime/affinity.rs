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
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(crate) struct Affinity {
    places: Mutex<Places>, // U: written under P0
    /// The unbound mask by CPU number, for the enqueue path.
    usable: Box<[AtomicBool]>, // A: written under P0
    /// Where the default scope stands in `Scope::ALL`.
    scope: AtomicUsize, // A: written under P0
}

/// Where threads may be put.
#[derive(Debug)]
struct Places {
    /// The mask of unbound queues as the program has set it; None for all CPUs, new ones too.
    asked: Option<CpuSet>,
    /// What is known of it.
    mask: CpuSet,
    /// Where the process may be at all at present.
    allowed: CpuSet,
}

impl Places {
    fn bind(&self, tid: i32, cpus: &CpuSet) -> io::Result<()> {
        cpu::bind_thread(tid, cpus, &self.allowed)
    }

    /// As `bind`; anywhere if that cannot be.
    fn bind_or_free(&self, tid: i32, cpus: &CpuSet) {
        if self.bind(tid, cpus).is_err() {
            // The thread may just have ended, and needs no place then.
            let _ended = self.bind(tid, &self.allowed);
        }
    }
}

fn place_of(scope: Scope) -> usize {
    let place = Scope::ALL.iter().position(|&s| s == scope);
    place.expect("ALL has all scopes")
}

impl Affinity {
    /// All known CPUs may be used at first. CPU numbers are below `end`.
    pub(crate) fn new(known: &CpuSet, end: usize, scope: Scope) -> Self {
        let places = Places {
            asked: None,
            mask: known.clone(),
            allowed: known.clone(),
        };
        Self {
            usable: (0..end)
                .map(|c| AtomicBool::new(known.contains(c)))
                .collect(),
            places: Mutex::new(places),
            scope: AtomicUsize::new(place_of(scope)),
        }
    }

    /// Is the process allowed other CPUs than this goes by?
    pub(crate) fn allows_other_than(&self, allowed: &CpuSet) -> bool {
        self.places.lock().allowed != *allowed
    }

    /// Threads are bound within these CPUs from now on.
    /// # Context: `attrs_lock` held.
    pub(crate) fn allow(&self, allowed: &CpuSet) {
        self.places.lock().allowed = allowed.clone();
    }

    /// The unbound mask if these CPUs are known. Enqueues go by it after `publish`.
    /// # Context: `attrs_lock` held.
    pub(crate) fn grow(&self, known: &CpuSet) -> CpuSet {
        let places = &mut *self.places.lock();
        places.mask = match &places.asked {
            Some(asked) => asked.and(known),
            None => known.clone(),
        };
        places.mask.clone()
    }

    /// # Context: `attrs_lock` held.
    pub(crate) fn publish(&self) {
        let mask = self.places.lock().mask.clone();
        for (cpu, usable) in self.usable.iter().enumerate() {
            // Release pairs with the Acquire in `is_unbound_cpu`: whoever finds a new CPU finds its
            // place in the queues. An enqueue that is just too late prefers a CPU it might have
            // avoided.
            usable.store(mask.contains(cpu), Ordering::Release);
        }
    }

    fn ask(&self, cpus: &CpuSet, known: &CpuSet) {
        self.places.lock().asked = Some(cpus.clone());
        self.grow(known);
        self.publish();
    }
}

impl RuntimeInner {
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
        let places = self.affinity.places.lock();
        places.bind_or_free(tid, &places.mask);
    }

    /// The calling thread goes where it belongs, as far as the process is allowed, or else where
    /// it is. Made-up CPUs bind nobody. Allocates nothing.
    pub(crate) fn bind_current(&self, cpus: &CpuSet) {
        if !self.cpus.is_simulated() {
            self.affinity.places.lock().bind_or_free(0, cpus);
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
                .places
                .lock()
                .bind(tid, cpus)
                .map_or_else(|e| e.raw_os_error() == Some(libc::ESRCH), |()| true)
    }

    fn unbound_queues(&self) -> Vec<Arc<QueueInner>> {
        let mut queues = self.queues();
        queues.retain(|q| q.is_unbound() && !q.is_mode(DESTROYING));
        queues
    }

    /// All queues, or none.
    pub(crate) fn set_unbound_cpus(self: &Arc<Self>, cpus: &CpuSet) -> Result<(), AttrError> {
        let _choice = self.attrs_lock.lock();
        let known = self.cpus.known();
        let mask = cpus.and(&known);
        if mask.is_empty() {
            return Err(AttrError::EmptyMask(cpus.to_list()));
        }
        let queues = self.unbound_queues();
        let mut plans = Vec::with_capacity(queues.len());
        for queue in &queues {
            let attrs = queue.state.lock().attrs.clone();
            // A plan that is dropped gives its pools back.
            plans.push(queue.plan(attrs, &mask).map_err(AttrError::Spawn)?);
        }
        self.affinity.ask(cpus, &known);
        for (queue, plan) in queues.iter().zip(plans) {
            queue.install(plan);
            queue.adjust_limits();
        }
        self.spread_homeless();
        Ok(())
    }

    /// The threads that go by the unbound mask themselves: rescuers that wait to be called, and
    /// the workers of CPUs that have left.
    pub(super) fn spread_homeless(&self) {
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
            queue.recompute_slots(&self.unbound_cpus(), &self.online_cpus());
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

    /// Changes the CPUs that unbound queues may use, as far as the runtime has met them; those it
    /// meets later join in. Queues whose own mask shares no CPU with it use all of them. Items queued before finish where they are.
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
