// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of the queue threads: pinned, marked as serving writeback, set up,
//! reported ready, run, and reported when they end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::Sender;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::batch::Batch;
use super::per_tag::PerTag;
use super::queue::{DeviceShared, QueueError, QueueShared, UblkQueue};
use super::ring::QueueRing;
use crate::config::DataPath;
use crate::error::Failure;
use crate::mq::Submitter;
use crate::stats::QueueCounters;
use crate::sys::lock::Lock;
use crate::sys::privilege::{self, Kind};
use crate::sys::{event, thread as sys_thread};

/// Where queue threads report that they have ended. One per device, shared by its queue threads and
/// the thread that owns the [`Device`](super::device::Device). Keeps why the first of them failed.
///
/// There are two events, because a queue that ends as it should must not end the others: `event` for
/// every end, `give_up` for a failure.
#[derive(Debug)]
pub(super) struct Deaths {
    /// Written by each queue thread at its end;
    /// [`Device::death_fd`](super::device::Device::death_fd).
    event: OwnedFd,
    /// Tells the queues that one of them has failed, or that the device is closed.
    give_up: Arc<OwnedFd>,
    /// What the user is told. Later failures are only logged.
    first_error: Lock<Option<String>>,
}

impl Deaths {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            event: event::eventfd()?,
            give_up: Arc::new(event::eventfd()?),
            first_error: Lock::new(None),
        })
    }

    /// Readable once a queue thread has ended.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Ends all queue threads that have not ended.
    pub(super) fn end_all(&self) {
        event::signal(self.give_up.as_fd());
    }

    /// Readable once a queue thread has failed, or all are to end.
    pub(super) fn give_up(&self) -> Arc<OwnedFd> {
        self.give_up.clone()
    }

    /// Why the first thread that failed did so; none if none failed.
    pub(super) fn error(&self) -> Option<String> {
        self.first_error.lock().clone()
    }

    /// Called once by each queue thread, as its last act.
    fn report(&self, queue: u16, end: Result<(), QueueError>) {
        match end {
            Ok(()) | Err(QueueError::GivenUp) => {}
            // Stored before the event is written: who is woken by it finds the reason.
            Err(error) => self.note_failure(format!("queue {queue}: {error}")),
        }
        event::signal(self.event.as_fd());
    }

    fn note_failure(&self, text: String) {
        log::error!("{text}");
        self.first_error.lock().get_or_insert(text);
        self.end_all();
    }
}

/// What a queue thread needs to start.
pub(super) struct QueueThread {
    pub queue: u16,
    /// CPUs whose requests the queue gets; the thread is pinned to them.
    pub cpus: Vec<usize>,
    pub shared: Arc<DeviceShared>,
    /// What the workers of kblockd use of this queue.
    pub queue_shared: Arc<QueueShared>,
    pub counters: Arc<QueueCounters>,
    pub deaths: Arc<Deaths>,
    /// Sent once: the queue has fetched its tags, or why not.
    pub ready: Sender<Result<(), Failure>>,
}

impl QueueThread {
    /// Starts the thread, which returns its loop with the ring in it. The owner drops that once all
    /// queue threads have ended: until then the driver may still use the ring of a queue that failed
    /// with requests in flight.
    pub(super) fn spawn(self, submitter: Submitter) -> io::Result<JoinHandle<Option<Served>>> {
        std::thread::Builder::new()
            .name(format!("ublkq{}", self.queue))
            .stack_size(256 << 10)
            .spawn(move || self.main(submitter))
    }

    fn main(self, submitter: Submitter) -> Option<Served> {
        workqueue::touch_stack();
        let mut served = None;
        let serve = AssertUnwindSafe(|| self.serve(submitter, &mut served));
        let end = catch_unwind(serve).unwrap_or_else(|_| {
            // The creator may still be waiting for this thread's answer.
            let _ = self.ready.send(Err(self.failure(&QueueError::Panicked)));
            Err(QueueError::Panicked)
        });
        // Before the thread's id can be another's.
        self.queue_shared.binding.end();
        self.deaths.report(self.queue, end);
        served
    }

    fn serve(&self, submitter: Submitter, served: &mut Option<Served>) -> Result<(), QueueError> {
        match self.set_up(submitter) {
            Ok(ready) => {
                // All that it uses is open by now.
                if let Err(error) = sys_thread::own_files() {
                    log::warn!(
                        "queue {}: its table of files stays shared: {error}",
                        self.queue
                    );
                }
                privilege::confine(Kind::Queue);
                // The creator waits for every queue's answer; if it then gives
                // up, so does the loop.
                let _ = self.ready.send(Ok(()));
                match served.insert(ready) {
                    Served::PerTag(per_tag) => per_tag.run(),
                    Served::Batch(batch) => batch.run(),
                }
            }
            Err(error) => {
                // The creator reports it. Reported here, too, it would look like two failures.
                let _ = self.ready.send(Err(self.failure(&error)));
                Ok(())
            }
        }
    }

    /// What the creator shows to its user.
    fn failure(&self, error: &QueueError) -> Failure {
        error.failure(self.queue)
    }

    fn set_up(&self, submitter: Submitter) -> Result<Served, QueueError> {
        if let Err(error) = self.queue_shared.binding.begin(&self.cpus) {
            // A container may allow fewer CPUs; the queue works from any.
            log::warn!(
                "queue {}: cannot be pinned to {:?}: {error}",
                self.queue,
                self.cpus
            );
        }
        // Before the ring is made, so that its memory is taken under the flag, too (J1).
        if let Err(error) = sys_thread::set_io_flusher() {
            log::warn!(
                "queue {}: cannot be marked as I/O flusher: {error}; under memory pressure the \
                 disk may wait for itself",
                self.queue
            );
        }
        let shared = &self.shared;
        let ring = QueueRing::new(&shared.char_device, self.queue, shared.depth)
            .map_err(|e| QueueError::Setup("ring", e))?;
        let queue = UblkQueue::new(
            shared.clone(),
            self.queue_shared.clone(),
            self.counters.clone(),
        );
        Ok(match shared.path {
            DataPath::Batch | DataPath::BatchBuffer => {
                Served::Batch(Batch::start(ring, queue, submitter)?)
            }
            DataPath::UserCopy | DataPath::Buffer => {
                Served::PerTag(PerTag::start(ring, queue, submitter)?)
            }
        })
    }
}

/// A queue's loop with its ring, by data path.
pub(super) enum Served {
    PerTag(PerTag),
    Batch(Batch),
}
