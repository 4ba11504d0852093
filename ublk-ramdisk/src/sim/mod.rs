// SPDX-License-Identifier: MIT OR Apache-2.0
//! The front end without a kernel: the same mirror, driver and store as behind /dev/ublkbN, fed by a
//! load generator.
//!
//! The journey of a request:
//! 1. a [`job`] chooses what it asks for (`places`) and fills its buffer (`content`);
//! 2. it goes into the mirror by the job's lane, as from a queue thread;
//! 3. the transport (`ports`) moves its bytes between buffer and store, after the time that the
//!    request is said to take (`service`);
//! 4. its end comes back to the job, which checks what was read and keeps the figures ([`figures`]).
//!
//! On the virtual clock (`virtual_run`) one thread does all of this, event after event, and the
//! threads of the workqueue take turns with it: a run depends on its options alone. On the real clock
//! (`real_run`) each job has its thread. A [`script`] changes things while it runs.

pub mod config;

pub mod values;

pub mod script;

pub mod figures;

mod random;

mod places;

mod content;

mod buffers;

mod job;

mod ports;

mod service;

mod driver;

mod hogs;

mod bed;

mod virtual_run;

mod real_run;

use crate::error::Failure;
use config::{ClockKind, SimConfig};
use figures::Figures;

/// Runs a simulation to its end.
pub fn run(config: &SimConfig) -> Result<Figures, Failure> {
    match config.clock {
        ClockKind::Virtual => virtual_run::run(config),
        ClockKind::Real => real_run::run(config),
    }
}
