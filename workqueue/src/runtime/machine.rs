// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a runtime may use of the machine: the bounds it was given, and who says which CPUs within
//! them may be used at present.
//!
//! Set up by [`super::builder`], asked by [`super::cpus`] at each look. CPUs that may be used later
//! are met then; nothing is made for them before.

use crate::sys::cpu;
use crate::sys::cpuset::{CpuSet, MAX_CPUS};
use crate::wq::topology::Topology;
use std::fmt;

/// Says which CPUs may be used.
pub(crate) type AllowedHook = Box<dyn Fn() -> CpuSet + Send + Sync>;

/// See the module.
pub(crate) struct Machine {
    /// As the caller has described it; sysfs is asked otherwise.
    given: Option<Topology>, // I
    /// No others are ever used.
    bound: Option<CpuSet>, // I
    allowed_by: Option<AllowedHook>, // I
    /// All CPU numbers there can ever be are below.
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

    /// All CPU numbers there can ever be are below this.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// The CPUs that may be used at present; None if that cannot be told.
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

    /// The CPUs to begin with. If none may be used of those described, all of them.
    pub(crate) fn first_cpus(&self) -> CpuSet {
        let allowed = self.allowed().filter(|cpus| !cpus.is_empty());
        allowed.unwrap_or_else(|| match &self.given {
            Some(topology) => self.within_bound(topology.possible().clone()),
            None => CpuSet::single(0),
        })
    }

    /// How these CPUs belong together.
    pub(crate) fn describe(&self, cpus: &CpuSet) -> Topology {
        match &self.given {
            Some(topology) => topology.within(cpus),
            None => Topology::detect(cpus),
        }
    }
}
