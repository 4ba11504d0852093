// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue loop with one command per tag: FETCH once, then COMMIT_AND_FETCH for ever.
//!
//! Serves the data paths `user-copy` and `buffer`. With `user-copy` the server copies before it
//! commits, and no command names an address. With `buffer` every command names the tag's buffer,
//! which the driver copies a WRITE into and a READ out of (G5).
//!
//! The life of a tag:
//!
//! ```text
//! FETCH -> completes with 0: a request -> mirror -> COMMIT_AND_FETCH -> completes with 0 -> ...
//!       -> completes with -ENODEV: the tag is the driver's again, which ends its life here (F4)
//! ```

use std::os::fd::AsFd;
use std::sync::Arc;

use super::abi::{self, IO_COMMIT_AND_FETCH, IO_FETCH};
use super::queue::{insert, QueueError, QueueShared, UblkQueue};
use super::ring::{Completion, QueueRing, WATCHES};
use crate::config::DataPath;
use crate::mq::{DataTransfer, LocalCompletion, Request, Submitter, TransferAnswer};

/// Turns the results that the mirror hands back on the queue's own thread into COMMIT_AND_FETCH
/// commands, which bring the next request of the tag.
struct TagCommands {
    ring: QueueRing,
    queue: UblkQueue,
}

/// The loop's state. It ends when the driver has taken back every tag with -ENODEV.
pub(super) struct PerTag {
    commands: TagCommands,
    submitter: Submitter,
    queue_shared: Arc<QueueShared>,
    /// Requests that have arrived together and are not in the mirror yet.
    arrived: Vec<Request>,
    depth: u16,
    /// Tags that the driver still has a command of, or a request.
    alive: usize,
}

impl PerTag {
    /// Fetches every tag. When this returns the device can be started (F3).
    pub(super) fn start(
        ring: QueueRing,
        queue: UblkQueue,
        submitter: Submitter,
    ) -> Result<Self, QueueError> {
        let depth = queue.shared.depth;
        let queue_shared = queue.queue_shared.clone();
        let mut commands = TagCommands { ring, queue };
        for tag in 0..depth {
            commands.push(IO_FETCH, tag, 0);
        }
        commands.ring.submit_and_wait(0).map_err(QueueError::Ring)?;
        // The disk is not started, so no request can come: a completion is a refused FETCH.
        let mut refused = [Completion::NONE; 1];
        if commands.ring.reap(&mut refused) > 0 {
            let [refused] = refused;
            return QueueError::refused("FETCH", refused.user_data as u16, -refused.result);
        }
        let give_up = commands.queue.shared.give_up.as_fd();
        commands.ring.watch_for_give_up(give_up);
        commands.ring.poll_waker(queue_shared.mailbox.waker().fd());
        Ok(Self {
            commands,
            submitter,
            queue_shared,
            arrived: Vec::with_capacity(usize::from(depth)),
            depth,
            alive: usize::from(depth),
        })
    }

    /// Serves until the driver has taken back every tag.
    pub(super) fn run(&mut self) -> Result<(), QueueError> {
        let mut completions = vec![Completion::NONE; usize::from(self.depth) + WATCHES];
        while self.alive > 0 {
            // Armed: sleep for one completion. Messages waiting: submit and go on (W13).
            let want = usize::from(self.queue_shared.mailbox.arm());
            let waited = self.commands.ring.submit_and_wait(want);
            self.queue_shared.mailbox.disarm();
            waited.map_err(QueueError::Ring)?;
            let count = self.commands.ring.reap(&mut completions);
            self.commands.queue.counters.reap();
            for completion in &completions[..count] {
                self.completed(completion)?;
            }
            // Their commands go out with those of what is issued now, in one system call.
            self.read_messages();
            insert(&mut self.submitter, &mut self.arrived, &mut self.commands);
        }
        Ok(())
    }

    #[inline]
    fn completed(&mut self, completion: &Completion) -> Result<(), QueueError> {
        if completion.is_give_up() {
            return Err(QueueError::GivenUp);
        }
        if completion.is_wakeup() {
            // The kernel has ended the multishot poll (W16).
            if !completion.more() {
                self.commands
                    .ring
                    .poll_waker(self.queue_shared.mailbox.waker().fd());
            }
            return Ok(());
        }
        let (tag, result) = (completion.user_data as u16, completion.result);
        match result {
            abi::IO_RES_OK => self.request_arrived(tag),
            // The driver takes the tag back: the disk is going away (F4).
            result if result == -libc::ENODEV => self.alive -= 1,
            result => return QueueError::refused("COMMIT_AND_FETCH", tag, -result),
        }
        Ok(())
    }

    #[inline]
    fn request_arrived(&mut self, tag: u16) {
        let descriptor = self.commands.ring.descriptor(tag);
        match self.commands.queue.arrive(tag, descriptor) {
            Ok(request) => self.arrived.push(request),
            Err(result) => self.commands.push(IO_COMMIT_AND_FETCH, tag, result),
        }
    }

    /// Commits what has ended on other threads.
    #[inline]
    fn read_messages(&mut self) {
        let commands = &mut self.commands;
        let each = |_, (request, result)| commands.end(&request, result);
        self.queue_shared.mailbox.take(each);
    }
}

impl LocalCompletion for TagCommands {
    #[inline]
    fn transfer<'m>(&mut self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        self.queue.transfer(transfer)
    }

    #[inline]
    fn end(&mut self, request: &Request, result: i32) {
        self.queue.counters.ended(request, result);
        self.push(IO_COMMIT_AND_FETCH, request.tag(), result);
    }
}

impl TagCommands {
    /// Queues a command with the address that the data path wants.
    #[inline]
    fn push(&mut self, op: u32, tag: u16, result: i32) {
        let addr = match self.queue.shared.path {
            DataPath::Buffer => self.queue.queue_shared.data.buffer(tag).as_ptr() as u64,
            _ => 0,
        };
        // SAFETY: the address is 0 or that of the tag's buffer, which lives as long as the queue;
        // the queue is dropped after the ring.
        unsafe { self.ring.push_io(op, tag, result, addr) };
    }
}
