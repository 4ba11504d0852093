// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tokens of a request: who owns it, in types.
//!
//! [`Issued`] is given to queue_rq and has to be given back or accepted; [`Moving`] is given to a
//! front end and has to be finished or kept; [`InFlight`] is what a driver or a front end holds
//! between the two. Each is moved, never copied, and only the mirror makes one. `Issued` and
//! `Moving` carry a lifetime of their own call, and so do the answers made from them: an answer
//! for one request cannot be given for another. Kernel counterpart: Rust-for-Linux tells these
//! states apart by the reference count of one `ARef<Request>`.

use super::operations::{Answer, Busy};
use super::queue::Queue;
use super::request::Data;
use super::request::Request;
use super::request_state::Generation;
use super::slot::Rq;
use super::source::Source;
use super::status::Status;
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

/// What becomes of a request that a driver gives back after it has accepted it (C28, C29).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requeue {
    /// Runs requeue_work after this time, as [`super::Queue::kick_requeue_list`] and
    /// `delay_kick_requeue_list` do; without, the request waits until somebody kicks.
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
    /// If refused: may requests behind it still be issued?
    pub(super) skippable: bool,
    brand: Brand<'q>,
}

/// What the driver does with a request it has accepted.
#[derive(Debug)]
pub(super) enum Disposition {
    End(Result<(), Status>),
    Transfer(Data),
    /// This many bytes from its beginning, then IOERR.
    Part(Data, u64),
    Hold,
    Requeue(Requeue),
    Defer(DeferredAction),
}

/// What is left to do with a request that was put off.
#[derive(Clone, Copy, Debug)]
pub(super) enum DeferredAction {
    End(Result<(), Status>),
    Transfer(Data),
    Part(Data, u64),
}

/// An accepted request whose disposition is put off; see [`Accepted::defer`]. Given to
/// [`super::Queue::proceed`] when its time has come; one that is dropped stays in flight until its
/// timeout.
#[derive(Debug)]
pub struct Deferred {
    pub(super) in_flight: InFlight,
    pub(super) rest: DeferredAction,
}

impl Deferred {
    /// True if the driver's `complete` will be called for it.
    pub fn completes(&self) -> bool {
        !matches!(self.rest, DeferredAction::End(_))
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
            Disposition::End(outcome) => Disposition::Defer(DeferredAction::End(outcome)),
            Disposition::Transfer(data) => Disposition::Defer(DeferredAction::Transfer(data)),
            Disposition::Part(data, bytes) => Disposition::Defer(DeferredAction::Part(data, bytes)),
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
            Disposition::Transfer(data) => Disposition::Part(data, bytes),
            disposition => disposition,
        };
        Self {
            disposition,
            ..self
        }
    }

    /// True if the request stays with the driver or the front end. Otherwise it is over, or the
    /// mirror's again, as soon as queue_rq has returned, and the driver's `complete` is not called.
    pub fn goes_on(&self) -> bool {
        !matches!(
            self.disposition,
            Disposition::End(_) | Disposition::Requeue(_)
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
        self.accept(Disposition::End(outcome))
    }

    /// Accepted: the front end moves its bytes to or from `data`, which stays valid until the
    /// driver's `complete`.
    pub fn transfer(self, data: Data) -> Accepted<'q> {
        self.accept(Disposition::Transfer(data))
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
#[must_use = "the transport finishes it or keeps it"]
pub struct Moving<'m> {
    /// Where its timeout has yet to begin.
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
#[must_use = "it is the transport's answer"]
pub struct Moved<'m> {
    pub(super) what: TransferResult,
    brand: Brand<'m>,
}

impl<'m> Moving<'m> {
    /// `untimed`: its queue, if it is only just being issued.
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

    /// The bytes have been moved now, by this thread, or not for this reason.
    pub fn done(self, outcome: Result<u64, Status>) -> Moved<'m> {
        Moved {
            what: TransferResult::Done(outcome),
            brand: PhantomData,
        }
    }

    /// The bytes will be moved later, by the holder of the token.
    pub fn keep(self) -> (InFlight, Moved<'m>) {
        // guard: c35_keep
        if let Some(queue) = self.untimed {
            queue.begin_timeout(self.in_flight.rq);
        }
        let moved = Moved {
            what: TransferResult::Kept,
            brand: PhantomData,
        };
        (self.in_flight, moved)
    }
}
