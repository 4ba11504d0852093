// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests on their way to the store workqueue, because what they ask for takes a system call, or
//! too long, for queue_rq (J3): those that give memory back, and those that clear a lot of it. A
//! ring with room for every tag, so it never grows.

use std::ops::Range;

use super::words::{lock, Mutex};
use crate::mq::{InFlight, Request};

/// The ring.
#[derive(Debug)]
pub(super) struct Held(Mutex<Ring>);

/// One request.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) token: InFlight,
    pub(super) request: Request,
    /// Bytes of it that are done.
    done: u64,
}

impl Job {
    pub(super) fn new(token: InFlight, request: Request) -> Self {
        Self {
            token,
            request,
            done: 0,
        }
    }

    /// At most so many of the bytes that are left, which count as done from now on.
    pub(super) fn next(&mut self, most: u64) -> Range<u64> {
        let all = super::range(&self.request);
        let start = all.start + self.done;
        let end = all.end.min(start + most);
        self.done = end - all.start;
        start..end
    }

    pub(super) fn is_done(&self) -> bool {
        self.done == self.request.len()
    }
}

#[derive(Debug)]
struct Ring {
    jobs: Box<[Option<Job>]>,
    first: usize,
    len: usize,
}

impl Held {
    /// For so many requests.
    pub(super) fn new(requests: usize) -> Self {
        Self(Mutex::new(Ring {
            jobs: (0..requests).map(|_| None).collect(),
            first: 0,
            len: 0,
        }))
    }

    pub(super) fn push(&self, job: Job) {
        let ring = &mut *lock(&self.0);
        let at = (ring.first + ring.len) % ring.jobs.len();
        debug_assert!(ring.jobs[at].is_none(), "one place for each tag");
        ring.jobs[at] = Some(job);
        ring.len += 1;
    }

    pub(super) fn pop(&self) -> Option<Job> {
        let ring = &mut *lock(&self.0);
        ring.len = ring.len.checked_sub(1)?;
        let at = ring.first;
        ring.first = (at + 1) % ring.jobs.len();
        ring.jobs[at].take()
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).len == 0
    }
}
