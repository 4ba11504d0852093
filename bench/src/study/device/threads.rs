// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that could not be made, from the kernel's trace points: it alone knows of all of them, and why.

use crate::kernel::Trace;
use crate::study::settings::StudyError;
use std::collections::BTreeMap;

/// By what threads are made.
const CALLS: [&str; 2] = ["clone", "clone3"];

/// Counts them, in the whole guest, until it is dropped.
pub struct NotMade(Trace);

impl NotMade {
    /// Counts from now on. Fails if the kernel has no trace points of system calls.
    pub fn watch() -> Result<Self, StudyError> {
        let trace = Trace::new("study")?;
        // A return below zero is an error number of the kernel.
        for call in CALLS {
            trace.event(&format!("syscalls/sys_exit_{call}"), "ret < 0")?;
        }
        Ok(Self(trace))
    }

    /// How many so far, by the number of the error.
    /// 11 is EAGAIN (`pids.max`), 12 is ENOMEM (`memory.max`).
    pub fn by_error(&self) -> Result<BTreeMap<i64, u64>, StudyError> {
        Ok(count(&self.0.read()?))
    }
}

/// The returns in a trace, such as `... sys_clone3 -> 0xfffffffffffffff5`, which is EAGAIN.
fn count(trace: &str) -> BTreeMap<i64, u64> {
    let mut found = BTreeMap::new();
    let lines = trace.lines().filter(|line| !line.starts_with('#'));
    for (_, value) in lines.filter_map(|line| line.rsplit_once(" -> 0x")) {
        if let Ok(value) = u64::from_str_radix(value.trim(), 16) {
            *found.entry(-(value as i64)).or_default() += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_are_counted_by_their_error() {
        let trace = "# tracer: nop\n# sys_clone3 -> 0x1\n\
                     w-9 [000] ..... 58.1: sys_clone3 -> 0xfffffffffffffff5\n\
                     w-9 [001] ..... 58.2: sys_clone -> 0xfffffffffffffff4\n\
                     w-9 [001] ..... 58.3: sys_clone3 -> 0xfffffffffffffff5\n";
        assert_eq!(count(trace), BTreeMap::from([(11, 2), (12, 1)]));
    }
}
