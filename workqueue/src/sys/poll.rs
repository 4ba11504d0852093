// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system calls that wait for files, with the types they take.
//!
//! Called by [`crate::sync`].

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

/// A file to wait for, and what was found of it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct PollFd<'fd> {
    raw: libc::pollfd,
    _file: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> PollFd<'fd> {
    /// Waits for these events (`POLLIN` and so on).
    pub fn new(file: &'fd impl AsFd, events: i16) -> Self {
        Self {
            raw: libc::pollfd {
                fd: file.as_fd().as_raw_fd(),
                events,
                revents: 0,
            },
            _file: PhantomData,
        }
    }

    /// The events that were found, `POLLERR` and `POLLHUP` among them though nobody asked.
    pub fn ready(&self) -> i16 {
        self.raw.revents
    }
}

/// An event of an epoll file.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct EpollEvent(libc::epoll_event);

impl EpollEvent {
    /// A place for an event to be written to.
    pub const EMPTY: Self = Self(libc::epoll_event { events: 0, u64: 0 });

    /// What happened (`EPOLLIN` and so on).
    pub fn events(&self) -> u32 {
        self.0.events
    }

    /// The number the file was registered with.
    pub fn data(&self) -> u64 {
        self.0.u64
    }
}

impl std::fmt::Debug for EpollEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EpollEvent")
            .field("events", &self.events())
            .field("data", &self.data())
            .finish()
    }
}

/// Milliseconds as the calls take them: rounded up, so that no wait ends early; -1 for no limit.
fn millis(limit: Option<Duration>) -> i32 {
    limit.map_or(-1, |d| {
        i32::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
    })
}

fn count(rc: i32) -> io::Result<usize> {
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}

pub(crate) fn poll(files: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<usize> {
    let len = files.len() as libc::nfds_t;
    // SAFETY: a PollFd is a pollfd, pointer and length describe the slice, and it is ours to write.
    count(unsafe { libc::poll(files.as_mut_ptr().cast(), len, millis(limit)) })
}

pub(crate) fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut [EpollEvent],
    limit: Option<Duration>,
) -> io::Result<usize> {
    let len = i32::try_from(events.len()).unwrap_or(i32::MAX);
    let room = events.as_mut_ptr().cast();
    // SAFETY: an EpollEvent is an epoll_event, and the kernel writes at most `len` of them.
    count(unsafe { libc::epoll_wait(epoll.as_raw_fd(), room, len, millis(limit)) })
}
