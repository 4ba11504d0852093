// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study f: today's workqueue beside the design of 2.6.35 and before.
//!
//! [`virtual_time`] shows start times, throughput, threads and the deadlock in virtual time; [`real_time`] repeats the
//! throughput on this machine's clock.

mod real_time;

mod virtual_time;

use super::outcome::Part;
use super::settings::{Settings, StudyError};
use super::table::StudyFile;

/// Runs the part in virtual time and, if asked for, the one on this machine's clock.
pub fn run(settings: &Settings, file: &StudyFile) -> Result<Vec<Part>, StudyError> {
    let mut parts = vec![virtual_time::part(file)?];
    if settings.measure {
        parts.push(real_time::part(settings, file)?);
    }
    Ok(parts)
}
