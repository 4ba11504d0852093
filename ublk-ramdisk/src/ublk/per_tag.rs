// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue loop with one command per tag: FETCH once, then COMMIT_AND_FETCH
//! for ever. Serves the data paths `user-copy`, `get-data` and `plain`; they
//! differ in whose address stands in the command (G3 to G6):
//!
//! | path | FETCH | READ's COMMIT | WRITE | other COMMITs |
//! |---|---|---|---|---|
//! | user-copy | 0 | 0, bytes copied before | bytes copied before, 0 | 0 |
//! | get-data | 0 | the store's or zeros | NEED_GET_DATA with the store's (the tag's buffer if it failed), then 0 | 0 |
//! | plain | the tag's buffer | the tag's buffer | the tag's buffer | the tag's buffer |
//!
//! A store address in a plain COMMIT would be the target of the tag's next
//! WRITE: never done (G5).

use std::os::fd::AsFd;

use super::abi::{self, IO_COMMIT_AND_FETCH, IO_FETCH, IO_NEED_GET_DATA};
use super::queue::{Arrived, Queue, QueueError};
use super::ring::{Completion, QueueRing};
use crate::config::DataPath;
use crate::mq::{Data, Op, Request, Status};

/// A copy that moves nothing is asked for again this often before the request
/// fails: the driver itself would retry for ever (F13).
const GET_DATA_TRIES: u32 = 16;

/// A WRITE whose bytes the driver is copying into the store.
#[derive(Clone, Copy)]
struct Arriving {
    request: Request,
    address: u64,
    tries: u32,
}

/// What a NEED_GET_DATA under way is for.
#[derive(Clone, Copy)]
enum GetData {
    /// The bytes belong into the store.
    Wanted(Arriving),
    /// The WRITE has failed and this is to be committed. The driver refuses the COMMIT of a WRITE
    /// whose bytes it has not copied yet, so it copies them into the tag's buffer.
    Unwanted(i32),
}

/// The loop's state.
pub(super) struct PerTag {
    ring: QueueRing,
    queue: Queue,
    path: DataPath,
    depth: u16,
    /// Tags that the driver still has a command of.
    alive: usize,
    /// get-data: by tag, WRITEs between NEED_GET_DATA and its completion.
    arriving: Vec<Option<GetData>>,
    /// get-data: READs whose store address stands in a COMMIT that has not been
    /// submitted. They stay pinned until it has (G3, G9).
    committing: Vec<Request>,
}

impl PerTag {
    /// Fetches every tag. When this returns the device can be started (F3).
    pub(super) fn start(mut ring: QueueRing, queue: Queue) -> Result<Self, QueueError> {
        let (path, depth) = (queue.shared.path, queue.shared.depth);
        for tag in 0..depth {
            let addr = match path {
                DataPath::Plain => queue.data.buffer(tag).as_ptr() as u64,
                _ => 0,
            };
            // SAFETY: the buffer lives as long as the queue, and the queue until
            // the ring is gone.
            unsafe { ring.push_io(IO_FETCH, tag, 0, addr) };
        }
        ring.submit_and_wait(0).map_err(QueueError::Ring)?;
        let mut refused = [NO_COMPLETION; 1];
        if ring.reap(&mut refused) > 0 {
            let Completion {
                user_data, result, ..
            } = refused[0];
            return Err(QueueError::Command {
                command: "FETCH",
                tag: user_data as u16,
                errno: -result,
            });
        }
        ring.watch_for_give_up(queue.shared.give_up.as_fd());
        Ok(Self {
            ring,
            queue,
            path,
            depth,
            alive: usize::from(depth),
            arriving: vec![None; usize::from(depth)],
            committing: Vec::with_capacity(usize::from(depth)),
        })
    }

    /// Serves until the driver has taken back every tag.
    pub(super) fn run(&mut self) -> Result<(), QueueError> {
        let mut completions = vec![NO_COMPLETION; usize::from(self.depth)];
        while self.alive > 0 {
            self.submit_and_release()?;
            self.ring.submit_and_wait(1).map_err(QueueError::Ring)?;
            let count = self.ring.reap(&mut completions);
            self.queue.counters.reap();
            for completion in &completions[..count] {
                if completion.is_give_up() {
                    return Err(QueueError::GivenUp);
                }
                self.completed(completion.user_data as u16, completion.result)?;
            }
        }
        self.release_committed();
        Ok(())
    }

    /// A thread that sleeps keeps nothing pinned: what is discarded through another queue or cut
    /// off meanwhile would be zeroed, but not given back. So get-data submits READs before it
    /// waits, which is one system call more.
    #[inline]
    fn submit_and_release(&mut self) -> Result<(), QueueError> {
        if !self.committing.is_empty() {
            self.ring.submit_and_wait(0).map_err(QueueError::Ring)?;
            if self.ring.all_submitted() {
                self.release_committed();
            }
        }
        Ok(())
    }

    /// The driver has copied the READs whose commits were submitted.
    #[inline]
    fn release_committed(&mut self) {
        for request in self.committing.drain(..) {
            self.queue.shared.driver.complete(&request);
        }
    }

    #[inline]
    fn completed(&mut self, tag: u16, result: i32) -> Result<(), QueueError> {
        match result {
            abi::IO_RES_OK => match self.arriving[usize::from(tag)].take() {
                Some(GetData::Wanted(arrived)) => self.data_arrived(arrived),
                Some(GetData::Unwanted(result)) => self.commit_without_data(tag, result, false),
                None => self.request_arrived(tag, false),
            },
            abi::IO_RES_NEED_GET_DATA => match self.arriving[usize::from(tag)].take() {
                Some(GetData::Wanted(arriving)) => self.nothing_moved(arriving),
                Some(GetData::Unwanted(result)) => self.fail_write(tag, result),
                None => self.request_arrived(tag, true),
            },
            // The driver takes the tag back: the disk is going away (F4).
            result if result == -libc::ENODEV => {
                self.alive -= 1;
                let lost = self.arriving[usize::from(tag)].take();
                if let Some(GetData::Wanted(lost)) = lost {
                    self.queue.moved(&lost.request, Err(Status::IoErr));
                }
            }
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

    /// `unread`: a WRITE whose bytes the driver wants to be asked for.
    #[inline]
    fn request_arrived(&mut self, tag: u16, unread: bool) {
        let descriptor = self.ring.descriptor(tag);
        let reads = (descriptor.op_flags & 0xff) as u8 == abi::OP_READ;
        match self.queue.arrive(tag, descriptor) {
            Arrived::Commit(result) if unread => self.fail_write(tag, result),
            Arrived::Commit(result) => self.commit_without_data(tag, result, reads),
            Arrived::Move(request, data) => match self.path {
                DataPath::GetData => self.get_data(request, data),
                DataPath::Plain => self.plain(request, data),
                DataPath::UserCopy | DataPath::Batch => {
                    let outcome = self.queue.user_copy(&request, data);
                    let result = self.queue.moved(&request, outcome);
                    self.commit_without_data(tag, result, reads);
                }
            },
        }
    }

    /// Commits where no byte is to be copied by the driver any more.
    #[inline]
    fn commit_without_data(&mut self, tag: u16, result: i32, reads: bool) {
        let addr = match self.path {
            DataPath::Plain => self.queue.data.buffer(tag).as_ptr() as u64,
            // A READ's COMMIT without an address is refused, failed or not (G6).
            DataPath::GetData if reads => self.queue.data.zeros().as_ptr() as u64,
            _ => 0,
        };
        // SAFETY: both kinds of memory live as long as the queue.
        unsafe { self.ring.push_io(IO_COMMIT_AND_FETCH, tag, result, addr) };
    }

    /// get-data: names the memory and lets the driver copy.
    #[inline]
    fn get_data(&mut self, request: Request, data: Data) {
        let tag = request.tag();
        match (request.op(), data) {
            (Op::Write, Data::Contiguous(to)) => {
                let arriving = Arriving {
                    request,
                    address: to.as_ptr() as u64,
                    tries: 1,
                };
                self.push_get_data(arriving);
            }
            (_, Data::Contiguous(from)) => {
                let result = self.queue.ended(&request, request.len());
                self.committing.push(request);
                // SAFETY: the range stays pinned until this has been submitted.
                unsafe {
                    self.ring
                        .push_io(IO_COMMIT_AND_FETCH, tag, result, from.as_ptr() as u64);
                }
            }
            (_, Data::Zeros) => {
                let result = self.queue.moved(&request, Ok(()));
                self.commit_without_data(tag, result, true);
            }
            (_, Data::Scattered) => {
                self.queue
                    .data
                    .gather(&*self.queue.shared.driver, &request, data);
                let result = self.queue.moved(&request, Ok(()));
                let buffer = self.queue.data.buffer(tag).as_ptr() as u64;
                // SAFETY: the buffer lives as long as the queue.
                unsafe { self.ring.push_io(IO_COMMIT_AND_FETCH, tag, result, buffer) };
            }
        }
    }

    fn push_get_data(&mut self, arriving: Arriving) {
        let tag = arriving.request.tag();
        self.arriving[usize::from(tag)] = Some(GetData::Wanted(arriving));
        // SAFETY: the range stays pinned until the completion of this (G4).
        unsafe {
            self.ring
                .push_io(IO_NEED_GET_DATA, tag, 0, arriving.address)
        };
    }

    /// get-data: the bytes of a WRITE are in the store, or some of them.
    #[inline]
    fn data_arrived(&mut self, arrived: Arriving) {
        let request = arrived.request;
        let copied = u64::from(self.ring.descriptor(request.tag()).nr_sectors) << 9;
        let result = if copied >= request.len() {
            self.queue.moved(&request, Ok(()))
        } else if copied > 0 {
            // The kernel delivers the rest as a request of its own (F11).
            self.queue.shared.driver.complete(&request);
            self.queue.ended(&request, copied)
        } else {
            self.queue.moved(&request, Err(Status::IoErr))
        };
        self.commit_without_data(request.tag(), result, false);
    }

    /// get-data: the driver could not copy a single byte.
    fn nothing_moved(&mut self, mut arriving: Arriving) {
        if arriving.tries < GET_DATA_TRIES {
            arriving.tries += 1;
            return self.push_get_data(arriving);
        }
        let result = self.queue.moved(&arriving.request, Err(Status::IoErr));
        self.fail_write(arriving.request.tag(), result);
    }

    /// get-data: has the bytes copied to where they do no harm, to commit the failure then.
    #[cold]
    fn fail_write(&mut self, tag: u16, result: i32) {
        self.arriving[usize::from(tag)] = Some(GetData::Unwanted(result));
        let buffer = self.queue.data.buffer(tag).as_ptr() as u64;
        // SAFETY: the buffer lives as long as the queue.
        unsafe { self.ring.push_io(IO_NEED_GET_DATA, tag, 0, buffer) };
    }

    /// plain: through the buffer of the tag.
    fn plain(&mut self, request: Request, data: Data) {
        match (request.op(), data) {
            (Op::Write, Data::Contiguous(to)) => self.queue.data.scatter(&request, to),
            _ => self
                .queue
                .data
                .gather(&*self.queue.shared.driver, &request, data),
        }
        let result = self.queue.moved(&request, Ok(()));
        self.commit_without_data(request.tag(), result, request.op() == Op::Read);
    }
}

pub(super) const NO_COMPLETION: Completion = Completion {
    user_data: 0,
    result: 0,
    flags: 0,
};
