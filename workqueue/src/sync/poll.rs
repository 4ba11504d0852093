// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for files to become ready.
//!
//! The system calls themselves are in [`crate::sys::poll`]; here a wait is tried first and declared
//! second. Kernel counterparts: the `poll` and `epoll_wait` system calls.

use crate::pool::concurrency::blocking;
use crate::sys::poll as sys;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

pub use crate::sys::poll::{EpollEvent, PollFd};

/// Waits until one of the files is ready, for `limit` at most if one is given; how many are. What
/// is ready already is found without a wait. 0 if the time has passed.
///
/// # Errors
/// As the system call, `Interrupted` excepted: the wait goes on then.
pub fn poll(files: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<usize> {
    try_then_wait_until(limit, |d| sys::poll(files, d))
}

/// Waits until an epoll file has events, for `limit` at most if one is given; how many it wrote
/// to `events`. What has happened already is found without a wait. 0 if the time has passed.
///
/// # Errors
/// As the system call, `Interrupted` excepted: the wait goes on then.
pub fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut [EpollEvent],
    limit: Option<Duration>,
) -> io::Result<usize> {
    try_then_wait_until(limit, |d| sys::epoll_wait(epoll, events, d))
}

/// Calls without time to wait, then, if that finds nothing, once more with what there is.
fn try_then_wait_until(
    limit: Option<Duration>,
    mut call: impl FnMut(Option<Duration>) -> io::Result<usize>,
) -> io::Result<usize> {
    match call(Some(Duration::ZERO)) {
        Ok(0) if limit != Some(Duration::ZERO) => {}
        done => return done,
    }
    blocking(|| {
        let begun = Instant::now();
        loop {
            match call(limit.map(|l| l.saturating_sub(begun.elapsed()))) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // One call waits for some weeks at most.
                Ok(0) if limit.is_none_or(|l| begun.elapsed() < l) => {}
                done => return done,
            }
        }
    })
}
