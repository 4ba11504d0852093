// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stop`: the disk goes, the id stays.

use ublk_ramdisk::error::{Exit, Failure};

use super::machine;
use crate::cli::StopArgs;
use crate::server::run_dir::RunDir;

/// Stops the device. One that is stopped already is no error.
pub fn run(args: &StopArgs) -> Result<Exit, Failure> {
    machine::stop(&RunDir::of_this_machine()?, args.id, args.force)?;
    Ok(Exit::Done)
}
