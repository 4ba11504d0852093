// SPDX-License-Identifier: MIT OR Apache-2.0
//! `recover` and `upgrade`: new servers for disks that have none, because server and supervisor have
//! died, or whose server is of another version of this program.

use std::time::{Duration, Instant};

use ublk_ramdisk::error::{Exit, Failure};

use super::add::in_background;
use super::output;
use crate::cli::NewServerArgs;
use crate::server::control_socket::{ask_for_more, REPLY_TIMEOUT};
use crate::server::protocol::{LogTarget, Request, Served, State};
use crate::server::run_dir::RunDir;
use crate::server::Task;

/// How long systemd may take to start a server.
const START_TIMEOUT: Duration = Duration::from_secs(60);

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
        true if run_dir.state(id).is_some_and(|state| state.service) => {
            by_systemd(run_dir, id).map(Some)
        }
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

/// Has the server of a unit end, and waits for the next, which systemd starts.
fn by_systemd(run_dir: &RunDir, id: u32) -> Result<Served, Failure> {
    let served = || Some(run_dir.state(id)?.served);
    let former = served().map(|served| served.pid);
    let answer = ask_for_more(&run_dir.socket(id), Request::HandOver, REPLY_TIMEOUT);
    answer.unwrap_or_else(|| Err(Failure::runtime(format!("device {id} has no server"))))?;
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        match served() {
            Some(served) if Some(served.pid) != former => return Ok(served),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    Err(Failure::runtime(format!(
        "device {id} waits for a server, which systemd does not start: see `journalctl -u 'ublk-ramdisk@*'`"
    )))
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
