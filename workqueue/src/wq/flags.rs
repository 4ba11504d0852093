// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flags of a queue and which of them go together.
//!
//! Handed in with the builder; checked once, then fixed for the queue's life. Kernel counterpart:
//! `enum wq_flags`, with the same values.

use std::ops::{BitOr, BitOrAssign};

/// A set of queue flags. Combine with `|`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Serial execution per CPU in queueing order; items must not block.
    pub const BH: Self = Self(1 << 0);
    /// Served by pools that are not tied to one CPU.
    pub const UNBOUND: Self = Self(1 << 1);
    /// Takes part in freeze and thaw.
    pub const FREEZABLE: Self = Self(1 << 2);
    /// Owns a rescuer thread, so that it makes progress even if no thread can be created.
    pub const MEM_RECLAIM: Self = Self(1 << 3);
    /// Runs at nice -20.
    pub const HIGHPRI: Self = Self(1 << 4);
    /// Runs do not hold back other items of the CPU.
    pub const CPU_INTENSIVE: Self = Self(1 << 5);
    /// Attributes can be reached by name.
    pub const SYSFS: Self = Self(1 << 6);
    /// Becomes UNBOUND if the runtime is told to save power.
    pub const POWER_EFFICIENT: Self = Self(1 << 7);
    /// Bound to the CPU where an item is queued or requested.
    pub const PERCPU: Self = Self(1 << 8);

    const KNOWN: u32 = (1 << 9) - 1;

    /// No flag.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// The flags of a number, known or not; unknown ones are refused when the queue is made.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The flags as a number.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Are all flags of `other` set?
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What is wrong with the combination, if anything; POWER_EFFICIENT is resolved before.
    pub(crate) fn fault(self, ordered: bool, max_active: usize) -> Option<&'static str> {
        if self.0 & !Self::KNOWN != 0 {
            return Some("there are bits that mean nothing");
        }
        if self.contains(Self::PERCPU | Self::UNBOUND) {
            return Some("PERCPU and UNBOUND exclude each other");
        }
        if self.contains(Self::BH) {
            if self.without(Self::BH | Self::HIGHPRI | Self::PERCPU).0 != 0 {
                return Some("BH goes with HIGHPRI and PERCPU only");
            }
            if max_active != 0 {
                return Some("BH goes without max_active");
            }
        }
        if ordered && self.0 & (Self::PERCPU | Self::BH).0 != 0 {
            return Some("an ordered queue is neither PERCPU nor BH");
        }
        None
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}
