// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals as something to read, and waiting for one of several files.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that ask for the end of the disk, readable instead of deadly, and that of a child's end.
pub struct EndSignals {
    /// Not blocking: [`EndSignals::take`] returns none if nothing has arrived.
    fd: SignalFd,
    hangup_ends: bool,
}

impl EndSignals {
    /// Blocks the signals for this thread and all it will make, so it comes before any thread.
    /// SIGHUP ends a server in the foreground, whose terminal is gone; for a daemon it means
    /// nothing.
    pub fn catch(hangup_ends: bool) -> io::Result<EndSignals> {
        let mut set = SigSet::empty();
        set.extend([
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGCHLD,
        ]);
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(EndSignals { fd, hangup_ends })
    }

    /// Takes one signal that arrived, if any, and who has sent it.
    pub fn take(&self) -> Option<(Signal, u32)> {
        loop {
            let info = self.fd.read_signal().ok().flatten()?;
            match Signal::try_from(info.ssi_signo as i32).ok()? {
                // Of no meaning to a daemon; the next one may be.
                Signal::SIGHUP if !self.hangup_ends => {}
                signal => return Some((signal, info.ssi_pid)),
            }
        }
    }
}

impl AsFd for EndSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until one of the files can be read or has ended, for `millis` at most, or for ever.
/// The answer has one entry per file.
/// An end or an error counts as readable: the next read tells which. All are false when the time is
/// over or a signal came.
pub fn wait_readable(files: &[BorrowedFd<'_>], millis: Option<u16>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd> = files
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    let timeout = millis.map_or(PollTimeout::NONE, PollTimeout::from);
    match nix::poll::poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(polled
        .iter()
        .map(|fd| fd.revents().is_some_and(|events| !events.is_empty()))
        .collect())
}
