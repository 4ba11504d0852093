// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue loop with one command per tag: FETCH once, then COMMIT_AND_FETCH for ever.
//!
//! Serves the data paths `user-copy` and `buffer`. With `user-copy` the server copies before it
//! commits, and no command names an address. With `buffer` every command names the tag's buffer,
//! which the driver copies a WRITE into and a READ out of (G5).

use std::os::fd::AsFd;
use std::sync::Arc;

use super::abi::{self, IO_COMMIT_AND_FETCH, IO_FETCH};
use super::queue::{insert, Port, Queue, QueueError};
use super::ring::{Completion, QueueRing, WATCHES};
use crate::config::DataPath;
use crate::mq::{Home, Lane, Moved, Moving, Request};

/// The ring's side: what the mirror hands back on the queue's own thread becomes commands here.
struct Side {
    ring: QueueRing,
    queue: Queue,
}

/// The loop's state.
pub(super) struct PerTag {
    side: Side,
    lane: Lane,
    port: Arc<Port>,
    /// Requests that have arrived together and are not in the mirror yet.
    arrived: Vec<Request>,
    depth: u16,
    /// Tags that the driver still has a command of, or a request.
    alive: usize,
}

impl PerTag {
    /// Fetches every tag. When this returns the device can be started (F3).
    pub(super) fn start(ring: QueueRing, queue: Queue, lane: Lane) -> Result<Self, QueueError> {
        let depth = queue.shared.depth;
        let port = queue.port.clone();
        let mut side = Side { ring, queue };
        for tag in 0..depth {
            side.push(IO_FETCH, tag, 0);
        }
        side.ring.submit_and_wait(0).map_err(QueueError::Ring)?;
        let mut refused = [Completion::NONE; 1];
        if side.ring.reap(&mut refused) > 0 {
            let Completion {
                user_data, result, ..
            } = refused[0];
            return Err(QueueError::Command {
                command: "FETCH",
                tag: user_data as u16,
                errno: -result,
            });
        }
        let give_up = side.queue.shared.give_up.as_fd();
        side.ring.watch_for_give_up(give_up);
        side.ring.listen(port.mailbox.bell().fd());
        Ok(Self {
            side,
            lane,
            port,
            arrived: Vec::with_capacity(usize::from(depth)),
            depth,
            alive: usize::from(depth),
        })
    }

    /// Serves until the driver has taken back every tag.
    pub(super) fn run(&mut self) -> Result<(), QueueError> {
        let mut completions = vec![Completion::NONE; usize::from(self.depth) + WATCHES];
        while self.alive > 0 {
            let want = usize::from(self.port.mailbox.arm());
            let waited = self.side.ring.submit_and_wait(want);
            self.port.mailbox.disarm();
            waited.map_err(QueueError::Ring)?;
            let count = self.side.ring.reap(&mut completions);
            self.side.queue.reaped();
            for completion in &completions[..count] {
                self.completed(completion)?;
            }
            self.read_letters();
            insert(&mut self.lane, &mut self.arrived, &mut self.side);
        }
        Ok(())
    }

    #[inline]
    fn completed(&mut self, completion: &Completion) -> Result<(), QueueError> {
        if completion.is_give_up() {
            return Err(QueueError::GivenUp);
        }
        if completion.is_bell() {
            if !completion.more() {
                self.side.ring.listen(self.port.mailbox.bell().fd());
            }
            return Ok(());
        }
        let (tag, result) = (completion.user_data as u16, completion.result);
        match result {
            abi::IO_RES_OK => self.request_arrived(tag),
            // The driver takes the tag back: the disk is going away (F4).
            result if result == -libc::ENODEV => self.alive -= 1,
            result => {
                return Err(QueueError::Command {
                    command: "COMMIT_AND_FETCH",
                    tag,
                    errno: -result,
                })
            }
        }
        Ok(())
    }

    #[inline]
    fn request_arrived(&mut self, tag: u16) {
        let descriptor = self.side.ring.descriptor(tag);
        match self.side.queue.arrive(tag, descriptor) {
            Ok(request) => self.arrived.push(request),
            Err(result) => self.side.push(IO_COMMIT_AND_FETCH, tag, result),
        }
    }

    /// Commits what has ended on other threads.
    #[inline]
    fn read_letters(&mut self) {
        let side = &mut self.side;
        let each = |_, (request, result)| side.end(&request, result);
        self.port.mailbox.take(each);
    }
}

impl Home for Side {
    #[inline]
    fn transfer<'m>(&mut self, moving: Moving<'m>) -> Moved<'m> {
        self.queue.transfer(moving)
    }

    #[inline]
    fn end(&mut self, request: &Request, result: i32) {
        self.queue.ended(request, result);
        self.push(IO_COMMIT_AND_FETCH, request.tag(), result);
    }
}

impl Side {
    /// Queues a command with the address that the data path wants.
    #[inline]
    fn push(&mut self, op: u32, tag: u16, result: i32) {
        let addr = match self.queue.shared.path {
            DataPath::Buffer => self.queue.port.data.buffer(tag).as_ptr() as u64,
            _ => 0,
        };
        // SAFETY: the address is 0 or that of the tag's buffer, which lives as long as the queue;
        // the queue is dropped after the ring.
        unsafe { self.ring.push_io(op, tag, result, addr) };
    }
}
