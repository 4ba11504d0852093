// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue thread, where a request's journey begins and ends: a completion of
//! the ring becomes a tag and its descriptor, the descriptor a request; the
//! request goes into the mirror of blk-mq by the queue's submitter, and its result back
//! to the ring.
//!
//! One thread per queue, pinned to the CPUs whose requests the queue gets. It
//! does nothing else: no control command, no reclaim (F21). What ends on another
//! thread comes back by the queue's mailbox ([`super::front_end`]). How a result is
//! committed differs: [`super::per_tag`] for all kernels, [`super::batch`] where
//! the driver has BATCH_IO.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use workqueue::CpuSet;

use super::abi::{self, IoDesc};
use super::client_data::ClientData;
use super::mailbox::{self, Mailbox, Post};
use crate::config::DataPath;
use crate::error::{Exit, Failure};
use crate::mq::{
    DataTransfer, Disk, Limits, LocalCompletion, Op, Request, Status, Submitter, TransferAnswer,
};
use crate::stats::{QueueCounters, WakeUps};
use crate::sys::lock::Lock;
use crate::sys::{event, thread as sys_thread};

/// Why a queue thread ended without having been told to.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueueError {
    /// A step before the first request failed.
    #[error("cannot set up its {0}: {1}")]
    Setup(&'static str, io::Error),
    /// The limits of the process leave no room for a buffer per tag.
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
    /// io_uring_enter failed for a reason that does not pass.
    #[error("its ring failed: {0}")]
    Ring(io::Error),
    /// The driver refused a FETCH or COMMIT, as it does for a tag that the thread does not hold
    /// (F10).
    #[error("{command} of tag {tag} was refused: {}", io::Error::from_raw_os_error(*errno))]
    Command {
        command: &'static str,
        tag: u16,
        errno: i32,
    },
    #[error("it panicked")]
    Panicked,
    /// Ended on request of a queue that failed; no failure of this one.
    #[error("another queue has failed")]
    GivenUp,
}

impl QueueError {
    /// The driver has refused a command with this errno.
    pub(super) fn refused<T>(command: &'static str, tag: u16, errno: i32) -> Result<T, Self> {
        Err(Self::Command {
            command,
            tag,
            errno,
        })
    }

    /// The exit status: does the machine lack something (L1), or did something fail?
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

    /// The failure of a device that cannot be made because of this.
    pub(super) fn failure(&self, queue: u16) -> Failure {
        Failure {
            exit: self.exit(),
            message: format!("queue {queue}: {self}"),
        }
    }
}

/// What all queues of a device share.
pub(super) struct DeviceShared {
    /// The driver, asked for the size at each arrival and for pages while bytes are moved.
    pub disk: Arc<dyn Disk>,
    /// /dev/ublkcN. The driver lets it be opened once, so all queues share it (F1).
    pub char_device: Arc<File>,
    pub depth: u16,
    /// Logical block in bytes.
    pub block_size: u32,
    /// Largest request in bytes, as ADD_DEV returned it (A2).
    pub io_buffer: u32,
    /// The kernel refuses writes to such a disk; the server checks again (H5).
    pub read_only: bool,
    pub path: DataPath,
    /// Readable once a queue has failed. All the others end then: a request that
    /// the failed one held is ended by the driver when /dev/ublkcN is closed, and
    /// by nothing else, and STOP_DEV would wait for it for ever.
    pub give_up: Arc<OwnedFd>,
}

/// What a worker has for a queue's thread: a request that has ended, and its result.
pub(super) type Message = (Request, i32);

/// Wakes a queue's thread out of its ring: an eventfd that the ring polls.
#[derive(Debug)]
pub(super) struct Waker(OwnedFd);

impl mailbox::Waker for Waker {
    fn wake(&self) {
        event::signal(self.0.as_fd());
    }
}

impl Waker {
    /// Readable from the first wake-up on; the ring's poll completes for each write.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What all threads share of one queue: its thread, the workers of kblockd that serve its refused
/// requests, and those that ask for figures.
#[derive(Debug)]
pub(super) struct QueueShared {
    /// The tags' buffers. Used by the thread that moves the bytes of a request.
    pub(super) data: ClientData,
    /// Results that workers leave for the queue thread, which alone commits (F19).
    pub(super) mailbox: Mailbox<Message, Waker>,
    /// Used by the thread itself and by the one that watches the CPUs.
    pub(super) binding: Binding,
}

impl QueueShared {
    /// Makes the buffer of every tag and the mailbox.
    ///
    /// # Errors
    /// Too little address space or memory, or no descriptor left.
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
        let event = event::eventfd().map_err(|e: io::Error| QueueError::Setup("eventfd", e))?;
        Ok(Self {
            data,
            mailbox: Mailbox::new(depth, Waker(event)),
            binding: Binding::default(),
        })
    }

    /// Moves a request's bytes on the calling thread.
    #[inline]
    pub(super) fn transfer<'m>(
        &self,
        disk: &dyn Disk,
        path: DataPath,
        transfer: DataTransfer<'m>,
    ) -> TransferAnswer<'m> {
        let (request, data) = (*transfer.request(), transfer.data());
        transfer.done(self.data.copy(disk, path, &request, data))
    }

    /// How often the thread of the queue was woken for what workers had for it.
    /// `saved` are the messages for which it was awake, or was being woken.
    pub(super) fn wakeups(&self) -> WakeUps {
        let Post { posted, woken } = self.mailbox.counts();
        WakeUps {
            sent: woken,
            saved: posted.saturating_sub(woken),
        }
    }
}

/// The CPUs that a queue thread is bound to. The kernel lets a thread run anywhere once its last CPU
/// is offline, and does not bind it again: [`Binding::follow`] does.
///
/// Holds the thread's id in the kernel and its CPUs; none before the thread began and after it ended.
#[derive(Debug, Default)]
pub(super) struct Binding(Lock<Option<(i32, Vec<usize>)>>);

impl Binding {
    /// Binds the calling thread.
    pub(super) fn begin(&self, cpus: &[usize]) -> io::Result<()> {
        *self.0.lock() = Some((sys_thread::id(), cpus.to_vec()));
        sys_thread::pin(cpus)
    }

    /// The thread is about to end, and its number to be another's.
    pub(super) fn end(&self) {
        *self.0.lock() = None;
    }

    /// Binds the thread again if one of its CPUs is online. Called when the online CPUs have
    /// changed (C27).
    pub(super) fn follow(&self, online: &CpuSet) {
        if let Some((thread, cpus)) = &*self.0.lock() {
            if cpus.iter().any(|&cpu| online.contains(cpu)) {
                // Under the lock, for which `end` waits: the id is still this thread's.
                // As at its start it works from any.
                let _bound = sys_thread::pin_thread(*thread, cpus);
            }
        }
    }
}

/// One queue, apart from its ring and its way into the mirror.
pub(super) struct UblkQueue {
    pub shared: Arc<DeviceShared>,
    pub queue_shared: Arc<QueueShared>,
    pub counters: Arc<QueueCounters>,
}

impl UblkQueue {
    pub(super) fn new(
        shared: Arc<DeviceShared>,
        queue_shared: Arc<QueueShared>,
        counters: Arc<QueueCounters>,
    ) -> Self {
        Self {
            shared,
            queue_shared,
            counters,
        }
    }

    /// Counts a request that has arrived under `tag`, and checks its descriptor. An error is the result
    /// to commit: such a request never enters the mirror.
    #[inline]
    pub(super) fn arrive(&self, tag: u16, descriptor: IoDesc) -> Result<Request, i32> {
        self.counters.insert();
        match self.check(tag, descriptor) {
            Ok(request) => Ok(request),
            Err(status) => Err(self.refuse(tag, descriptor, status)),
        }
    }

    /// Says of the first requests of a queue that are not let in what they are: the kernel should not have
    /// sent them.
    #[cold]
    fn refuse(&self, tag: u16, descriptor: IoDesc, status: Status) -> i32 {
        const TOLD: u64 = 8;
        if self.counters.refuse() <= TOLD {
            log::warn!(
                "a request is refused with {status}: tag {tag}, flags {:#x}, sector {}, {} sectors; the \
                 disk has {} bytes",
                descriptor.op_flags,
                descriptor.start_sector,
                descriptor.nr_sectors,
                self.shared.disk.capacity()
            );
        }
        -status.errno()
    }

    /// The checks of H11. The kernel has made them, but memory is not touched on its word alone.
    #[inline]
    fn check(&self, tag: u16, descriptor: IoDesc) -> Result<Request, Status> {
        let op = operation(descriptor.op_flags).ok_or(Status::NotSupp)?;
        let limits = Limits {
            // Asked anew for each request: a resize changes it (H8).
            size: self.shared.disk.capacity(),
            block_size: self.shared.block_size,
            max_data: self.shared.io_buffer,
            read_only: self.shared.read_only,
        };
        let request = Request::check(
            tag,
            op,
            descriptor.start_sector,
            descriptor.nr_sectors,
            &limits,
        )?;
        Ok(request.with_fua(descriptor.op_flags & abi::IO_F_FUA != 0))
    }

    /// Moves a request's bytes on the calling thread.
    #[inline]
    pub(super) fn transfer<'m>(&self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        let DeviceShared { disk, path, .. } = &*self.shared;
        self.queue_shared.transfer(&**disk, *path, transfer)
    }
}

/// Gives what has arrived together to the mirror: one alone, or all in order (C1, C3).
#[inline]
pub(super) fn insert(
    submitter: &mut Submitter,
    arrived: &mut Vec<Request>,
    home: &mut dyn LocalCompletion,
) {
    match &arrived[..] {
        [] => return,
        [alone] => submitter.insert(alone, home),
        together => submitter.insert_batch(together, home),
    }
    // Keeps its memory: from arrival to commit nothing is allocated (J3).
    arrived.clear();
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
            // NOUNMAP: the range stays allocated (H4).
            let keep = op_flags & abi::IO_F_NOUNMAP != 0;
            Some(Op::WriteZeroes { unmap: !keep })
        }
        _ => None,
    }
}
