// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ublk queues as every thread sees them: where the mirror of blk-mq has a worker of kblockd
//! move a request's bytes, and where it leaves the result of one that ended there (F19, F20).
//!
//! Any thread may copy: the bytes are reached by pread and pwrite, or lie in the tag's buffer. The
//! result is committed by the thread of the queue, which is told through its mailbox. A worker
//! enters no ring of a queue's thread (F22).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::client_data::ClientData;
use super::mailbox::{self, Mailbox, Post};
use super::queue::QueueError;
use super::thread::Binding;
use crate::config::DataPath;
use crate::mq::{Disk, Moved, Moving, Request, Transport};
use crate::stats::WakeUps;
use crate::sys::event;

/// What a worker has for a queue's thread: a request that has ended, and its result.
pub(super) type Letter = (Request, i32);

/// Wakes a queue's thread out of its ring: an eventfd that the ring polls.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl mailbox::Bell for Bell {
    fn ring(&self) {
        event::signal(self.0.as_fd());
    }
}

impl Bell {
    /// Readable once it has been rung, and from then on: the ring is told of each write.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What all threads share of one queue.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) data: ClientData,
    pub(super) mailbox: Mailbox<Letter, Bell>,
    pub(super) binding: Binding,
}

impl Port {
    /// Memory for every tag, and the box.
    pub(super) fn new(
        char_device: Arc<File>,
        queue: u16,
        depth: u16,
        io_buffer: u32,
    ) -> Result<Self, QueueError> {
        let data = ClientData::new(char_device, queue, depth, io_buffer).map_err(|source| {
            QueueError::Buffers {
                bytes: u64::from(depth) * u64::from(io_buffer),
                depth,
                source,
            }
        })?;
        let bell = event::eventfd().map_err(|e: io::Error| QueueError::Setup("eventfd", e))?;
        Ok(Self {
            data,
            mailbox: Mailbox::new(depth, Bell(bell)),
            binding: Binding::default(),
        })
    }
}

impl Port {
    /// How often the thread of the queue was woken for what workers had for it.
    pub(super) fn wakeups(&self) -> WakeUps {
        let Post { posted, rung } = self.mailbox.counts();
        WakeUps {
            sent: rung,
            saved: posted.saturating_sub(rung),
        }
    }
}

/// All queues of a device.
pub(super) struct Ports {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: DataPath,
    pub(super) ports: Box<[Arc<Port>]>,
}

impl Ports {
    fn of(&self, queue: u16) -> &Port {
        &self.ports[usize::from(queue)]
    }
}

impl Transport for Ports {
    fn transfer<'m>(&self, moving: Moving<'m>) -> Moved<'m> {
        let port = self.of(moving.queue());
        let (request, data) = (*moving.request(), moving.data());
        moving.done(port.data.copy(&*self.disk, self.path, &request, data))
    }

    fn end(&self, queue: u16, request: &Request, result: i32) {
        let mailbox = &self.of(queue).mailbox;
        mailbox.post(request.tag(), (*request, result));
    }
}
