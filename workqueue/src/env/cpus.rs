// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which CPUs a runtime may use, knows, and uses at present, and where its threads are bound.
//!
//! A CPU is *known* once it was online: it has pools, and a place in every queue. It is *online* if
//! the process may use it and the program has not taken it out. The unbound mask says which known
//! CPUs unbound queues may use. [`crate::runtime::cpus`] changes the sets; enqueues read them
//! without a lock. Kernel counterparts: `cpu_possible_mask`, `cpu_online_mask`,
//! `wq_unbound_cpumask`, `wq_affn_dfl`.

use super::topology::{Scope, Topology};
use super::Env;
use crate::sys::cpu;
use crate::sys::cpuset::{CpuSet, MAX_CPUS};
use crate::sys::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::{fmt, io};

/// Says which CPUs may be used.
pub(crate) type AllowedHook = Box<dyn Fn() -> CpuSet + Send + Sync>;

/// See the module.
pub(crate) struct Machine {
    /// The caller's description; None to read sysfs.
    given: Option<Topology>, // I
    /// Why the caller's description is not used. One made-up CPU stands for it.
    fault: Option<String>, // I
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

/// The CPUs that are not isolated, or all if none is left.
fn without(cpus: &CpuSet, isolated: &CpuSet) -> CpuSet {
    let left: CpuSet = cpus.iter().filter(|&cpu| !isolated.contains(cpu)).collect();
    if left.is_empty() {
        return cpus.clone();
    }
    left
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
        let fault = given.as_ref().and_then(Topology::fault);
        let mut own = Self {
            given: match fault {
                Some(_) => Some(Topology::simulated_nodes(1, 1)),
                None => given,
            },
            fault,
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

    /// The CPUs that the system keeps from its scheduler's balancing.
    fn isolated(&self) -> CpuSet {
        match &self.given {
            Some(topology) if topology.is_simulated() => CpuSet::new(),
            _ => cpu::isolated_cpus().unwrap_or_default(),
        }
    }

    fn not_isolated(&self, cpus: &CpuSet) -> CpuSet {
        without(cpus, &self.isolated())
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
    /// The unbound mask by CPU number, for the enqueue path.
    unbound: Bits, // A: written under P0
    masks: Mutex<Masks>, // U: written under P0
    /// The default scope: its place in `Scope::ALL`, which is in the order of the enum.
    scope: AtomicUsize, // A: written under P0
}

/// Where threads may be put.
#[derive(Debug)]
struct Masks {
    /// The mask of unbound queues as the program has set it; None for all CPUs that the system does
    /// not isolate, new ones too.
    asked: Option<CpuSet>,
    /// The known CPUs of it.
    unbound: CpuSet,
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

fn bits(set: &CpuSet, end: usize) -> Bits {
    (0..end)
        .map(|cpu| AtomicBool::new(set.contains(cpu)))
        .collect()
}

fn is_set(bits: &Bits, cpu: usize) -> bool {
    // Acquire pairs with the Release in `set`: a thread that finds a new CPU finds its place in the
    // queues. A late enqueue goes to a CPU that has left a set, which works.
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
    /// All CPUs that may be used are known and online at first, and in the unbound mask unless the
    /// system isolates them.
    pub(crate) fn new(machine: Machine, scope: Scope) -> Self {
        let (first, end) = (machine.first_cpus(), machine.end());
        let first: CpuSet = first.iter().filter(|&cpu| cpu < end).collect();
        let topology = Arc::new(machine.describe(&first));
        let unbound = machine.not_isolated(&first);
        Self {
            topology: RwLock::new(topology.clone()),
            shown: RwLock::new(topology),
            known: bits(&first, end),
            online: bits(&first, end),
            wanted: Mutex::new(None),
            unbound: bits(&unbound, end),
            masks: Mutex::new(Masks {
                asked: None,
                unbound,
                allowed: first,
            }),
            scope: AtomicUsize::new(scope as usize),
            machine,
        }
    }

    /// Why the machine that the program has made up is not used.
    pub(crate) fn fault(&self) -> Option<&String> {
        self.machine.fault.as_ref()
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

    /// The topology of the known CPUs.
    pub(crate) fn shown_topology(&self) -> Arc<Topology> {
        get(&self.shown)
    }

    /// Holds all locks of the set, as a thread may do when another one forks.
    #[cfg(test)]
    pub(crate) fn hold_locks(&self) -> impl Sized + '_ {
        let topologies = (self.topology.write(), self.shown.write());
        (topologies, self.wanted.lock(), self.masks.lock())
    }

    /// As `shown_topology`, made anew instead of read under a lock.
    pub(crate) fn describe_known(&self) -> Topology {
        self.machine.describe(&self.known())
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

    /// Relaxed: readers that choose pools hold `attrs_lock`; others only show it.
    /// # Context: `attrs_lock` held.
    pub(crate) fn set_scope(&self, scope: Scope) {
        self.scope.store(scope as usize, Ordering::Relaxed);
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
    pub(crate) fn grow_unbound(&self, known: &CpuSet) -> CpuSet {
        let masks = &mut *self.masks.lock();
        masks.unbound = match &masks.asked {
            Some(asked) => asked.and(known),
            None => self.machine.not_isolated(known),
        };
        masks.unbound.clone()
    }

    /// # Context: `attrs_lock` held.
    pub(crate) fn publish_unbound(&self) {
        let mask = self.masks.lock().unbound.clone();
        (0..self.end()).for_each(|cpu| set(&self.unbound, cpu, mask.contains(cpu)));
    }

    /// Changes the unbound mask, as the program wants it.
    /// # Context: `attrs_lock` held.
    pub(crate) fn ask_unbound(&self, cpus: &CpuSet, known: &CpuSet) {
        self.masks.lock().asked = Some(cpus.clone());
        self.grow_unbound(known);
        self.publish_unbound();
    }
}

impl Env {
    /// The CPUs that unbound queues may use. Takes no lock.
    pub(crate) fn unbound_cpus(&self) -> CpuSet {
        all_set(&self.cpus.unbound)
    }

    pub(crate) fn is_unbound_cpu(&self, cpu: usize) -> bool {
        is_set(&self.cpus.unbound, cpu)
    }

    pub(crate) fn default_scope(&self) -> Scope {
        Scope::ALL[self.cpus.scope.load(Ordering::Relaxed)]
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
        let masks = self.cpus.masks.lock();
        masks.bind_or_free(tid, &masks.unbound);
    }

    /// Binds the calling thread to the allowed ones of `cpus`, or to all allowed CPUs if there is
    /// none. Does nothing on simulated CPUs. Allocates nothing.
    pub(crate) fn bind_current(&self, cpus: &CpuSet) {
        if !self.cpus.is_simulated() {
            self.cpus.masks.lock().bind_or_free(0, cpus);
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
                .cpus
                .masks
                .lock()
                .bind(tid, cpus)
                .map_or_else(|e| e.raw_os_error() == Some(libc::ESRCH), |()| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s04_16_isolated_cpus_are_left_out_unless_there_are_no_others() {
        let cpus = CpuSet::first(4);
        for (isolated, left) in [("", "0-3"), ("2-3", "0-1"), ("0-9", "0-3")] {
            let isolated = CpuSet::parse_list(isolated).unwrap();
            assert_eq!(without(&cpus, &isolated).to_list(), left);
        }
    }
}
