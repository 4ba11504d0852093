// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ublk queues as every thread sees them: where the mirror of blk-mq has a worker of kblockd
//! move a request's bytes, and where it leaves the result of one that ended there (F19, F20).
//!
//! Any thread may copy: the bytes are reached by pread and pwrite, or lie in the tag's buffer. The
//! result is committed by the thread of the queue, which is told through its mailbox. A worker
//! enters no ring of a queue's thread (F22).

use std::sync::Arc;

use super::queue::Port;
use crate::config::DataPath;
use crate::mq::{Disk, Moved, Moving, Request, Transport};

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
