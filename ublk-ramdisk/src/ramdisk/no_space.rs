// SPDX-License-Identifier: MIT OR Apache-2.0
//! From BUSY to NOSPC: what becomes of requests for which there is no memory (E22 to E26).
//!
//! ```text
//!              nothing can be freed                  no-space timeout
//!   ENOUGH ------------------------> EXHAUSTED ------------------------> ERROR
//!     ^      requests wait, E11          |          they end with NOSPC     |
//!     +----------------------------------+----------------------------------+
//!                     memory is freed, or the limit raised
//! ```
//!
//! Time comes from the caller, so that it is the runtime's clock. Kernel counterpart: dm-thin's
//! `no_space_timeout` and `error_if_no_space`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::words::{lock, AtomicU32, Mutex, Ordering};
use crate::mq::Source;
use crate::trace::{Pressing, SourceState};

/// What a write that needs memory can expect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Memory.
    #[default]
    Enough,
    /// To wait: there is none, and nothing can be freed.
    Exhausted,
    /// NOSPC.
    Error,
}

impl Mode {
    /// As `stats` shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enough => "enough",
            Self::Exhausted => "exhausted",
            Self::Error => "error",
        }
    }
}

/// How long requests wait when there is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Until there is some.
    Forever,
    /// So long, and not at all if it is zero.
    For(Duration),
}

/// dm-thin's.
pub const DEFAULT_PATIENCE: Patience = Patience::For(Duration::from_secs(60));

/// What is to be done when nothing can be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Step {
    /// The timer runs, or there is none.
    Wait,
    /// Have `expire` called after so long.
    Arm(Duration),
    /// Deny those that wait.
    Deny,
    /// Try again: memory has been freed since.
    Again,
}

#[derive(Debug)]
struct Inner {
    mode: Mode,
    patience: Patience,
    /// When it was found to be exhausted, in that mode.
    since: Duration,
    deadline: Option<Duration>,
    /// How often memory has been freed.
    frees: u64,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct NoSpace {
    inner: Mutex<Inner>,
    /// The mode of `inner`, to be looked at without the lock.
    mode: AtomicU32,
    /// Tells the mode to whoever records.
    pub(super) state: SourceState,
}

impl NoSpace {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            inner: Mutex::new(Inner {
                mode: Mode::Enough,
                patience,
                since: Duration::ZERO,
                deadline: None,
                frees: 0,
            }),
            mode: AtomicU32::new(Mode::Enough as u32),
            state: SourceState::new(Source::Memory),
        }
    }

    fn change(&self, inner: &mut Inner, mode: Mode) {
        inner.mode = mode;
        inner.deadline = None;
        self.mode.store(mode as u32, Ordering::Relaxed);
        self.state.set(match mode {
            Mode::Enough => Pressing::Ceased,
            Mode::Exhausted => Pressing::Began,
            Mode::Error => Pressing::Enospc,
        });
    }

    #[inline]
    pub(super) fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::Relaxed) == mode as u32
    }

    /// How often memory has been freed so far: to be asked before one tries to have some.
    pub(super) fn frees(&self) -> u64 {
        lock(&self.inner).frees
    }

    /// There is a request without memory, and nothing can be freed. `seen` is what `frees` said
    /// before the try that failed: whoever freed some since has told so once, and will not again.
    pub(super) fn exhausted(&self, now: Duration, seen: u64) -> Step {
        let inner = &mut *lock(&self.inner);
        if inner.frees != seen {
            return Step::Again;
        }
        match (inner.mode, inner.patience) {
            (Mode::Error, _) => Step::Deny,
            (_, Patience::For(Duration::ZERO)) => {
                self.change(inner, Mode::Error);
                Step::Deny
            }
            (Mode::Exhausted, _) => Step::Wait,
            (Mode::Enough, patience) => {
                self.change(inner, Mode::Exhausted);
                inner.since = now;
                let Patience::For(time) = patience else {
                    return Step::Wait;
                };
                inner.deadline = Some(now + time);
                Step::Arm(time)
            }
        }
    }

    /// Memory has been freed, or the limit raised. True if that changes anything.
    pub(super) fn freed(&self) -> bool {
        let inner = &mut *lock(&self.inner);
        inner.frees += 1;
        let changes = inner.mode != Mode::Enough;
        self.change(inner, Mode::Enough);
        changes
    }

    /// The timer has come: true if those that wait are to be denied. `waiting` says whether there
    /// are any: if not, all that had no memory are gone, and the next one gets a timer of its own.
    pub(super) fn expire(&self, now: Duration, waiting: bool) -> bool {
        let inner = &mut *lock(&self.inner);
        if inner.deadline.is_none_or(|deadline| now < deadline) {
            return false; // that one was cancelled
        }
        let mode = if waiting { Mode::Error } else { Mode::Enough };
        self.change(inner, mode);
        waiting
    }

    /// Another patience. It counts for those that wait already, from when they began to; and where
    /// requests end with NOSPC they wait again, unless it is none.
    pub(super) fn set_patience(&self, patience: Patience, now: Duration) -> Step {
        let inner = &mut *lock(&self.inner);
        inner.patience = patience;
        match (inner.mode, patience) {
            (Mode::Enough, _) | (Mode::Error, Patience::For(Duration::ZERO)) => Step::Wait,
            (Mode::Exhausted, Patience::For(Duration::ZERO)) => {
                self.change(inner, Mode::Error);
                Step::Deny
            }
            (Mode::Exhausted, Patience::For(time)) => {
                let deadline = inner.since + time;
                inner.deadline = Some(deadline);
                Step::Arm(deadline.saturating_sub(now))
            }
            (Mode::Exhausted, Patience::Forever) => {
                inner.deadline = None;
                Step::Wait
            }
            (Mode::Error, _) => {
                self.change(inner, Mode::Enough);
                Step::Wait
            }
        }
    }

    /// The mode, and how long it is until requests are denied, if that is going to happen.
    pub(super) fn report(&self, now: Duration) -> (Mode, Option<Duration>) {
        let inner = lock(&self.inner);
        let left = inner.deadline.map(|deadline| deadline.saturating_sub(now));
        (inner.mode, left)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn e22_the_timeout_begins_when_nothing_can_be_freed_and_is_cancelled_by_a_free() {
        let state = NoSpace::new(Patience::For(60 * S));
        assert_eq!(state.exhausted(5 * S, state.frees()), Step::Arm(60 * S));
        assert_eq!(
            state.exhausted(50 * S, state.frees()),
            Step::Wait,
            "it runs already"
        );
        assert_eq!(state.report(50 * S), (Mode::Exhausted, Some(15 * S)));
        assert!(state.freed() && !state.freed());
        assert!(!state.expire(65 * S, true), "cancelled");
        assert_eq!(state.exhausted(70 * S, state.frees()), Step::Arm(60 * S));
        assert!(!state.expire(129 * S, true), "not yet");
        assert!(state.expire(130 * S, true));
        assert!(state.is(Mode::Error));
        assert_eq!(state.exhausted(131 * S, state.frees()), Step::Deny);
        assert!(
            state.freed() && state.is(Mode::Enough),
            "and back by itself"
        );
    }

    #[test]
    fn e22_error_if_no_space_is_at_once_and_for_ever_is_never() {
        let state = NoSpace::new(Patience::For(Duration::ZERO));
        assert_eq!(state.exhausted(S, state.frees()), Step::Deny);
        assert_eq!(state.report(S), (Mode::Error, None));
        let state = NoSpace::new(Patience::Forever);
        assert_eq!(state.exhausted(S, state.frees()), Step::Wait);
        assert!(!state.expire(1000 * S, true));
        assert_eq!(
            state.set_patience(Patience::For(Duration::ZERO), S),
            Step::Deny
        );
        assert!(state.is(Mode::Error));
    }

    #[test]
    fn e22_another_patience_counts_from_when_memory_ran_out() {
        let state = NoSpace::new(Patience::For(60 * S));
        assert_eq!(state.set_patience(Patience::For(30 * S), S), Step::Wait);
        assert_eq!(state.exhausted(10 * S, state.frees()), Step::Arm(30 * S));
        let longer = state.set_patience(Patience::For(90 * S), 20 * S);
        assert_eq!(longer, Step::Arm(80 * S));
        assert!(!state.expire(40 * S, true), "the timer of before");
        assert_eq!(state.set_patience(Patience::Forever, 20 * S), Step::Wait);
        assert_eq!(state.report(20 * S), (Mode::Exhausted, None));
        let over = state.set_patience(Patience::For(5 * S), 20 * S);
        assert_eq!(over, Step::Arm(Duration::ZERO));
        assert!(state.expire(20 * S, true) && state.is(Mode::Error));
        let none = state.set_patience(Patience::For(Duration::ZERO), 21 * S);
        assert!(none == Step::Wait && state.is(Mode::Error));
        let some = state.set_patience(Patience::For(S), 21 * S);
        assert!(
            some == Step::Wait && state.is(Mode::Enough),
            "they wait again"
        );
    }

    #[test]
    fn e22_nobody_is_left_to_be_denied() {
        let state = NoSpace::new(Patience::For(S));
        assert_eq!(state.exhausted(S, state.frees()), Step::Arm(S));
        assert!(!state.expire(2 * S, false));
        assert!(state.is(Mode::Enough));
    }

    #[test]
    fn e22_memory_that_was_freed_after_the_try_is_tried_for_again() {
        for patience in [Duration::ZERO, S] {
            let state = NoSpace::new(Patience::For(patience));
            let seen = state.frees();
            assert!(!state.freed(), "nobody was out of memory yet");
            assert_eq!(state.exhausted(S, seen), Step::Again);
            assert!(state.is(Mode::Enough));
        }
    }
}
