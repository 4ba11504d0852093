// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver called without the mirror in between: what the ublk queues use. It answers at once,
//! and the transport moves the client's bytes once it has been told where they belong.

use super::data::{Data, Run};
use super::request::Request;
use super::status::Status;

/// The driver's answer to a request; says who owes the next step.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub enum Queued {
    /// Done, nothing to move: the transport commits it.
    Done,
    /// The transport moves the bytes, calls [`Operations::complete`] and commits.
    Move(Data),
    /// Not done: the transport commits the status.
    Failed(Status),
}

/// A block driver below the transport.
pub trait Operations: Send + Sync {
    /// Size of the disk in bytes, as it is now.
    fn capacity(&self) -> u64;

    /// Takes a request on. Never sleeps for another request.
    fn queue_rq(&self, request: &Request) -> Queued;

    /// The pieces of a scattered READ in order. Together they are as long as
    /// the request.
    fn runs(&self, request: &Request, each: &mut dyn FnMut(Run));

    /// The bytes of a request answered with [`Queued::Move`] have been moved, or
    /// will not be: its memory is no longer used. Called exactly once.
    fn complete(&self, request: &Request);
}
