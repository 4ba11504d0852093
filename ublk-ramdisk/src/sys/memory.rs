// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory available to this machine, and to the cgroup of this process.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroups of version 2 are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Bytes that can be allocated before the OOM killer acts, swap included.
/// None if /proc does not say.
pub fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    };
    Some(field("MemAvailable:")? + field("SwapFree:").unwrap_or(0))
}

/// Returns the lowest memory.max of the cgroup of this process and those above it, in bytes. None
/// without a limit, or without cgroups of version 2.
pub fn cgroup_max() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    lowest_max(Path::new(CGROUPS), path)
}

/// `path` is relative to `root`: the kernel's path without its first slash.
fn lowest_max(root: &Path, path: &str) -> Option<u64> {
    let own: PathBuf = root.join(path);
    own.ancestors()
        .take_while(|folder| folder.starts_with(root))
        .filter_map(|folder| {
            let text = fs::read_to_string(folder.join("memory.max")).ok()?;
            text.trim().parse().ok() // "max" is none
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e14_the_lowest_limit_on_the_way_up_counts() {
        let root = std::env::temp_dir().join(format!("ublk-cgroup-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        let set = |at: &str, text: &str| fs::write(root.join(at).join("memory.max"), text).unwrap();
        set("a/b", "max\n");
        assert_eq!(lowest_max(&root, "a/b"), None);
        set("a", "4096\n");
        assert_eq!(lowest_max(&root, "a/b"), Some(4096));
        set("a/b", "1024\n");
        assert_eq!(lowest_max(&root, "a/b"), Some(1024));
        assert_eq!(lowest_max(&root, "a"), Some(4096));
        fs::remove_dir_all(&root).unwrap();
        assert!(available().is_some());
    }
}
