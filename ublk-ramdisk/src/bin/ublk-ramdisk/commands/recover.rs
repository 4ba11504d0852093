// SPDX-License-Identifier: MIT OR Apache-2.0
//! `recover`: takes up disks that nobody serves, because server and supervisor have died.

use ublk_ramdisk::error::{Exit, Failure};

use super::add::in_background;
use super::output;
use crate::cli::RecoverArgs;
use crate::server::protocol::Served;
use crate::server::run_dir::RunDir;
use crate::server::Task;

/// Recovers every disk asked for; each failure gets a line, the last one the exit status.
pub fn run(args: &RecoverArgs) -> Result<Exit, Failure> {
    let run_dir = RunDir::of_this_machine()?;
    let ids = match args.all {
        true => run_dir.ids(),
        false => args.ids.clone(),
    };
    let mut last = None;
    for id in ids {
        match recover(&run_dir, id, args) {
            Ok(None) => {}
            Ok(Some(served)) => output::print(&format!("{}\n", served.path))?,
            Err(failure) => {
                // The last line is main's to print.
                if let Some(earlier) = last.replace(failure) {
                    output::complain(&earlier);
                }
            }
        }
    }
    last.map_or(Ok(Exit::Done), Err)
}

/// None if somebody serves the disk, or is about to.
fn recover(run_dir: &RunDir, id: u32, args: &RecoverArgs) -> Result<Option<Served>, Failure> {
    if run_dir.has_server(id) {
        return Ok(None);
    }
    let state = run_dir.state(id).ok_or_else(|| {
        Failure::runtime(format!(
            "device {id} cannot be taken up: {} is missing or cannot be read; `ublk-ramdisk del {id}` \
             removes the disk",
            run_dir.state_path(id).display()
        ))
    })?;
    let timeout = state.usable_config()?.recovery_timeout;
    // No ring is made before the fork: its threads stay.
    in_background(&args.log, timeout, run_dir, Task::TakeUp(state)).map(Some)
}
