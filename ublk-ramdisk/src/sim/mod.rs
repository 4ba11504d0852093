// SPDX-License-Identifier: MIT OR Apache-2.0
//! The front end without a kernel: the same mirror, driver and store as behind /dev/ublkbN, fed by a
//! load generator.
//!
//! The way of a request:
//! 1. a `job` chooses it (`workload`) and fills its buffer (`buffers`);
//! 2. it goes into the mirror by the job's submitter, as from a queue thread;
//! 3. the `front_end` moves its bytes between buffer and store, when its service time is over;
//! 4. its end comes back to the job, which checks what was read and keeps the [`figures`].
//!
//! One thread does all of this (`run`), event after event, on a virtual clock. The threads of
//! the workqueue take turns with it, so a run depends on its options alone. A [`script`] changes
//! things meanwhile.

pub mod config;

pub mod parse;

pub mod script;

pub mod figures;

mod workload;

mod buffers;

mod job;

mod front_end;

mod driver;

mod worker_load;

mod device;

mod run;

use crate::error::Failure;
use crate::trace::Trace;
use config::SimConfig;
use figures::Figures;

/// Runs a simulation to its end.
pub fn run(config: &SimConfig) -> Result<Figures, Failure> {
    run::run(config, None).map(|(figures, _)| figures)
}

/// The same, recording what happens: each thread keeps its last `records` events. The process can
/// record one run at a time. The trace depends on the options alone, as the figures do.
pub fn run_traced(config: &SimConfig, records: usize) -> Result<(Figures, Trace), Failure> {
    let (figures, trace) = run::run(config, Some(records))?;
    Ok((figures, trace.expect("it was asked for")))
}
