// SPDX-License-Identifier: MIT OR Apache-2.0
//! A socket through which another process can look at a running runtime.
//!
//! Opened by the program; served by one helper thread, one request per connection. It takes the
//! same short locks as any reading of counters, so no client can hold up a pool. Kernel
//! counterpart: `/proc/kcore` with drgn, which `wq_monitor` and `wq_dump` use there.
//!
//! Request and reply are a line of JSON each:
//!
//! | request | reply |
//! |---|---|
//! | `{"get":"sample"}` | `{"sample":{...}}`: the counters of all queues |
//! | `{"get":"snapshot"}` | `{"snapshot":{...}}`: CPUs, pools, queues, rescuers |
//! | anything else | `{"error":"..."}` |

use super::snapshot::{Sample, Snapshot};
use crate::runtime::directory::Directory;
use crate::runtime::Runtime;
use crate::sys::cpu::AbortOnUnwind;
use crate::sys::cpuset::CpuSet;
use crate::sys::socket;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A client that takes longer for its request, or to read the reply, is disconnected.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// The mode of the socket's file.
const OWNER_ONLY: u32 = 0o600;

/// An open control socket. Dropping it closes the socket and takes its path away.
#[derive(Debug)]
pub struct ControlSocket {
    dir: Arc<Directory>,
    path: PathBuf,
    /// The device and inode of the file at `path`.
    file: (u64, u64),
    /// The listening socket once more, to end the wait for callers.
    closer: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    /// Opens a Unix socket at `path`, through which the programs `wq-monitor` and `wq-dump` can
    /// look at this runtime. Only the user the process runs as may connect. A socket that a process
    /// left behind when it died is replaced.
    ///
    /// # Errors
    /// Errors of the system for the socket, its path or the helper thread; `AddrInUse` if another
    /// process listens there, or if there is a file that is no socket.
    pub fn open_control_socket(&self, path: impl AsRef<Path>) -> io::Result<ControlSocket> {
        let (dir, path) = (self.inner.clone(), path.as_ref().to_owned());
        if dir.env.is_in_forked_child() || dir.env.is_stopped() {
            return Err(io::Error::other("the runtime is shut down"));
        }
        let listener = bind(&path)?;
        let file = fs::symlink_metadata(&path)?;
        let mut socket = ControlSocket {
            closer: UnixStream::from(OwnedFd::from(listener.try_clone()?)),
            file: (file.dev(), file.ino()),
            path,
            dir: dir.clone(),
            thread: None,
        };
        let body = move || {
            let _abort = AbortOnUnwind;
            serve(&dir, &listener);
        };
        let name = "wq/control".to_owned();
        socket.thread = Some(socket.dir.env.spawn_thread(name, body)?);
        Ok(socket)
    }
}

impl ControlSocket {
    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        if self.dir.env.is_in_forked_child() {
            // The socket and its thread are the parent's.
            return;
        }
        let own = |file: fs::Metadata| (file.dev(), file.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(own) {
            // Another process may have removed it first.
            let _ignored = fs::remove_file(&self.path);
        }
        // On Linux this ends an `accept` that waits.
        let _ignored = self.closer.shutdown(Shutdown::Both);
        // A panic of the helper ends the process, so the result says nothing.
        let _ignored = thread.join();
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match socket::listen(path, OWNER_ONLY) {
        Err(e) if e.kind() == ErrorKind::AddrInUse && is_left_behind(path) => {
            fs::remove_file(path)?;
            socket::listen(path, OWNER_ONLY)
        }
        other => other,
    }
}

/// True if the path is a socket that no process listens at any more.
fn is_left_behind(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = |e: io::Error| e.kind() == ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).is_err_and(refused)
}

/// The helper's loop: one client after the other, until the socket is shut down.
fn serve(dir: &Arc<Directory>, listener: &UnixListener) {
    loop {
        match listener.accept() {
            // A client that did not get its reply notices that itself.
            Ok((caller, _)) => drop(reply_to(dir, &caller)),
            Err(e) if e.kind() == ErrorKind::InvalidInput => return,
            // Too many open files, an interrupted call: the next one may succeed.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn reply_to(dir: &Arc<Directory>, caller: &UnixStream) -> io::Result<()> {
    let reply = match receive(caller, &mut WaitBudget::of(CLIENT_TIMEOUT)) {
        Ok(_) if dir.env.is_stopped() => Reply::Error("the runtime is shut down".to_owned()),
        Ok(Request::Sample) => Reply::Sample(dir.sample()),
        Ok(Request::Snapshot) => Reply::Snapshot(Box::new(dir.snapshot())),
        Err(e) if e.kind() == ErrorKind::InvalidData => {
            Reply::Error(format!("the request is not understood: {e}"))
        }
        Err(e) => return Err(e),
    };
    send(caller, &reply, &mut WaitBudget::of(CLIENT_TIMEOUT))
}

/// The longest message, so that one end cannot make the other read for ever.
const LONGEST_LINE: usize = 16 << 20;

/// What a reader asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "get", rename_all = "lowercase")]
pub(crate) enum Request {
    Sample,
    Snapshot,
}

/// What it gets.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reply {
    Sample(Sample),
    Snapshot(Box<Snapshot>),
    Error(String),
}

impl Serialize for CpuSet {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.to_list())
    }
}

impl<'de> Deserialize<'de> for CpuSet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse_list(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no CPU list")))
    }
}

/// How long the other end may still be waited for in a message, however many pieces it comes in.
/// Only waits count: this process may be stopped between two of them.
pub(crate) struct WaitBudget(Duration);

impl WaitBudget {
    pub(crate) fn of(limit: Duration) -> Self {
        Self(limit)
    }

    /// Calls `wait` with the time that is left, and takes off what it took.
    fn spend<R>(&mut self, wait: impl FnOnce(Duration) -> io::Result<R>) -> io::Result<R> {
        if self.0.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let begun = Instant::now();
        let outcome = wait(self.0);
        self.0 = self.0.saturating_sub(begun.elapsed());
        outcome
    }
}

/// Sends a message as one line.
pub(crate) fn send(
    mut stream: &UnixStream,
    message: &impl Serialize,
    budget: &mut WaitBudget,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut rest = &line[..];
    while !rest.is_empty() {
        let written = budget.spend(|left| {
            stream.set_write_timeout(Some(left))?;
            stream.write(rest)
        });
        match written {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => rest = &rest[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Receives a message. A line that is none is an error of kind `InvalidData`.
pub(crate) fn receive<T: DeserializeOwned>(
    mut stream: &UnixStream,
    budget: &mut WaitBudget,
) -> io::Result<T> {
    let (mut line, mut piece) = (Vec::new(), [0; 4096]);
    while !line.contains(&b'\n') {
        if line.len() > LONGEST_LINE {
            return Err(ErrorKind::InvalidData.into());
        }
        let read = budget.spend(|left| {
            stream.set_read_timeout(Some(left))?;
            stream.read(&mut piece)
        });
        match read {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => line.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    serde_json::from_slice(&line).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_there_is_read_however_late() {
        let (client, server) = UnixStream::pair().unwrap();
        let limit = Duration::from_millis(1);
        let (mut to, mut from) = (WaitBudget::of(CLIENT_TIMEOUT), WaitBudget::of(limit));
        send(&client, &Request::Sample, &mut to).unwrap();
        // As after a stop of the process.
        std::thread::sleep(limit * 2);
        assert_eq!(
            receive::<Request>(&server, &mut from).unwrap(),
            Request::Sample
        );
        // Nothing more comes: the budget is used up, and not by one wait for each call.
        assert!(receive::<Request>(&server, &mut from).is_err());
        let used_up = receive::<Request>(&server, &mut from).unwrap_err();
        assert_eq!(used_up.kind(), ErrorKind::TimedOut);
    }
}
