// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor: a small process with one thread, parent of a server.
//!
//! It never has /dev/ublkcN open. So it can send STOP_DEV and DEL_DEV (F23): with a request that the
//! server has lost, STOP_DEV ends only after the process that has that file open. A signal to the
//! supervisor, or to the server, asks for the end of the disk. In the foreground the command itself
//! is the supervisor.
//!
//! | the server's end | what follows |
//! |---|---|
//! | a failure before the disk is there | the device is deleted if it was added |
//! | exit status 0 | nothing: a command has stopped the disk, and has the rest |
//! | another exit status | the disk is stopped and deleted |
//! | a signal | nothing: the driver takes the disk away, and leaves the device DEAD |

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use log::{error, info, warn};
use nix::sys::signal::Signal;
use ublk_ramdisk::config::DeviceConfig;
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::ctrl::block_path;

use super::daemon::{not_started, ReadyPipe};
use super::process::{self, Child, End, Side};
use super::protocol::Note;
use super::run_dir::RunDir;
use super::signals::{wait_readable, EndSignals};
use crate::commands::machine;
use crate::logger::{self, Sink};

/// After a signal, how often a disk that is in use is tried again, in milliseconds.
pub const LOOK_AGAIN: u16 = 250;

/// The server's way to its supervisor.
pub struct ToSupervisor(UnixDatagram);

impl ToSupervisor {
    /// Sends a note. An error means that the supervisor is gone.
    pub fn tell(&self, note: Note) -> io::Result<()> {
        self.0.send(&serde_json::to_vec(&note)?).map(drop)
    }
}

/// A server as its parent sees it.
pub struct Supervisor {
    run_dir: RunDir,
    signals: EndSignals,
    notes: UnixDatagram,
    server: Child,
    /// From ADD_DEV on.
    id: Option<u32>,
    /// The disk can be used.
    serving: bool,
    /// Signals to this process that have asked for the end.
    signaled: u32,
    /// The same of the server.
    told: u32,
    /// The users of the disk have been named once.
    told_waiting: bool,
}

impl Supervisor {
    /// Opens the log and forks the server, which says through `ready` what became of it.
    ///
    /// # Context
    /// The process has one thread.
    pub fn start(
        sink: Sink,
        config: &DeviceConfig,
        run_dir: &RunDir,
        ready: &ReadyPipe,
    ) -> Result<Supervisor, Failure> {
        // A log on standard error means the foreground: SIGHUP ends the disk, and so does whatever
        // else ends this process.
        let foreground = matches!(sink, Sink::Stderr);
        logger::open(sink);
        // Reported by the server, which cannot do it either.
        let _ = process::spare_from_oom();
        let signals = EndSignals::catch(foreground).map_err(not_started)?;
        let (notes, to_supervisor) = UnixDatagram::pair().map_err(not_started)?;
        match process::fork().map_err(not_started)? {
            Side::Parent(server) => {
                process::set_name(c"ublk-supervisor");
                notes.set_nonblocking(true).map_err(not_started)?;
                Ok(Supervisor {
                    run_dir: run_dir.clone(),
                    signals,
                    notes,
                    server,
                    id: None,
                    serving: false,
                    signaled: 0,
                    told: 0,
                    told_waiting: false,
                })
            }
            Side::Child => {
                drop((signals, notes));
                let left = process::leave_terminal(foreground);
                let to_supervisor = ToSupervisor(to_supervisor);
                let exit = super::run(left, foreground, config, run_dir, to_supervisor, ready);
                logger::flush();
                std::process::exit(exit as i32)
            }
        }
    }

    /// Watches until the server has ended and nothing is left to do; returns the exit status.
    pub fn run(mut self) -> Exit {
        loop {
            self.wait();
            match self.server.try_end() {
                Ok(None) => {}
                Ok(Some(end)) => return self.after(end),
                Err(error) => {
                    error!("waiting for the server: {error}");
                    return Exit::Failure;
                }
            }
            if let (true, true, Some(id)) = (self.asked() > 0, self.serving, self.id) {
                if let Some(exit) = self.delete(id) {
                    return exit;
                }
            }
        }
    }

    /// The disk is not wanted any more.
    pub fn abandon(mut self) {
        self.signaled = 2;
        self.run();
    }

    /// How often the end was asked for. The second time does not wait for users. Who signals every process
    /// of the disk once has asked once.
    fn asked(&self) -> u32 {
        self.signaled.max(self.told)
    }

    /// Waits for signals and notes, and takes them.
    fn wait(&mut self) {
        // After the first signal the disk is tried again, so the wait has a limit.
        let limit = (self.asked() > 0 && self.serving).then_some(LOOK_AGAIN);
        if self.asked() < 2 || !self.serving {
            let files = [self.signals.as_fd(), self.notes.as_fd()];
            if let Err(error) = wait_readable(&files, limit) {
                error!("waiting for signals: {error}");
                std::thread::sleep(std::time::Duration::from_millis(LOOK_AGAIN.into()));
            }
        }
        while let Some(signal) = self.signals.take() {
            if signal != Signal::SIGCHLD {
                info!("{signal}");
                self.signaled += 1;
            }
        }
        let mut note = [0; 64];
        while let Ok(length) = self.notes.recv(&mut note) {
            match serde_json::from_slice(&note[..length]) {
                Ok(Note::Added(id)) => self.id = Some(id),
                Ok(Note::Serving) => self.serving = true,
                Ok(Note::Terminate) => self.told += 1,
                Err(error) => error!("a note of the server: {error}"),
            }
        }
    }

    /// A signal asks for the end of the disk. None while the disk is in use.
    fn delete(&mut self, id: u32) -> Option<Exit> {
        let force = self.asked() > 1;
        if force {
            warn!("second signal: stopping {} by force", block_path(id));
        }
        match machine::delete(&self.run_dir, id, force) {
            Ok(()) => {
                info!("{} is gone", block_path(id));
                let _ = self.server.end();
                Some(if force { Exit::Failure } else { Exit::Done })
            }
            Err(failure) if failure.exit == Exit::InUse => {
                if !self.told_waiting {
                    warn!("{failure} (or a second signal); waiting");
                    self.told_waiting = true;
                }
                None
            }
            Err(failure) => {
                error!("{failure}");
                // Its end takes the disk away.
                self.server.kill();
                let _ = self.server.end();
                Some(Exit::Failure)
            }
        }
    }

    /// What is to be done after the server's end.
    fn after(self, end: End) -> Exit {
        match end {
            End::Exited(0) => return Exit::Done,
            End::Killed { .. } if self.serving => {
                error!("the server has ended: {end}");
                return Exit::Failure;
            }
            _ => {}
        }
        if let Some(id) = self.id {
            // Once more if need be: what failed may be what has ended the server.
            let deleted = machine::delete(&self.run_dir, id, true);
            if let Err(failure) = deleted.or_else(|_| machine::delete(&self.run_dir, id, true)) {
                error!("cleaning up: {failure}");
            }
        }
        Exit::Failure
    }
}
