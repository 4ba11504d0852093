// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs that use the CPU for too long: told apart from those that sleep in between, and warned of.
//!
//! [`super::sampler`] finds them while items wait behind them; [`super::worker`] asks at the end of
//! each run, for those behind which nothing waited. Kernel counterparts: `wq_worker_tick`,
//! `wq_cpu_intensive_report`.

use super::PoolState;
use crate::runtime::RuntimeInner;
use crate::sys::cpu;
use crate::sys::sync::Mutex;
use std::collections::HashMap;
use std::time::Duration;

/// So many functions are kept count of; further ones are not warned of.
const TRACKED: usize = 128;

/// How often each function has used the CPU for too long.
#[derive(Debug, Default)]
pub(crate) struct Hogs {
    seen: Mutex<HashMap<&'static str, u64>>,
}

/// At violation number `from`, and at distances from it that double each time.
fn is_worth_a_warning(violation: u64, from: u64) -> bool {
    violation >= from && (violation - from + 1).is_power_of_two()
}

impl Hogs {
    /// One violation more; its number, if the function is kept count of.
    fn count(&self, function: &'static str) -> Option<u64> {
        let mut seen = self.seen.lock();
        if seen.len() >= TRACKED && !seen.contains_key(function) {
            return None;
        }
        let violations = seen.entry(function).or_default();
        *violations += 1;
        Some(*violations)
    }
}

impl RuntimeInner {
    /// A run of this function has used the CPU for too long.
    /// # Context: no lock of the crate held.
    pub(crate) fn note_hog(&self, function: &'static str) {
        let from = self.config.cpu_intensive_warn;
        if from == 0 {
            return;
        }
        let number = self.hogs.count(function);
        if let Some(number) = number.filter(|&n| is_worth_a_warning(n, from)) {
            let limit = self.config.cpu_intensive_thresh;
            log::warn!(
                "workqueue: {function} has used the CPU for more than {limit:?} {number} times; an unbound queue would suit it better"
            );
        }
    }
}

impl PoolState {
    /// Counts a run found out at its end, unless it was found out before, or holds back nobody
    /// anyway. True if it counts.
    pub(super) fn count_hog(&mut self, slot: usize, pwq: u32) -> bool {
        let counts = self.workers.get(slot).counted();
        if counts {
            self.pwqs.get_mut(pwq).stats.cpu_intensive += 1;
        }
        counts
    }
}

/// Looks at the runs of one worker as they end.
#[derive(Debug)]
pub(super) struct HogWatch {
    limit: Duration,
    /// How often the thread had gone to sleep by the last look; None if nobody wants to know.
    switches: Option<u64>,
}

impl HogWatch {
    /// Begins to look at the calling thread, if `wanted`.
    pub(super) fn start(rt: &RuntimeInner, wanted: bool) -> Self {
        let limit = rt.config.cpu_intensive_thresh;
        let wanted = wanted && rt.config.cpu_accounting && !limit.is_zero();
        Self {
            limit,
            switches: wanted.then(cpu::voluntary_switches),
        }
    }

    /// A run has ended that used so much: too much, without ever going to sleep? To be asked only
    /// of runs that saw the clock tick, so short ones cost nothing. A sleep between the tick before
    /// and the run's beginning counts for the run.
    pub(super) fn is_hog(&mut self, used: Duration) -> bool {
        let Some(before) = self.switches.as_mut() else {
            return false;
        };
        let now = cpu::voluntary_switches();
        std::mem::replace(before, now) == now && used >= self.limit
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::OnceLock;

    #[test]
    fn s05_14_warnings_come_at_distances_that_double() {
        let worth: Vec<u64> = (1..=40).filter(|&n| is_worth_a_warning(n, 4)).collect();
        assert_eq!(worth, [4, 5, 7, 11, 19, 35]);
    }

    #[test]
    fn s05_14_128_functions_are_kept_count_of() {
        let hogs = Hogs::default();
        // Functions have names for ever.
        static NAMES: OnceLock<Vec<String>> = OnceLock::new();
        let names = NAMES.get_or_init(|| (0..130).map(|n| format!("f{n}")).collect());
        for name in &names[..TRACKED] {
            assert_eq!(hogs.count(name), Some(1));
        }
        assert_eq!(
            (hogs.count(&names[128]), hogs.count(&names[129])),
            (None, None)
        );
        assert_eq!(hogs.count(&names[0]), Some(2));
    }
}
