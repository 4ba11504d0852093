// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packed word of a request slot: whose it is, who looks at it, and which use of the tag it is.
//!
//! ```text
//!   63 ........ 32   31 .. 30   29          28 .......... 0
//!   generation       state      TIMED_OUT   references
//! ```
//!
//! The mirror's counterpart of `rq->state` and `rq->ref` (A7, A11, C38).
//!
//! ```text
//!             start              complete               retire
//!     IDLE ----------> IN_FLIGHT ---------> COMPLETE ----------> IDLE, next generation
//!      ^                   |
//!      +---- take_back ----+   (BUSY and requeue; next generation, TIMED_OUT cleared)
//! ```
//!
//! * IDLE belongs to the mirror: it lies on one of its lists, or with the transport. While nobody
//!   has a reference only the owner changes the word, so it may store it.
//! * IN_FLIGHT belongs to whoever has the token with this generation. One compare-and-swap decides
//!   who takes it out of this state; everybody else, and every token of an earlier generation, is
//!   told that it lost.
//! * A reference can be taken only while IN_FLIGHT and delays the end, not the decision: the last
//!   one to let go of a COMPLETE request ends it.

use super::sync::{AtomicU64, Ordering};

const REF: u64 = 1;
const REFS: u64 = (1 << 29) - 1;
const TIMED_OUT: u64 = 1 << 29;
const STATE: u64 = 3 << 30;
const IDLE: u64 = 0;
const IN_FLIGHT: u64 = 1 << 30;
const COMPLETE: u64 = 2 << 30;
const GENERATION: u32 = 32;

/// Which use of a tag is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation(u32);

/// Who ends a request that is being completed.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Completed {
    /// The caller, now.
    End,
    /// The last one to let go of it: the caller leaves the outcome in the slot, then calls
    /// [`RequestState::put`].
    Publish,
    /// Somebody else has completed it, or taken it back, before.
    Lost,
}

/// What a reference's end leaves to do.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Put {
    /// Nothing.
    Nothing,
    /// The caller ends the request, with the outcome in the slot.
    End,
}

/// Was the word in the state that the step starts from (A7)?
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Step {
    /// Yes.
    Taken(Generation),
    /// No: nothing was changed, and the caller counts it.
    Wrong,
}

/// The word.
#[derive(Debug)]
pub(super) struct RequestState(AtomicU64);

fn generation(word: u64) -> Generation {
    Generation((word >> GENERATION) as u32)
}

fn next_generation(word: u64) -> u64 {
    u64::from(generation(word).0.wrapping_add(1)) << GENERATION
}

fn is_in_flight(word: u64, wanted: Generation) -> bool {
    word & STATE == IN_FLIGHT && generation(word) == wanted
}

impl RequestState {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(IDLE))
    }

    /// IDLE to IN_FLIGHT, by the mirror.
    #[inline]
    pub(super) fn start(&self) -> Step {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word & STATE != IDLE {
                return Step::Wrong;
            }
            let started = (word & !TIMED_OUT) | IN_FLIGHT;
            // Release pairs with the Acquire in `get`: who finds it in flight finds its request.
            if word & REFS == 0 {
                self.0.store(started, Ordering::Release);
                return Step::Taken(generation(word));
            }
            // Somebody who looked at an earlier use is about to let go.
            match self
                .0
                .compare_exchange(word, started, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return Step::Taken(generation(word)),
                Err(now) => word = now,
            }
        }
    }

    /// Changes the word while the request is in flight; None if it is not, or no longer.
    fn update(&self, wanted: Generation, change: impl Fn(u64) -> u64) -> Option<u64> {
        let mut word = self.0.load(Ordering::Relaxed);
        while is_in_flight(word, wanted) {
            // Acquire and Release: the next owner sees all that the former one did.
            match self
                .0
                .compare_exchange(word, change(word), Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(before) => return Some(before),
                Err(now) => word = now,
            }
        }
        None
    }

    /// IN_FLIGHT to COMPLETE. Exactly one of all callers for one generation does not lose (C38).
    #[inline]
    pub(super) fn complete(&self, wanted: Generation) -> Completed {
        let step = |word: u64| {
            let publisher = if word & REFS == 0 { 0 } else { REF };
            (word & !STATE | COMPLETE) + publisher
        };
        match self.update(wanted, step) {
            Some(before) if before & REFS == 0 => Completed::End,
            Some(_) => Completed::Publish,
            None => Completed::Lost,
        }
    }

    /// IN_FLIGHT back to IDLE: BUSY or requeued. False if somebody has completed it before.
    #[must_use]
    pub(super) fn take_back(&self, wanted: Generation) -> bool {
        self.update(wanted, |word| next_generation(word) | (word & REFS) | IDLE)
            .is_some()
    }

    /// COMPLETE to IDLE, by whoever ends the request; the tag may be used again after this.
    #[inline]
    pub(super) fn retire(&self) -> Step {
        let word = self.0.load(Ordering::Relaxed);
        if word & (STATE | REFS) != COMPLETE {
            return Step::Wrong;
        }
        self.0
            .store(next_generation(word) | IDLE, Ordering::Release);
        Step::Taken(generation(word))
    }

    /// Takes a reference; None unless it is in flight.
    pub(super) fn get(&self) -> Option<Generation> {
        let seen = self.0.load(Ordering::Relaxed);
        self.update(generation(seen), |word| word + REF)
            .map(generation)
    }

    /// Lets go of a reference.
    pub(super) fn put(&self) -> Put {
        // Acquire and Release: the one that ends sees the outcome and what the others did.
        let before = self.0.fetch_sub(REF, Ordering::AcqRel);
        debug_assert!(before & REFS != 0, "a reference that was never taken");
        if before & (STATE | REFS) == COMPLETE | REF {
            Put::End
        } else {
            Put::Nothing
        }
    }

    /// Claims the right to call the timeout handler: once per expiry (C37).
    #[must_use]
    pub(super) fn set_timed_out(&self, wanted: Generation) -> bool {
        self.update(wanted, |word| word | TIMED_OUT)
            .is_some_and(|before| before & TIMED_OUT == 0)
    }

    /// The handler asked for another period.
    pub(super) fn clear_timed_out(&self, wanted: Generation) {
        let _ended_meanwhile = self.update(wanted, |word| word & !TIMED_OUT);
    }

    /// In flight, and its timeout not yet handled? A hint.
    pub(super) fn may_expire(&self) -> bool {
        self.0.load(Ordering::Acquire) & (STATE | TIMED_OUT) == IN_FLIGHT
    }

    /// Does a driver or the transport own it? A hint.
    pub(super) fn is_in_flight(&self) -> bool {
        self.0.load(Ordering::Acquire) & STATE == IN_FLIGHT
    }

    /// Does the mirror or the transport's fetch own it? A hint.
    pub(super) fn is_idle(&self) -> bool {
        self.0.load(Ordering::Acquire) & STATE == IDLE
    }
}
