// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a driver implements below the mirror, and a front end above it.
//!
//! [`super::dispatch`] calls the driver; a front end calls [`super::Submitter`] and is called back.
//! Kernel counterparts: `struct blk_mq_ops`, Rust-for-Linux's `block::mq::Operations`.
//!
//! # Where the bytes are moved
//!
//! A kernel driver finds the client's pages in the request and copies inside queue_rq. Here the
//! pages are the kernel's, and the front end decides how to reach them: with USER_COPY any thread
//! reads and writes them, else the kernel copies to or from a buffer of the tag. The driver must
//! not know. So a transfer is a state of its own between queue_rq's OK and the end; the driver
//! names the bytes, and the front end moves them:
//!
//! ```text
//!   driver: queue_rq pins memory, answers OK with transfer(data)
//!   mirror: hands the request on: LocalCompletion::transfer if the submitter's own thread issued it,
//!           FrontEnd::transfer if a kblockd worker did
//!   front end: moves the bytes at once               -> DataTransfer::done(outcome)
//!           or has the thread move them that can     -> DataTransfer::keep(), later Queue::complete
//!   mirror: complete (one compare-and-swap), the driver's complete unpins, the slot is idle again,
//!           the result goes to the submitter's own thread or to FrontEnd::end
//! ```
//!
//! The mirror hands on after queue_rq has returned, so the driver is not entered twice on one
//! stack. On a submitter's thread nothing is queued, no lock is taken and no other thread is told:
//! a lone request is issued, moved and ended in one call. A worker that runs the queue again moves
//! the bytes, too, if any thread may; else it keeps the token for the thread that can. The result
//! is always that thread's to commit (F19, F20). A request under transfer is in flight, so it may
//! time out: a driver that has named memory returns ResetTimer, as the copy will end.

use super::counters::Source;
use super::queue::Queue;
use super::request::{Request, Run};
use super::status::Status;
use super::tokens::{Accepted, DataTransfer, Deferred, Issued, TransferAnswer};

/// Why not now, and who owes the re-run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Lacks something that may come back by itself: the mirror runs the queue again, at once the
    /// first time, then after 3 ms (B2).
    Resource,
    /// Lacks something that the driver gives back: a request of this queue is in flight, or the
    /// driver has a waker for this queue (B3). The mirror adds no timer.
    DevResource,
}

/// A driver's answer.
#[derive(Debug)]
#[must_use]
pub enum Answer<'q> {
    /// The driver has it.
    Ok(Accepted<'q>),
    /// It comes back and is tried again. The source is counted, and no more.
    Busy(Issued<'q>, Busy, Source),
    /// It comes back and is ended with this. RESOURCE and DEV_RESOURCE are taken as BUSY (B5).
    Error(Issued<'q>, Status),
}

/// A driver's answer about a request that it has had for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum TimeoutAnswer {
    /// It gets another full period.
    ResetTimer,
    /// The driver has completed it or will.
    Done,
}

/// The hardware queue that a call is about.
#[derive(Clone, Copy, Debug)]
pub struct Hctx<'a> {
    pub(super) queue: &'a Queue,
    pub(super) index: u16,
}

impl<'a> Hctx<'a> {
    /// Its number.
    pub fn index(self) -> u16 {
        self.index
    }

    /// The share of the driver's budget that a request of this queue was issued with, to be given
    /// back: asked again, the answer is 0. Also 0 if there was none. For the driver that has the
    /// request.
    pub fn take_token(self, tag: u16) -> u32 {
        let slot = self.queue.slot(self.queue.rq(self.index, tag));
        let token = slot.token();
        if token != 0 {
            slot.set_token(0);
        }
        token
    }

    /// The device it belongs to; to be cloned by drivers that call back later.
    pub fn queue(self) -> &'a Queue {
        self.queue
    }
}

/// A share of a limit that spans the hardware queues, taken before a request is issued. A driver
/// has both or neither.
pub trait Budget: Send + Sync {
    /// Takes a share for `hctx`, or arranges that this hctx is run when there is one again.
    fn get(&self, hctx: u16) -> Option<u32>;

    /// Gives a share back that no request was issued with. The driver gives back the others
    /// itself: once queue_rq is entered the token is its own, also if the answer is BUSY or an
    /// error.
    fn put(&self, hctx: Hctx<'_>, token: u32);

    /// The source that is counted when there is no share.
    fn source(&self) -> Source {
        Source::Slots
    }

    /// True if this hctx waits for a share. For figures: a place among the waiters may be left over
    /// from a try that has succeeded since.
    fn is_awaited_by(&self, _hctx: u16) -> bool {
        false
    }
}

/// A block driver.
///
/// Busy gives the request back, by type:
///
/// ```compile_fail,E0382
/// use ublk_ramdisk::mq::{Answer, Busy, Hctx, InFlight, Issued, Operations};
/// struct Keeps(std::sync::Mutex<Vec<InFlight>>);
/// impl Operations for Keeps {
///     fn queue_rq<'q>(&self, _: Hctx<'_>, rq: Issued<'q>, _: bool) -> Answer<'q> {
///         let (kept, _accepted) = rq.hold();
///         self.0.lock().unwrap().push(kept);
///         rq.busy(Busy::Resource) // the request has been moved
///     }
/// }
/// ```
///
/// and what is given back cannot be called OK:
///
/// ```compile_fail,E0308
/// use ublk_ramdisk::mq::{Answer, Hctx, Issued, Operations};
/// struct Returns;
/// impl Operations for Returns {
///     fn queue_rq<'q>(&self, _: Hctx<'_>, rq: Issued<'q>, _: bool) -> Answer<'q> {
///         Answer::Ok(rq) // not accepted: this is the request, not its acceptance
///     }
/// }
/// ```
///
/// nor can a request outlive its call unaccepted:
///
/// ```compile_fail
/// use ublk_ramdisk::mq::{Answer, Hctx, Issued, Operations};
/// struct Stashes(std::sync::Mutex<Vec<Issued<'static>>>);
/// impl Operations for Stashes {
///     fn queue_rq<'q>(&self, _: Hctx<'_>, rq: Issued<'q>, _: bool) -> Answer<'q> {
///         let mut stash = self.0.lock().unwrap();
///         stash.push(rq); // its lifetime is that of the call
///         Answer::Ok(stash.pop().unwrap().end(Ok(())))
///     }
/// }
/// ```
///
/// This is how it is done:
///
/// ```
/// use ublk_ramdisk::mq::{Answer, Busy, Hctx, Issued, Op, Operations, Status};
/// struct Null;
/// impl Operations for Null {
///     fn queue_rq<'q>(&self, hctx: Hctx<'_>, rq: Issued<'q>, _last: bool) -> Answer<'q> {
///         match rq.request().op() {
///             Op::Discard => Answer::Error(rq, Status::NotSupp),
///             Op::Write if hctx.index() > 0 => rq.busy(Busy::Resource),
///             _ => Answer::Ok(rq.end(Ok(()))),
///         }
///     }
/// }
/// ```
pub trait Operations: Send + Sync {
    /// Takes a request on, which is in flight already. May be called for one hctx from several
    /// threads at once (C9). Never sleeps, never allocates. Must not panic: if it does, the request
    /// ends with IOERR, that is counted, and what the driver keeps for it is the driver's loss.
    fn queue_rq<'q>(&self, hctx: Hctx<'_>, rq: Issued<'q>, last: bool) -> Answer<'q>;

    /// An earlier `last = false` is not followed by a `last = true` (C15).
    fn commit_rqs(&self, _hctx: Hctx<'_>) {}

    /// A request whose disposition queue_rq has put off. The driver keeps it and gives it to
    /// [`Queue::proceed`] when its time has come; until then it answers ResetTimer to timeouts.
    fn deferred(&self, hctx: Hctx<'_>, _request: &Request, deferred: Deferred) {
        hctx.queue().proceed(deferred);
    }

    /// A request that was transferred or completed is about to end. Once for each, on the thread
    /// that completed it. Requests ended in queue_rq's answer do not come here.
    fn complete(&self, _hctx: Hctx<'_>, _request: &Request) {}

    /// The pieces of a [`super::Data::Scattered`] READ in order. Together they are as long as the
    /// request.
    fn runs(&self, _request: &Request, _each: &mut dyn FnMut(Run)) {}

    /// True if this request is offered although an earlier one of the list was refused with
    /// [`Issued::busy_skippable`]. Must be cheap; false if it would only be refused again.
    fn overtakes(&self, _hctx: Hctx<'_>, _request: &Request) -> bool {
        true
    }

    /// The limit that spans the hardware queues, if there is one.
    fn budget(&self) -> Option<&dyn Budget> {
        None
    }

    /// True if something other than an end will run this hctx: a timer, or a place among waiters.
    /// Called after DEV_RESOURCE with nothing in flight (B4).
    fn has_waker(&self, _hctx: u16) -> bool {
        false
    }

    /// The driver has had a request for too long. `expired` can be completed from here.
    fn timeout(&self, _hctx: Hctx<'_>, _expired: &super::RequestRef) -> TimeoutAnswer {
        TimeoutAnswer::ResetTimer
    }

    /// Once per hardware queue, before the first request. An error undoes those made before and
    /// fails the device.
    fn init_hctx(&self, _hctx: u16) -> Result<(), Status> {
        Ok(())
    }

    /// Once per hardware queue that was made, after the last request.
    fn exit_hctx(&self, _hctx: u16) {}
}

/// A driver whose requests have offsets on a disk: what it is asked beside requests.
/// Kernel counterpart: `struct gendisk` with `get_capacity`.
pub trait Disk: Operations {
    /// Size of the disk in bytes, as it is now.
    fn capacity(&self) -> u64;

    /// True if this request would have to wait now for memory that the disk does not hold yet.
    fn needs_memory(&self, _request: &Request) -> bool {
        false
    }

    /// True if memory that the driver has named may be lost before its `complete`, because others can
    /// cut the file that it belongs to. A copy then goes through the kernel, which reports the loss.
    fn can_be_cut(&self) -> bool {
        false
    }

    /// True while every request ends with IOERR, because the disk is without power.
    fn is_off(&self) -> bool {
        false
    }

    /// A copy to or from memory that the driver has named has failed. Called by the front end.
    fn copy_failed(&self) {}

    /// Flips a bit of what a request has written, before its `complete`.
    fn corrupt(&self, _request: &Request) {}
}

/// Where requests come from and results go to, from any thread.
pub trait FrontEnd: Send + Sync {
    /// Moves the bytes of a request that a worker has issued, or keeps it for the thread that can.
    fn transfer<'m>(&self, transfer: DataTransfer<'m>) -> TransferAnswer<'m>;

    /// A request has ended on a thread that is not the submitter's. `result` is bytes, 0, or minus
    /// errno. Its tag may be inserted again from now on.
    fn end(&self, queue: u16, request: &Request, result: i32);
}

/// The front end of a queue whose requests all end on the submitter's thread.
#[derive(Clone, Copy, Debug)]
pub struct NoFrontEnd;

impl FrontEnd for NoFrontEnd {
    fn transfer<'m>(&self, _: DataTransfer<'m>) -> TransferAnswer<'m> {
        unreachable!("no worker has a request")
    }

    fn end(&self, _: u16, _: &Request, _: i32) {
        unreachable!("no worker has a request")
    }
}

/// Where results go within one call, for the thread that calls: it moves bytes and takes results
/// without telling another thread.
pub trait LocalCompletion {
    /// Moves the bytes of a request, or keeps the token until they have been moved.
    fn transfer<'m>(&mut self, transfer: DataTransfer<'m>) -> TransferAnswer<'m>;

    /// A request of the hctx the call was about has ended within the call.
    fn end(&mut self, request: &Request, result: i32);
}

/// The [`LocalCompletion`] of a thread that has none of its own: everything goes to the
/// [`FrontEnd`].
pub struct ViaFrontEnd<'a> {
    front_end: &'a dyn FrontEnd,
    queue: u16,
}

impl<'a> ViaFrontEnd<'a> {
    /// For requests of this hardware queue.
    pub fn new(front_end: &'a dyn FrontEnd, queue: u16) -> Self {
        Self { front_end, queue }
    }
}

impl LocalCompletion for ViaFrontEnd<'_> {
    fn transfer<'m>(&mut self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        self.front_end.transfer(transfer)
    }

    fn end(&mut self, request: &Request, result: i32) {
        self.front_end.end(self.queue, request, result);
    }
}
