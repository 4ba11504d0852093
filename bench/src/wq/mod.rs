// SPDX-License-Identifier: MIT OR Apache-2.0
//! The workqueue beside its rivals, in one process.
//!
//! A [`contender`] takes items. The cases hand items to all contenders in turn ([`throughput`],
//! [`wake`]) or to ours alone ([`delayed`], [`memory`], [`growth`]). Their samples make a [`kept`] run, and
//! that the [`tables`]. `src/bin/bench_workqueue.rs` drives it.

pub mod contender;

pub mod countdown;

pub mod throughput;

pub mod wake;

pub mod delayed;

pub mod memory;

pub mod growth;

pub mod kept;

pub mod tables;

use std::time::Instant;

/// The clock of all cases: nanoseconds since an instant that the case has chosen.
fn nanoseconds_since(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
