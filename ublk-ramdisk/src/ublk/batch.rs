// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue loop of the `batch` data paths (F14): one multishot FETCH brings
//! tags by the handful, their bytes are moved by USER_COPY, and one COMMIT takes
//! the results of all that ended together. With `batch-buffer` the driver copies to
//! and from the tags' buffers, which each element names (G17).
//!
//! One turn of the loop:
//!
//! ```text
//! arm the mailbox, submit what is queued, sleep if there is nothing to do
//! each completion   FETCH: its tags are checked, to `arrived` or, if refused, to `results`
//!                   COMMIT: its elements are free, or the rest is sent again
//! mailbox           what workers have ended, to `results`
//! insert            `arrived` into the mirror; what ends at once, to `results`
//! commit            all `results` in one COMMIT, sent by the next turn
//! ```

use std::mem::size_of;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::abi::{self, BatchElem};
use super::commit::{element, Commit};
use super::queue::{insert, QueueError, QueueShared, UblkQueue};
use super::ring::{Completion, FetchBuffers, QueueRing, WATCHES};
use crate::config::DataPath;
use crate::mq::{DataTransfer, LocalCompletion, Request, Submitter, TransferAnswer};

// `user_data` of the commands: the kind from bit 32 on, and of a COMMIT its index below.
const FETCH: u64 = 1 << 32;
const COMMIT: u64 = 2 << 32;
const PREP: u64 = 3 << 32;
const KIND: u64 = !0 << 32;

/// Commits that may be under way at once. A tag is in one of them at most.
const COMMITS: usize = 8;
/// Buffers for tags, a power of two; each holds all tags of the queue.
const FETCH_BUFFERS: u16 = 8;

/// Takes what the mirror hands back on the queue's own thread, until it is put into a COMMIT.
struct Results {
    /// Counts, checks, and moves bytes; never enters the ring.
    queue: UblkQueue,
    /// Those that are in no COMMIT yet.
    elements: Vec<BatchElem>,
    /// Requests that have been taken in, and whose results have not come here.
    inside: u64,
}

impl Results {
    #[inline]
    fn push(&mut self, tag: u16, result: i32) {
        self.elements.push(element(tag, result));
    }
}

impl LocalCompletion for Results {
    #[inline]
    fn transfer<'m>(&mut self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        self.queue.transfer(transfer)
    }

    #[inline]
    fn end(&mut self, request: &Request, result: i32) {
        self.inside -= 1;
        self.queue.counters.ended(request, result);
        self.push(request.tag(), result);
    }
}

/// The loop's state. Fields are dropped in this order: the ring goes before the memory that its
/// commands name.
pub(super) struct Batch {
    ring: QueueRing,
    submitter: Submitter,
    queue_shared: Arc<QueueShared>,
    results: Results,
    /// Requests that have arrived together and are not in the mirror yet.
    arrived: Vec<Request>,
    depth: u16,
    /// Where the driver puts the numbers of tags that have a request.
    buffers: FetchBuffers,
    /// Their elements are the driver's while a COMMIT is under way.
    commits: Vec<Commit>,
    /// A FETCH stands in the driver, or is about to be submitted. Cleared by -ENODEV: no request
    /// comes any more, and what is inside is still committed.
    fetching: bool,
}

impl Batch {
    /// Prepares every tag. When this returns the device can be started (F3).
    pub(super) fn start(
        mut ring: QueueRing,
        queue: UblkQueue,
        submitter: Submitter,
    ) -> Result<Self, QueueError> {
        let depth = queue.shared.depth;
        let has_addresses = queue.shared.path == DataPath::BatchBuffer;
        let mut prep = Commit::new(depth, has_addresses);
        prep.fill((0..depth).map(|tag| element(tag, 0)), |tag| {
            queue.queue_shared.data.buffer(tag).as_ptr() as u64
        });
        let ((at, count), element) = (prep.rest(), prep.element_bytes());
        // SAFETY: the elements live until the completion below.
        unsafe { ring.push_batch(abi::IO_PREP_BATCH, at, count, element, PREP) };
        ring.submit_and_wait(1).map_err(QueueError::Ring)?;
        // The first completion of the ring is PREP's: nothing else has been submitted.
        let mut answer = [Completion::NONE; 1];
        ring.reap(&mut answer);
        if answer[0].result != 0 {
            return QueueError::refused("PREP_IO_CMDS", 0, -answer[0].result);
        }
        let buffers = FetchBuffers::register(&ring, FETCH_BUFFERS, usize::from(depth))
            .map_err(|e| QueueError::Setup("fetch buffers", e))?;
        // Before anyone hears that the queue is ready: STOP_DEV ends the fetch
        // that stands, not one that comes after it.
        ring.push_batch_fetch(FETCH);
        ring.submit_and_wait(0).map_err(QueueError::Ring)?;
        ring.watch_for_give_up(queue.shared.give_up.as_fd());
        ring.poll_waker(queue.queue_shared.mailbox.waker().fd());
        let commit = || Commit::new(depth, has_addresses);
        Ok(Self {
            ring,
            submitter,
            queue_shared: queue.queue_shared.clone(),
            results: Results {
                queue,
                elements: Vec::with_capacity(usize::from(depth)),
                inside: 0,
            },
            arrived: Vec::with_capacity(usize::from(depth)),
            depth,
            buffers,
            commits: std::iter::repeat_with(commit).take(COMMITS).collect(),
            fetching: true,
        })
    }

    /// Serves until the driver ends the fetch and every commit is through.
    pub(super) fn run(&mut self) -> Result<(), QueueError> {
        let room = usize::from(self.depth).max(16) + WATCHES;
        let mut completions = vec![Completion::NONE; room];
        while self.is_needed() {
            // A COMMIT completes as soon as it is submitted: to be woken by it
            // alone would cost a second system call per wake.
            let want = usize::from(self.fetching) + self.committing();
            // With a message waiting, submit and go on without a sleep (W13).
            let may_sleep = self.queue_shared.mailbox.arm();
            let want = if may_sleep { want.max(1) } else { 0 };
            self.ring.submit_and_wait(want).map_err(QueueError::Ring)?;
            self.queue_shared.mailbox.disarm();
            let count = self.ring.reap(&mut completions);
            self.results.queue.counters.reap();
            for &completion in &completions[..count] {
                self.completed(completion)?;
            }
            // The order makes one COMMIT of all that ended in this turn: here what workers ended,
            // below what is issued directly.
            self.read_messages();
            insert(&mut self.submitter, &mut self.arrived, &mut self.results);
            self.commit();
        }
        Ok(())
    }

    /// True if anything is still to come, or to be committed.
    fn is_needed(&self) -> bool {
        let Results {
            elements, inside, ..
        } = &self.results;
        self.fetching || *inside > 0 || !elements.is_empty() || self.committing() > 0
    }

    #[inline]
    fn completed(&mut self, completion: Completion) -> Result<(), QueueError> {
        if completion.is_give_up() {
            return Err(QueueError::GivenUp);
        }
        if completion.is_wakeup() {
            if !completion.more() {
                self.ring.poll_waker(self.queue_shared.mailbox.waker().fd());
            }
            return Ok(());
        }
        match completion.user_data & KIND {
            FETCH => self.fetched(completion),
            _ => self.committed(completion),
        }
    }

    /// Takes the results that workers of kblockd have left for this queue.
    #[inline]
    fn read_messages(&mut self) {
        let results = &mut self.results;
        let each = |_, (request, result)| results.end(&request, result);
        self.queue_shared.mailbox.take(each);
    }

    /// Commits that are under way.
    fn committing(&self) -> usize {
        self.commits
            .iter()
            .filter(|commit| !commit.is_free())
            .count()
    }

    /// Some tags have arrived, or the fetch has ended: with -ENODEV because the disk goes away, else
    /// for a reason that passes, and then it is begun again.
    fn fetched(&mut self, completion: Completion) -> Result<(), QueueError> {
        if let Some(buffer) = completion.buffer() {
            let tags = usize::try_from(completion.result).unwrap_or(0) / size_of::<u16>();
            for index in 0..tags {
                self.serve(self.buffers.tag(buffer, index));
            }
            // The tags have been read; the multishot needs a free buffer to go on.
            self.buffers.give_back(buffer);
        }
        if completion.more() {
            return Ok(());
        }
        match -completion.result {
            libc::ENODEV => self.fetching = false,
            // The kernel ended the multishot because it lacked a buffer or room in the ring, and
            // keeps the tags: fetch again (W16).
            errno if errno <= 0 => self.ring.push_batch_fetch(FETCH),
            libc::ENOBUFS | libc::EAGAIN | libc::EINTR | libc::ECANCELED => {
                self.ring.push_batch_fetch(FETCH);
            }
            errno => return QueueError::refused("FETCH_IO_CMDS", 0, errno),
        }
        Ok(())
    }

    #[inline]
    fn serve(&mut self, tag: u16) {
        match self.results.queue.arrive(tag, self.ring.descriptor(tag)) {
            Ok(request) => {
                self.results.inside += 1;
                self.arrived.push(request);
            }
            Err(result) => self.results.push(tag, result),
        }
    }

    /// Puts the gathered results into a COMMIT, if one is free.
    #[inline]
    fn commit(&mut self) {
        let results = &mut self.results.elements;
        if results.is_empty() {
            return;
        }
        // None is free: the results stay until the turn in which a COMMIT has ended.
        let Some(index) = self.commits.iter().position(Commit::is_free) else {
            return;
        };
        let data = &self.queue_shared.data;
        self.commits[index].fill(results.drain(..), |tag| data.buffer(tag).as_ptr() as u64);
        self.push_commit(index);
    }

    /// Sends what the driver has not taken of a COMMIT: all of it, or the rest after a partial
    /// answer.
    fn push_commit(&mut self, index: usize) {
        let commit = &self.commits[index];
        let ((at, count), element) = (commit.rest(), commit.element_bytes());
        // SAFETY: the elements are left alone until `committed` frees them.
        unsafe {
            self.ring.push_batch(
                abi::IO_COMMIT_BATCH,
                at,
                count,
                element,
                COMMIT | index as u64,
            );
        }
    }

    /// The driver has taken some or all of a COMMIT (F14).
    fn committed(&mut self, completion: Completion) -> Result<(), QueueError> {
        let index = (completion.user_data & !KIND) as usize;
        let commit = &mut self.commits[index];
        let tag = commit.next_tag();
        match commit.answered(completion.result) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.push_commit(index);
                Ok(())
            }
            Err(errno) => QueueError::refused("COMMIT_IO_CMDS", tag, errno),
        }
    }
}
