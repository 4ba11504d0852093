// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packed word of a hardware queue: who may come in, who is inside, and who owes a re-run.
//!
//! ```text
//!   63       62         61        60        59         58       39 ... 24   23 ... 0
//!   FROZEN   QUIESCED   STOPPED   RESTART   INACTIVE   TIMED    issuing     usage
//! ```
//!
//! * `usage`: requests taken in and not yet ended (`q_usage_counter`).
//! * `issuing`: threads inside a section that calls queue_rq (what the kernel has SRCU for).
//! * RESTART: an end has to run this queue (`BLK_MQ_S_SCHED_RESTART`).
//! * TIMED: the timeout timer takes care of the requests inside.
//!
//! All of it in one word, because every hazard of this layer has the form "I change one of these,
//! then look at something; you change that, then look at mine". Each such pair goes through a
//! read-modify-write of this one word on both sides, and of two of those one comes first: either
//! the second sees the first's bit, or the first's earlier writes are visible to the second. The
//! kernel has full fences between separate words in these places (C16, C21, C24, C30). So a lone
//! request pays two such operations, coming and going, and no fence.

use super::sync::{AtomicU64, Ordering};

const USAGE: u64 = (1 << 24) - 1;
const ISSUE: u64 = 1 << 24;
const ISSUING: u64 = 0xffff << 24;

/// One of the bits that others set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bit(u64);

pub(super) const TIMED: Bit = Bit(1 << 58);
pub(super) const INACTIVE: Bit = Bit(1 << 59);
pub(super) const RESTART: Bit = Bit(1 << 60);
pub(super) const STOPPED: Bit = Bit(1 << 61);
pub(super) const QUIESCED: Bit = Bit(1 << 62);
pub(super) const FROZEN: Bit = Bit(1 << 63);

/// What an arrival may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Entry {
    /// Counted in, and inside an issue section, which the caller must leave.
    Issue,
    /// Counted in, but it may only be listed.
    List,
    /// Not counted: the queue is frozen.
    Frozen,
}

/// What the caller must do after requests or sections have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub(super) struct Exit {
    /// The caller has cleared RESTART and runs the queue.
    pub(super) run: bool,
    /// Somebody waits for the counts to be zero, and one of them is now.
    pub(super) wake: bool,
}

/// The word.
#[derive(Debug)]
pub(super) struct HctxState(AtomicU64);

impl HctxState {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Reads the bit, for hints and figures.
    #[inline]
    pub(super) fn has(&self, bit: Bit) -> bool {
        self.0.load(Ordering::Relaxed) & bit.0 != 0
    }

    pub(super) fn usage(&self) -> u64 {
        self.0.load(Ordering::Acquire) & USAGE
    }

    pub(super) fn issuing(&self) -> u64 {
        self.0.load(Ordering::Acquire) & ISSUING
    }

    /// Reads the bit with a read-modify-write, which orders the caller's earlier writes before any
    /// later change of the word (C16, C21; W1, W2, W7).
    #[must_use]
    pub(super) fn test_fenced(&self, bit: Bit) -> bool {
        self.0.fetch_or(0, Ordering::AcqRel) & bit.0 != 0
    }

    /// Sets a bit; true if it was clear. The caller sees what ended before, and every later end
    /// sees the bit.
    pub(super) fn set(&self, bit: Bit) -> bool {
        self.0.fetch_or(bit.0, Ordering::AcqRel) & bit.0 == 0
    }

    /// Clears a bit; true if it was set. The caller sees all that was listed by threads that found
    /// it set with `test_fenced`.
    pub(super) fn clear(&self, bit: Bit) -> bool {
        self.0.fetch_and(!bit.0, Ordering::AcqRel) & bit.0 != 0
    }

    /// `n` requests arrive. The second value: true if the caller must arm the timeout timer.
    #[inline]
    pub(super) fn enter(&self, n: u32) -> (Entry, bool, Exit) {
        let n = u64::from(n);
        let before = self.0.fetch_add(n + ISSUE, Ordering::AcqRel);
        if before & (FROZEN.0 | QUIESCED.0 | STOPPED.0) == 0 {
            return (Entry::Issue, before & TIMED.0 == 0, Exit::default());
        }
        if before & FROZEN.0 != 0 {
            // guard: c26_no_end
            return (Entry::Frozen, false, self.undo_enter(n));
        }
        (Entry::List, before & TIMED.0 == 0, self.exit(0, ISSUE))
    }

    /// Undoes an arrival at a frozen queue. Nothing has ended, so RESTART stays set.
    #[cold]
    fn undo_enter(&self, n: u64) -> Exit {
        let now = self.0.fetch_sub(n + ISSUE, Ordering::AcqRel) - n - ISSUE;
        Exit {
            run: false,
            wake: Self::is_drained(now) || Self::is_silent(now),
        }
    }

    fn is_drained(now: u64) -> bool {
        now & FROZEN.0 != 0 && now & USAGE == 0
    }

    fn is_silent(now: u64) -> bool {
        now & QUIESCED.0 != 0 && now & ISSUING == 0
    }

    /// A run begins. Refused if the queue is quiesced or stopped: then nothing was begun.
    pub(super) fn begin_issue(&self) -> Result<(), Exit> {
        let before = self.0.fetch_add(ISSUE, Ordering::AcqRel);
        if before & (QUIESCED.0 | STOPPED.0) == 0 {
            Ok(())
        } else {
            Err(self.exit(0, ISSUE))
        }
    }

    /// A run or a direct issue ends.
    pub(super) fn end_issue(&self) -> Exit {
        self.exit(0, ISSUE)
    }

    /// `n` requests have ended.
    #[inline]
    pub(super) fn leave(&self, n: u32) -> Exit {
        self.exit(u64::from(n), 0)
    }

    /// `n` requests have ended within an issue section, which ends too.
    #[inline]
    pub(super) fn leave_and_end_issue(&self, n: u32) -> Exit {
        self.exit(u64::from(n), ISSUE)
    }

    #[inline]
    fn exit(&self, usage: u64, issue: u64) -> Exit {
        // AcqRel: pairs with `set` and `clear`. What this end gave back is seen by a dispatcher
        // that sets RESTART later; if it was set before, the caller is the one to run (C30).
        let before = self.0.fetch_sub(usage + issue, Ordering::AcqRel);
        debug_assert!(before & USAGE >= usage && before & ISSUING >= issue);
        if before & (FROZEN.0 | QUIESCED.0 | RESTART.0) == 0 {
            return Exit::default();
        }
        self.on_exit(before - usage - issue, usage, issue)
    }

    #[cold]
    fn on_exit(&self, now: u64, usage: u64, issue: u64) -> Exit {
        Exit {
            // guard: c30_clear
            run: usage > 0 && now & RESTART.0 != 0 && self.clear(RESTART),
            wake: usage > 0 && Self::is_drained(now) || issue > 0 && Self::is_silent(now),
        }
    }

    /// Clears TIMED if no request is inside; true if it did. A later arrival then finds TIMED
    /// clear.
    #[must_use]
    pub(super) fn untime(&self) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        // guard: c36_usage
        while word & USAGE == 0 {
            match self.0.compare_exchange(
                word,
                word & !TIMED.0,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn c26_an_arrival_at_a_frozen_queue_is_not_counted() {
        let state = HctxState::new();
        assert_eq!(state.enter(2), (Entry::Issue, true, Exit::default()));
        assert!(state.set(FROZEN));
        let (entry, _, exit) = state.enter(1);
        assert_eq!((entry, exit), (Entry::Frozen, Exit::default()));
        assert_eq!(state.usage(), 2);
        assert_eq!(state.leave(1), Exit::default());
        assert!(state.leave_and_end_issue(1).wake);
        assert!(state.begin_issue().is_ok());
        assert!(!state.end_issue().wake, "it was empty before");
    }

    #[test]
    fn c30_c26_an_arrival_that_is_turned_away_is_no_end() {
        let state = HctxState::new();
        assert_eq!(state.enter(1).0, Entry::Issue);
        assert!(state.set(RESTART) && state.set(FROZEN));
        let (entry, _, exit) = state.enter(1);
        assert_eq!((entry, exit), (Entry::Frozen, Exit::default()));
        assert!(state.has(RESTART));
        assert!(state.leave_and_end_issue(1).run);
    }

    #[test]
    fn c25_the_last_one_out_of_a_quiesced_queue_wakes() {
        let state = HctxState::new();
        assert!(state.begin_issue().is_ok());
        assert_eq!(state.enter(1).0, Entry::Issue);
        assert!(state.set(QUIESCED));
        assert!(state.begin_issue().is_err());
        assert_eq!(state.enter(1).0, Entry::List);
        assert!(!state.end_issue().wake);
        assert!(state.end_issue().wake);
        assert_eq!((state.usage(), state.issuing()), (2, 0));
        assert!(!state.leave(1).wake, "it was quiet before");
    }

    #[test]
    fn c30_one_end_clears_restart_and_runs() {
        let state = HctxState::new();
        assert_eq!(state.enter(2).0, Entry::Issue);
        assert!(state.set(RESTART));
        assert!(!state.end_issue().run, "no request has ended");
        assert!(state.leave(1).run);
        assert!(!state.leave(1).run && !state.has(RESTART));
    }

    #[test]
    fn c36_the_timer_lets_go_of_empty_queues_only() {
        let state = HctxState::new();
        assert!(state.enter(1).1);
        assert!(state.set(TIMED));
        assert!(!state.untime());
        assert!(!state.leave_and_end_issue(1).wake);
        assert!(state.untime() && state.enter(1).1);
    }
}
