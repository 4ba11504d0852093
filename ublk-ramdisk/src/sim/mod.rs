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
//! One thread does all of this (`virtual_run`), event after event, on a virtual clock. The threads of
//! the workqueue take turns with it, so a run depends on its options alone. A [`script`] changes
//! things while it runs.

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

use std::sync::Arc;

use workqueue::VirtualClock;

use crate::error::Failure;
use crate::trace::{CannotRecord, Options, Recording, Trace};
use config::SimConfig;
use figures::Figures;

/// Runs a simulation to its end.
pub fn run(config: &SimConfig) -> Result<Figures, Failure> {
    virtual_run::run(config, None).map(|(figures, _)| figures)
}

/// The same, recording what happens: each thread keeps its last `records` events. The process can
/// record one run at a time. The trace depends on the options alone, as the figures do.
pub fn run_traced(config: &SimConfig, records: usize) -> Result<(Figures, Trace), Failure> {
    let (figures, trace) = virtual_run::run(config, Some(records))?;
    Ok((figures, trace.expect("it was asked for")))
}

/// Begins to record a device that has been made, if that is asked for.
fn start_recording(
    records: Option<usize>,
    clock: &Arc<VirtualClock>,
) -> Result<Option<Recording>, Failure> {
    let Some(records) = records else {
        return Ok(None);
    };
    let recording = crate::trace::start(Options {
        records,
        clock: Some(clock.clone()),
    });
    recording.map(Some).map_err(|why| match why {
        CannotRecord::Taken => Failure::in_use(why.to_string()),
        CannotRecord::NoMemory => Failure::environment(why.to_string()),
    })
}

/// Ends it.
fn finish_recording(recording: Option<Recording>, label: u32) -> Option<Trace> {
    let mut trace = recording?.finish();
    trace.name_device(label, (0, 0), "sim");
    Some(trace)
}
