// SPDX-License-Identifier: MIT OR Apache-2.0
//! `add`: from what was typed to a disk that can be opened.
//!
//! Everything that can be refused without making anything is refused here, in the user's own
//! process; then `server/` takes over, in a daemon or in the foreground.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ublk_ramdisk::config::image::Image;
use ublk_ramdisk::config::{Backing, DeviceConfig, Surroundings};
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ramdisk::store::private::Folder;
use ublk_ramdisk::sys::privilege;
use ublk_ramdisk::ublk::ctrl::Control;
use ublk_ramdisk::units::{OrOff, Size};

use super::output;
use crate::cli::AddArgs;
use crate::server::daemon;
use crate::server::protocol::{LogTarget, Served, Word};
use crate::server::run_dir::RunDir;
use crate::server::supervisor::Supervisor;
use crate::server::{page_size, Task};

/// Adds the device.
pub fn run(args: &AddArgs) -> Result<Exit, Failure> {
    let (config, run_dir, stores) = prepare(args)?;
    let result = serve(args, &config, &run_dir);
    // Unmounted now, if there is no disk in it.
    drop(stores);
    run_dir.tidy();
    result
}

/// Refuses what can be refused without making anything, and finds a place for the contents.
pub(super) fn prepare(args: &AddArgs) -> Result<(DeviceConfig, RunDir, Option<Folder>), Failure> {
    let mut config = checked(args)?;
    if let Some(OrOff::To(limit)) = args.memory.rules.memory_limit {
        if limit > config.size {
            output::warn(&format!(
                "--memory-limit {} is more than the {} of the disk: it limits a larger disk only",
                Size(limit),
                Size(config.size)
            ));
        }
    }
    // Without driver, permission or io_uring nothing is forked, locked or logged.
    drop(Control::open()?);
    if !privilege::may_administer() {
        return Err(Failure::environment(
            "adding a disk needs CAP_SYS_ADMIN: run as root",
        ));
    }
    let run_dir = RunDir::of_this_machine()?;
    run_dir.check_name(config.name.as_deref(), None)?;
    let stores = private_stores(&mut config, &run_dir)?;
    Ok((config, run_dir, stores))
}

fn serve(args: &AddArgs, config: &DeviceConfig, run_dir: &RunDir) -> Result<Exit, Failure> {
    if args.foreground {
        return serve_here(args, config, run_dir);
    }
    let (timeout, task) = (config.recovery_timeout, Task::Add(config.clone()));
    let served = in_background(args.log.clone(), timeout, run_dir, task)?;
    if served.queues < config.queues {
        output::warn(&format!(
            "--queues {}: the kernel granted {}, one per CPU at most",
            config.queues, served.queues
        ));
    }
    announce(args, &served)?;
    Ok(Exit::Done)
}

/// Finds a place for a private store, if that is asked for or nothing else is, and for what a disk with a
/// volatile cache keeps. Here, because what a
/// server mounts may go with its mount namespace.
fn private_stores(config: &mut DeviceConfig, run_dir: &RunDir) -> Result<Option<Folder>, Failure> {
    let is_private = matches!(config.backing, None | Some(Backing::Private(_)));
    let is_beside = config.volatile_cache && matches!(config.backing, Some(Backing::Tmpfs(_)));
    if !is_private && !is_beside {
        return Ok(None);
    }
    match run_dir.private_stores(config.thp) {
        Ok(folder) => {
            config.undo_dir = Some(folder.path().to_owned());
            if is_private {
                config.backing = Some(Backing::Private(folder.path().to_owned()));
            }
            Ok(Some(folder))
        }
        Err(error) if is_beside => {
            output::warn(&format!(
                "the death of the server makes everything flushed: cannot mount a tmpfs: {error}"
            ));
            Ok(None)
        }
        Err(error) if config.backing.is_some() || config.swap => Err(Failure::environment(format!(
            "--backing private: cannot mount a tmpfs: {error}; run as root, or use --backing {}, which \
             goes with its server",
            if config.swap { "hugetlb" } else { "memfd" }
        ))),
        Err(error) => {
            output::warn(&format!(
                "the contents go with the server (--backing memfd): cannot mount a tmpfs: {error}"
            ));
            Ok(None)
        }
    }
}

/// The options as one config, with the size that a backing file gives.
fn checked(args: &AddArgs) -> Result<DeviceConfig, Failure> {
    let mut device = args.device.clone();
    device.base = device.base.map(Image::found).transpose()?;
    let around = surroundings(&mut device)?;
    device.checked(&args.memory, &args.pressure, around)
}

/// What a device's rules depend on. A relative path of its backing is fixed.
pub(super) fn surroundings(device: &mut DeviceConfig) -> Result<Surroundings, Failure> {
    let mut backing_length = None;
    if let Some(Backing::Tmpfs(path)) = &mut device.backing {
        *path = absolute(path)?;
        backing_length = length(path)?;
    }
    Ok(Surroundings {
        page_size: page_size(),
        backing_length,
    })
}

/// A daemon lives in another directory, so a relative path is fixed now.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::runtime(format!("{}: {error}", path.display())))
}

/// Length of the backing file in bytes, none if it does not exist. A link is no regular file.
fn length(path: &Path) -> Result<Option<u64>, Failure> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(found.len())),
        Ok(_) => Err(Failure::usage(format!(
            "--backing tmpfs:{}: this is not a regular file",
            path.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::environment(format!(
            "--backing tmpfs:{}: {error}",
            path.display()
        ))),
    }
}

/// Starts a supervisor in the background, with a server for the task.
pub(super) fn in_background(
    log: LogTarget,
    timeout: u32,
    run_dir: &RunDir,
    task: Task,
) -> Result<Served, Failure> {
    // The daemon changes its directory.
    let log = log.absolute().map_err(daemon::not_started)?;
    daemon::start(|ready| {
        let started = Supervisor::start(Some(log), task, timeout, run_dir, &ready);
        let exit = match started {
            Ok(supervisor) => {
                // Else the command would not notice a server that ends without a word.
                drop(ready);
                supervisor.run()
            }
            Err(failure) => {
                log::error!("{failure}");
                let exit = failure.exit;
                let _ = ready.say(&Word::Failed(failure));
                exit
            }
        };
        exit as u8
    })
}

/// `--foreground`: this process is the supervisor, and the log is standard error.
fn serve_here(args: &AddArgs, config: &DeviceConfig, run_dir: &RunDir) -> Result<Exit, Failure> {
    let (waiting, ready) = daemon::pipe().map_err(daemon::not_started)?;
    let (timeout, task) = (config.recovery_timeout, Task::Add(config.clone()));
    let supervisor = Supervisor::start(None, task, timeout, run_dir, &ready)?;
    drop(ready);
    let mut supervisor = Some(supervisor);
    let ended = || match supervisor.take().map(Supervisor::run) {
        Some(exit) => format!("exit status {}", exit as u8),
        None => String::new(),
    };
    let served = waiting.hear(ended)?;
    let supervisor = supervisor.expect("the server lives");
    if let Err(failure) = announce(args, &served) {
        supervisor.abandon();
        return Err(failure);
    }
    Ok(supervisor.run())
}

/// Prints the path of the disk, or with `--json` all of it: the disk takes I/O by now.
fn announce(args: &AddArgs, served: &Served) -> Result<(), Failure> {
    output::show(args.json, served, |served| format!("{}\n", served.path)).map(drop)
}
