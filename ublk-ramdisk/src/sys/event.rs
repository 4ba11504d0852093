// SPDX-License-Identifier: MIT OR Apache-2.0
//! An eventfd: one thread signals an event, others poll for it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Makes an eventfd that is not readable yet.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    match unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the descriptor is new and nobody else's.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// Makes the eventfd readable. It cannot fail before 2^64 - 1 signals.
pub fn signal(event: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight bytes are read from a live array.
    unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}
