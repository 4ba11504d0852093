// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an unbound queue asks of its workers: nice, CPUs, how near to the enqueuer.
//!
//! Handed in by callers; [`crate::pool::registry`] turns them into pools. Kernel counterpart:
//! `struct workqueue_attrs`, `enum wq_affn_scope`.

use crate::error::AttrError;
use crate::sys::cpuset::CpuSet;
use std::fmt;
use std::str::FromStr;

/// How CPUs are grouped into pods; the items of a pod's CPUs are served by one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Each CPU for itself.
    Cpu,
    /// The hardware threads of one core.
    Smt,
    /// The CPUs that share the last-level cache.
    Cache,
    /// About eight cores of one last-level cache.
    CacheShard,
    /// The CPUs of one NUMA node.
    Numa,
    /// All CPUs.
    System,
}

impl Scope {
    /// All scopes, from the narrowest to the widest.
    pub const ALL: [Self; 6] = [
        Self::Cpu,
        Self::Smt,
        Self::Cache,
        Self::CacheShard,
        Self::Numa,
        Self::System,
    ];

    /// The name as the control registry shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Smt => "smt",
            Self::Cache => "cache",
            Self::CacheShard => "cache_shard",
            Self::Numa => "numa",
            Self::System => "system",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = AttrError;

    fn from_str(text: &str) -> Result<Self, AttrError> {
        Self::ALL
            .into_iter()
            .find(|s| s.name() == text.trim())
            .ok_or_else(|| AttrError::Invalid {
                attribute: "affinity_scope",
                value: text.to_owned(),
                allowed: "one of cpu, smt, cache, cache_shard, numa, system",
            })
    }
}

/// The attributes of an unbound queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attrs {
    /// Nice value of the workers, -20..=19.
    pub nice: i32,
    /// CPUs the workers may use; None for all that unbound queues may use.
    pub cpumask: Option<CpuSet>,
    /// How CPUs are grouped; None for the runtime's default.
    pub scope: Option<Scope>,
    /// Workers must stay inside their pod.
    pub strict: bool,
}

impl Attrs {
    /// Nice 0, all CPUs, the default scope, not strict.
    pub fn new() -> Self {
        Self {
            nice: 0,
            cpumask: None,
            scope: None,
            strict: false,
        }
    }

    /// The CPUs the workers may use while unbound queues may use `unbound`: a mask that shares no
    /// CPU with it falls back to all of it.
    pub(crate) fn effective_mask(&self, unbound: &CpuSet) -> CpuSet {
        let wanted = self.cpumask.as_ref().map(|m| m.and(unbound));
        wanted
            .filter(|m| !m.is_empty())
            .unwrap_or_else(|| unbound.clone())
    }

    pub(crate) fn check(&self) -> Result<(), AttrError> {
        if (-20..=19).contains(&self.nice) {
            return Ok(());
        }
        Err(AttrError::Invalid {
            attribute: "nice",
            value: self.nice.to_string(),
            allowed: "a nice value is in -20..=19",
        })
    }
}

impl Default for Attrs {
    fn default() -> Self {
        Self::new()
    }
}
