// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the machine gives: locks, clocks, timers, CPUs. Nothing here knows what a work item is.

pub(crate) mod sync;

pub(crate) mod cpu;

pub(crate) mod cpuset;

pub(crate) mod short_text;

pub(crate) mod turn_scheduler;

pub(crate) mod user_code;

pub(crate) mod clock;

pub(crate) mod timer;

#[cfg(feature = "control-socket")]
pub(crate) mod socket;
