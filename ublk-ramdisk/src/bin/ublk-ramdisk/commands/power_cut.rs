// SPDX-License-Identifier: MIT OR Apache-2.0
//! `power-cut`: has the device's server take the power away, and gives it back when nobody has the disk
//! open any more. Here: the server has not the privilege to look for users of the disk.

use serde::Serialize;
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ramdisk::store::Loss;
use ublk_ramdisk::ublk::ctrl::block_path;
use ublk_ramdisk::ublk::openers::when_unused;

use super::{machine, output};
use crate::cli::PowerCutArgs;
use crate::server::protocol::{Reply, Request};
use crate::server::run_dir::RunDir;

/// What `--json` shows.
#[derive(Debug, Serialize)]
struct Done {
    id: u32,
    path: String,
    /// None with `--on`.
    #[serde(flatten)]
    loss: Option<Loss>,
    off: bool,
}

/// Cuts the power, and gives it back.
pub fn run(args: &PowerCutArgs) -> Result<Exit, Failure> {
    let (id, path, run_dir) = (args.id, block_path(args.id), RunDir::of_this_machine()?);
    let mut loss = None;
    if !args.on {
        let request = Request::PowerCut(args.cut());
        let Reply::Lost(lost) = machine::ask_of(&run_dir, id, request)? else {
            return Err(machine::another_question());
        };
        if !args.json {
            output::print(&format!(
                "lost {} of {} unflushed pages\n",
                lost.lost, lost.unflushed
            ))?;
        }
        loss = Some(lost);
    }
    if !args.off {
        let waits = |users: &str| {
            output::warn(&format!("{path} stays off while it is in use: {users}"));
        };
        let switch_on = || machine::ask_of(&run_dir, id, Request::PowerOn);
        machine::done(when_unused(id, waits, switch_on)?)?;
    }
    let off = args.off;
    let done = Done {
        id,
        path,
        loss,
        off,
    };
    output::show(args.json, &done, |done| match done.off {
        true => format!("{} is off\n", done.path),
        false => format!("{} is on\n", done.path),
    })
}
