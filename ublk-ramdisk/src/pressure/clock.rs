// SPDX-License-Identifier: MIT OR Apache-2.0
//! The time that pressure lives by: the runtime's.

use std::sync::Arc;
use std::time::Instant;

use workqueue::{Runtime, VirtualClock};

/// Nanoseconds since some moment before the device was made.
#[derive(Clone, Debug)]
pub(super) enum Clock {
    /// The machine's.
    Real(Instant),
    /// A test's or a simulation's.
    Virtual(Arc<VirtualClock>),
}

impl Clock {
    pub(super) fn of(runtime: &Runtime) -> Self {
        match runtime.virtual_clock() {
            Some(clock) => Self::Virtual(clock.clone()),
            None => Self::Real(Instant::now()),
        }
    }

    pub(super) fn now(&self) -> u64 {
        match self {
            Self::Real(begin) => begin.elapsed().as_nanos() as u64,
            Self::Virtual(clock) => clock.now().as_nanos() as u64,
        }
    }
}
