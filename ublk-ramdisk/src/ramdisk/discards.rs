// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that give memory back, on their way to the store workqueue: a punch is a system call,
//! which has no place in queue_rq (J3). A ring with room for every tag, so it never grows.

use super::words::{lock, Mutex};
use crate::mq::{InFlight, Request};

/// The ring.
#[derive(Debug)]
pub(super) struct Discards(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    jobs: Box<[Option<(InFlight, Request)>]>,
    first: usize,
    len: usize,
}

impl Discards {
    /// For so many requests.
    pub(super) fn new(requests: usize) -> Self {
        Self(Mutex::new(Ring {
            jobs: (0..requests).map(|_| None).collect(),
            first: 0,
            len: 0,
        }))
    }

    pub(super) fn push(&self, token: InFlight, request: Request) {
        let ring = &mut *lock(&self.0);
        let at = (ring.first + ring.len) % ring.jobs.len();
        debug_assert!(ring.jobs[at].is_none(), "one place for each tag");
        ring.jobs[at] = Some((token, request));
        ring.len += 1;
    }

    pub(super) fn pop(&self) -> Option<(InFlight, Request)> {
        let ring = &mut *lock(&self.0);
        ring.len = ring.len.checked_sub(1)?;
        let at = ring.first;
        ring.first = (at + 1) % ring.jobs.len();
        ring.jobs[at].take()
    }
}
