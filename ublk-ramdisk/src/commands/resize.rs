// SPDX-License-Identifier: MIT OR Apache-2.0
//! `resize`: asks the device's server, which alone can make room first and tell the kernel then.

use ublk_ramdisk::config::check_bytes;
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::ctrl::Control;

use super::machine;
use crate::cli::ResizeArgs;
use crate::server::protocol::Request;
use crate::server::run_dir::RunDir;

/// Resizes the device.
pub fn run(args: &ResizeArgs) -> Result<Exit, Failure> {
    // What no block size allows is bad usage whatever the device; the server knows its own.
    check_bytes("SIZE", args.size, 512)?;
    let mut control = Control::open()?;
    let request = Request::Resize {
        bytes: args.size,
        force: args.force,
    };
    match machine::ask_server(&RunDir::of_this_machine(), args.id, request) {
        Some(answer) => machine::done(answer?)?,
        None => return Err(machine::not_served(&mut control, args.id)),
    }
    Ok(Exit::Done)
}
