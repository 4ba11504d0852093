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
//!            start        mark_in_flight            complete             retire
//!     IDLE ---------> ISSUED ---------> IN_FLIGHT ---------> COMPLETE ---------> IDLE, next
//!      ^                |                   |                    ^               generation
//!      +-- take_back ---+-------------------+                    |
//!                       +---------- complete, finish ------------+
//! ```
//!
//! `take_back` is for BUSY and requeue: next generation, TIMED_OUT cleared.
//!
//! * IDLE belongs to the mirror: it lies on one of its lists, or with the front end. While nobody
//!   has a reference only the owner changes the word, so it may store it.
//! * ISSUED belongs to the thread that issues it, for as long as it is in that section: in queue_rq,
//!   and where its bytes are moved. Nobody can look it up. If it ends there and no token was given
//!   away, the thread has the word for itself and may store it: most requests are never IN_FLIGHT,
//!   and pay for no compare-and-swap. A token that was given away counts as in IN_FLIGHT.
//! * IN_FLIGHT belongs to the holder of the token with this generation. One compare-and-swap decides
//!   who takes it out of this state; everybody else, and every token of an earlier generation, is
//!   told that it lost.
//! * A reference can be taken only while IN_FLIGHT and delays the end, not the decision: the last
//!   one to be dropped ends a COMPLETE request.

use super::sync::{AtomicU64, Ordering};

const REF: u64 = 1;
const REFS: u64 = (1 << 29) - 1;
const TIMED_OUT: u64 = 1 << 29;
const STATE: u64 = 3 << 30;
const IDLE: u64 = 0;
const IN_FLIGHT: u64 = 1 << 30;
const COMPLETE: u64 = 2 << 30;
const ISSUED: u64 = 3 << 30;
/// What IN_FLIGHT and ISSUED have in common, and the others not.
const OUT: u64 = IN_FLIGHT & ISSUED;
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
    /// The holder of the last reference: the caller stores the outcome in the slot, then calls
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

/// True if a token of this generation may decide.
fn is_out(word: u64, wanted: Generation) -> bool {
    // guard: c38_decide
    word & OUT != 0 && generation(word) == wanted
}

fn is_issued(word: u64) -> bool {
    word & STATE == ISSUED
}

/// True if a reference may be taken.
fn is_in_flight(word: u64, wanted: Generation) -> bool {
    word & STATE == IN_FLIGHT && generation(word) == wanted
}

impl RequestState {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(IDLE))
    }

    /// IDLE to ISSUED, by the mirror, in an issue section.
    #[inline]
    pub(super) fn start(&self) -> Step {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word & STATE != IDLE {
                return Step::Wrong;
            }
            let started = (word & !TIMED_OUT) | ISSUED;
            // Release pairs with the Acquire in `may_expire`: a thread that finds it issued does not
            // find the deadline of an earlier use.
            if word & REFS == 0 {
                self.0.store(started, Ordering::Release);
                return Step::Taken(generation(word));
            }
            // A thread still holds a reference to an earlier use of the tag.
            match self
                .0
                .compare_exchange(word, started, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return Step::Taken(generation(word)),
                Err(now) => word = now,
            }
        }
    }

    /// ISSUED to IN_FLIGHT, before the section ends: the request stays with the driver or the front
    /// end. The holder of its token may have completed it before.
    #[inline]
    pub(super) fn mark_in_flight(&self, issued: Generation) {
        let is_its = |word| is_issued(word) && generation(word) == issued;
        let _completed_before = self.update(is_its, |word| word & !STATE | IN_FLIGHT);
    }

    /// Changes the word in one step, if `holds` is true for it. Returns the word as it was before, or
    /// None if `holds` is false for it.
    #[inline]
    fn update(&self, holds: impl Fn(u64) -> bool, change: impl Fn(u64) -> u64) -> Option<u64> {
        let mut word = self.0.load(Ordering::Relaxed);
        while holds(word) {
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

    /// ISSUED to COMPLETE, by the thread that issues it, which has its token back.
    #[inline]
    pub(super) fn finish(&self, issued: Generation) -> Completed {
        let word = self.0.load(Ordering::Acquire);
        // guard: a11_alone
        if word & (STATE | REFS) == ISSUED && generation(word) == issued {
            // Nobody has a token or a reference, nor can get one: the word is the caller's alone.
            self.0.store(word & !STATE | COMPLETE, Ordering::Release);
            return Completed::End;
        }
        self.complete(issued)
    }

    /// To COMPLETE. Of all callers for one generation exactly one wins (C38).
    pub(super) fn complete(&self, wanted: Generation) -> Completed {
        let step = |word: u64| {
            // guard: a11_last
            let publisher = if word & REFS == 0 { 0 } else { REF };
            (word & !STATE | COMPLETE) + publisher
        };
        match self.update(|word| is_out(word, wanted), step) {
            Some(before) if before & REFS == 0 => Completed::End,
            Some(_) => Completed::Publish,
            None => Completed::Lost,
        }
    }

    /// Back to IDLE: BUSY or requeued. False if somebody has completed it before.
    #[must_use]
    pub(super) fn take_back(&self, wanted: Generation) -> bool {
        let step = |word| next_generation(word) | (word & REFS) | IDLE;
        self.update(|word| is_out(word, wanted), step).is_some()
    }

    /// COMPLETE to IDLE, by the thread that ends the request; the tag may be used again after this.
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
        let in_flight = |word| is_in_flight(word, generation(seen));
        self.update(in_flight, |word| word + REF).map(generation)
    }

    /// Drops a reference.
    pub(super) fn put(&self) -> Put {
        // Acquire and Release: the thread that ends it sees the outcome and what the others did.
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
        let in_flight = |word| is_in_flight(word, wanted);
        self.update(in_flight, |word| word | TIMED_OUT)
            .is_some_and(|before| before & TIMED_OUT == 0)
    }

    /// The handler asked for another period.
    pub(super) fn clear_timed_out(&self, wanted: Generation) {
        let in_flight = |word| is_in_flight(word, wanted);
        let _ended_meanwhile = self.update(in_flight, |word| word & !TIMED_OUT);
    }

    /// In flight, and its timeout not yet handled? A hint.
    pub(super) fn may_expire(&self) -> bool {
        let word = self.0.load(Ordering::Acquire);
        word & OUT != 0 && word & TIMED_OUT == 0
    }

    /// ISSUED to IN_FLIGHT of a request whose issuing thread has left the section by a panic, and will
    /// not come back. True if it is such a request.
    /// # Context: no thread is in a section.
    pub(super) fn recover_abandoned(&self) -> bool {
        self.update(is_issued, |word| word & !STATE | IN_FLIGHT)
            .is_some()
    }

    /// True if a driver or the front end owns it. A hint.
    pub(super) fn is_in_flight(&self) -> bool {
        self.0.load(Ordering::Acquire) & OUT != 0
    }

    /// True if the driver or the front end keeps it: it is no longer being issued. A hint.
    pub(super) fn is_kept(&self) -> bool {
        self.0.load(Ordering::Acquire) & STATE == IN_FLIGHT
    }

    /// True if the mirror or the front end's fetch owns it. A hint.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.0.load(Ordering::Acquire) & STATE == IDLE
    }
}
