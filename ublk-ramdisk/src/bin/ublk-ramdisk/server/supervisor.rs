// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor: a small process with one thread, parent of a server.
//!
//! It never has /dev/ublkcN open. So it can send STOP_DEV and DEL_DEV (F23): with a request that the
//! server has lost, STOP_DEV ends only after the process that has that file open. A signal to the
//! supervisor asks for the end of the disk, one to the server for a new server, if there can be one. In
//! the foreground the command itself is the supervisor.
//!
//! | the server's end | what follows |
//! |---|---|
//! | a failure before the disk is there | what was added is deleted, contents that were there are kept |
//! | exit status 0 | nothing: a command has stopped the disk or taken it over, and has the rest |
//! | any other, after a signal that asks for a new server | a new server takes up the disk |
//! | any other, if the contents outlive the server | a new server takes up the disk, or it is stopped |
//! | the same, and another program has stopped the disk | nothing: the contents are kept |
//! | another exit status | the disk is stopped and deleted |
//! | a signal | nothing: the driver takes the disk away, and leaves the device DEAD |

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use nix::sys::signal::Signal;
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::sys::privilege::{self, Kind};
use ublk_ramdisk::ublk::ctrl::block_path;

use super::daemon::{not_started, ReadyPipe};
use super::process::{self, Child, End, Side};
use super::protocol::{LogTarget, Note, State};
use super::run_dir::{RunDir, LOOK_END};
use super::signals::{wait_readable, EndSignals};
use super::Task;
use crate::commands::machine;
use crate::logger::{self, Sink};

/// The disk is given up after this number of deaths within [`PERIOD`], if no request has ended meanwhile.
const ENOUGH: usize = 3;
/// See above.
const PERIOD: Duration = Duration::from_secs(10);
/// After a signal, how often a disk that is in use is tried again, in milliseconds.
pub const LOOK_AGAIN: u16 = 250;
/// The process that ends every other when the machine shuts down.
const INIT: u32 = 1;
/// How long users of the disk may then take. A process that uses it when this one is killed waits for
/// ever, and so would an unmount; init kills 90 s after it has asked.
pub const INIT_PATIENCE: Duration = Duration::from_secs(30);
/// How long a command may look at the lock of a server that has died.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the supervisor of a server that has handed over the disk may take to end.
const SUPERVISOR_END: Duration = Duration::from_secs(5);
/// Number of requests that are named when a disk is given up.
const REQUESTS_TOLD: usize = 4;

/// The server's way to its supervisor.
pub enum ToSupervisor {
    /// The parent.
    Parent(UnixDatagram),
    /// systemd, which needs no notes: it sees the end of the server, and starts the next.
    Systemd,
}

impl ToSupervisor {
    /// Sends a note. An error means that the supervisor is gone.
    pub fn tell(&self, note: Note) -> io::Result<()> {
        match self {
            ToSupervisor::Parent(socket) => socket.send(&serde_json::to_vec(&note)?).map(drop),
            ToSupervisor::Systemd => Ok(()),
        }
    }

    /// Does systemd supervise?
    pub fn is_systemd(&self) -> bool {
        matches!(self, ToSupervisor::Systemd)
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
    /// That of the disk.
    name: Option<String>,
    /// There are no contents yet that anybody could miss.
    is_new: bool,
    /// The right to supervise, while a new server can take up the disk.
    lock: Option<File>,
    /// The server is there, and the disk can be used.
    serving: bool,
    /// None in the foreground.
    log: Option<LogTarget>,
    /// A new server can take up the disk.
    recoverable: bool,
    /// The server was sent a signal, and ends for a new one.
    hands_over: bool,
    /// Of the servers so far.
    deaths: Deaths,
    /// Signals to this process that have asked for the end.
    signaled: u32,
    /// When the end that process 1 has asked for comes by force.
    given_up_at: Option<Instant>,
    /// The same of the server.
    told: u32,
    /// The users of the disk have been named once.
    told_waiting: bool,
}

impl Supervisor {
    /// Opens the log and forks the server. `timeout` is how long clients wait for a new one, in seconds.
    ///
    /// # Context
    /// The process has one thread.
    pub fn start(
        log: Option<LogTarget>,
        task: Task,
        timeout: u32,
        run_dir: &RunDir,
        ready: &ReadyPipe,
    ) -> Result<Supervisor, Failure> {
        // Without a log of its own it is in the foreground: SIGHUP ends the disk, and so does whatever
        // else ends this process.
        let foreground = log.is_none();
        logger::open(Sink::of(log.as_ref())?);
        privilege::confine(Kind::Supervisor);
        // Reported by the server, which cannot do it either.
        let _ = process::spare_from_oom();
        let signals = EndSignals::catch(foreground).map_err(not_started)?;
        let is_new = matches!(task, Task::Add(_));
        let (id, lock) = match &task {
            Task::TakeUp(state) | Task::Recover(state, _) => {
                let id = state.served.id;
                (Some(id), Some(run_dir.lock_supervisor(id, LOOK_END)?))
            }
            // Another supervisor has it.
            Task::TakeOver(state) => (Some(state.served.id), None),
            // Not known yet, or not this disk's yet.
            Task::Add(_) => (None, None),
        };
        let name = task.name().map(str::to_owned);
        let (server, notes) = fork(log.clone(), task, run_dir, Some(ready))?;
        process::set_name(c"ublk-supervisor");
        if let Some(id) = id {
            process::set_title("ublk-supervisor", id, name.as_deref());
        }
        Ok(Supervisor {
            run_dir: run_dir.clone(),
            signals,
            notes,
            server,
            log,
            id,
            name,
            is_new,
            lock,
            serving: false,
            deaths: Deaths::new(timeout),
            recoverable: false,
            hands_over: false,
            signaled: 0,
            given_up_at: None,
            told: 0,
            told_waiting: false,
        })
    }

    /// Watches until the server has ended and nothing is left to do; returns the exit status.
    pub fn run(mut self) -> Exit {
        let exit = self.watch();
        if let (Some(id), Some(lock)) = (self.id, self.lock.take()) {
            self.run_dir.end_supervisor(id, lock);
        }
        exit
    }

    fn watch(&mut self) -> Exit {
        loop {
            self.wait();
            match self.server.try_end() {
                Ok(None) if self.deaths.is_overdue() => {
                    // A new server that hangs.
                    self.server.kill();
                }
                Ok(None) => {}
                Ok(Some(end)) => match self.after(end) {
                    None => continue,
                    Some(exit) => return exit,
                },
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
        // After the first signal the disk is tried again, and for a new server there is a deadline, so
        // the wait has a limit.
        let limit = self.asked() > 0 && self.serving || self.deaths.since.is_some();
        let limit = limit.then_some(LOOK_AGAIN);
        if self.asked() < 2 || !self.serving {
            let files = [self.signals.as_fd(), self.notes.as_fd()];
            if let Err(error) = wait_readable(&files, limit) {
                error!("waiting for signals: {error}");
                std::thread::sleep(std::time::Duration::from_millis(LOOK_AGAIN.into()));
            }
        }
        while let Some((signal, sender)) = self.signals.take() {
            if signal != Signal::SIGCHLD {
                info!("{signal}");
                self.signaled += 1;
                if sender == INIT {
                    self.given_up_at = Some(Instant::now() + INIT_PATIENCE);
                }
            }
        }
        if self.given_up_at.is_some_and(|at| at <= Instant::now()) {
            self.signaled = 2;
        }
        let mut note = [0; 64];
        while let Ok(length) = self.notes.recv(&mut note) {
            match serde_json::from_slice(&note[..length]) {
                Ok(Note::Added(id)) => {
                    process::set_title("ublk-supervisor", id, self.name.as_deref());
                    self.id = Some(id);
                }
                Ok(Note::Serving { recoverable }) => {
                    self.serving = true;
                    self.recoverable = recoverable;
                    self.take_lock();
                    self.deaths.since = None;
                }
                Ok(Note::TakenOver) => {
                    self.recoverable = true;
                    self.deaths.since = Some(Instant::now());
                }
                Ok(Note::HandsOver) => self.hands_over = true,
                Ok(Note::Terminate) => self.told += 1,
                Err(error) => error!("a note of the server: {error}"),
            }
        }
    }

    /// Only one supervisor starts servers for a disk.
    fn take_lock(&mut self) {
        let (None, true, Some(id)) = (&self.lock, self.recoverable, self.id) else {
            return;
        };
        // A former one ends with its server.
        match self.run_dir.lock_supervisor(id, SUPERVISOR_END) {
            Ok(lock) => self.lock = Some(lock),
            Err(failure) => {
                error!("{failure}");
                self.recoverable = false;
            }
        }
    }

    /// A signal asks for the end of the disk. None while the disk is in use.
    fn delete(&mut self, id: u32) -> Option<Exit> {
        let force = self.asked() > 1;
        if force {
            warn!("second signal: stopping {} by force", block_path(id));
        }
        match in_child(|| machine::delete(&self.run_dir, id, force)) {
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

    /// What is to be done after the server's end. None if there is a new server.
    fn after(&mut self, end: End) -> Option<Exit> {
        let handed_over = std::mem::take(&mut self.hands_over);
        if end == End::Exited(0) {
            return Some(Exit::Done);
        }
        let was_serving = std::mem::take(&mut self.serving);
        // It has a state file from when it can be used.
        let is_known = |id: &u32| self.recoverable && self.run_dir.state_path(*id).exists();
        if let Some(id) = self.id.filter(is_known) {
            // A disk that was stopped from outside has no node any more.
            let is_there = Path::new(&block_path(id)).exists();
            if is_there && self.asked() < 2 {
                return match handed_over {
                    true => self.replace(id),
                    false => self.restart(id, end, was_serving),
                };
            }
            if !is_there && self.asked() == 0 {
                info!("the contents of device {id} are kept until `recover` or `del`");
                return Some(Exit::Failure);
            }
        }
        if matches!(end, End::Killed { .. }) && was_serving {
            error!("the server has ended: {end}");
            return Some(Exit::Failure);
        }
        // What could not be taken up stays as it is.
        if let (Some(id), true) = (self.id, was_serving || self.is_new) {
            // Once more if need be: what failed may be what has ended the server.
            let deleted = machine::delete(&self.run_dir, id, true);
            if let Err(failure) = deleted.or_else(|_| machine::delete(&self.run_dir, id, true)) {
                error!("cleaning up: {failure}");
            }
        }
        Some(Exit::Failure)
    }

    /// Starts a new server, unless enough have died.
    fn restart(&mut self, id: u32, end: End, was_serving: bool) -> Option<Exit> {
        error!("the server of {} has ended: {end}", block_path(id));
        if let Some(pause) = self.deaths.count(was_serving, requests_done(id)) {
            std::thread::sleep(pause);
            let state = self.run_dir.state(id).map(|state| State {
                restarts: state.restarts + u32::from(was_serving),
                last_end: Some(end.to_string()),
                waits_since: state.waits_since.or_else(|| Some(super::now())),
                ..state
            });
            // For `list`, and for `recover` if this process dies, too.
            let lock = self.run_dir.lock(id, LOCK_TIMEOUT);
            if let (Ok(lock), Some(state)) = (lock, state) {
                let written = lock.write_state(&state);
                written.unwrap_or_else(|failure| error!("{failure}"));
            }
            return self.replace(id);
        }
        self.give_up(id)
    }

    /// Starts a new server, for which clients wait.
    fn replace(&mut self, id: u32) -> Option<Exit> {
        let state = self.run_dir.state(id).ok_or_else(|| {
            Failure::runtime(format!("device {id} has no state file that can be read"))
        });
        let since = *self.deaths.since.get_or_insert_with(Instant::now);
        let task = state.map(|state| Task::Recover(state, since));
        match task.and_then(|task| fork(self.log.clone(), task, &self.run_dir, None)) {
            Ok((server, notes)) => {
                (self.server, self.notes) = (server, notes);
                info!("a new server takes up {}", block_path(id));
                None
            }
            Err(failure) => {
                error!("{failure}");
                self.give_up(id)
            }
        }
    }

    /// Stops the disk; its contents are kept.
    fn give_up(&self, id: u32) -> Option<Exit> {
        error!(
            "{} is stopped, its contents are kept; not ended: {}",
            block_path(id),
            requests_inside(id)
        );
        let stopped = machine::stop(&self.run_dir, id, true);
        stopped.unwrap_or_else(|failure| error!("{failure}"));
        Some(Exit::Failure)
    }
}

/// Does what makes a ring in a process of its own: the threads of a ring stay, and a process that has
/// any can fork no server.
fn in_child(work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let (reader, writer) = io::pipe().map_err(not_started)?;
    match process::fork().map_err(not_started)? {
        Side::Parent(child) => {
            drop(writer);
            let said = serde_json::from_reader(reader);
            let end = child.end().map_err(not_started)?;
            said.unwrap_or_else(|_| Err(Failure::runtime(format!("it has ended: {end}"))))
        }
        Side::Child => {
            drop(reader);
            let _ = serde_json::to_writer(writer, &work());
            std::process::exit(0)
        }
    }
}

/// Forks a server, and returns it with the place where its notes arrive.
fn fork(
    log: Option<LogTarget>,
    task: Task,
    run_dir: &RunDir,
    ready: Option<&ReadyPipe>,
) -> Result<(Child, UnixDatagram), Failure> {
    let (notes, to_supervisor) = UnixDatagram::pair().map_err(not_started)?;
    notes.set_nonblocking(true).map_err(not_started)?;
    match process::fork().map_err(not_started)? {
        Side::Parent(server) => Ok((server, notes)),
        Side::Child => {
            drop(notes);
            process::set_name(c"ublk-ramdisk");
            let left = process::leave_terminal(log.is_none());
            let supervisor = ToSupervisor::Parent(to_supervisor);
            let exit = super::run(left, log, task, run_dir, supervisor, ready);
            logger::flush();
            std::process::exit(exit as i32)
        }
    }
}

/// Requests of a disk that have ended, by the kernel's own count.
fn requests_done(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/sys/block/ublkb{id}/stat")).unwrap_or_default();
    let fields: Vec<u64> = stat
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // Reads, writes, discards, flushes.
    [0, 4, 11, 15].iter().filter_map(|&at| fields.get(at)).sum()
}

/// Some requests that have not ended, as debugfs shows them where it is mounted.
fn requests_inside(id: u32) -> String {
    let place = Path::new("/sys/kernel/debug/block").join(format!("ublkb{id}"));
    let queues = fs::read_dir(&place).into_iter().flatten().flatten();
    let queues = queues.map(|entry| entry.path().join("busy"));
    let files = queues.chain([place.join("requeue_list")]);
    let texts: String = files
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect();
    let lines: Vec<&str> = texts.lines().take(REQUESTS_TOLD).collect();
    match lines.is_empty() {
        true => "none that debugfs shows".to_owned(),
        false => lines.join("; "),
    }
}

/// The deaths of a disk's servers: how long clients have waited, and when it is enough.
struct Deaths {
    /// None for ever.
    timeout: Option<Duration>,
    /// When the last server died that served. None while one serves.
    since: Option<Instant>,
    /// When servers died, and how many requests had ended by then.
    last: Vec<(Instant, u64)>,
}

impl Deaths {
    /// `timeout` in seconds, 0 for ever.
    fn new(timeout: u32) -> Deaths {
        Deaths {
            timeout: (timeout > 0).then(|| Duration::from_secs(timeout.into())),
            since: None,
            last: Vec::new(),
        }
    }

    /// Have clients waited too long?
    fn is_overdue(&self) -> bool {
        let waited = self.since.map(|since| since.elapsed());
        waited
            .zip(self.timeout)
            .is_some_and(|(waited, timeout)| waited >= timeout)
    }

    /// Counts one, after `done` requests. Returns how long to wait before the next server is started;
    /// none if it is enough.
    fn count(&mut self, was_serving: bool, done: u64) -> Option<Duration> {
        let now = Instant::now();
        self.since.get_or_insert(now);
        if self.is_overdue() {
            return None;
        }
        self.last
            .retain(|(at, before)| now - *at < PERIOD && *before == done);
        self.last.push((now, done));
        let times = self.last.len();
        if was_serving && times >= ENOUGH {
            return None;
        }
        // At once, then after 100 ms, 200 ms and so on, up to two seconds.
        let pause = Duration::from_millis(100) * (1 << times.min(6)) / 2;
        Some(if times == 1 {
            Duration::ZERO
        } else {
            pause.min(Duration::from_secs(2))
        })
    }
}
