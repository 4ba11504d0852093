// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a driver does with a request. Shaped after `blk_mq_ops` and
//! Rust-for-Linux's `block::mq::Operations`, for a transport that moves the
//! client's bytes itself once it has been told where they belong.

use std::ptr::NonNull;

use super::request::Request;
use super::status::Status;

/// Where the bytes of a READ or WRITE are. Valid until [`Operations::complete`].
#[derive(Clone, Copy, Debug)]
pub enum Data {
    /// All of them in one piece, from this address on.
    Contiguous(NonNull<u8>),
    /// A READ of nothing but holes.
    Zeros,
    /// A READ of pieces and holes: ask [`Operations::runs`].
    Scattered,
}

/// One piece of a [`Data::Scattered`] request.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// This many bytes from this address on.
    Memory(NonNull<u8>, usize),
    /// This many zeros.
    Zeros(usize),
}

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
