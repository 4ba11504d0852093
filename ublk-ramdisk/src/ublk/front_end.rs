// SPDX-License-Identifier: MIT OR Apache-2.0
//! The front end of the mirror as every thread sees it: a worker of kblockd that issues a request
//! moves its bytes, and leaves the result with the thread of the queue (F19, F20).
//!
//! Any thread may copy: the bytes are reached by pread and pwrite, or lie in the tag's buffer. The
//! thread of the queue commits the result; its mailbox tells it. A worker enters no ring of a
//! queue's thread (F22).

use std::sync::Arc;

use super::queue::QueueShared;
use crate::config::DataPath;
use crate::mq::{DataTransfer, Disk, FrontEnd, Request, TransferAnswer};

/// All queues of a device.
pub(super) struct UblkFrontEnd {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: DataPath,
    pub(super) queues: Box<[Arc<QueueShared>]>,
}

impl UblkFrontEnd {
    /// What the thread of `queue` shares with the caller.
    fn of(&self, queue: u16) -> &QueueShared {
        &self.queues[usize::from(queue)]
    }
}

impl FrontEnd for UblkFrontEnd {
    /// Moves the bytes on the calling worker, so that the queue thread goes on serving.
    fn transfer<'m>(&self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        let queue_shared = self.of(transfer.queue());
        queue_shared.transfer(&*self.disk, self.path, transfer)
    }

    /// Posts the result to the queue's mailbox. Allocates nothing, waits for nothing (D6).
    fn end(&self, queue: u16, request: &Request, result: i32) {
        let mailbox = &self.of(queue).mailbox;
        mailbox.post(request.tag(), (*request, result));
    }
}
