// SPDX-License-Identifier: MIT OR Apache-2.0
//! `del`: stops devices if they run and frees their ids.
//!
//! The driver is asked directly, after a living server of ours has let go of what it holds back. So a
//! device whose server has died, or has lost a request, can be deleted too.

use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::ctrl::Control;

use super::{machine, output};
use crate::cli::DelArgs;
use crate::server::run_dir::RunDir;

/// Deletes every device asked for; each failure gets a line, the last one the exit status.
pub fn run(args: &DelArgs) -> Result<Exit, Failure> {
    let run_dir = RunDir::of_this_machine()?;
    let ids = if args.all {
        ours(&run_dir)?
    } else {
        args.ids.clone()
    };
    let mut last = None;
    for id in ids {
        if let Err(failure) = machine::delete(&run_dir, id, args.force) {
            // The last line is main's to print.
            if let Some(earlier) = last.replace(failure) {
                output::complain(&earlier);
            }
        }
    }
    run_dir.tidy();
    last.map_or(Ok(Exit::Done), Err)
}

/// What this program added.
fn ours(run_dir: &RunDir) -> Result<Vec<u32>, Failure> {
    let ids = run_dir.ids();
    // Without a server the driver is asked, and its absence reported.
    if !ids.iter().any(|&id| run_dir.has_server(id)) {
        Control::open()?;
    }
    Ok(ids)
}
