// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be seen of a running system: events, counters, dumps.

pub(crate) mod recorder;

pub(crate) mod trace;

pub(crate) mod chrome;

pub(crate) mod snapshot;

pub(crate) mod dump;

pub(crate) mod watchdog;

#[cfg(feature = "control-socket")]
pub(crate) mod control_socket;
