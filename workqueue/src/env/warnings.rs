// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is logged once, or at growing distances: lacking rights, threads that cannot be made, waits
//! that may never end, functions that use the CPU for too long, panics of items.
//!
//! Called by [`crate::pool`] and [`crate::wait`]. Kernel counterparts: `pr_warn_once`,
//! `wq_cpu_intensive_report`.

use super::config::PanicInfo;
use super::Env;
use crate::sys::sync::Mutex;
use crate::sys::user_code::{self, log_safely};
use std::any::Any;
use std::collections::{HashMap, HashSet};

/// What has been warned of.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    once: Mutex<HashSet<(&'static str, i32)>>,
    /// Queues and functions whose waits have been warned of.
    waits: Mutex<HashSet<(String, &'static str)>>,
    cpu_intensive: CpuIntensiveCounts,
}

/// Functions that are counted; further ones are not warned of.
const TRACKED: usize = 128;

/// How often each function has used the CPU for too long.
#[derive(Debug, Default)]
struct CpuIntensiveCounts {
    seen: Mutex<HashMap<&'static str, u64>>,
}

/// True for violation number `from`, and then at distances that double.
fn is_worth_a_warning(violation: u64, from: u64) -> bool {
    violation >= from && (violation - from + 1).is_power_of_two()
}

impl CpuIntensiveCounts {
    /// Counts a violation and returns its number; None if the table is full.
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

impl Env {
    /// True at the first call with these arguments.
    pub(crate) fn first_time(&self, what: &'static str, detail: i32) -> bool {
        self.warnings.once.lock().insert((what, detail))
    }

    /// True at the first call with this queue and function.
    pub(crate) fn first_wait_warning(&self, queue: &str, function: &'static str) -> bool {
        self.warnings
            .waits
            .lock()
            .insert((queue.to_owned(), function))
    }

    pub(crate) fn warn_nice_denied(&self, nice: i32) {
        if self.first_time("nice", 0) {
            log_safely!(warn, "workqueue: no right to run threads at nice {nice}, they run at the process's; CAP_SYS_NICE or RLIMIT_NICE is needed");
        }
    }

    /// Counts, and perhaps logs, that a run of this function has used the CPU for too long.
    /// # Context: no lock of the crate held.
    pub(crate) fn note_cpu_intensive(&self, function: &'static str) {
        let from = self.config.cpu_intensive_warn;
        if from == 0 {
            return;
        }
        let number = self.warnings.cpu_intensive.count(function);
        if let Some(number) = number.filter(|&n| is_worth_a_warning(n, from)) {
            let limit = self.cpu_intensive_thresh();
            log_safely!(
warn,
                "workqueue: {function} has used the CPU for more than {limit:?} {number} times; an unbound queue would suit it better"
            );
        }
    }

    pub(crate) fn item_panicked(
        &self,
        workqueue: &str,
        function: &'static str,
        payload: Box<dyn Any + Send>,
    ) {
        log_safely!(error, "workqueue: {function} on {workqueue} panicked");
        if self.config.abort_on_panic {
            std::process::abort();
        }
        if let Some(hook) = &self.hooks.on_panic {
            let info = PanicInfo {
                workqueue,
                function,
                payload: &*payload,
            };
            let _ignored = user_code::call(|| hook(&info));
        }
        let _ignored = user_code::call(|| drop(payload));
    }
}

#[cfg(test)]
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
        let counts = CpuIntensiveCounts::default();
        // Functions have names for ever.
        static NAMES: OnceLock<Vec<String>> = OnceLock::new();
        let names = NAMES.get_or_init(|| (0..130).map(|n| format!("f{n}")).collect());
        for name in &names[..TRACKED] {
            assert_eq!(counts.count(name), Some(1));
        }
        assert_eq!(
            (counts.count(&names[128]), counts.count(&names[129])),
            (None, None)
        );
        assert_eq!(counts.count(&names[0]), Some(2));
    }
}
