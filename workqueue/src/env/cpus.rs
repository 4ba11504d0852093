// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which CPUs a runtime may use, knows, and uses at present.
//!
//! A CPU is *known* once it was online: it has pools, and a place in every queue. It is *online* if
//! the process may use it and the program has not taken it out. [`crate::runtime::cpus`] changes
//! the sets; enqueues read them without a lock. Kernel counterparts: `cpu_possible_mask`,
//! `cpu_online_mask`.

use super::topology::Topology;
use crate::sys::cpu;
use crate::sys::cpuset::{CpuSet, MAX_CPUS};
use crate::sys::sync::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Says which CPUs may be used.
pub(crate) type AllowedHook = Box<dyn Fn() -> CpuSet + Send + Sync>;

/// See the module.
pub(crate) struct Machine {
    /// The caller's description; None to read sysfs.
    given: Option<Topology>, // I
    /// Only these are ever used.
    bound: Option<CpuSet>, // I
    allowed_by: Option<AllowedHook>, // I
    /// All CPU numbers that can ever appear are below this.
    end: usize, // I
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("bound", &self.bound)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

fn end_of(cpus: &CpuSet) -> usize {
    cpus.iter().last().map_or(0, |highest| highest + 1)
}

impl Machine {
    pub(crate) fn new(
        given: Option<Topology>,
        bound: Option<CpuSet>,
        allowed_by: Option<AllowedHook>,
    ) -> Self {
        let mut own = Self {
            given,
            bound: None,
            allowed_by,
            end: MAX_CPUS,
        };
        let allowed = own.allowed().unwrap_or_else(|| CpuSet::single(0));
        match bound {
            Some(bound) if !bound.intersects(&allowed) => {
                log::warn!(
                    "workqueue: the process may use none of the CPUs {}, so all it may are used",
                    bound.to_list()
                );
            }
            bound => own.bound = bound,
        }
        let machine = match &own.given {
            Some(topology) => topology.possible().clone(),
            None => cpu::possible_cpus().unwrap_or_default().or(&allowed),
        };
        own.end = end_of(&own.within_bound(machine));
        own
    }

    fn within_bound(&self, cpus: CpuSet) -> CpuSet {
        match &self.bound {
            Some(bound) => cpus.and(bound),
            None => cpus,
        }
    }

    /// Threads are not bound to made-up CPUs.
    pub(crate) fn is_simulated(&self) -> bool {
        self.given.as_ref().is_some_and(Topology::is_simulated)
    }

    /// All CPU numbers that can ever appear are below this.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// The CPUs that may be used at present; None if that is not known.
    /// # Context: on a thread whose affinity the crate never narrows.
    pub(crate) fn allowed(&self) -> Option<CpuSet> {
        let allowed = match (&self.allowed_by, &self.given) {
            (Some(hook), _) => hook(),
            (None, Some(topology)) if topology.is_simulated() => topology.possible().clone(),
            (None, _) => cpu::allowed_cpus().ok()?,
        };
        let allowed = match &self.given {
            Some(topology) => allowed.and(topology.possible()),
            None => allowed,
        };
        let allowed = self.within_bound(allowed);
        Some(allowed.iter().filter(|&cpu| cpu < self.end).collect())
    }

    /// The CPUs at first: those allowed, or all that are described if none is allowed.
    pub(crate) fn first_cpus(&self) -> CpuSet {
        let allowed = self.allowed().filter(|cpus| !cpus.is_empty());
        allowed.unwrap_or_else(|| match &self.given {
            Some(topology) => self.within_bound(topology.possible().clone()),
            None => CpuSet::single(0),
        })
    }

    /// The topology of these CPUs.
    pub(crate) fn describe(&self, cpus: &CpuSet) -> Topology {
        match &self.given {
            Some(topology) => topology.within(cpus),
            None => Topology::detect(cpus),
        }
    }
}

/// A set of CPUs that enqueues read without a lock.
type Bits = Box<[AtomicBool]>;

/// Which CPUs are in use.
#[derive(Debug)]
pub(crate) struct Cpus {
    machine: Machine, // I
    /// Of the known CPUs and those that are about to be known.
    topology: RwLock<Arc<Topology>>, // written under P0
    /// Of the known CPUs alone, as callers see it.
    shown: RwLock<Arc<Topology>>, // written under P0
    /// By CPU number: was it ever online? If so it has pools, and a place in every queue.
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
    // Acquire pairs with the Release in `set`: a thread that finds a new CPU finds its place in the
    // queues. A late enqueue goes to a CPU that has left, which works.
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

    /// All CPU numbers that can ever appear are below this.
    pub(crate) fn end(&self) -> usize {
        self.machine.end()
    }

    pub(crate) fn is_simulated(&self) -> bool {
        self.machine.is_simulated()
    }

    pub(super) fn topology(&self) -> Arc<Topology> {
        get(&self.topology)
    }

    pub(crate) fn shown_topology(&self) -> Arc<Topology> {
        get(&self.shown)
    }

    /// The CPUs that may be used at present; None if that is not known.
    /// # Context: on a thread whose affinity the crate never narrows.
    pub(crate) fn allowed(&self) -> Option<CpuSet> {
        self.machine.allowed()
    }

    /// The CPUs that the program has left in; None for all.
    pub(crate) fn wanted(&self) -> Option<CpuSet> {
        self.wanted.lock().clone()
    }

    pub(crate) fn set_wanted(&self, cpus: Option<CpuSet>) {
        *self.wanted.lock() = cpus;
    }

    /// # Context: `attrs_lock` held.
    pub(crate) fn set_online(&self, cpu: usize, online: bool) {
        set(&self.online, cpu, online);
    }

    /// Adds CPUs to the topology. Queues keep the number of nodes they began with.
    pub(crate) fn grow_topology(&self, cpus: &CpuSet) {
        let nodes = self.topology().nr_nodes();
        let grown = Arc::new(self.machine.describe(cpus).with_nodes(nodes));
        put(&self.topology, grown);
    }

    /// Makes CPUs known and online. Every queue has a place for them already.
    pub(crate) fn set_known(&self, new: &CpuSet) {
        new.iter().for_each(|cpu| set(&self.known, cpu, true));
        put(&self.shown, self.topology());
        new.iter().for_each(|cpu| set(&self.online, cpu, true));
    }
}
