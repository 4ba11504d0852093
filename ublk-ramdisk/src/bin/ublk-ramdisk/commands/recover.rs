// SPDX-License-Identifier: MIT OR Apache-2.0
//! `recover`: takes up disks that nobody serves, because server and supervisor have died.

use std::time::Instant;

use ublk_ramdisk::config::{Backing, DeviceConfig};
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::abi::DeviceState;
use ublk_ramdisk::ublk::ctrl::Control;

use super::add::in_background;
use super::{machine, output};
use crate::cli::RecoverArgs;
use crate::server::protocol::{Served, State};
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
    let Some(state) = run_dir.state(id) else {
        return Err(Failure::runtime(format!(
            "device {id} has no state file in the run directory: it is none of this program"
        )));
    };
    let config = usable_config(&state)?;
    // What is still open of the device goes before the daemon is forked.
    let found = Control::open()?.device_info(id);
    let is_there = match found {
        Ok(info) if info.device_state() == DeviceState::Quiesced => {
            let task = Task::Recover(state, Instant::now());
            return in_background(&args.log, config.recovery_timeout, run_dir, task).map(Some);
        }
        Ok(info) if info.device_state() == DeviceState::Dead => true,
        Ok(info) => {
            return Err(Failure::runtime(format!(
                "device {id} is {}: it cannot be taken up",
                info.device_state()
            )))
        }
        Err(error) if error.errno() == Some(libc::ENODEV) => false,
        Err(error) => return Err(error.into()),
    };
    if let Backing::Private(_) = config.backing() {
        return Err(Failure::runtime(format!(
            "device {id} was stopped: its contents are in {}, but a disk cannot be made of them yet",
            config.backing()
        )));
    }
    // Its clients have got errors. The contents are there: it is made anew with them.
    if is_there {
        machine::delete_by_kernel(&mut Control::open()?, id)?;
    }
    let timeout = config.recovery_timeout;
    in_background(&args.log, timeout, run_dir, Task::Add(config)).map(Some)
}

/// The config of a disk whose bytes are still there, with the size that its file has.
fn usable_config(state: &State) -> Result<DeviceConfig, Failure> {
    let id = state.served.id;
    match (&state.config, state.version) {
        (Some(config), State::VERSION) => {
            let path = match config.backing() {
                Backing::Tmpfs(path) => path.clone(),
                Backing::Private(folder) => folder.join(id.to_string()),
                gone => {
                    return Err(Failure::runtime(format!(
                        "device {id} had its contents in {gone}, they have gone with its server; \
                         delete it with `ublk-ramdisk del {id}`"
                    )))
                }
            };
            let length = std::fs::symlink_metadata(&path).map(|found| found.len());
            let size = length.map_err(|error| {
                Failure::environment(format!("the backing file {}: {error}", path.display()))
            })?;
            let id = Some(id);
            Ok(DeviceConfig {
                id,
                size,
                ..config.clone()
            })
        }
        _ => Err(Failure::runtime(format!(
            "the state file of device {id} is of version {}, not {}: use the program that made it",
            state.version,
            State::VERSION
        ))),
    }
}
