// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first time that a thread enters any ring, for threads that must not meet it later (F20, J4).
//!
//! The kernel then gives the thread what it needs for rings: it allocates, and takes the lock that
//! keeps CPUs from leaving. A CPU that is leaving waits under that lock for all requests of its
//! hardware queue (C27): a worker whose first entry is the COMMIT of one of them waits for the CPU,
//! and the CPU for the worker, for ever. So each thread that may commit is here before anybody counts
//! on it, and one that was not leaves its results to the thread of the queue.

use std::cell::Cell;
use std::io;
use std::sync::{Mutex, PoisonError};

use io_uring::{opcode, IoUring};

thread_local! {
    static HAS_ENTERED: Cell<bool> = const { Cell::new(false) };
}

/// A ring for nothing but to be entered.
pub(in crate::ublk) struct FirstEntry(Mutex<IoUring>);

impl std::fmt::Debug for FirstEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FirstEntry")
    }
}

impl FirstEntry {
    pub(in crate::ublk) fn new() -> io::Result<Self> {
        IoUring::new(1).map(|ring| Self(Mutex::new(ring)))
    }

    /// The calling thread enters. May wait for a CPU that is leaving. A thread that cannot enter does
    /// not commit, and that is all.
    pub(in crate::ublk) fn pass(&self) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match enter(&mut ring) {
            Ok(()) => HAS_ENTERED.set(true),
            Err(error) => log::warn!("a worker will not commit by itself: {error}"),
        }
    }
}

/// The kernel looks at the thread only if there is something to submit.
fn enter(ring: &mut IoUring) -> io::Result<()> {
    // One that another thread has left names nothing, and is as good.
    if ring.submission().is_empty() {
        // SAFETY: a NOP names no memory.
        let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
        pushed.expect("the ring is empty");
    }
    loop {
        match ring.submit_and_wait(1) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    ring.completion().for_each(drop);
    Ok(())
}

/// Has the calling thread been through [`FirstEntry::pass`]?
#[inline]
pub(in crate::ublk) fn has_entered() -> bool {
    HAS_ENTERED.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file;
    use std::os::fd::AsRawFd;

    /// A ring, unless this machine has none.
    fn first_entry(test: &str) -> Option<FirstEntry> {
        match FirstEntry::new() {
            Ok(first) => Some(first),
            Err(error) => {
                println!("SKIP {test}: io_uring: {error}");
                assert!(std::env::var_os("CI").is_none(), "skipped under CI");
                None
            }
        }
    }

    #[test]
    fn f20_each_thread_enters_for_itself() {
        let Some(first) = first_entry("f20_first_entry") else {
            return;
        };
        for _ in 0..3 {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    assert!(!has_entered());
                    first.pass();
                    assert!(has_entered());
                    first.pass();
                });
            });
        }
        assert!(!has_entered(), "this one has not");
    }

    /// What one thread could not submit is no burden for the next.
    #[test]
    fn f20_a_thread_that_cannot_enter_does_not_commit() {
        let Some(first) = first_entry("f20_first_entry") else {
            return;
        };
        let number = first.0.lock().expect("nobody panics").as_raw_fd();
        let none = file::memfd(c"no ring", false).expect("a file");
        // SAFETY: a duplicate, which is closed below.
        let kept = unsafe { libc::dup(number) };
        let become_of = |of: i32| {
            // SAFETY: both are open, and the ring's number stays its own to close.
            let dup = unsafe { libc::dup2(of, number) };
            assert_eq!(dup, number);
        };
        let enters = || {
            let thread = std::thread::scope(|scope| {
                let pass = || {
                    first.pass();
                    has_entered()
                };
                scope.spawn(pass).join()
            });
            thread.expect("no panic")
        };
        assert!(enters());
        become_of(none.as_raw_fd());
        assert!(!enters() && !enters());
        become_of(kept);
        assert!(enters() && enters());
        // SAFETY: it is ours.
        unsafe { libc::close(kept) };
    }
}
