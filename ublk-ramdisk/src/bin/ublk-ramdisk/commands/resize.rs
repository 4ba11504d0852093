// SPDX-License-Identifier: MIT OR Apache-2.0
//! `resize`: asks the device's server, which alone can make room first and tell the kernel then.

use ublk_ramdisk::config::check_bytes;
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::export;
use ublk_ramdisk::ublk::openers::{past_brief_use, refuse_users};

use super::machine;
use crate::cli::ResizeArgs;
use crate::server::protocol::Request;
use crate::server::run_dir::RunDir;

/// Resizes the device.
pub fn run(args: &ResizeArgs) -> Result<Exit, Failure> {
    // 512 is the smallest block size: what it does not allow is bad usage for every device. The
    // server checks against the block size of its own.
    check_bytes("SIZE", args.size, 512)?;
    // Here: the server has not the privilege to look into other processes.
    if !args.force && machine::disk_size(args.id).is_some_and(|size| args.size < size) {
        past_brief_use(|| refuse_users(args.id, "shrunk"))?;
    }
    let request = Request::Resize { bytes: args.size };
    let answer = machine::ask_of(&RunDir::of_this_machine()?, args.id, request)?;
    machine::done(answer)?;
    export::follow_size(args.id);
    Ok(Exit::Done)
}
