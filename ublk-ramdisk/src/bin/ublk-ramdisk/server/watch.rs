// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that hears signals and the death of the device, and sees to it that a server whose disk
//! is being stopped ends, even if its main thread does not.
//!
//! | event | what follows |
//! |---|---|
//! | a signal | a server in the background hands over to the next one, if the disk can be recovered and the supervisor lives |
//! | a signal, under systemd | the disk is stopped, after 30 s also while it is used; its contents are kept |
//! | a signal, otherwise | the supervisor is told, which stops and deletes the disk; without one, `del` is run |
//! | a queue thread has ended | the main loop ends; it has ten seconds for that |
//! | let go, and no request ends for five seconds | the process ends: STOP_DEV waits for a request that nobody has any more |

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use nix::sys::signal::Signal;
use ublk_ramdisk::error::Exit;
use ublk_ramdisk::sys::event;
use ublk_ramdisk::sys::lock::Lock;
use ublk_ramdisk::sys::privilege::{self, Kind};
use ublk_ramdisk::ublk::ctrl::block_path;

use super::control_socket::Caller;
use super::protocol::Note;
use super::signals::{wait_readable, EndSignals};
use super::supervisor::{ToSupervisor, INIT_PATIENCE, LOOK_AGAIN};
use super::Event;
use crate::logger;

/// Milliseconds. Time is counted in such parts, so that time in which the whole process is stopped does
/// not count.
const A_WHILE: u16 = 100;
/// How many parts the main thread has to end after its queues.
const END: u32 = 100;
/// How many parts may pass without the end of a request, once all were let go.
const REQUEST: u32 = 50;

/// What the threads of a server know of its end.
pub struct Orders {
    /// The device has stopped being served. Never cleared.
    died: AtomicBool,
    /// No request is held back any more. Never cleared.
    let_go: AtomicBool,
    /// Readable once `let_go` is set.
    let_go_event: OwnedFd,
    /// The commands that are stopping the disk, or have.
    stoppers: Lock<Vec<Caller>>,
}

/// What the thread looks at.
pub struct Watched {
    /// N of /dev/ublkbN.
    pub id: u32,
    /// Blocked in every thread.
    pub signals: EndSignals,
    /// Readable once a queue thread has ended.
    pub death: OwnedFd,
    /// Who is told of signals.
    pub supervisor: ToSupervisor,
    /// A signal means that another server is to take up the disk.
    pub hands_over: bool,
}

impl Orders {
    /// Starts the thread. It calls `wake` with what the main thread is to know. `progress` counts the requests that
    /// are with the server, and those that have ended.
    pub fn follow(
        watched: Watched,
        progress: impl Fn() -> (u64, u64) + Send + 'static,
        wake: impl Fn(Event) + Send + 'static,
    ) -> io::Result<Arc<Orders>> {
        let orders = Arc::new(Orders {
            died: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
            let_go_event: event::eventfd()?,
            stoppers: Lock::default(),
        });
        let shared = Arc::clone(&orders);
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                privilege::confine(Kind::Watch);
                watch(&watched, &shared, progress, wake);
            })?;
        Ok(orders)
    }

    /// Has the device stopped being served?
    pub fn died(&self) -> bool {
        self.died.load(Ordering::Relaxed)
    }

    /// All requests were let go: from now on they must end.
    pub fn let_go(&self) {
        self.let_go.store(true, Ordering::Relaxed);
        event::signal(self.let_go_event.as_fd());
    }

    /// A command is about to stop the disk. It is told by the end of its connection when the process
    /// has ended.
    pub fn add_stopper(&self, caller: Caller) {
        let mut stoppers = self.stoppers.lock();
        stoppers.push(caller);
    }

    /// The exit status of a server whose disk was stopped: if a command did that, the id and the state
    /// file are left to it.
    pub fn end_of_stopped(&self) -> Exit {
        let stoppers = self.stoppers.lock();
        match stoppers.iter().any(Caller::is_connected) {
            true => Exit::Done,
            false => Exit::Failure,
        }
    }
}

/// The thread.
fn watch(
    watched: &Watched,
    orders: &Orders,
    progress: impl Fn() -> (u64, u64),
    wake: impl Fn(Event),
) {
    let mut still = Standstill::default();
    loop {
        let mut files = vec![watched.signals.as_fd()];
        // Each stays readable, so it is watched only until it is.
        if !orders.died() {
            files.push(watched.death.as_fd());
            if !orders.let_go.load(Ordering::Relaxed) {
                files.push(orders.let_go_event.as_fd());
            }
        }
        let counts = orders.died() || orders.let_go.load(Ordering::Relaxed);
        let ready = match wait_readable(&files, counts.then_some(A_WHILE)) {
            Ok(ready) => ready,
            Err(error) => {
                error!("waiting for signals: {error}");
                orders.died.store(true, Ordering::Relaxed);
                return wake(Event::Died);
            }
        };
        if ready[0] {
            while let Some((signal, _)) = watched.signals.take() {
                if signal != Signal::SIGCHLD {
                    info!("{signal}");
                    terminate(watched, &wake);
                }
            }
        }
        if !orders.died() && ready.get(1) == Some(&true) {
            orders.died.store(true, Ordering::Relaxed);
            still = Standstill::default();
            wake(Event::Died);
        }
        if counts && !ready.contains(&true) {
            let gone = || !Path::new(&block_path(watched.id)).exists();
            if still.goes_on(orders.died(), progress(), gone) {
                error!("the disk does not stop, a request is lost; the server ends without it");
                logger::flush();
                std::process::exit(orders.end_of_stopped() as i32);
            }
        }
    }
}

/// Passes a signal on to the supervisor.
fn terminate(watched: &Watched, wake: impl Fn(Event)) {
    if watched.supervisor.is_systemd() {
        return end(watched.id, "stop", Some(INIT_PATIENCE));
    }
    let note = match watched.hands_over {
        true => Note::HandsOver,
        false => Note::Terminate,
    };
    let Err(error) = watched.supervisor.tell(note) else {
        if watched.hands_over {
            wake(Event::HandsOver);
        }
        return;
    };
    warn!("the supervisor has gone ({error}): the server has itself stopped and deleted");
    end(watched.id, "del", None);
}

/// Runs the command until the disk is not in use any more; after that time also if it is.
fn end(id: u32, command: &'static str, patience: Option<Duration>) {
    let begun = Instant::now();
    let is_forced = move || patience.is_some_and(|patience| begun.elapsed() >= patience);
    let started = std::thread::Builder::new()
        .name("end".to_owned())
        .spawn(move || {
            while in_another_process(id, command, is_forced()).is_ok_and(|used| used) {
                std::thread::sleep(Duration::from_millis(LOOK_AGAIN.into()));
            }
        });
    if let Err(error) = started {
        error!("a thread: {error}");
    }
}

/// Runs `del` or `stop`. True if the disk is in use.
fn in_another_process(id: u32, command: &str, force: bool) -> io::Result<bool> {
    let mut ends = Command::new("/proc/self/exe");
    let ends = ends.args([command, &id.to_string()]).stderr(Stdio::null());
    if force {
        warn!("the disk is still used, and stopped by force");
        ends.arg("--force");
    }
    let status = ends.status();
    let status = status.inspect_err(|error| error!("{command}: {error}"))?;
    Ok(status.code() == Some(Exit::InUse as i32))
}

/// How long no request has ended.
#[derive(Default)]
struct Standstill {
    ended: u64,
    parts: u32,
}

impl Standstill {
    /// Counts a part. True if that is enough: nothing is left to wait for.
    fn goes_on(&mut self, died: bool, progress: (u64, u64), gone: impl FnOnce() -> bool) -> bool {
        let (inside, ended) = progress;
        if died {
            self.parts += 1;
            return self.parts >= END;
        }
        // Once the disk is gone STOP_DEV waits for nothing but requests.
        if ended == self.ended && (inside > 0 || gone()) {
            self.parts += 1;
        } else {
            self.parts = 0;
            self.ended = ended;
        }
        self.parts >= REQUEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f04_only_a_disk_whose_requests_stand_still_is_given_up() {
        let parts = |died, progress: fn(u32) -> (u64, u64), gone: bool| {
            let mut still = Standstill::default();
            (1..=1000).find(|&part| still.goes_on(died, progress(part), || gone))
        };
        assert_eq!(parts(false, |_| (0, 7), false), None, "nobody stops it");
        assert_eq!(
            parts(false, |part| (1, part.into()), true),
            None,
            "they end"
        );
        assert_eq!(parts(false, |_| (1, 0), false), Some(REQUEST));
        assert_eq!(parts(false, |_| (0, 0), true), Some(REQUEST));
        assert_eq!(parts(true, |part| (0, part.into()), true), Some(END));
    }
}
