// SPDX-License-Identifier: MIT OR Apache-2.0
//! A cgroup of its own for one child process, version 1 or 2, gone when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A cgroup with a `pids.max`.
pub struct Cgroup {
    dir: PathBuf,
    /// Where the controller was switched on for it, to be switched off again.
    switched_on: Option<PathBuf>,
}

impl Cgroup {
    /// Makes one below this process's own, or else at the top. The error says what is missing.
    pub fn new() -> Result<Self, String> {
        let mut why = "no mounted cgroup hierarchy has the pids controller".to_owned();
        for parent in parents() {
            match Self::below(&parent) {
                Ok(cgroup) => return Ok(cgroup),
                Err(e) => why = format!("no cgroup can be made in {}: {e}", parent.display()),
            }
        }
        Err(why)
    }

    fn below(parent: &Path) -> std::io::Result<Self> {
        let dir = parent.join(format!("workqueue-test-{}", std::process::id()));
        fs::create_dir(&dir)?;
        let mut cgroup = Self {
            dir,
            switched_on: None,
        };
        if !cgroup.dir.join("pids.max").exists() {
            let switch = parent.join("cgroup.subtree_control");
            fs::write(&switch, "+pids")?;
            cgroup.switched_on = Some(switch);
        }
        // Writable, too?
        fs::write(cgroup.dir.join("pids.max"), "max")?;
        Ok(cgroup)
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has been waited for may still be leaving.
        let begun = Instant::now();
        while let Err(e) = fs::remove_dir(&self.dir) {
            if begun.elapsed() > Duration::from_secs(10) {
                eprintln!("{} is left behind: {e}", self.dir.display());
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(switch) = &self.switched_on {
            let _as_it_was = fs::write(switch, "-pids");
        }
    }
}

/// Where a cgroup may be made: for each hierarchy with the controller, this process's own place in
/// it, then its top.
fn parents() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut parents = Vec::new();
    for mount in mounts.lines() {
        let fields: Vec<&str> = mount.split(' ').collect();
        let &[_, top, kind, options, ..] = &*fields else {
            continue;
        };
        // In /proc/self/cgroup, version 2 has the number 0 and no controllers.
        let is_ours = |line: &&str| match kind {
            "cgroup" => line
                .split(':')
                .nth(1)
                .is_some_and(|c| c.split(',').any(|c| c == "pids")),
            _ => line.starts_with("0::"),
        };
        let counts = match kind {
            "cgroup" => options.split(',').any(|o| o == "pids"),
            "cgroup2" => fs::read_to_string(Path::new(top).join("cgroup.controllers"))
                .is_ok_and(|c| c.split_whitespace().any(|c| c == "pids")),
            _ => false,
        };
        if counts {
            let place = own
                .lines()
                .find(is_ours)
                .and_then(|l| l.splitn(3, ':').nth(2));
            let below = place.unwrap_or("/").trim_start_matches('/');
            parents.push(Path::new(top).join(below));
            parents.push(PathBuf::from(top));
        }
    }
    parents.dedup();
    parents
}
