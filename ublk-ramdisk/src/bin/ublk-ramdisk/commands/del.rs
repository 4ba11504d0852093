// SPDX-License-Identifier: MIT OR Apache-2.0
//! `del`: stops devices if they run and frees their ids.
//!
//! A living server of ours does both itself; for any other device the driver is asked directly,
//! so that a device whose server died can be deleted too.

use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::ctrl::Control;

use super::{machine, output};
use crate::cli::DelArgs;
use crate::server::protocol::Request;
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
        if let Err(failure) = delete(&run_dir, id, args.force) {
            // The last line is main's to print.
            if let Some(earlier) = last.replace(failure) {
                output::complain(&earlier);
            }
        }
    }
    run_dir.tidy();
    last.map_or(Ok(Exit::Done), Err)
}

/// What this program added. State files of devices that are gone are cleared away.
fn ours(run_dir: &RunDir) -> Result<Vec<u32>, Failure> {
    let (mut ours, others): (Vec<u32>, Vec<u32>) = run_dir
        .ids()
        .into_iter()
        .partition(|&id| run_dir.has_server(id));
    // A server deletes its own disk. Without a server the driver is asked, and its absence
    // reported.
    if ours.is_empty() || !others.is_empty() {
        let mut control = Control::open()?;
        for id in others {
            let info = control.device_info(id);
            if info.is_err_and(|error| error.errno() == Some(libc::ENODEV)) {
                run_dir.forget(id);
            } else {
                ours.push(id);
            }
        }
    }
    Ok(ours)
}

/// Through the server if there is one: it ends what waits for memory before it stops the disk, and
/// removes its own files.
fn delete(run_dir: &RunDir, id: u32, force: bool) -> Result<(), Failure> {
    if let Some(answer) = machine::ask_server(run_dir, id, Request::Delete { force }) {
        return machine::done(answer?);
    }
    let mut control = Control::open()?;
    machine::stop_by_kernel(&mut control, id, force)?;
    run_dir.remove_store(id)?;
    machine::delete_by_kernel(&mut control, id)?;
    run_dir.forget(id);
    Ok(())
}
