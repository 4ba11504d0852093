// SPDX-License-Identifier: MIT OR Apache-2.0
//! The studies of BUSY in the mirror of blk-mq, all by `ublk-ramdisk sim` in virtual time.

mod cost;

pub mod rate;

mod slots;

pub mod delay;

pub mod rules;

pub mod filling;

pub mod fairness;

use super::sim::{self, Said};
use super::StudyError;

/// A run that must come to its end.
fn ended(arguments: &str) -> Result<Said, StudyError> {
    let said = sim::run(arguments)?;
    match said.error {
        None => Ok(said),
        Some(error) => Err(StudyError::Refused(format!(
            "ublk-ramdisk sim {arguments}: {error}"
        ))),
    }
}
