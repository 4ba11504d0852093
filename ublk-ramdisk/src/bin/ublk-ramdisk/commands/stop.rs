// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stop`: the disk goes, the id stays.

use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::ctrl::Control;

use super::machine;
use crate::cli::StopArgs;
use crate::server::protocol::Request;
use crate::server::run_dir::RunDir;

/// Stops the device. One that is stopped already is no error.
pub fn run(args: &StopArgs) -> Result<Exit, Failure> {
    let run_dir = RunDir::of_this_machine()?;
    let force = args.force;
    match machine::ask_server(&run_dir, args.id, Request::Stop { force }) {
        Some(answer) => machine::done(answer?)?,
        None => machine::stop_by_kernel(&mut Control::open()?, args.id, force)?,
    }
    Ok(Exit::Done)
}
