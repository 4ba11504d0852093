// SPDX-License-Identifier: MIT OR Apache-2.0
//! CPUs that leave and return while the runtime works, those met for the first time, and the CPUs
//! that unbound queues may use.
//!
//! The monitor looks once in a while; [`Runtime::refresh_cpus`] has it look now. A CPU that leaves
//! keeps its pools: their workers go on elsewhere, uncounted. One that was never there before gets
//! pools, a thread in each and a place in every queue first; then it is known. Kernel counterparts:
//! `workqueue_prepare_cpu`, `workqueue_online_cpu`, `workqueue_offline_cpu`, `rebind_workers`,
//! `unbind_worker`, `workqueue_apply_unbound_cpumask`, `wq_affn_dfl_set`.

use super::directory::{CpuPools, Directory};
use super::Runtime;
use crate::env::helpers::Job;
use crate::env::topology::Scope;
use crate::error::AttrError;
use crate::pool::context::blocking;
use crate::pool::worker::create_worker;
use crate::pool::worker_state::WorkerFlags;
use crate::pool::{registry, Pool, PoolKind};
use crate::sys::call_user_code;
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::Completion;
use crate::wq::queue::{QueueInner, DESTROYING};
use std::sync::Arc;

impl Directory {
    /// Updates the set of CPUs. Runs on the monitor thread, whose affinity the crate never narrows,
    /// or before that thread exists.
    pub(crate) fn update_cpus(self: &Arc<Self>) {
        self.retry_bh_threads();
        let allowed = call_user_code(|| self.env.cpus.allowed()).flatten();
        let allowed = allowed.unwrap_or_else(|| self.env.cpus.known());
        let online = match self.env.cpus.wanted() {
            Some(wanted) => allowed.and(&wanted),
            None => allowed.clone(),
        };
        let before = self.env.online_cpus();
        if online != before || self.env.cpus.allows_other_than(&allowed) {
            self.change_cpus(&allowed, &online);
            let now = self.env.online_cpus();
            if let Some(hook) = self
                .env
                .hooks
                .on_cpus_changed
                .as_ref()
                .filter(|_| now != before)
            {
                let _ignored = call_user_code(|| hook(&now));
            }
        }
    }

    fn change_cpus(self: &Arc<Self>, allowed: &CpuSet, online: &CpuSet) {
        let _attrs = self.attrs_lock.lock();
        let before = self.env.online_cpus();
        self.env.cpus.allow(allowed);
        for cpu in before.iter().filter(|&c| !online.contains(c)) {
            self.env.cpus.set_online(cpu, false);
            self.pools_of_cpu(cpu).iter().for_each(unbind);
        }
        let known = self.env.cpus.known();
        let missing = || online.iter().filter(|&c| !before.contains(c));
        // A CPU that fails stays offline and is tried again at the next look.
        for cpu in missing().filter(|&c| known.contains(c)) {
            let back = self.pools_of_cpu(cpu).iter().all(|p| rebind(self, p));
            self.env.cpus.set_online(cpu, back);
        }
        let new = missing().filter(|&c| !known.contains(c) && self.prepare_cpu(c));
        let new: CpuSet = new.collect();
        let queues = self.queues();
        if !new.is_empty() {
            self.env.cpus.grow_topology(&known.or(&new));
            // guard: s11_09_new_cpu_not_adopted
            queues.iter().for_each(|queue| queue.add_cpus(&new));
        }
        let online = self.env.online_cpus().or(&new);
        let unbound = self.env.cpus.grow_unbound(&known.or(&new));
        for queue in &queues {
            queue.recompute_slots(&unbound, &online);
        }
        self.env.cpus.set_known(&new);
        self.env.cpus.publish_unbound();
        // guard: s11_09_not_bound_again
        self.rebind_all();
        for queue in queues.iter().filter(|q| q.is_unbound()) {
            queue.adjust_limits();
        }
    }

    /// Binds all threads again by what is allowed now, because the system may have changed their
    /// masks.
    fn rebind_all(&self) {
        self.rebind_unbound_threads();
        for pool in self.all_pools() {
            let st = pool.lock();
            if !st.disassociated {
                for (_, worker) in st.workers.iter() {
                    self.env.bind_other(worker.thread.tid, &pool.affinity);
                }
            }
        }
    }

    /// Makes the pools of a new CPU and their first threads, unless an earlier attempt made them.
    /// False if a thread cannot be made.
    fn prepare_cpu(self: &Arc<Self>, cpu: usize) -> bool {
        if self.pools_of(cpu).is_none() {
            self.add_pools(cpu);
        }
        self.pools_of_cpu(cpu).iter().all(|p| has_worker(self, p))
    }

    /// # Context: no lock of the crate but `attrs_lock` held.
    pub(super) fn add_pools(self: &Arc<Self>, cpu: usize) {
        let pool = |nice| registry::create(PoolKind::PerCpu { cpu }, nice, &self.env);
        let bh = |nice| registry::create(PoolKind::Bh { cpu }, nice, &self.env);
        let pools = CpuPools {
            normal: pool(0),
            highpri: pool(-20),
            bh: bh(0),
            bh_highpri: bh(-20),
        };
        self.percpu.lock().push((cpu, pools));
    }

    fn pools_of_cpu(&self, cpu: usize) -> Vec<Arc<Pool>> {
        self.pools_of(cpu).map_or_else(Vec::new, |p| p.all().into())
    }

    fn unbound_queues(&self) -> Vec<Arc<QueueInner>> {
        let mut queues = self.queues();
        queues.retain(|q| q.is_unbound() && !q.is_mode(DESTROYING));
        queues
    }

    /// Changes the unbound mask for all queues, or for none.
    pub(crate) fn set_unbound_cpus(self: &Arc<Self>, cpus: &CpuSet) -> Result<(), AttrError> {
        let _attrs = self.attrs_lock.lock();
        let known = self.env.cpus.known();
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
        self.env.cpus.ask_unbound(cpus, &known);
        for (queue, plan) in queues.iter().zip(plans) {
            queue.install(plan);
            queue.adjust_limits();
        }
        self.rebind_unbound_threads();
        Ok(())
    }

    /// Binds the threads that follow the unbound mask: rescuers that wait to be called, and workers
    /// whose CPU has left.
    pub(super) fn rebind_unbound_threads(&self) {
        let queues = self.queues();
        for rescuer in queues.iter().filter_map(|q| q.rescuer.as_ref()) {
            rescuer.follow_unbound_mask(&self.env);
        }
        for pool in self.percpu_pools() {
            let st = pool.lock();
            if st.disassociated {
                st.workers
                    .iter()
                    .for_each(|(_, w)| self.env.bind_to_unbound(w.thread.tid));
            }
        }
    }

    pub(crate) fn set_default_scope(self: &Arc<Self>, scope: Scope) {
        let _attrs = self.attrs_lock.lock();
        self.env.cpus.set_scope(scope);
        for queue in self.unbound_queues() {
            queue.recompute_slots(&self.env.unbound_cpus(), &self.env.online_cpus());
        }
    }
}

/// Makes a pool's first worker, if it should have one and has none. False if that fails.
fn has_worker(dir: &Directory, pool: &Arc<Pool>) -> bool {
    let env = &pool.env;
    let wanted = env.is_online() && (!pool.is_bh() || dir.wants_bh_thread(pool));
    let empty = pool.lock().workers.len() == 0;
    !(wanted && empty) || create_worker(pool, 1).is_ok()
}

/// The pool's CPU has left: its workers do not count any more and may run anywhere.
fn unbind(pool: &Arc<Pool>) {
    let mut st = pool.lock();
    st.disassociated = true;
    for slot in st.workers.slots() {
        if st.workers.is_present(slot) {
            // guard: s11_10_departed_counts
            st.set_flags(slot, WorkerFlags::UNBOUND);
            pool.env.bind_to_unbound(st.workers.get(slot).thread.tid);
        }
    }
    let wake = st.kick();
    drop(st);
    wake.perform();
}

/// The pool's CPU is back: its workers are bound again and count from their next batch on. False if
/// that fails.
fn rebind(dir: &Directory, pool: &Arc<Pool>) -> bool {
    if !has_worker(dir, pool) {
        return false;
    }
    let mut st = pool.lock();
    for slot in st.workers.slots() {
        if st.workers.is_present(slot)
            && !pool
                .env
                .bind_other(st.workers.get(slot).thread.tid, &pool.affinity)
        {
            return false;
        }
    }
    for slot in st.workers.slots() {
        if st.workers.is_present(slot) {
            st.set_flags(slot, WorkerFlags::REBOUND);
            st.clear_flags(slot, WorkerFlags::UNBOUND);
        }
    }
    st.disassociated = false;
    true
}

impl Runtime {
    /// The CPUs in use at present.
    pub fn online_cpus(&self) -> CpuSet {
        self.inner.env.online_cpus()
    }

    /// Sets the CPUs in use to those of `cpus` that the process may use; None for all it may use.
    /// Items queued for a CPU that leaves run elsewhere.
    pub fn set_online_cpus(&self, cpus: Option<CpuSet>) {
        if !self.inner.env.is_in_forked_child() {
            self.inner.env.cpus.set_wanted(cpus);
            self.refresh_cpus();
        }
    }

    /// Checks now if the process's CPUs have changed, instead of at the next poll. Also takes CPUs
    /// into use that it was not allowed before.
    pub fn refresh_cpus(&self) {
        let (dir, env) = (&self.inner, &self.inner.env);
        if env.is_in_forked_child() || env.is_stopped() {
            return;
        }
        if !env.is_online() {
            dir.update_cpus();
            return;
        }
        let done = Arc::new(Completion::new());
        let (own, told) = (dir.clone(), done.clone());
        let look = Job::new(move || {
            own.update_cpus();
            told.complete();
        });
        if env.monitor.try_post(look) {
            blocking(|| done.wait());
        }
    }

    /// The CPUs that unbound queues may use.
    pub fn unbound_cpumask(&self) -> CpuSet {
        self.inner.env.unbound_cpus()
    }

    /// Changes the CPUs that unbound queues may use. CPUs that the runtime meets later are
    /// included. A queue whose own mask shares no CPU with it uses all of it. Items queued before
    /// finish where they are. Rescuers that wait to be called and workers whose CPU has left follow
    /// the mask, too.
    ///
    /// # Errors
    /// [`AttrError::EmptyMask`] if no CPU would be left, [`AttrError::Spawn`] if a new pool cannot
    /// get its first thread; nothing changes then.
    pub fn set_unbound_cpumask(&self, cpus: &CpuSet) -> Result<(), AttrError> {
        self.inner.env.require_alive()?;
        self.inner.set_unbound_cpus(cpus)
    }

    /// The affinity scope of unbound queues that have not chosen one.
    pub fn default_scope(&self) -> Scope {
        self.inner.env.default_scope()
    }

    /// Changes the affinity scope of all unbound queues that have not chosen one. A CPU whose new
    /// pool cannot get a thread is served by its queue's default pool.
    ///
    /// # Errors
    /// [`AttrError::Destroyed`] after the runtime's end.
    pub fn set_default_scope(&self, scope: Scope) -> Result<(), AttrError> {
        self.inner.env.require_alive()?;
        self.inner.set_default_scope(scope);
        Ok(())
    }
}
