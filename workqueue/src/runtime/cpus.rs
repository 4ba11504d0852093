// SPDX-License-Identifier: MIT OR Apache-2.0
//! CPUs that leave and return while the runtime works, and those met for the first time.
//!
//! A CPU is online if the process may use it and the program has not taken it out. The monitor
//! looks once in a while; [`Runtime::refresh_cpus`] has it look now. A CPU that leaves keeps its
//! pools: their workers go on elsewhere, uncounted. One that was never there before gets pools, a
//! thread in each and a place in every queue first, and is known from then on. Kernel
//! counterparts: `workqueue_prepare_cpu`, `workqueue_online_cpu`, `workqueue_offline_cpu`,
//! `rebind_workers`, `unbind_worker`.

use super::machine::Machine;
use super::monitor::Job;
use super::{CpuPools, Runtime, RuntimeInner};
use crate::pool::flags::WorkerFlags;
use crate::pool::worker::create_worker;
use crate::pool::{registry, Pool, PoolKind};
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::{Completion, Mutex};
use crate::wq::topology::Topology;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// A set of CPUs that enqueues look at without a lock.
type Bits = Box<[AtomicBool]>;

/// Which CPUs are in use.
#[derive(Debug)]
pub(crate) struct Cpus {
    machine: Machine, // I
    /// How the known CPUs belong together, and those which are about to be.
    topology: RwLock<Arc<Topology>>, // written under P0
    /// The same, of the known ones alone, as callers see it.
    shown: RwLock<Arc<Topology>>, // written under P0
    /// By CPU number: was it ever online? Those have pools, and a place in every queue.
    known: Bits, // A: written under P0
    /// By CPU number, for the enqueue path.
    online: Bits, // A: written under P0
    /// What the program has left in.
    wanted: Mutex<Option<CpuSet>>,
}

fn bits(set: &CpuSet, end: usize) -> Bits {
    (0..end)
        .map(|cpu| AtomicBool::new(set.contains(cpu)))
        .collect()
}

fn is_set(bits: &Bits, cpu: usize) -> bool {
    // Acquire pairs with the Release in `set`: whoever finds a new CPU finds its place in the
    // queues. An enqueue that is just too late goes to a CPU that has left, which works.
    bits.get(cpu).is_some_and(|bit| bit.load(Ordering::Acquire))
}

fn set(bits: &Bits, cpu: usize, value: bool) {
    bits[cpu].store(value, Ordering::Release);
}

fn all_set(bits: &Bits) -> CpuSet {
    (0..bits.len()).filter(|&cpu| is_set(bits, cpu)).collect()
}

fn get(topology: &RwLock<Arc<Topology>>) -> Arc<Topology> {
    let topology = topology.read();
    topology.unwrap_or_else(PoisonError::into_inner).clone()
}

fn put(topology: &RwLock<Arc<Topology>>, new: Arc<Topology>) {
    *topology.write().unwrap_or_else(PoisonError::into_inner) = new;
}

impl Cpus {
    /// All CPUs that may be used are known and online at first.
    pub(crate) fn new(machine: Machine) -> Self {
        let (first, end) = (machine.first_cpus(), machine.end());
        let first = first.iter().filter(|&cpu| cpu < end).collect();
        let topology = Arc::new(machine.describe(&first));
        Self {
            topology: RwLock::new(topology.clone()),
            shown: RwLock::new(topology),
            known: bits(&first, end),
            online: bits(&first, end),
            wanted: Mutex::new(None),
            machine,
        }
    }

    pub(crate) fn is_known(&self, cpu: usize) -> bool {
        is_set(&self.known, cpu)
    }

    pub(crate) fn is_online(&self, cpu: usize) -> bool {
        is_set(&self.online, cpu)
    }

    pub(crate) fn online(&self) -> CpuSet {
        all_set(&self.online)
    }

    pub(crate) fn known(&self) -> CpuSet {
        all_set(&self.known)
    }

    /// All CPU numbers there can ever be are below this.
    pub(crate) fn end(&self) -> usize {
        self.machine.end()
    }

    pub(crate) fn is_simulated(&self) -> bool {
        self.machine.is_simulated()
    }

    fn topology(&self) -> Arc<Topology> {
        get(&self.topology)
    }

    pub(crate) fn shown_topology(&self) -> Arc<Topology> {
        get(&self.shown)
    }

    /// The topology has more CPUs from now on. Queues keep the number of nodes they began with.
    fn grow_topology(&self, cpus: &CpuSet) {
        let nodes = self.topology().nr_nodes();
        let grown = Arc::new(self.machine.describe(cpus).with_nodes(nodes));
        put(&self.topology, grown);
    }

    /// Every queue has a place for these, so they may be chosen.
    fn learn(&self, new: &CpuSet) {
        new.iter().for_each(|cpu| set(&self.known, cpu, true));
        put(&self.shown, self.topology());
        new.iter().for_each(|cpu| set(&self.online, cpu, true));
    }
}

impl RuntimeInner {
    /// The known CPUs and how they belong together.
    pub(crate) fn topology(&self) -> Arc<Topology> {
        self.cpus.topology()
    }

    /// Brings the set of CPUs up to date. On the monitor thread, whose affinity the crate never
    /// narrows, or before there is one.
    pub(crate) fn look_at_cpus(self: &Arc<Self>) {
        self.retry_bh_threads();
        let allowed = self.cpus.machine.allowed();
        let allowed = allowed.unwrap_or_else(|| self.cpus.known());
        let online = match &*self.cpus.wanted.lock() {
            Some(wanted) => allowed.and(wanted),
            None => allowed.clone(),
        };
        let before = self.online_cpus();
        if online != before || self.affinity.allows_other_than(&allowed) {
            self.change_cpus(&allowed, &online);
            let now = self.online_cpus();
            if let Some(hook) = self
                .hooks
                .on_cpus_changed
                .as_ref()
                .filter(|_| now != before)
            {
                hook(&now);
            }
        }
    }

    fn change_cpus(self: &Arc<Self>, allowed: &CpuSet, online: &CpuSet) {
        let _choice = self.attrs_lock.lock();
        let before = self.online_cpus();
        self.affinity.allow(allowed);
        for cpu in before.iter().filter(|&c| !online.contains(c)) {
            set(&self.cpus.online, cpu, false);
            self.pools_of_cpu(cpu).iter().for_each(unbind);
        }
        let known = self.cpus.known();
        let missing = || online.iter().filter(|&c| !before.contains(c));
        // One that fails stays out and is tried again at the next look.
        for cpu in missing().filter(|&c| known.contains(c)) {
            let back = self.pools_of_cpu(cpu).iter().all(rebind);
            set(&self.cpus.online, cpu, back);
        }
        let new = missing().filter(|&c| !known.contains(c) && self.prepare_cpu(c));
        let new: CpuSet = new.collect();
        let queues = self.queues();
        if !new.is_empty() {
            self.cpus.grow_topology(&known.or(&new));
            // guard: s11_09_new_cpu_not_adopted
            queues.iter().for_each(|queue| queue.adopt_cpus(&new));
        }
        let online = self.online_cpus().or(&new);
        let unbound = self.affinity.grow(&known.or(&new));
        for queue in &queues {
            queue.recompute_slots(&unbound, &online);
        }
        self.cpus.learn(&new);
        self.affinity.publish();
        // guard: s11_09_not_bound_again
        self.rebind_all();
        for queue in queues.iter().filter(|q| q.is_unbound()) {
            queue.adjust_limits();
        }
    }

    /// Puts all threads where they belong by what is allowed now: the system moves threads, and
    /// widens their masks again or not, as it sees fit.
    fn rebind_all(&self) {
        self.spread_homeless();
        for pool in self.all_pools() {
            let st = pool.lock();
            if !st.disassociated {
                for (_, worker) in st.workers.iter() {
                    self.bind_other(worker.thread.tid, &pool.affinity);
                }
            }
        }
    }

    /// Makes the pools of a CPU that was never there, and their first threads, as far as they are
    /// not there from an earlier attempt. False if a thread cannot be made.
    fn prepare_cpu(self: &Arc<Self>, cpu: usize) -> bool {
        if self.pools_of(cpu).is_none() {
            self.add_pools(cpu);
        }
        self.pools_of_cpu(cpu).iter().all(has_worker)
    }

    /// # Context: no lock of the crate but `attrs_lock` held.
    pub(super) fn add_pools(self: &Arc<Self>, cpu: usize) {
        let pool = |nice| registry::create(PoolKind::PerCpu { cpu }, nice, self);
        let bh = |nice| registry::create(PoolKind::Bh { cpu }, nice, self);
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
}

/// Gives a pool without any its first worker, if it is to have one. False if that cannot be.
fn has_worker(pool: &Arc<Pool>) -> bool {
    let rt = &pool.rt;
    let wanted = rt.is_online() && (!pool.is_bh() || rt.wants_bh_thread(pool));
    let empty = pool.lock().workers.len() == 0;
    !(wanted && empty) || create_worker(pool, 1).is_ok()
}

/// The pool's CPU has left: nobody counts any more, and everybody may run anywhere.
fn unbind(pool: &Arc<Pool>) {
    let mut st = pool.lock();
    st.disassociated = true;
    for slot in st.workers.slots() {
        if st.workers.exists(slot) {
            // guard: s11_10_departed_counts
            st.set_flags(slot, WorkerFlags::UNBOUND);
            pool.rt.bind_to_unbound(st.workers.get(slot).thread.tid);
        }
    }
    let wake = st.kick();
    drop(st);
    wake.go();
}

/// The pool's CPU is back: the workers are bound again and count from their next batch on. False
/// if that cannot be.
fn rebind(pool: &Arc<Pool>) -> bool {
    if !has_worker(pool) {
        return false;
    }
    let mut st = pool.lock();
    for slot in st.workers.slots() {
        if st.workers.exists(slot)
            && !pool
                .rt
                .bind_other(st.workers.get(slot).thread.tid, &pool.affinity)
        {
            return false;
        }
    }
    for slot in st.workers.slots() {
        if st.workers.exists(slot) {
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
        self.inner.online_cpus()
    }

    /// Takes CPUs out of use, or back into it: only those of `cpus` that the process may use stay.
    /// None leaves it to the process's affinity alone. Items queued for a CPU that leaves run
    /// elsewhere.
    pub fn set_online_cpus(&self, cpus: Option<CpuSet>) {
        *self.inner.cpus.wanted.lock() = cpus;
        self.refresh_cpus();
    }

    /// Looks now whether the process's CPUs have changed, instead of at the next poll. CPUs that it
    /// was not allowed to use before are taken into use as well.
    pub fn refresh_cpus(&self) {
        let rt = &self.inner;
        if rt.is_in_forked_child() || rt.is_stopped() {
            return;
        }
        if !rt.is_online() {
            rt.look_at_cpus();
            return;
        }
        let done = Arc::new(Completion::new());
        if rt
            .monitor
            .try_post(Job::LookAtCpus(rt.clone(), done.clone()))
        {
            crate::blocking(|| done.wait());
        }
    }
}
