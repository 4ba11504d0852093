// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a queue asks for: its flags, and the attributes of the workers of an unbound queue.
//!
//! Flags are checked when a queue is made, then fixed; attributes can be changed.
//! [`crate::pool::registry`] turns attributes into pools. Kernel counterparts: `enum wq_flags`,
//! with the same values, and `struct workqueue_attrs`.

use crate::env::topology::Scope;
use crate::error::AttrError;
use crate::sys::cpuset::CpuSet;
use bitflags::bitflags;
use std::fmt;

bitflags! {
    /// A set of queue flags. Combine with `|`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// Serial execution per CPU in queueing order; items must not block.
        const BH = 1 << 0;
        /// Served by pools that are not tied to one CPU.
        const UNBOUND = 1 << 1;
        /// Takes part in freeze and thaw.
        const FREEZABLE = 1 << 2;
        /// Owns a rescuer thread, so that it makes progress even if no thread can be created.
        const MEM_RECLAIM = 1 << 3;
        /// Runs at nice -20.
        const HIGHPRI = 1 << 4;
        /// Runs do not hold back other items of the CPU.
        const CPU_INTENSIVE = 1 << 5;
        /// Becomes UNBOUND if the runtime is set to save power.
        const POWER_EFFICIENT = 1 << 7;
        /// Bound to the CPU where an item is queued or requested.
        const PERCPU = 1 << 8;
    }
}

/// The names, as in `UNBOUND | HIGHPRI`; unknown bits as a number.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bitflags::parser::to_writer(self, f)
    }
}

impl Flags {
    /// What is wrong with the combination, if anything. POWER_EFFICIENT is resolved before.
    pub(crate) fn fault(self, ordered: bool, max_active: usize) -> Option<&'static str> {
        if !Self::all().contains(self) {
            return Some("there are bits that mean nothing");
        }
        if self.contains(Self::PERCPU | Self::UNBOUND) {
            return Some("PERCPU and UNBOUND exclude each other");
        }
        if self.contains(Self::BH) {
            if !(Self::BH | Self::HIGHPRI | Self::PERCPU).contains(self) {
                return Some("BH goes with HIGHPRI and PERCPU only");
            }
            if max_active != 0 {
                return Some("BH goes without max_active");
            }
        }
        if ordered && self.intersects(Self::PERCPU | Self::BH) {
            return Some("an ordered queue is neither PERCPU nor BH");
        }
        None
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

    /// Tests the values, of which `known` are the machine's CPUs.
    pub(crate) fn check(&self, known: &CpuSet) -> Result<(), AttrError> {
        if !(-20..=19).contains(&self.nice) {
            return Err(AttrError::Invalid {
                attribute: "nice",
                value: self.nice.to_string(),
                allowed: "a nice value is in -20..=19",
            });
        }
        match &self.cpumask {
            Some(mask) if !mask.intersects(known) => Err(AttrError::EmptyMask(mask.to_list())),
            _ => Ok(()),
        }
    }
}

impl Default for Attrs {
    fn default() -> Self {
        Self::new()
    }
}
