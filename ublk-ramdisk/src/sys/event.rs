// SPDX-License-Identifier: MIT OR Apache-2.0
//! An eventfd: one thread signals an event, others poll for it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Makes an eventfd that is not readable yet. Reads and writes of it never block.
pub fn eventfd() -> io::Result<OwnedFd> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    Ok(EventFd::from_flags(flags)?.into())
}

/// Makes the eventfd readable. It cannot fail before 2^64 - 1 signals.
/// Wakes every poll of it. Allocates nothing here, so workers of kblockd may call it (D6).
pub fn signal(event: BorrowedFd<'_>) {
    let _written = nix::unistd::write(event, &1u64.to_ne_bytes());
}
