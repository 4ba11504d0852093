// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that a work item carries out, because queue_rq may neither make a system call nor take
//! long (J3): those that give memory back, and those that clear much of it. The ring has room for
//! every tag, so it never grows.

use std::ops::Range;

use super::sync::{lock, Mutex};
use crate::mq::{InFlight, Request};

/// The requests, the oldest first.
#[derive(Debug)]
pub(super) struct PendingRing(Mutex<Ring>);

/// A request that has been accepted.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) token: InFlight,
    pub(super) request: Request,
    /// Index of its hardware queue.
    pub(super) hctx: u16,
    /// Bytes that are done.
    done: u64,
}

impl Pending {
    /// A request of which nothing is done yet.
    pub(super) fn new(token: InFlight, hctx: u16, request: Request) -> Self {
        Self {
            token,
            request,
            hctx,
            done: 0,
        }
    }

    /// Bytes of the disk.
    pub(super) fn range(&self) -> Range<u64> {
        self.request.offset()..self.request.offset() + self.request.len()
    }

    /// At most `most` of the bytes that are left. They count as done from now on.
    pub(super) fn next(&mut self, most: u64) -> Range<u64> {
        let all = self.range();
        let start = all.start + self.done;
        let end = all.end.min(start + most);
        self.done = end - all.start;
        start..end
    }

    /// True if all of its bytes are done.
    pub(super) fn is_done(&self) -> bool {
        self.done == self.request.len()
    }
}

#[derive(Debug)]
struct Ring {
    requests: Box<[Option<Pending>]>,
    first: usize,
    len: usize,
}

impl PendingRing {
    /// Makes a ring for `capacity` requests.
    pub(super) fn new(capacity: usize) -> Self {
        Self(Mutex::new(Ring {
            requests: (0..capacity).map(|_| None).collect(),
            first: 0,
            len: 0,
        }))
    }

    /// Puts a request behind the others.
    pub(super) fn push(&self, pending: Pending) {
        let ring = &mut *lock(&self.0);
        let at = (ring.first + ring.len) % ring.requests.len();
        debug_assert!(ring.requests[at].is_none(), "one place for each tag");
        ring.requests[at] = Some(pending);
        ring.len += 1;
    }

    /// Takes the oldest request.
    pub(super) fn pop(&self) -> Option<Pending> {
        let ring = &mut *lock(&self.0);
        ring.len = ring.len.checked_sub(1)?;
        let at = ring.first;
        ring.first = (at + 1) % ring.requests.len();
        ring.requests[at].take()
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).len == 0
    }
}
