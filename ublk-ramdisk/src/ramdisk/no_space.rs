// SPDX-License-Identifier: MIT OR Apache-2.0
//! From BUSY to NOSPC: the modes of a store that has no memory for a request (E22 to E26).
//!
//! ```text
//!              nothing can be freed                  no-space timeout
//!   ENOUGH ------------------------> EXHAUSTED ------------------------> ERROR
//!     ^      requests wait, E11          |          they end with NOSPC     |
//!     +----------------------------------+----------------------------------+
//!                     memory is freed, or the limit raised
//! ```
//!
//! The caller passes the time, from the clock of its runtime. Kernel counterpart: dm-thin's
//! `no_space_timeout` and `error_if_no_space`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::sync::{lock, AtomicU32, Mutex, Ordering};
use crate::mq::Source;
use crate::trace::{Pressing, SourceState};

/// What becomes of a write that needs memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It gets memory.
    #[default]
    Enough,
    /// It waits: there is none, and nothing can be freed.
    Exhausted,
    /// It ends with NOSPC.
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
pub enum NoSpaceTimeout {
    /// Until there is some.
    Never,
    /// This long; zero for not at all.
    After(Duration),
}

/// dm-thin's.
pub const DEFAULT_NO_SPACE_TIMEOUT: NoSpaceTimeout = NoSpaceTimeout::After(Duration::from_secs(60));

/// What is to be done when nothing can be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Step {
    /// Nothing: the timer runs, or there is none.
    Wait,
    /// Call `expire` after this time.
    Arm(Duration),
    /// Deny those that wait.
    Deny,
    /// Try again: memory has been freed since.
    Again,
}

#[derive(Debug)]
struct Inner {
    mode: Mode,
    timeout: NoSpaceTimeout,
    /// When it was found to be exhausted, in that mode.
    since: Duration,
    deadline: Option<Duration>,
    /// Number of times that memory has been freed.
    frees: u64,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct NoSpace {
    inner: Mutex<Inner>,
    /// The mode of `inner`, to be read without the lock.
    mode: AtomicU32,
    /// Records each change of the mode.
    pub(super) state: SourceState,
}

impl NoSpace {
    /// Begins with memory enough.
    pub(super) fn new(timeout: NoSpaceTimeout) -> Self {
        Self {
            inner: Mutex::new(Inner {
                mode: Mode::Enough,
                timeout,
                since: Duration::ZERO,
                deadline: None,
                frees: 0,
            }),
            mode: AtomicU32::new(Mode::Enough as u32),
            state: SourceState::new(Source::Memory),
        }
    }

    /// Changes the mode, ends a running timeout, and records the change.
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

    /// True if this is the mode now. Read without the lock.
    #[inline]
    pub(super) fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::Relaxed) == mode as u32
    }

    /// Number of times that memory has been freed. Read before an allocation, for `exhausted`.
    pub(super) fn frees(&self) -> u64 {
        lock(&self.inner).frees
    }

    /// Records that a request lacks memory and nothing can be freed. `seen` is what `frees` returned
    /// before the allocation that failed. Memory freed since then is reported only once, so it is
    /// found by the number.
    pub(super) fn exhausted(&self, now: Duration, seen: u64) -> Step {
        let inner = &mut *lock(&self.inner);
        if inner.frees != seen {
            return Step::Again;
        }
        match (inner.mode, inner.timeout) {
            (Mode::Error, _) => Step::Deny,
            (_, NoSpaceTimeout::After(Duration::ZERO)) => {
                self.change(inner, Mode::Error);
                Step::Deny
            }
            (Mode::Exhausted, _) => Step::Wait,
            (Mode::Enough, timeout) => {
                self.change(inner, Mode::Exhausted);
                inner.since = now;
                let NoSpaceTimeout::After(time) = timeout else {
                    return Step::Wait;
                };
                inner.deadline = Some(now + time);
                Step::Arm(time)
            }
        }
    }

    /// Records that memory has been freed, or the limit raised. True if the mode changes.
    pub(super) fn freed(&self) -> bool {
        let inner = &mut *lock(&self.inner);
        inner.frees += 1;
        let changes = inner.mode != Mode::Enough;
        self.change(inner, Mode::Enough);
        changes
    }

    /// Called by the timer. True if those that wait are to be denied. If none wait, the mode becomes
    /// Enough: the next one gets a timer of its own.
    pub(super) fn expire(&self, now: Duration, waiting: bool) -> bool {
        let inner = &mut *lock(&self.inner);
        if inner.deadline.is_none_or(|deadline| now < deadline) {
            return false; // that timer was cancelled
        }
        let mode = if waiting { Mode::Error } else { Mode::Enough };
        self.change(inner, mode);
        waiting
    }

    /// Sets the timeout. It applies to requests that wait already, from when memory ran out. Where
    /// requests end with NOSPC they wait again, unless the timeout is zero.
    pub(super) fn set_no_space_timeout(&self, timeout: NoSpaceTimeout, now: Duration) -> Step {
        let inner = &mut *lock(&self.inner);
        inner.timeout = timeout;
        match (inner.mode, timeout) {
            (Mode::Enough, _) | (Mode::Error, NoSpaceTimeout::After(Duration::ZERO)) => Step::Wait,
            (Mode::Exhausted, NoSpaceTimeout::After(Duration::ZERO)) => {
                self.change(inner, Mode::Error);
                Step::Deny
            }
            (Mode::Exhausted, NoSpaceTimeout::After(time)) => {
                let deadline = inner.since + time;
                inner.deadline = Some(deadline);
                Step::Arm(deadline.saturating_sub(now))
            }
            (Mode::Exhausted, NoSpaceTimeout::Never) => {
                inner.deadline = None;
                Step::Wait
            }
            (Mode::Error, _) => {
                self.change(inner, Mode::Enough);
                Step::Wait
            }
        }
    }

    /// The mode, and the time until requests are denied, if a timer runs.
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
        let state = NoSpace::new(NoSpaceTimeout::After(60 * S));
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
    fn e22_a_zero_timeout_denies_at_once_and_none_never() {
        let state = NoSpace::new(NoSpaceTimeout::After(Duration::ZERO));
        assert_eq!(state.exhausted(S, state.frees()), Step::Deny);
        assert_eq!(state.report(S), (Mode::Error, None));
        let state = NoSpace::new(NoSpaceTimeout::Never);
        assert_eq!(state.exhausted(S, state.frees()), Step::Wait);
        assert!(!state.expire(1000 * S, true));
        assert_eq!(
            state.set_no_space_timeout(NoSpaceTimeout::After(Duration::ZERO), S),
            Step::Deny
        );
        assert!(state.is(Mode::Error));
    }

    #[test]
    fn e22_a_changed_timeout_counts_from_when_memory_ran_out() {
        let state = NoSpace::new(NoSpaceTimeout::After(60 * S));
        assert_eq!(
            state.set_no_space_timeout(NoSpaceTimeout::After(30 * S), S),
            Step::Wait
        );
        assert_eq!(state.exhausted(10 * S, state.frees()), Step::Arm(30 * S));
        let longer = state.set_no_space_timeout(NoSpaceTimeout::After(90 * S), 20 * S);
        assert_eq!(longer, Step::Arm(80 * S));
        assert!(!state.expire(40 * S, true), "the timer of before");
        assert_eq!(
            state.set_no_space_timeout(NoSpaceTimeout::Never, 20 * S),
            Step::Wait
        );
        assert_eq!(state.report(20 * S), (Mode::Exhausted, None));
        let over = state.set_no_space_timeout(NoSpaceTimeout::After(5 * S), 20 * S);
        assert_eq!(over, Step::Arm(Duration::ZERO));
        assert!(state.expire(20 * S, true) && state.is(Mode::Error));
        let none = state.set_no_space_timeout(NoSpaceTimeout::After(Duration::ZERO), 21 * S);
        assert!(none == Step::Wait && state.is(Mode::Error));
        let some = state.set_no_space_timeout(NoSpaceTimeout::After(S), 21 * S);
        assert!(
            some == Step::Wait && state.is(Mode::Enough),
            "they wait again"
        );
    }

    #[test]
    fn e22_a_timer_that_finds_no_waiter_leaves_the_mode_enough() {
        let state = NoSpace::new(NoSpaceTimeout::After(S));
        assert_eq!(state.exhausted(S, state.frees()), Step::Arm(S));
        assert!(!state.expire(2 * S, false));
        assert!(state.is(Mode::Enough));
    }

    #[test]
    fn e22_memory_freed_after_a_failed_allocation_is_tried_again() {
        for timeout in [Duration::ZERO, S] {
            let state = NoSpace::new(NoSpaceTimeout::After(timeout));
            let seen = state.frees();
            assert!(!state.freed(), "nobody was out of memory yet");
            assert_eq!(state.exhausted(S, seen), Step::Again);
            assert!(state.is(Mode::Enough));
        }
    }
}
