// SPDX-License-Identifier: MIT OR Apache-2.0
//! All queues and pools of a runtime, and the lock under which queues are matched with pools.
//!
//! The functions on it are where they belong: unbound pools in [`crate::pool::registry`], CPUs that
//! come and go in [`super::cpus`], BH threads in [`crate::pool::worker`]. Kernel counterparts:
//! `workqueues`, `wq_pool_mutex`, `cpu_worker_pools`, `unbound_pool_hash`.

use crate::env::helpers::Job;
use crate::env::Env;
use crate::pool::{Pool, PoolKey};
use crate::sys::sync::{Condvar, Mutex};
use crate::wq::queue::QueueInner;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

/// The pools of a CPU: the two standard ones, and those of BH queues.
#[derive(Clone, Debug)]
pub(crate) struct CpuPools {
    pub(crate) normal: Arc<Pool>,
    pub(crate) highpri: Arc<Pool>,
    pub(crate) bh: Arc<Pool>,
    pub(crate) bh_highpri: Arc<Pool>,
}

impl CpuPools {
    pub(crate) fn all(&self) -> [Arc<Pool>; 4] {
        [&self.normal, &self.highpri, &self.bh, &self.bh_highpri].map(Arc::clone)
    }
}

/// For each of the two priorities: should it have threads, and is one missing?
#[derive(Debug, Default)]
pub(crate) struct BhThreads {
    pub(crate) wanted: [AtomicBool; 2],  // A: written under P0
    pub(crate) missing: [AtomicBool; 2], // A: as above
}

/// See the module.
pub(crate) struct Directory {
    pub(crate) env: Arc<Env>, // I
    /// Held while the pools of a queue are chosen and installed, so that both are one step.
    pub(crate) attrs_lock: Mutex<()>, // P0
    pub(crate) frozen: AtomicBool, // A: written under P0
    pub(crate) bh: BhThreads,
    /// The unbound pools, each with the number of pwqs that use it.
    pub(crate) unbound: Mutex<HashMap<PoolKey, (Arc<Pool>, usize)>>, // P
    pub(crate) percpu: Mutex<Vec<(usize, CpuPools)>>,
    /// In the order in which they were made.
    queues: Mutex<BTreeMap<u64, Arc<QueueInner>>>,
    made_queues: AtomicU64, // A
    queue_gone: Condvar,
    /// The timer thread and the monitor.
    pub(crate) helpers: Mutex<Vec<JoinHandle<()>>>,
    /// The monitor ends the runtime once the last queue is gone.
    pub(crate) ends_itself: AtomicBool, // A: written and read with the lock of `queues`
    /// What is left for the end of the runtime to run.
    pub(crate) leftovers: Mutex<Vec<Job>>,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("env", &self.env)
            .finish_non_exhaustive()
    }
}

impl Directory {
    /// No queue and no pool.
    pub(crate) fn new(env: Env) -> Self {
        Self {
            env: Arc::new(env),
            attrs_lock: Mutex::new(()),
            frozen: AtomicBool::new(false),
            bh: BhThreads::default(),
            unbound: Mutex::default(),
            percpu: Mutex::default(),
            queues: Mutex::default(),
            made_queues: AtomicU64::new(0),
            queue_gone: Condvar::new(),
            helpers: Mutex::default(),
            ends_itself: AtomicBool::new(false),
            leftovers: Mutex::default(),
        }
    }

    pub(crate) fn pools_of(&self, cpu: usize) -> Option<CpuPools> {
        self.percpu
            .lock()
            .iter()
            .find(|(c, _)| *c == cpu)
            .map(|(_, pools)| pools.clone())
    }

    pub(crate) fn percpu_pools(&self) -> Vec<Arc<Pool>> {
        self.percpu
            .lock()
            .iter()
            .flat_map(|(_, pools)| pools.all())
            .collect()
    }

    pub(crate) fn all_pools(&self) -> Vec<Arc<Pool>> {
        let mut pools = self.percpu_pools();
        pools.extend(self.unbound_pools());
        pools
    }

    /// A number for a queue that is being made.
    pub(crate) fn next_queue_number(&self) -> u64 {
        self.made_queues.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn add_queue(&self, queue: &Arc<QueueInner>) {
        self.queues.lock().insert(queue.number, queue.clone());
    }

    pub(crate) fn remove_queue(&self, queue: &QueueInner) {
        let mut queues = self.queues.lock();
        queues.remove(&queue.number);
        self.queue_gone.notify_all();
        if queues.is_empty() && self.ends_itself.load(Ordering::Relaxed) {
            self.env.monitor.stop();
        }
    }

    /// Lets the monitor end the runtime once the last queue is gone.
    pub(crate) fn end_with_last_queue(&self) {
        let queues = self.queues.lock();
        self.ends_itself.store(true, Ordering::Relaxed);
        if queues.is_empty() {
            self.env.monitor.stop();
        }
    }

    pub(crate) fn queues(&self) -> Vec<Arc<QueueInner>> {
        self.queues.lock().values().cloned().collect()
    }

    /// Waits until the last queue is gone.
    pub(crate) fn wait_for_queues(&self) {
        let mut queues = self.queues.lock();
        while !queues.is_empty() {
            queues = self.queue_gone.wait(queues);
        }
    }
}
