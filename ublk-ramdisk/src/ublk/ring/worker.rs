// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ring by which workers commit what they have ended (F20). It is none of a queue thread's: that
//! is never entered by a worker (F22). Who has the ring waits for the answer, so nothing is ever
//! under way in it between two.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{squeue, IoUring};

use super::{batch_command, CmdSqe, ELEMENT};
use crate::ublk::abi::{self, BatchElem};
use crate::ublk::commit::Sends;

/// See the file's header.
pub(in crate::ublk) struct WorkerRing {
    ring: IoUring,
    /// Not registered with the ring, which the kernel may keep for a while when it has been closed.
    char_device: Arc<File>,
    queue: u16,
    /// A command was queued and the kernel did not take it. It names memory that is another's by
    /// now, so the ring is never entered again.
    is_stuck: bool,
}

impl std::fmt::Debug for WorkerRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WorkerRing of queue {}", self.queue)
    }
}

impl WorkerRing {
    /// A ring for one command at a time on a queue of `char_device`.
    pub(in crate::ublk) fn new(char_device: Arc<File>, queue: u16) -> io::Result<Self> {
        Ok(Self {
            // Entered by many threads, so without the flags of a queue's own ring.
            ring: IoUring::new(1)?,
            char_device,
            queue,
            is_stuck: false,
        })
    }

    fn push(&mut self, elements: &[BatchElem]) {
        let words = batch_command(self.queue, elements.len() as u16, ELEMENT);
        let mut sqe = CmdSqe::new(abi::IO_COMMIT_BATCH, words, 0);
        (sqe.flags, sqe.fd) = (0, self.char_device.as_raw_fd());
        sqe.addr = elements.as_ptr() as u64;
        sqe.len = size_of_val(elements) as u32;
        // SAFETY: both are the kernel's 64-byte submission entry.
        let entry = unsafe { std::mem::transmute::<CmdSqe, squeue::Entry>(sqe) };
        // SAFETY: `send` returns when the kernel is done with the elements, or sees to it that it
        // never begins.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("the ring has a place, and nothing is under way in it");
    }
}

impl Sends for WorkerRing {
    fn send(&mut self, elements: &[BatchElem]) -> io::Result<i32> {
        if self.is_stuck {
            return Err(io::Error::from_raw_os_error(libc::EBADFD));
        }
        self.push(elements);
        loop {
            // The driver answers a COMMIT before it is through with taking it.
            let entered = self.ring.submit_and_wait(1);
            if let Some(answer) = self.ring.completion().next() {
                return Ok(answer.result());
            }
            match entered {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) if !self.ring.submission().is_empty() => {
                    self.is_stuck = true;
                    return Err(error);
                }
                // The kernel has the command: its answer is waited for.
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file;

    /// A ring over a file that stands in for /dev/ublkcN, unless this machine has no io_uring.
    fn ring(test: &str) -> Option<WorkerRing> {
        let file = file::memfd(c"worker-ring-test", false).expect("a file");
        match WorkerRing::new(Arc::new(file), 0) {
            Ok(ring) => Some(ring),
            Err(error) => {
                println!("SKIP {test}: io_uring: {error}");
                assert!(std::env::var_os("CI").is_none(), "skipped under CI");
                None
            }
        }
    }

    /// F20, F22: it is no thread's own, each that has it gets its answer. The file takes no commands.
    #[test]
    fn f20_any_thread_that_has_the_ring_is_answered() {
        let Some(mut ring) = ring("f20_ring") else {
            return;
        };
        for _ in 0..3 {
            let elements = [BatchElem::default(); 4];
            let ring = &mut ring;
            let answer = std::thread::scope(|scope| {
                let worker = scope.spawn(|| ring.send(&elements));
                worker.join().expect("no panic")
            });
            assert_eq!(answer.expect("entered"), -libc::EOPNOTSUPP);
        }
    }

    /// A command that the kernel has not taken is not sent later, when its memory is another's.
    #[test]
    fn f20_a_ring_that_holds_a_command_is_not_entered_again() {
        let Some(mut ring) = ring("f20_ring") else {
            return;
        };
        let real = file::memfd(c"no ring", false).expect("a file");
        // SAFETY: both are open, and the ring's number stays its own to close.
        let no_ring = unsafe { libc::dup2(real.as_raw_fd(), ring.ring.as_raw_fd()) };
        assert_eq!(no_ring, ring.ring.as_raw_fd());
        let refused = ring.send(&[BatchElem::default()]).expect_err("no ring");
        assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP));
        let again = ring.send(&[BatchElem::default()]).expect_err("stuck");
        assert_eq!(again.raw_os_error(), Some(libc::EBADFD));
    }
}
