// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time in which the process runs. It does not run while it is stopped or frozen, or its machine is
//! paused, and such time counts for no stall and no timeout (12.3).
//!
//! The two helper threads of a runtime say until when they sleep at most. If one of them is much too
//! late, the process has not run. Any thread can see that, even before the late one has woken.

use super::clock::{Clock, Notify};
use super::cpu;
use super::sync::Mutex;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

/// A wake-up that is late by less is no gap, in nanoseconds.
const SHORTEST_GAP: u64 = 100_000_000;

/// How many gaps are kept, the latest ones.
const KEPT_GAPS: usize = 32;

/// The threads whose sleep shows gaps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sleeper {
    Monitor,
    Timers,
}

#[derive(Debug)]
struct Gaps {
    /// When each sleeper wakes at the latest; `u64::MAX` while it is awake or may sleep for ever.
    due: [u64; 2],
    /// The latest gaps, in order.
    kept: Vec<Range<u64>>,
}

impl Gaps {
    /// The gap that the process is in, or has just left.
    fn present(&self, now: u64) -> Range<u64> {
        let due = self.due[0].min(self.due[1]);
        let known = self.kept.last().map_or(0, |gap| gap.end);
        due.saturating_add(SHORTEST_GAP).max(known).min(now)..now
    }

    /// Returns the length of a gap that has ended.
    fn woke(&mut self, who: Sleeper, now: u64) -> u64 {
        let gap = self.present(now);
        self.due[who as usize] = u64::MAX;
        let lost = gap.end - gap.start;
        if lost > 0 {
            if self.kept.len() == KEPT_GAPS {
                self.kept.remove(0);
            }
            self.kept.push(gap);
        }
        lost
    }
}

#[derive(Debug)]
struct Shared {
    gaps: Mutex<Gaps>, // G
    /// The sum of all gaps. Relaxed: one that is seen late makes a time later than it is.
    lost: AtomicU64, // A: written under `gaps`
    forks: u32,        // I
}

/// A clock of a runtime that stands still while the process does not run: while it is stopped or
/// frozen, or its machine is paused. A gap is seen by a helper thread of the runtime that sleeps too
/// long; it begins at most about a second late. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RunClock {
    clock: Clock,
    shared: Arc<Shared>,
}

impl RunClock {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            shared: Arc::new(Shared {
                gaps: Mutex::new(Gaps {
                    due: [u64::MAX; 2],
                    kept: Vec::with_capacity(KEPT_GAPS),
                }),
                lost: AtomicU64::new(0),
                forks: cpu::fork_generation(),
            }),
        }
    }

    /// None in the child of a fork, where a thread of the parent may hold the lock for ever.
    fn gaps(&self) -> Option<MutexGuard<'_, Gaps>> {
        (cpu::fork_generation() == self.shared.forks).then(|| self.shared.gaps.lock())
    }

    /// The time of this clock. It began as CLOCK_MONOTONIC, or as the runtime's virtual clock.
    pub fn now(&self) -> Duration {
        let gaps = self.gaps();
        let now = self.clock.now();
        let before = gaps.as_ref().map_or(now, |gaps| gaps.present(now).start);
        Duration::from_nanos(before).saturating_sub(self.behind())
    }

    /// How far it is behind the clock that it began as. A gap that has just ended may be missing.
    #[inline]
    pub fn behind(&self) -> Duration {
        Duration::from_nanos(match &self.clock {
            Clock::Real => self.shared.lost.load(Ordering::Relaxed),
            Clock::Virtual(clock) => clock.not_run_ns(),
        })
    }

    /// Sleeps as a helper thread does, until `due` at the latest, and notes if the process did not run
    /// meanwhile.
    pub(crate) fn sleep(&self, who: Sleeper, wake: &Notify, due: Option<u64>) {
        // A virtual clock is moved on by any time while the threads run.
        let Clock::Real = self.clock else {
            return wake.wait_until(due);
        };
        if let Some(mut gaps) = self.gaps() {
            gaps.due[who as usize] = due.unwrap_or(u64::MAX);
        }
        wake.wait_until(due);
        if let Some(mut gaps) = self.gaps() {
            let lost = gaps.woke(who, self.clock.now());
            self.shared.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// How long the process ran from `since` to `now`, times of the runtime's clock.
    pub(crate) fn running(&self, since: u64, now: u64) -> u64 {
        let within = |gap: &Range<u64>| gap.end.min(now).saturating_sub(gap.start.max(since));
        let lost = self
            .gaps()
            .map_or(0, |gaps| gaps.kept.iter().map(within).sum());
        now.saturating_sub(since).saturating_sub(lost)
    }

    /// As if the process had not run from `due` to `woke`.
    #[cfg(test)]
    pub(crate) fn note_gap(&self, due: u64, woke: u64) {
        let mut gaps = self.gaps().expect("no fork");
        gaps.due[0] = due;
        let lost = gaps.woke(Sleeper::Monitor, woke);
        self.shared.lost.fetch_add(lost, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn gaps() -> Gaps {
        Gaps {
            due: [u64::MAX; 2],
            kept: Vec::new(),
        }
    }

    #[test]
    fn s12_03_a_gap_begins_where_the_first_sleeper_was_to_wake_and_counts_once() {
        let mut gaps = gaps();
        gaps.due = [9 * S, 5 * S];
        assert_eq!(
            gaps.present(5 * S + SHORTEST_GAP),
            5 * S + SHORTEST_GAP..5 * S + SHORTEST_GAP
        );
        let late = 5 * S + SHORTEST_GAP;
        assert_eq!(
            gaps.present(40 * S),
            late..40 * S,
            "known before either wakes"
        );
        assert_eq!(gaps.woke(Sleeper::Monitor, 40 * S), 40 * S - late);
        assert_eq!(
            gaps.present(41 * S),
            40 * S..41 * S,
            "the other has not woken"
        );
        assert_eq!(gaps.woke(Sleeper::Timers, 40 * S), 0, "twice is once");
        assert_eq!(gaps.present(50 * S), 50 * S..50 * S, "both are awake");
    }

    #[test]
    fn s12_03_the_run_clock_never_goes_back_and_stands_still_in_a_gap() {
        let clock = RunClock::new(&Clock::Real);
        let now = || clock.now().as_nanos() as u64;
        let before = now();
        clock.gaps().unwrap().due[1] = before - 7 * S;
        let stands = now();
        assert!(stands <= before && now() == stands);
        let woke = clock.clock.now();
        let lost = clock.gaps().unwrap().woke(Sleeper::Timers, woke);
        clock.shared.lost.fetch_add(lost, Ordering::Relaxed);
        assert!(now() >= stands && now() < before, "and goes on from there");
        assert!(clock.behind() > Duration::from_secs(6));
        assert!(cpu::is_true_in_child(|| {
            let _held = clock.shared.gaps.lock();
            clock.now() > Duration::ZERO
        }));
    }
}
