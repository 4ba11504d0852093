// SPDX-License-Identifier: MIT OR Apache-2.0
//! `recover` and `upgrade`: new servers for disks that have none, because server and supervisor have
//! died, or whose server is of another version of this program.

use ublk_ramdisk::error::{Exit, Failure};

use super::add::in_background;
use super::output;
use crate::cli::NewServerArgs;
use crate::server::protocol::{LogTarget, Served, State};
use crate::server::run_dir::RunDir;
use crate::server::Task;

/// Serves again what nobody serves.
pub fn recover(args: &NewServerArgs) -> Result<Exit, Failure> {
    each(args, |run_dir, id| match run_dir.has_server(id) {
        // Or it has one in a moment.
        true => Ok(None),
        false => serve(args, run_dir, id, Task::TakeUp).map(Some),
    })
}

/// Serves what another process serves.
pub fn upgrade(args: &NewServerArgs) -> Result<Exit, Failure> {
    each(args, |run_dir, id| match run_dir.has_server(id) {
        true => serve(args, run_dir, id, Task::TakeOver).map(Some),
        false if args.all => Ok(None),
        false => Err(Failure::runtime(format!(
            "device {id} has no server of this program: see `ublk-ramdisk recover --help`"
        ))),
    })
}

/// Gives a server to every disk asked for; each failure gets a line, the last one the exit status.
fn each(
    args: &NewServerArgs,
    one: impl Fn(&RunDir, u32) -> Result<Option<Served>, Failure>,
) -> Result<Exit, Failure> {
    let run_dir = RunDir::of_this_machine()?;
    let ids = match args.all {
        true => run_dir.ids(),
        false => args.ids.clone(),
    };
    let mut last = None;
    for id in ids {
        match one(&run_dir, id) {
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

/// Starts a supervisor and a server with that task.
fn serve(
    args: &NewServerArgs,
    run_dir: &RunDir,
    id: u32,
    task: impl Fn(State) -> Task,
) -> Result<Served, Failure> {
    let state = run_dir.state(id).ok_or_else(|| {
        Failure::runtime(format!(
            "device {id} cannot be taken up: {} is missing or cannot be read; `ublk-ramdisk del {id}` \
             removes the disk",
            run_dir.state_path(id).display()
        ))
    })?;
    let timeout = state.usable_config()?.recovery_timeout;
    let log = args.log.clone().or(state.log.clone());
    // No ring is made before the fork: its threads stay.
    in_background(
        log.unwrap_or(LogTarget::Syslog),
        timeout,
        run_dir,
        task(state),
    )
}
