// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that could not be made, from the kernel's trace points: it alone knows of all of them, and why.

use super::act::{failed, read, write};
use crate::study::StudyError;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

const TRACING: &str = "/sys/kernel/tracing";
/// By what threads are made.
const CALLS: [&str; 2] = ["clone", "clone3"];

/// Counts them, in the whole guest, until it is dropped.
pub struct NotMade(PathBuf);

impl NotMade {
    /// From now on.
    pub fn watch() -> Result<Self, StudyError> {
        // The names of threads are not needed: for them the kernel would change the scheduler's code
        // while other CPUs are in it, which an emulated CPU does not always survive. An instance begins
        // with the options of the whole.
        let _ = fs::write(PathBuf::from(TRACING).join("options/record-cmd"), "0");
        let folder = PathBuf::from(TRACING).join("instances/study");
        fs::create_dir_all(&folder).map_err(|e| failed(format!("{}: {e}", folder.display())))?;
        let new = Self(folder);
        for call in CALLS {
            let event = new.0.join(format!("events/syscalls/sys_exit_{call}"));
            write(event.join("filter"), "ret < 0")?;
            write(event.join("enable"), "1")?;
        }
        Ok(new)
    }

    /// How many so far, by the number of the error.
    pub fn by_error(&self) -> Result<BTreeMap<i64, u64>, StudyError> {
        Ok(count(&read(self.0.join("trace"))?))
    }
}

impl Drop for NotMade {
    fn drop(&mut self) {
        let _gone = fs::remove_dir(&self.0);
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
