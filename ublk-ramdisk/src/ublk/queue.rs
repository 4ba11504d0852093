// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue thread, step 1 and step 9 of a request's journey: a completion of
//! the ring becomes a tag and its descriptor, the descriptor a request; the
//! request goes to the driver, and its result back to the ring.
//!
//! One thread per queue, pinned to the CPUs whose requests the queue gets. It
//! does nothing else: no control command, no reclaim (F21). How a result is
//! committed differs: [`super::per_tag`] for all kernels, [`super::batch`] where
//! the driver has BATCH_IO.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::abi::{self, IoDesc};
use super::client_data::ClientData;
use crate::config::DataPath;
use crate::error::Exit;
use crate::mq::direct::{Operations, Queued};
use crate::mq::{Data, Limits, Op, Request, Status};
use crate::stats::QueueCounters;

/// Why a queue thread ended without having been told to.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueueError {
    #[error("cannot set up its {0}: {1}")]
    Setup(&'static str, io::Error),
    #[error(
        "cannot map its buffers, {bytes} bytes for the {depth} requests of the queue: {source}; \
         lower --depth or --io-buffer, or raise the limits on memory (`ulimit -v`, \
         vm.overcommit_memory)"
    )]
    Buffers {
        bytes: u64,
        depth: u16,
        source: io::Error,
    },
    #[error("its ring failed: {0}")]
    Ring(io::Error),
    #[error("{command} of tag {tag} was refused: {}", io::Error::from_raw_os_error(*errno))]
    Command {
        command: &'static str,
        tag: u16,
        errno: i32,
    },
    #[error("it panicked")]
    Panicked,
    #[error("another queue has failed")]
    GivenUp,
}

impl QueueError {
    /// Does the machine lack something (L1), or did something fail?
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Buffers { .. } => Exit::Environment,
            Self::Setup(_, error) => match error.raw_os_error() {
                Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EPERM | libc::ENOSYS) => {
                    Exit::Environment
                }
                _ => Exit::Failure,
            },
            Self::Ring(_) | Self::Command { .. } | Self::Panicked | Self::GivenUp => Exit::Failure,
        }
    }
}

/// What all queues of a device share.
pub(super) struct Shared {
    pub driver: Arc<dyn Operations>,
    pub char_device: Arc<File>,
    pub depth: u16,
    pub block_size: u32,
    pub io_buffer: u32,
    pub read_only: bool,
    pub path: DataPath,
    /// Readable once a queue has failed. All the others end then: a request that
    /// the failed one held is ended by the driver when /dev/ublkcN is closed, and
    /// by nothing else, and STOP_DEV would wait for it for ever.
    pub give_up: Arc<OwnedFd>,
}

/// One queue, apart from its ring.
pub(super) struct Queue {
    pub shared: Arc<Shared>,
    pub data: ClientData,
    pub counters: Arc<QueueCounters>,
}

/// What the queue does with a request that arrived.
#[must_use]
pub(super) enum Arrived {
    /// Commit it with this result (bytes, or minus errno).
    Commit(i32),
    /// Move its bytes, complete it at the driver, then commit it.
    Move(Request, Data),
}

impl Queue {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: u16,
        counters: Arc<QueueCounters>,
    ) -> Result<Self, QueueError> {
        let char_device = shared.char_device.clone();
        let data = ClientData::new(char_device, queue, shared.depth, shared.io_buffer).map_err(
            |source| QueueError::Buffers {
                bytes: u64::from(shared.depth) * u64::from(shared.io_buffer),
                depth: shared.depth,
                source,
            },
        )?;
        Ok(Self {
            shared,
            data,
            counters,
        })
    }

    /// Checks what stands under `tag` and hands it to the driver.
    #[inline]
    pub(super) fn arrive(&self, tag: u16, descriptor: IoDesc) -> Arrived {
        self.counters.insert();
        let request = match self.check(tag, descriptor) {
            Ok(request) => request,
            Err(status) => return Arrived::Commit(self.failed(status)),
        };
        match self.shared.driver.queue_rq(&request) {
            Queued::Done => Arrived::Commit(self.ended(&request, 0)),
            Queued::Failed(status) => Arrived::Commit(self.failed(status)),
            Queued::Move(data) => Arrived::Move(request, data),
        }
    }

    #[inline]
    fn check(&self, tag: u16, descriptor: IoDesc) -> Result<Request, Status> {
        let op = operation(descriptor.op_flags).ok_or(Status::NotSupp)?;
        let limits = Limits {
            size: self.shared.driver.capacity(),
            block_size: self.shared.block_size,
            max_data: self.shared.io_buffer,
            read_only: self.shared.read_only,
        };
        Request::check(
            tag,
            op,
            descriptor.start_sector,
            descriptor.nr_sectors,
            &limits,
        )
    }

    /// The bytes have been moved, or not: the driver may forget the request.
    /// Answers what to commit.
    #[inline]
    pub(super) fn moved(&self, request: &Request, outcome: Result<(), Status>) -> i32 {
        self.shared.driver.complete(request);
        match outcome {
            Ok(()) => self.ended(request, request.len()),
            Err(status) => self.failed(status),
        }
    }

    /// Counts a good end; answers the result to commit: bytes for READ and
    /// WRITE, 0 for the others (F11).
    #[inline]
    pub(super) fn ended(&self, request: &Request, moved: u64) -> i32 {
        let covered = if request.op().has_data() {
            moved
        } else {
            request.len()
        };
        self.counters.end(request.op(), covered);
        moved as i32
    }

    /// Counts a bad end; answers the result to commit.
    pub(super) fn failed(&self, status: Status) -> i32 {
        self.counters.end_with_error();
        -status.errno()
    }

    /// USER_COPY: moves the bytes now, by this thread.
    #[inline]
    pub(super) fn user_copy(&self, request: &Request, data: Data) -> Result<(), Status> {
        match (request.op(), data) {
            (Op::Write, Data::Contiguous(to)) => self.data.copy_in(request, to),
            (Op::Read, Data::Contiguous(from)) => self.data.copy_out(request, from),
            (Op::Read, Data::Zeros) => self.data.copy_out(request, self.data.zeros()),
            (Op::Read, Data::Scattered) => {
                self.data.gather(&*self.shared.driver, request, data);
                self.data.copy_out(request, self.data.buffer(request.tag()))
            }
            // Only READ may have holes, and only READ and WRITE have data.
            _ => Err(Status::IoErr),
        }
    }
}

/// The operation of a descriptor, or None if it is none of a RAM disk's.
#[inline]
pub fn operation(op_flags: u32) -> Option<Op> {
    match (op_flags & 0xff) as u8 {
        abi::OP_READ => Some(Op::Read),
        abi::OP_WRITE => Some(Op::Write),
        abi::OP_FLUSH => Some(Op::Flush),
        abi::OP_DISCARD => Some(Op::Discard),
        abi::OP_WRITE_ZEROES => {
            let keep = op_flags & abi::IO_F_NOUNMAP != 0;
            Some(Op::WriteZeroes { unmap: !keep })
        }
        _ => None,
    }
}
