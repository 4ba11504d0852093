// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state of a runtime as values: counters of its queues, and how CPUs, pools and queues are
//! connected.
//!
//! Taken by programs and by the control socket; shown by the programs `wq-monitor` and `wq-dump`. A
//! pool's lock is held only while a few numbers are read. The values of different queues and pools
//! are not of the same moment. Kernel counterparts: `enum pool_workqueue_stats`; what `wq_monitor`
//! and `wq_dump` read out of a live kernel.

use super::dump;
use crate::env::topology::Scope;
use crate::pool::{Pool, PoolKind};
use crate::pwq::NodeActive;
use crate::runtime::directory::Directory;
use crate::runtime::Runtime;
use crate::sys::cpu;
use crate::sys::cpuset::CpuSet;
use crate::wq::attrs::Flags;
use crate::wq::queue::{QueueInner, QueueStats};
#[cfg(feature = "control-socket")]
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The counters of one queue; they only rise.
#[cfg_attr(feature = "control-socket", derive(Serialize, Deserialize))]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSample {
    /// The queue's name.
    pub name: String,
    /// True for an unbound queue. Its `cpu_intensive` and `cm_wakeup` stay 0; on other queues
    /// `repatriated` does.
    pub unbound: bool,
    /// True if it has a rescuer. Without one `mayday` and `rescued` stay 0.
    pub mem_reclaim: bool,
    /// Runs that have begun.
    pub started: u64,
    /// Runs that have ended.
    pub completed: u64,
    /// CPU time of the runs that have ended, in microseconds.
    pub cpu_time: u64,
    /// Runs found to use the CPU for too long.
    pub cpu_intensive: u64,
    /// Workers woken because a run went to sleep.
    pub cm_wakeup: u64,
    /// Workers brought back into their pod.
    pub repatriated: u64,
    /// Calls for the rescuer.
    pub mayday: u64,
    /// Items the rescuer took.
    pub rescued: u64,
}

/// The counters of all queues at about one moment.
#[cfg_attr(feature = "control-socket", derive(Serialize, Deserialize))]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Seconds since 1970 when the reading began.
    pub timestamp: f64,
    /// The queues, oldest first.
    pub queues: Vec<QueueSample>,
}

/// How one affinity scope groups the CPUs.
#[cfg_attr(feature = "control-socket", derive(Serialize, Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeSnapshot {
    /// The scope's name.
    pub name: String,
    /// True for the scope of queues that have chosen none.
    pub default: bool,
    /// How many groups there are.
    pub nr_pods: usize,
    /// The CPUs of each group.
    pub pod_cpus: Vec<CpuSet>,
    /// The NUMA node of each group; none if it spans several.
    pub pod_node: Vec<Option<usize>>,
    /// The group of each CPU.
    pub cpu_pod: BTreeMap<usize, usize>,
}

/// One pool.
#[cfg_attr(feature = "control-socket", derive(Serialize, Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSnapshot {
    /// The pool's number.
    pub id: u32,
    /// 1: BH, 2: making a worker, 4: its CPU has left.
    pub flags: u32,
    /// How many shares of queues use it; 1 for a CPU's own pool.
    #[cfg_attr(feature = "control-socket", serde(rename = "ref"))]
    pub refs: usize,
    /// The nice value of its workers.
    pub nice: i32,
    /// Workers that wait for something to do.
    pub idle: usize,
    /// All workers.
    pub workers: usize,
    /// The pool's CPU; none for an unbound pool.
    pub cpu: Option<usize>,
    /// Where the workers of an unbound pool may run.
    pub cpus: Option<CpuSet>,
    /// Where the workers of an unbound pool should begin.
    pub pod_cpus: Option<CpuSet>,
    /// True if workers must stay in `pod_cpus`.
    pub strict: bool,
    /// True for a BH pool.
    pub bh: bool,
}

/// The slots of a queue on one node.
#[cfg_attr(feature = "control-socket", derive(Serialize, Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSnapshot {
    /// The node; none for the pools that span nodes.
    pub node: Option<usize>,
    /// Active items.
    pub nr: usize,
    /// How many there may be.
    pub max: usize,
}

/// One queue.
#[cfg_attr(feature = "control-socket", derive(Serialize, Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSnapshot {
    /// The queue's name.
    pub name: String,
    /// `percpu`, `unbound`, `unbound,S` if its workers must stay in their pod, `ordered` or `bh`.
    #[cfg_attr(feature = "control-socket", serde(rename = "type"))]
    pub kind: String,
    /// The flags as a number, see [`Flags`].
    pub flags: u32,
    /// The limit of active items, as set.
    pub max_active: usize,
    /// The number of the pool that serves each CPU.
    pub pools: BTreeMap<usize, u32>,
    /// The pool that serves where no other can; unbound queues only.
    pub dfl: Option<u32>,
    /// The slots by node, the pools that span nodes last; unbound queues only.
    pub nodes: Vec<NodeSnapshot>,
}

/// One rescuer.
#[cfg_attr(feature = "control-socket", derive(Serialize, Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RescuerSnapshot {
    /// The name of its queue.
    pub name: String,
    /// Its thread number; 0 before the start.
    pub tid: i32,
    /// Where it may run at present.
    pub cpus: CpuSet,
}

/// How CPUs, pools and queues are connected.
#[cfg_attr(feature = "control-socket", derive(Serialize, Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The CPUs that unbound queues may use.
    pub unbound_cpumask: CpuSet,
    /// The affinity scopes, from the narrowest to the widest.
    pub scopes: Vec<ScopeSnapshot>,
    /// The pools by number.
    pub pools: Vec<PoolSnapshot>,
    /// The queues, oldest first.
    pub workqueues: Vec<QueueSnapshot>,
    /// The rescuers, in the order of their queues.
    pub rescuers: Vec<RescuerSnapshot>,
}

impl QueueInner {
    pub(crate) fn stats(&self) -> QueueStats {
        // The queue's lock keeps a pwq from being released between the two readings.
        let Some(state) = self.readable() else {
            return QueueStats::default();
        };
        let mut sum = state.past;
        for pwq in &state.pwqs {
            sum.add(&pwq.pool.lock().pwqs.get(pwq.number).stats);
        }
        drop(state);
        let counters = &self.counters;
        QueueStats {
            started: sum.started,
            completed: sum.completed,
            cpu_time: Duration::from_nanos(sum.cpu_time_ns),
            cpu_intensive: sum.cpu_intensive,
            cm_wakeup: sum.cm_wakeup,
            repatriated: sum.repatriated,
            mayday: sum.mayday,
            rescued: sum.rescued,
            panicked: counters.panicked.load(Ordering::Relaxed),
            leaked_state: counters.leaked_state.load(Ordering::Relaxed),
            refused_timer: counters.refused_timer.load(Ordering::Relaxed),
            bh_blocked: counters.bh_blocked.load(Ordering::Relaxed),
        }
    }

    fn sample(&self) -> QueueSample {
        let stats = self.stats();
        QueueSample {
            name: self.name.clone(),
            unbound: self.is_unbound(),
            mem_reclaim: self.has_rescuer(),
            started: stats.started,
            completed: stats.completed,
            cpu_time: u64::try_from(stats.cpu_time.as_micros()).unwrap_or(u64::MAX),
            cpu_intensive: stats.cpu_intensive,
            cm_wakeup: stats.cm_wakeup,
            repatriated: stats.repatriated,
            mayday: stats.mayday,
            rescued: stats.rescued,
        }
    }

    fn kind(&self, strict: bool) -> &'static str {
        if self.flags.contains(Flags::BH) {
            "bh"
        } else if self.ordered {
            "ordered"
        } else if !self.is_unbound() {
            "percpu"
        } else if strict {
            "unbound,S"
        } else {
            "unbound"
        }
    }

    fn snapshot(&self) -> QueueSnapshot {
        let (max_active, strict, dfl) = {
            let state = self.state.lock();
            let dfl = state.installed.last().map(|pwq| pwq.pool.id);
            (state.saved_max, state.attrs.strict, dfl)
        };
        let pool_of = |cpu: usize| Some((cpu, self.slot(cpu).as_ref()?.pool.id));
        let spanning = self.nodes.len().saturating_sub(1);
        let node = |(n, node): (usize, &Arc<NodeActive>)| NodeSnapshot {
            node: (n < spanning).then_some(n),
            nr: node.used(),
            max: node.max(),
        };
        QueueSnapshot {
            name: self.name.clone(),
            kind: self.kind(strict).to_owned(),
            flags: self.flags.bits(),
            max_active,
            pools: self.env.cpus.known().iter().filter_map(pool_of).collect(),
            dfl,
            nodes: self.nodes.iter().enumerate().map(node).collect(),
        }
    }

    fn rescuer_snapshot(&self) -> Option<RescuerSnapshot> {
        let tid = self.rescuer.as_ref()?.placement().tid;
        // A thread that has just ended is nowhere.
        let cpus = Some(tid).filter(|&tid| tid != 0);
        Some(RescuerSnapshot {
            name: self.name.clone(),
            tid,
            cpus: cpus
                .and_then(|tid| cpu::cpus_of(tid).ok())
                .unwrap_or_default(),
        })
    }
}

fn pool_snapshot(pool: &Pool, refs: usize) -> PoolSnapshot {
    let (flags, idle, workers) = {
        let st = pool.lock();
        (
            dump::pool_flags(pool, &st),
            st.workers.nr_idle(),
            st.workers.len(),
        )
    };
    let key = match &pool.kind {
        PoolKind::Unbound { key, .. } => Some(key),
        PoolKind::PerCpu { .. } | PoolKind::Bh { .. } => None,
    };
    PoolSnapshot {
        id: pool.id,
        flags,
        refs,
        nice: pool.nice,
        idle,
        workers,
        cpu: usize::try_from(pool.cpu()).ok(),
        cpus: key.map(|k| k.mask.clone()),
        pod_cpus: key.map(|k| k.pod.clone()),
        strict: key.is_some_and(|k| k.strict),
        bh: pool.is_bh(),
    }
}

impl Directory {
    pub(crate) fn sample(&self) -> Sample {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Sample {
            timestamp: since_1970.unwrap_or_default().as_secs_f64(),
            queues: self.queues().iter().map(|q| q.sample()).collect(),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let queues = self.queues();
        let mut pools: Vec<_> = self
            .percpu_pools()
            .iter()
            .map(|pool| pool_snapshot(pool, 1))
            .collect();
        let unbound = self.unbound_pools_with_users();
        pools.extend(
            unbound
                .iter()
                .map(|(pool, users)| pool_snapshot(pool, *users)),
        );
        pools.sort_by_key(|p| p.id);
        Snapshot {
            unbound_cpumask: self.env.unbound_cpus(),
            scopes: Scope::ALL.iter().map(|&s| self.scope_snapshot(s)).collect(),
            pools,
            workqueues: queues.iter().map(|q| q.snapshot()).collect(),
            rescuers: queues.iter().filter_map(|q| q.rescuer_snapshot()).collect(),
        }
    }

    fn scope_snapshot(&self, scope: Scope) -> ScopeSnapshot {
        let pods = self.env.topology().pods(scope);
        let members = pods.iter().enumerate();
        ScopeSnapshot {
            name: scope.name().to_owned(),
            default: scope == self.env.default_scope(),
            nr_pods: pods.len(),
            cpu_pod: members
                .flat_map(|(n, pod)| pod.cpus.iter().map(move |cpu| (cpu, n)))
                .collect(),
            pod_node: pods.iter().map(|pod| pod.node).collect(),
            pod_cpus: pods.into_iter().map(|pod| pod.cpus).collect(),
        }
    }
}

impl Runtime {
    /// The counters of all queues.
    pub fn sample(&self) -> Sample {
        if self.inner.env.is_in_forked_child() {
            return Sample::default();
        }
        self.inner.sample()
    }

    /// How CPUs, pools and queues are connected; None in the child of a fork.
    pub fn snapshot(&self) -> Option<Snapshot> {
        (!self.inner.env.is_in_forked_child()).then(|| self.inner.snapshot())
    }
}
