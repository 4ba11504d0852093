// SPDX-License-Identifier: MIT OR Apache-2.0
//! Children that end with their owner, and waits that a signal ends.
//!
//! Children are in process groups of their own: the terminal's Ctrl-C reaches this program alone,
//! which takes down what it has begun in the right order. A disk that is taken away before its fio
//! has ended would leave both hanging.
//!
//! [`run`] is for commands that end by themselves, [`Server`] for those that serve until they are
//! dropped, [`Waiter`] for the one that is measured.

use crate::files::Failure;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// How often it is looked, where nothing is measured.
const LOOK: Duration = Duration::from_millis(50);

/// The signal that has asked this program to end, or 0.
static STOP: AtomicI32 = AtomicI32::new(0);

/// What a wait is for.
enum Event {
    Signal(i32),
    Ended(u32, io::Result<ExitStatus>),
}

/// How a wait for a child came out.
pub enum Outcome {
    /// The child has ended.
    Ended(ExitStatus),
    /// It has not, in the time it had; it was killed.
    Late,
}

/// Waits for children without looking again and again, which would disturb what is measured.
pub struct Waiter {
    events: Receiver<Event>,
    sender: Sender<Event>,
}

impl Waiter {
    /// Takes SIGINT, SIGTERM and SIGHUP from now on. Fails if they cannot be taken.
    pub fn new() -> io::Result<Self> {
        let (sender, events) = mpsc::channel();
        let own = sender.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        thread::spawn(move || {
            for signal in signals.forever() {
                STOP.store(signal, Ordering::SeqCst);
                if own.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { events, sender })
    }

    /// Waits until a child has ended, no longer than `timeout`. A child that is to end sooner gets
    /// SIGTERM, then SIGKILL. One that hangs in the kernel is waited for no further. Fails if a
    /// signal has asked this program to end. The child has ended then, too.
    pub fn wait(&self, mut child: Child, timeout: Duration) -> Result<Outcome, Failure> {
        let pid = child.id();
        let sender = self.sender.clone();
        thread::spawn(move || sender.send(Event::Ended(pid, child.wait())));
        match self.ended(pid, timeout) {
            Ok(Some(status)) => Ok(Outcome::Ended(status)),
            Ok(None) => {
                signal(pid, Signal::SIGKILL);
                Ok(Outcome::Late)
            }
            Err(stop) => {
                signal(pid, Signal::SIGTERM);
                if !matches!(self.ended(pid, Duration::from_secs(60)), Ok(Some(_))) {
                    signal(pid, Signal::SIGKILL);
                    let _gone_or_hangs = self.ended(pid, Duration::from_secs(5));
                }
                Err(stop)
            }
        }
    }

    /// Waits for the end of one child. The ends of others, which were given up before, pass by.
    fn ended(&self, pid: u32, timeout: Duration) -> Result<Option<ExitStatus>, Failure> {
        let until = Instant::now() + timeout;
        loop {
            match self
                .events
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(Event::Ended(ended, Ok(status))) if ended == pid => return Ok(Some(status)),
                Ok(Event::Ended(..)) => {}
                Ok(Event::Signal(signal)) => return Err(Failure::Stopped(signal)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }

    /// Fails if a signal has come meanwhile. Called where a step of its own has no wait.
    pub fn look(&self) -> Result<(), Failure> {
        match STOP.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(Failure::Stopped(signal)),
        }
    }
}

/// Sends a signal to a child.
fn signal(pid: u32, signal: Signal) {
    // It may have ended.
    let _gone = kill(Pid::from_raw(pid as i32), signal);
}

/// A command whose children the terminal's Ctrl-C does not reach.
pub fn apart(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.process_group(0).stdin(Stdio::null());
    command
}

/// Runs a command to its end and returns its output. The error is the last line that it printed,
/// without tabs, so that it fits into a file of names and values.
pub fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let ran = command.stdin(Stdio::null()).output();
    let ran = ran.map_err(|e| format!("{name}: {e}"))?;
    if ran.status.success() {
        return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
    }
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    match said.trim().lines().last() {
        Some(last) => Err(last.replace('\t', " ")),
        None => Err(format!("{name} ended with {}", ran.status)),
    }
}

/// A child that serves something until it is dropped.
pub struct Server(Child);

impl Server {
    /// Starts it. Fails if there is no such program.
    pub fn start(command: &mut Command) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        command
            .spawn()
            .map(Self)
            .map_err(|e| format!("{name}: {e}"))
    }

    /// Waits until something is there; false if the server ends before, or a signal comes.
    pub fn until<T>(&mut self, mut there: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            if let Some(found) = there() {
                return Some(found);
            }
            let ended = !matches!(self.0.try_wait(), Ok(None));
            if ended || STOP.load(Ordering::SeqCst) != 0 {
                return there();
            }
            thread::sleep(LOOK);
        }
    }

    /// True if the child has ended within this time.
    fn ends_within(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while Instant::now() < until {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return true;
            }
            thread::sleep(LOOK);
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        signal(self.0.id(), Signal::SIGTERM);
        if !self.ends_within(Duration::from_secs(60)) {
            signal(self.0.id(), Signal::SIGKILL);
            // One that hangs in the kernel does so until its disk is gone, which is taken away after it.
            self.ends_within(Duration::from_secs(5));
        }
    }
}

/// What is to be undone, newest first, when this is dropped.
#[derive(Default)]
pub struct Undo(Vec<Box<dyn FnOnce() -> Result<(), String>>>);

impl Undo {
    /// Adds a step.
    pub fn push(&mut self, step: impl FnOnce() -> Result<(), String> + 'static) {
        self.0.push(Box::new(step));
    }

    /// Adds a command.
    pub fn command<A: AsRef<OsStr>>(
        &mut self,
        program: impl AsRef<OsStr>,
        words: impl IntoIterator<Item = A>,
    ) {
        let mut command = apart(program);
        command.args(words);
        self.push(move || run(&mut command).map(drop));
    }

    /// Keeps a value until it is dropped in its turn: a server that ends then, a file that is closed.
    pub fn hold(&mut self, value: impl Sized + 'static) {
        self.push(move || {
            drop(value);
            Ok(())
        });
    }

    /// Takes over what another one has to undo. It is undone before what is here already.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        while let Some(step) = self.0.pop() {
            if let Err(why) = step() {
                eprintln!("could not undo: {why}");
            }
        }
    }
}
