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
use std::sync::Arc;

use super::abi::{self, IO_COMMIT_AND_FETCH, IO_FETCH, IO_NEED_GET_DATA};
use super::queue::{insert, Queue, QueueError};
use super::ring::{Completion, QueueRing, WATCHES};
use super::transport::{Letter, Port};
use crate::config::DataPath;
use crate::mq::{Data, Home, InFlight, Lane, Moved, Moving, Op, Request, Status};

/// A copy that moves nothing is asked for again this often before the request
/// fails: the driver itself would retry for ever (F13).
const GET_DATA_TRIES: u32 = 16;

/// A WRITE whose bytes the driver is copying into the store.
#[derive(Debug)]
struct Arriving {
    token: InFlight,
    len: u64,
    address: u64,
    tries: u32,
}

/// What a NEED_GET_DATA under way is for.
#[derive(Debug)]
enum GetData {
    /// The bytes belong into the store.
    Wanted(Arriving),
    /// The WRITE has ended without them and this is to be committed. The driver refuses the COMMIT
    /// of a WRITE whose bytes it has not copied yet, so it copies them into the tag's buffer.
    Unwanted(i32),
}

/// What the driver is to get for a tag when its request has ended.
#[derive(Clone, Copy, Debug)]
enum Owed {
    /// A COMMIT with this address.
    Commit(u64),
    /// Its WRITE's bytes have to be fetched before it takes a COMMIT.
    Data,
    /// Nothing: it has its COMMIT, or has taken the tag back.
    Nothing,
}

/// The ring's side: what the mirror hands back on the queue's own thread becomes
/// commands here.
struct Side {
    ring: QueueRing,
    queue: Queue,
    /// By tag.
    owed: Box<[Owed]>,
    /// get-data: by tag, WRITEs between NEED_GET_DATA and its completion.
    arriving: Box<[Option<GetData>]>,
    /// get-data: READs whose store address stands in a COMMIT that has not been
    /// submitted. They stay pinned until it has (G3, G9): only then they complete.
    committing: Vec<(u16, InFlight, u64)>,
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
    pub(super) fn start(mut ring: QueueRing, queue: Queue, lane: Lane) -> Result<Self, QueueError> {
        let depth = queue.shared.depth;
        for tag in 0..depth {
            let addr = match queue.shared.path {
                DataPath::Plain => queue.port.data.buffer(tag).as_ptr() as u64,
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
        ring.listen(queue.port.mailbox.bell().fd());
        let depth_of = usize::from(depth);
        Ok(Self {
            lane,
            port: queue.port.clone(),
            side: Side {
                ring,
                queue,
                owed: vec![Owed::Nothing; depth_of].into(),
                arriving: (0..depth).map(|_| None).collect(),
                committing: Vec::with_capacity(depth_of),
            },
            arrived: Vec::with_capacity(depth_of),
            depth,
            alive: depth_of,
        })
    }

    /// Serves until the driver has taken back every tag.
    pub(super) fn run(&mut self) -> Result<(), QueueError> {
        let mut completions = vec![NO_COMPLETION; usize::from(self.depth) + WATCHES];
        while self.alive > 0 {
            self.submit_and_release()?;
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
        self.release_committed();
        Ok(())
    }

    /// A thread that sleeps keeps nothing pinned: what is discarded through another queue or cut
    /// off meanwhile would be zeroed, but not given back. So get-data submits READs before it
    /// waits, which is one system call more.
    #[inline]
    fn submit_and_release(&mut self) -> Result<(), QueueError> {
        if !self.side.committing.is_empty() {
            self.side
                .ring
                .submit_and_wait(0)
                .map_err(QueueError::Ring)?;
            if self.side.ring.all_submitted() {
                self.release_committed();
            }
        }
        Ok(())
    }

    /// The driver has copied the READs whose commits were submitted.
    #[inline]
    fn release_committed(&mut self) {
        if self.side.committing.is_empty() {
            return;
        }
        let mut committing = std::mem::take(&mut self.side.committing);
        let copied = committing.drain(..).map(|(_, token, len)| (token, Ok(len)));
        let (queue, number) = (self.lane.queue(), self.side.queue.number);
        queue.complete_batch(number, copied, &mut self.side);
        self.side.committing = committing;
    }

    /// The tag has come back before all commits were known to be submitted: its own was.
    #[cold]
    fn release_one(&mut self, tag: u16) {
        let mut all = self.side.committing.iter();
        if let Some(at) = all.position(|(of, ..)| *of == tag) {
            let (_, token, len) = self.side.committing.swap_remove(at);
            self.end(token, Ok(len));
        }
    }

    /// A request that was kept has got its bytes, or will not.
    #[inline]
    fn end(&mut self, token: InFlight, outcome: Result<u64, Status>) {
        let queue = self.lane.queue();
        // Nobody else completes a request whose token is here.
        let ours = queue.complete(token, outcome, &mut self.side);
        debug_assert!(ours);
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
        if !self.side.committing.is_empty() {
            self.release_one(tag);
        }
        let arriving = self.side.arriving[usize::from(tag)].take();
        match (result, arriving) {
            (abi::IO_RES_OK, None) => self.request_arrived(tag, false),
            (abi::IO_RES_NEED_GET_DATA, None) => self.request_arrived(tag, true),
            (abi::IO_RES_OK, Some(GetData::Wanted(arrived))) => self.data_arrived(tag, arrived),
            (abi::IO_RES_OK, Some(GetData::Unwanted(result))) => self.side.settle(tag, result),
            (abi::IO_RES_NEED_GET_DATA, Some(GetData::Wanted(arriving))) => {
                self.nothing_moved(tag, arriving);
            }
            (abi::IO_RES_NEED_GET_DATA, Some(GetData::Unwanted(result))) => {
                self.side.fetch_unwanted(tag, result);
            }
            // The driver takes the tag back: the disk is going away (F4).
            (result, lost) if result == -libc::ENODEV => {
                self.alive -= 1;
                self.side.owed[usize::from(tag)] = Owed::Nothing;
                if let Some(GetData::Wanted(lost)) = lost {
                    self.end(lost.token, Err(Status::IoErr));
                }
            }
            (result, _) => {
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
        let descriptor = self.side.ring.descriptor(tag);
        let reads = (descriptor.op_flags & 0xff) as u8 == abi::OP_READ;
        self.side.owed[usize::from(tag)] = self.side.owed_at_first(tag, reads, unread);
        match self.side.queue.arrive(tag, descriptor) {
            Ok(request) => self.arrived.push(request),
            Err(result) => self.side.settle(tag, result),
        }
    }

    /// get-data: the bytes of a WRITE are in the store, or some of them.
    #[inline]
    fn data_arrived(&mut self, tag: u16, arrived: Arriving) {
        let copied = u64::from(self.side.ring.descriptor(tag).nr_sectors) << 9;
        let outcome = match copied {
            0 => Err(Status::IoErr),
            // The kernel delivers the rest as a request of its own (F11).
            some => Ok(some.min(arrived.len)),
        };
        self.end(arrived.token, outcome);
    }

    /// get-data: the driver could not copy a single byte.
    fn nothing_moved(&mut self, tag: u16, mut arriving: Arriving) {
        if arriving.tries < GET_DATA_TRIES {
            arriving.tries += 1;
            return self.side.push_get_data(tag, arriving);
        }
        self.side.owed[usize::from(tag)] = Owed::Data;
        self.end(arriving.token, Err(Status::IoErr));
    }

    /// What has ended on other threads, or waits for its bytes to be copied by this one.
    #[inline]
    fn read_letters(&mut self) {
        let (side, queue) = (&mut self.side, self.lane.queue());
        self.port.mailbox.take(|_, letter| match letter {
            Letter::Ended(request, result) => side.end(&request, result),
            Letter::Move(token, request, data) => match side.without_address(&request, data) {
                Some(outcome) => {
                    queue.complete(token, outcome, side);
                }
                None => side.name_memory(token, &request, data),
            },
        });
    }
}

impl Home for Side {
    #[inline]
    fn transfer<'m>(&mut self, moving: Moving<'m>) -> Moved<'m> {
        let (request, data) = (*moving.request(), moving.data());
        let Queue { shared, port, .. } = &self.queue;
        if shared.path != DataPath::GetData {
            return moving.done(port.data.copy(&*shared.disk, shared.path, &request, data));
        }
        match self.without_address(&request, data) {
            Some(outcome) => moving.done(outcome),
            None => {
                let (token, moved) = moving.keep();
                self.name_memory(token, &request, data);
                moved
            }
        }
    }

    #[inline]
    fn end(&mut self, request: &Request, result: i32) {
        self.queue.ended(request, result);
        self.settle(request.tag(), result);
    }
}

impl Side {
    /// What a request that has just arrived is owed.
    #[inline]
    fn owed_at_first(&self, tag: u16, reads: bool, unread: bool) -> Owed {
        if unread {
            return Owed::Data;
        }
        Owed::Commit(match self.queue.shared.path {
            DataPath::Plain => self.buffer(tag),
            // A READ's COMMIT without an address is refused, failed or not (G6).
            DataPath::GetData if reads => self.queue.port.data.zeros().as_ptr() as u64,
            _ => 0,
        })
    }

    #[inline]
    fn buffer(&self, tag: u16) -> u64 {
        self.queue.port.data.buffer(tag).as_ptr() as u64
    }

    /// A request has ended: gives the driver what it is owed.
    #[inline]
    fn settle(&mut self, tag: u16, result: i32) {
        match self.owed[usize::from(tag)] {
            // SAFETY: the address is 0, that of the zeros or of the tag's buffer; both live as long
            // as the queue.
            Owed::Commit(addr) => unsafe {
                self.ring.push_io(IO_COMMIT_AND_FETCH, tag, result, addr);
            },
            Owed::Data => self.fetch_unwanted(tag, result),
            Owed::Nothing => {}
        }
    }

    /// get-data: has the bytes copied to where they do no harm, to commit the failure then.
    #[cold]
    fn fetch_unwanted(&mut self, tag: u16, result: i32) {
        self.owed[usize::from(tag)] = Owed::Commit(0);
        self.arriving[usize::from(tag)] = Some(GetData::Unwanted(result));
        let buffer = self.buffer(tag);
        // SAFETY: the buffer lives as long as the queue.
        unsafe { self.ring.push_io(IO_NEED_GET_DATA, tag, 0, buffer) };
    }

    /// get-data: what needs no address of the store: holes, which are committed from the zeros, and
    /// pieces between them, which are gathered in the tag's buffer.
    #[inline]
    fn without_address(&mut self, request: &Request, data: Data) -> Option<Result<u64, Status>> {
        match (request.op(), data) {
            (_, Data::Contiguous(_)) => return None,
            (Op::Read, Data::Zeros) => {}
            (Op::Read, Data::Scattered) => {
                let Queue { shared, port, .. } = &self.queue;
                port.data.gather(&*shared.disk, request, data);
                let tag = request.tag();
                self.owed[usize::from(tag)] = Owed::Commit(self.buffer(tag));
            }
            // Only READ may have holes, and only READ and WRITE have data.
            _ => return Some(Err(Status::IoErr)),
        }
        Some(Ok(request.len()))
    }

    /// get-data: names the memory of the store and lets the driver copy.
    #[inline]
    fn name_memory(&mut self, token: InFlight, request: &Request, data: Data) {
        let Data::Contiguous(at) = data else {
            unreachable!("asked before")
        };
        let (tag, len, address) = (request.tag(), request.len(), at.as_ptr() as u64);
        if request.op() == Op::Write {
            self.owed[usize::from(tag)] = Owed::Commit(0);
            let arriving = Arriving {
                token,
                len,
                address,
                tries: 1,
            };
            return self.push_get_data(tag, arriving);
        }
        self.owed[usize::from(tag)] = Owed::Nothing;
        self.committing.push((tag, token, len));
        // SAFETY: the range stays pinned until this has been submitted.
        unsafe {
            self.ring
                .push_io(IO_COMMIT_AND_FETCH, tag, len as i32, address);
        }
    }

    fn push_get_data(&mut self, tag: u16, arriving: Arriving) {
        let address = arriving.address;
        self.arriving[usize::from(tag)] = Some(GetData::Wanted(arriving));
        // SAFETY: the range stays pinned until the completion of this (G4).
        unsafe { self.ring.push_io(IO_NEED_GET_DATA, tag, 0, address) };
    }
}

pub(super) const NO_COMPLETION: Completion = Completion {
    user_data: 0,
    result: 0,
    flags: 0,
};
