// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a worker counts as running, or does not.
//!
//! Set by the worker itself, by the end of its CPU and by whoever dismisses it, always under the
//! pool's lock. Kernel counterpart: `enum worker_flags`.

use std::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, Not};

/// Why a worker is in the state it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerFlags(u8);

impl WorkerFlags {
    pub(crate) const NONE: Self = Self(0);
    /// On the idle list.
    pub(crate) const IDLE: Self = Self(1 << 0);
    /// Not inside a batch of items.
    pub(crate) const PREP: Self = Self(1 << 1);
    /// In an item that shall not hold back others.
    pub(crate) const CPU_INTENSIVE: Self = Self(1 << 2);
    /// The pool does not count.
    pub(crate) const UNBOUND: Self = Self(1 << 3);
    /// The pool counts again, this worker from its next batch on.
    pub(crate) const REBOUND: Self = Self(1 << 4);
    /// Told to leave.
    pub(crate) const DIE: Self = Self(1 << 5);

    /// Any of these: the pool does not count the worker.
    pub(super) const NOT_RUNNING: Self =
        Self(Self::PREP.0 | Self::CPU_INTENSIVE.0 | Self::UNBOUND.0 | Self::REBOUND.0);

    pub(crate) fn has(self, other: Self) -> bool {
        self & other != Self::NONE
    }
}

impl BitOr for WorkerFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for WorkerFlags {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOrAssign for WorkerFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAndAssign for WorkerFlags {
    fn bitand_assign(&mut self, other: Self) {
        self.0 &= other.0;
    }
}

impl Not for WorkerFlags {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0)
    }
}
