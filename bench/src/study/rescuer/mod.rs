// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study d: how long items wait while no worker can be made.
//!
//! [`virtual_time`] lets an outage pass in virtual time; [`real_time`] measures the way from the call for help to the
//! rescued run.

pub mod device;

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
