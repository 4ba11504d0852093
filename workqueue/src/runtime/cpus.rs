// SPDX-License-Identifier: MIT OR Apache-2.0
//! CPUs that leave and return while the runtime works.
//!
//! A CPU is online if the process may use it and the program has not taken it out. The monitor
//! looks once in a while; [`Runtime::refresh_cpus`] has it look now. A CPU that leaves keeps its
//! pools: their workers go on elsewhere, uncounted. Kernel counterparts: `workqueue_online_cpu`,
//! `workqueue_offline_cpu`, `rebind_workers`, `unbind_worker`.

use super::monitor::Job;
use super::{Runtime, RuntimeInner};
use crate::pool::worker::create_worker;
use crate::pool::workers::WorkerFlags;
use crate::pool::Pool;
use crate::sys::cpu;
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::{Completion, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Which CPUs are in use.
#[derive(Debug)]
pub(crate) struct Cpus {
    /// By CPU number, for the enqueue path.
    online: Box<[AtomicBool]>, // A: written under P0
    /// What the program has left in.
    wanted: Mutex<Option<CpuSet>>,
}

impl Cpus {
    /// All possible CPUs are online at first.
    pub(crate) fn new(possible: &CpuSet) -> Self {
        let end = possible.iter().last().map_or(0, |c| c + 1);
        Self {
            online: (0..end)
                .map(|c| AtomicBool::new(possible.contains(c)))
                .collect(),
            wanted: Mutex::new(None),
        }
    }

    pub(crate) fn is_online(&self, cpu: usize) -> bool {
        // Relaxed: an enqueue that is just too late goes to a CPU that has left, which works.
        self.online
            .get(cpu)
            .is_some_and(|online| online.load(Ordering::Relaxed))
    }

    pub(crate) fn online(&self) -> CpuSet {
        (0..self.online.len())
            .filter(|&c| self.is_online(c))
            .collect()
    }

    fn set(&self, cpu: usize, online: bool) {
        self.online[cpu].store(online, Ordering::Relaxed);
    }
}

impl RuntimeInner {
    /// Brings the set of CPUs up to date. On the monitor thread, whose affinity the crate never
    /// narrows, or before there is one.
    pub(crate) fn look_at_cpus(self: &Arc<Self>) {
        self.retry_bh_threads();
        let possible = self.topology.possible();
        let allowed = if self.topology.is_simulated() {
            None
        } else {
            cpu::allowed_cpus().ok()
        };
        let mut online = allowed.map_or_else(|| possible.clone(), |a| a.and(possible));
        if let Some(wanted) = &*self.cpus.wanted.lock() {
            online = online.and(wanted);
        }
        if online != self.online_cpus() {
            self.change_cpus(&online);
        }
    }

    fn change_cpus(self: &Arc<Self>, online: &CpuSet) {
        let _choice = self.attrs_lock.lock();
        let before = self.online_cpus();
        for cpu in before.iter().filter(|&c| !online.contains(c)) {
            self.cpus.set(cpu, false);
            self.pools_of_cpu(cpu).iter().for_each(unbind);
        }
        for cpu in online.iter().filter(|&c| !before.contains(c)) {
            // One that fails stays out and is tried again at the next look.
            let back = self.pools_of_cpu(cpu).iter().all(rebind);
            self.cpus.set(cpu, back);
            if back && self.is_online() {
                // Without one the CPU is sampled, as it is anyway.
                let _slower = self.station_sentinel(cpu);
            }
        }
        for queue in self.queues().iter().filter(|q| q.is_unbound()) {
            queue.recompute_slots();
            queue.adjust_limits();
        }
    }

    fn pools_of_cpu(&self, cpu: usize) -> Vec<Arc<Pool>> {
        self.pools_of(cpu).map_or_else(Vec::new, |p| p.all().into())
    }

    /// Another thread goes where it belongs. One that has just ended needs no place.
    fn bind_other(&self, tid: i32, cpus: &CpuSet) -> bool {
        self.topology.is_simulated()
            || cpu::bind_thread(tid, cpus)
                .map_or_else(|e| e.raw_os_error() == Some(libc::ESRCH), |()| true)
    }
}

/// The pool's CPU has left: nobody counts any more, and everybody may run anywhere.
fn unbind(pool: &Arc<Pool>) {
    let mut st = pool.lock();
    st.disassociated = true;
    for slot in st.workers.slots() {
        if st.workers.exists(slot) {
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
    let empty = pool.lock().workers.len() == 0 && !pool.is_bh();
    if empty && pool.rt.is_online() && create_worker(pool, 1).is_err() {
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

    /// Looks now whether the process's CPUs have changed, instead of at the next poll.
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
