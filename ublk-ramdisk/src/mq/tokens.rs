// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tokens of a request: who owns it, in types.
//!
//! [`Issued`] is given to queue_rq and has to be given back or accepted; [`DataTransfer`] is given to
//! a front end and has to be finished or kept; [`InFlight`] is what a driver or a front end holds
//! between the two. Each is moved, never copied, and only the mirror makes one. `Issued` and
//! `DataTransfer` carry a lifetime of their own call, and so do the answers made from them: an answer
//! for one request cannot be given for another. [`RequestRef`] only looks at a request in flight.
//! Kernel counterparts: Rust-for-Linux's `ARef<Request>` with its reference count;
//! `blk_mq_tag_to_rq`.

use super::counters::Source;
use super::operations::{Answer, Busy};
use super::queue::Queue;
use super::request::Data;
use super::request::Request;
use super::request_state::{Generation, Put};
use super::slot::Rq;
use super::status::Status;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// Ties a token to one call: neither shorter nor longer lifetimes will do.
type Brand<'q> = PhantomData<fn(&'q ()) -> &'q ()>;

/// A request that a driver or a front end has. Completed by [`super::Queue::complete`] or given
/// back by [`super::Queue::requeue`]; one that is dropped stays in flight until its timeout.
#[derive(Debug)]
pub struct InFlight {
    pub(super) rq: Rq,
    pub(super) generation: Generation,
    /// Debug builds catch a token that is given to another device than its own.
    #[cfg(debug_assertions)]
    pub(super) device: Device,
}

/// Tells devices apart, for as long as they live.
#[cfg(debug_assertions)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device(pub(super) usize);

/// How a request is requeued that a driver has accepted and gives back (C28, C29).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requeue {
    /// Runs requeue_work after this time, as [`super::Queue::delay_kick_requeue_list`] does. With none
    /// the request waits for the next kick.
    pub kick: Option<Duration>,
    /// The driver keeps things for it: it goes to the dispatch list, not through a ctx.
    pub prepared: bool,
}

/// A request in the hands of queue_rq.
#[derive(Debug)]
#[must_use = "the driver accepts it or gives it back"]
pub struct Issued<'q> {
    queue: &'q Queue,
    request: &'q Request,
    token: u32,
    in_flight: InFlight,
    /// If this one is refused, may requests behind it still be issued?
    pub(super) skippable: bool,
    brand: Brand<'q>,
}

/// What the driver does with a request it has accepted.
#[derive(Debug)]
pub(super) enum Disposition {
    Now(Rest),
    Defer(Rest),
    Hold,
    Requeue(Requeue),
}

/// What is left to do with a request that has been accepted, at once or later.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rest {
    End(Result<(), Status>),
    Transfer(Data),
    /// This many bytes from its beginning, then IOERR.
    Part(Data, u64),
}

/// An accepted request whose disposition is put off; see [`Accepted::defer`]. Given to
/// [`super::Queue::proceed`] when its time has come; one that is dropped stays in flight until its
/// timeout.
#[derive(Debug)]
pub struct Deferred {
    pub(super) in_flight: InFlight,
    pub(super) rest: Rest,
}

impl Deferred {
    /// True if the driver's `complete` will be called for it.
    pub fn completes(&self) -> bool {
        !matches!(self.rest, Rest::End(_))
    }
}

/// Proof that a request has been accepted.
#[derive(Debug)]
#[must_use = "it is the driver's answer"]
pub struct Accepted<'q> {
    pub(super) disposition: Disposition,
    brand: Brand<'q>,
}

impl<'q> Accepted<'q> {
    /// Puts the rest off: when queue_rq has returned, the driver's
    /// [`deferred`](super::Operations::deferred) is given the request, to go on with later. A
    /// request that the driver keeps or has requeued is not changed.
    pub fn defer(self) -> Self {
        let disposition = match self.disposition {
            Disposition::Now(rest) => Disposition::Defer(rest),
            disposition => disposition,
        };
        Self {
            disposition,
            ..self
        }
    }

    /// Moves only the first `bytes` bytes, then ends with IOERR. Only for a transfer, and for fewer
    /// bytes than it has.
    pub fn cut_short(self, bytes: u64) -> Self {
        let disposition = match self.disposition {
            Disposition::Now(Rest::Transfer(data)) => Disposition::Now(Rest::Part(data, bytes)),
            disposition => disposition,
        };
        Self {
            disposition,
            ..self
        }
    }

    /// True if the request is tried again.
    pub fn is_requeued(&self) -> bool {
        matches!(self.disposition, Disposition::Requeue(_))
    }

    /// True if the request stays with the driver or the front end. Otherwise it ends or is requeued as
    /// soon as queue_rq has returned, and the driver's `complete` is not called.
    pub fn goes_on(&self) -> bool {
        !matches!(
            self.disposition,
            Disposition::Now(Rest::End(_)) | Disposition::Requeue(_)
        )
    }
}

impl<'q> Issued<'q> {
    #[inline]
    pub(super) fn new(
        queue: &'q Queue,
        in_flight: InFlight,
        request: &'q Request,
        token: u32,
    ) -> Self {
        Self {
            queue,
            request,
            token,
            in_flight,
            skippable: false,
            brand: PhantomData,
        }
    }

    /// A second token of the request, for the answer of a driver that panics.
    #[inline]
    pub(super) fn spare(&self) -> Self {
        let InFlight { rq, generation, .. } = self.in_flight;
        let in_flight = InFlight {
            rq,
            generation,
            ..self.in_flight
        };
        Self { in_flight, ..*self }
    }

    /// What is asked for.
    pub fn request(&self) -> &Request {
        self.request
    }

    /// The token its budget was given with, or 0.
    pub fn budget_token(&self) -> u32 {
        self.token
    }

    fn accept(self, disposition: Disposition) -> Accepted<'q> {
        Accepted {
            disposition,
            brand: PhantomData,
        }
    }

    /// Accepted, and ended with this as soon as queue_rq has returned.
    pub fn end(self, outcome: Result<(), Status>) -> Accepted<'q> {
        self.accept(Disposition::Now(Rest::End(outcome)))
    }

    /// Accepted: the front end moves its bytes to or from `data`, which stays valid until the
    /// driver's `complete`.
    pub fn transfer(self, data: Data) -> Accepted<'q> {
        self.accept(Disposition::Now(Rest::Transfer(data)))
    }

    /// Accepted: the driver keeps it.
    pub fn hold(self) -> (InFlight, Accepted<'q>) {
        // guard: c35_hold
        self.queue.begin_timeout(self.in_flight.rq);
        let accepted = Accepted {
            disposition: Disposition::Hold,
            brand: PhantomData,
        };
        (self.in_flight, accepted)
    }

    /// Accepted, and put on the requeue list as soon as queue_rq has returned.
    pub fn requeue(self, requeue: Requeue) -> Accepted<'q> {
        self.accept(Disposition::Requeue(requeue))
    }

    /// Not now, for a reason of the driver's own.
    pub fn busy(self, kind: Busy) -> Answer<'q> {
        self.busy_for(kind, Source::Driver)
    }

    /// Not now: lacks `source`.
    pub fn busy_for(self, kind: Busy, source: Source) -> Answer<'q> {
        Answer::Busy(self, kind, source)
    }

    /// Not now, with RESOURCE: lacks something that others may not need. The rest of the list is
    /// offered, if [`Operations::overtakes`](super::Operations::overtakes) says so (E10).
    pub fn busy_skippable(self, source: Source) -> Answer<'q> {
        let skippable = Self {
            skippable: true,
            ..self
        };
        skippable.busy_for(Busy::Resource, source)
    }
}

/// A request whose bytes a front end is to move.
#[derive(Debug)]
#[must_use = "the front end finishes it or keeps it"]
pub struct DataTransfer<'m> {
    /// The queue, if the request's timeout has not begun yet.
    untimed: Option<&'m Queue>,
    request: &'m Request,
    queue: u16,
    data: Data,
    in_flight: InFlight,
    brand: Brand<'m>,
}

/// What a front end did with the bytes.
#[derive(Debug)]
pub(super) enum TransferResult {
    Done(Result<u64, Status>),
    Kept,
}

/// Proof that a front end has dealt with a request.
#[derive(Debug)]
#[must_use = "it is the front end's answer"]
pub struct TransferAnswer<'m> {
    pub(super) what: TransferResult,
    brand: Brand<'m>,
}

impl<'m> DataTransfer<'m> {
    /// `untimed` is the queue of a request whose timeout has not begun yet.
    #[inline]
    pub(super) fn new(
        untimed: Option<&'m Queue>,
        in_flight: InFlight,
        queue: u16,
        request: &'m Request,
        data: Data,
    ) -> Self {
        Self {
            untimed,
            request,
            queue,
            data,
            in_flight,
            brand: PhantomData,
        }
    }

    /// What is asked for.
    pub fn request(&self) -> &Request {
        self.request
    }

    /// The hardware queue it is on.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Where the driver has its bytes.
    pub fn data(&self) -> Data {
        self.data
    }

    /// Finishes the transfer: this many bytes have been moved, or none for this reason.
    pub fn done(self, outcome: Result<u64, Status>) -> TransferAnswer<'m> {
        TransferAnswer {
            what: TransferResult::Done(outcome),
            brand: PhantomData,
        }
    }

    /// Keeps the request: the holder of the token moves the bytes later, and completes it.
    pub fn keep(self) -> (InFlight, TransferAnswer<'m>) {
        // guard: c35_keep
        if let Some(queue) = self.untimed {
            queue.begin_timeout(self.in_flight.rq);
        }
        let answer = TransferAnswer {
            what: TransferResult::Kept,
            brand: PhantomData,
        };
        (self.in_flight, answer)
    }
}

/// A reference to a request in flight; see [`Queue::get`].
#[derive(Debug)]
pub struct RequestRef {
    queue: Queue,
    pub(super) in_flight: InFlight,
}

impl RequestRef {
    /// Its hardware queue.
    pub fn hctx(&self) -> u16 {
        self.queue.hctx_of(self.in_flight.rq).index
    }

    /// What is asked for.
    pub fn request(&self) -> super::Request {
        let rq = self.in_flight.rq;
        let tag = self.queue.tag_of(self.queue.hctx_of(rq), rq);
        self.queue.slot(rq).request(tag)
    }

    /// Completes it with an error, unless somebody else is quicker. True if it was this call.
    pub fn complete(&self, status: super::Status) -> bool {
        let InFlight { rq, generation, .. } = self.in_flight;
        let token = self.queue.in_flight(rq, generation);
        self.queue.complete_remote(token, Err(status))
    }
}

impl Drop for RequestRef {
    fn drop(&mut self) {
        if self.queue.slot(self.in_flight.rq).state.put() == Put::End {
            self.queue.end_published(self.in_flight.rq);
        }
    }
}

impl fmt::Display for RequestRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = self.request();
        write!(
            f,
            "hctx {} tag {} {:?}",
            self.hctx(),
            request.tag(),
            request.op()
        )
    }
}

impl Queue {
    /// Looks up a request that a driver or front end has (A11). It is not ended, and its tag not
    /// used again, as long as the reference is kept. One that is only just being issued is not
    /// found.
    pub fn get(&self, hctx: u16, tag: u16) -> Option<RequestRef> {
        if hctx >= self.inner.set.nr_hw_queues || tag >= self.inner.set.queue_depth {
            return None;
        }
        self.get_rq(self.rq(hctx, tag))
    }

    pub(super) fn get_rq(&self, rq: Rq) -> Option<RequestRef> {
        let generation = self.slot(rq).state.get()?;
        Some(RequestRef {
            queue: self.clone(),
            in_flight: self.in_flight(rq, generation),
        })
    }
}
