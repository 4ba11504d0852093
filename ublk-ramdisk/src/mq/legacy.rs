// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drivers written to the three answers of the kernels 3.x and 4.x (B7).
//!
//! A [`LegacyDriver`] answers with a number, as it did then; [`Legacy`] makes [`Operations`] of it:
//! QUEUE_OK = OK, QUEUE_BUSY = RESOURCE, QUEUE_ERROR = IOERR, anything else is logged and taken for
//! an error. These drivers ended a request themselves, inside queue_rq or later, and expected that
//! a queue they had stopped is not run until they start it; both still work (M5).

use super::operations::{Answer, Busy, Hctx, Operations};
use super::queue::Queue;
use super::request::Data;
use super::request::Request;
use super::status::Status;
use super::tokens::{InFlight, Issued};
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The driver has taken the request.
pub const QUEUE_OK: i32 = 0;
/// Not now.
pub const QUEUE_BUSY: i32 = 1;
/// Never.
pub const QUEUE_ERROR: i32 = 2;

/// A driver of the old kind.
pub trait LegacyDriver: Send + Sync {
    /// Returns one of the three numbers. After QUEUE_OK the driver owns the request: it has ended
    /// it through `request`, or ends it later through [`Legacy::end_request`].
    fn queue_rq(&self, hctx: Hctx<'_>, request: &LegacyRequest<'_>) -> i32;

    /// A request whose bytes were moved is about to end.
    fn complete(&self, _request: &Request) {}
}

/// What an old driver did with a request inside queue_rq.
#[derive(Clone, Copy)]
enum Done {
    Nothing,
    Ended(Result<(), Status>),
    Memory(Data),
}

/// A request as an old driver sees it.
pub struct LegacyRequest<'a> {
    request: &'a Request,
    done: Cell<Done>,
}

impl LegacyRequest<'_> {
    /// What is asked for.
    pub fn request(&self) -> &Request {
        self.request
    }

    /// `blk_mq_end_request`: it ends when queue_rq has answered QUEUE_OK.
    pub fn end(&self, outcome: Result<(), Status>) {
        self.done.set(Done::Ended(outcome));
    }

    /// Stands for the copy an old driver made itself: the bytes are moved to or from here when
    /// queue_rq has answered QUEUE_OK.
    pub fn copy(&self, data: Data) {
        self.done.set(Done::Memory(data));
    }
}

/// Makes [`Operations`] of a [`LegacyDriver`].
pub struct Legacy<D> {
    driver: D,
    depth: u16,
    held: Box<[Mutex<Held>]>,
}

/// What an old driver has of a tag.
enum Held {
    Nothing,
    /// queue_rq is going on.
    Entered,
    /// Another thread of the driver has ended it before queue_rq has returned.
    EndedEarly(Result<(), Status>),
    Token(InFlight, Request),
}

impl<D: LegacyDriver> Legacy<D> {
    /// For a device with `nr_hw_queues` queues of depth `depth`.
    pub fn new(driver: D, nr_hw_queues: u16, depth: u16) -> Self {
        let slots = usize::from(nr_hw_queues) * usize::from(depth);
        Self {
            driver,
            depth,
            held: (0..slots).map(|_| Mutex::new(Held::Nothing)).collect(),
        }
    }

    /// The driver inside.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    fn held(&self, hctx: u16, tag: u16) -> MutexGuard<'_, Held> {
        let slot = &self.held[usize::from(hctx) * usize::from(self.depth) + usize::from(tag)];
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `blk_mq_end_request` outside queue_rq, of a request that queue_rq answers with QUEUE_OK.
    /// False if the driver has no such request.
    pub fn end_request(
        &self,
        queue: &Queue,
        hctx: u16,
        tag: u16,
        outcome: Result<(), Status>,
    ) -> bool {
        let (token, request) = {
            let mut held = self.held(hctx, tag);
            match std::mem::replace(&mut *held, Held::Nothing) {
                Held::Token(token, request) => (token, request),
                Held::Entered => {
                    *held = Held::EndedEarly(outcome);
                    return true;
                }
                Held::Nothing | Held::EndedEarly(_) => return false,
            }
        };
        queue.complete_remote(token, outcome.map(|()| request.data_len()))
    }

    /// The driver has answered QUEUE_OK.
    fn took<'q>(&self, hctx: u16, rq: Issued<'q>, done: Done) -> Answer<'q> {
        let mut held = self.held(hctx, rq.request().tag());
        match (done, std::mem::replace(&mut *held, Held::Nothing)) {
            (Done::Ended(outcome), _) | (Done::Nothing, Held::EndedEarly(outcome)) => {
                Answer::Ok(rq.end(outcome))
            }
            (Done::Memory(data), _) => Answer::Ok(rq.transfer(data)),
            (Done::Nothing, _) => {
                let request = *rq.request();
                let (token, accepted) = rq.hold();
                *held = Held::Token(token, request);
                Answer::Ok(accepted)
            }
        }
    }
}

impl<D: LegacyDriver> Operations for Legacy<D> {
    fn queue_rq<'q>(&self, hctx: Hctx<'_>, rq: Issued<'q>, _last: bool) -> Answer<'q> {
        let tag = rq.request().tag();
        *self.held(hctx.index(), tag) = Held::Entered;
        let (answer, done) = {
            let request = LegacyRequest {
                request: rq.request(),
                done: Cell::new(Done::Nothing),
            };
            let answer = self.driver.queue_rq(hctx, &request);
            (answer, request.done.get())
        };
        if answer == QUEUE_OK {
            return self.took(hctx.index(), rq, done);
        }
        *self.held(hctx.index(), tag) = Held::Nothing;
        match answer {
            QUEUE_BUSY => rq.busy(Busy::Resource),
            QUEUE_ERROR => Answer::Error(rq, Status::IoErr),
            other => {
                log::error!("queue_rq answered {other}, which is no answer: taken for an error");
                Answer::Error(rq, Status::IoErr)
            }
        }
    }

    fn complete(&self, _hctx: Hctx<'_>, request: &Request) {
        self.driver.complete(request);
    }
}
