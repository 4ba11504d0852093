// SPDX-License-Identifier: MIT OR Apache-2.0
//! `reset`: has the device's server give back what was written.

use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::sys::file::reread_partitions;
use ublk_ramdisk::ublk::openers::{past_brief_use, refuse_users};

use super::machine;
use crate::cli::ResetArgs;
use crate::server::protocol::Request;
use crate::server::run_dir::RunDir;

/// Resets the device.
pub fn run(args: &ResetArgs) -> Result<Exit, Failure> {
    let run_dir = RunDir::of_this_machine()?;
    // Here: the server has not the privilege to look into other processes.
    let claimed = match !args.force && machine::disk_size(args.id).is_some() {
        true => past_brief_use(|| refuse_users(args.id, "reset"))?,
        false => None,
    };
    machine::done(machine::ask_of(&run_dir, args.id, Request::Reset)?)?;
    if let Some(disk) = claimed {
        // Refused for a disk without partitions (--no-partition-scan).
        let _refused = reread_partitions(&disk);
    }
    Ok(Exit::Done)
}
