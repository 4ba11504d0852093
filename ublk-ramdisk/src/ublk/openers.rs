// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who uses a disk: what must be empty before a disk is stopped without force.
//!
//! Used by the server and by the commands. Where the driver has SAFE_STOP_DEV it decides itself,
//! and this only names the users. Elsewhere this decides, and it is a snapshot: a later open is not
//! seen, nor is a process of another pid namespace.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Names every user of /dev/ublkbN and its partitions, such as `mounted at /mnt` or
/// `opened by fio (pid 12)`. Empty means that none was found.
pub fn openers(id: u32) -> Vec<String> {
    Disk::find(id).map_or_else(Vec::new, |disk| disk.users(Path::new("/proc")))
}

/// The disk and its partitions, as sysfs shows them.
struct Disk {
    /// `ublkb0`, `ublkb0p1`, ...
    names: Vec<String>,
    /// Their `major:minor`.
    numbers: HashSet<String>,
    sysfs: PathBuf,
}

impl Disk {
    fn find(id: u32) -> Option<Disk> {
        let name = format!("ublkb{id}");
        let sysfs = Path::new("/sys/block").join(&name);
        let mut names = vec![name.clone()];
        for entry in fs::read_dir(&sysfs).ok()?.flatten() {
            let child = entry.file_name().to_string_lossy().into_owned();
            if child.starts_with(&name) && entry.path().join("partition").exists() {
                names.push(child);
            }
        }
        let numbers = names
            .iter()
            .filter_map(|name| {
                fs::read_to_string(Path::new("/sys/class/block").join(name).join("dev")).ok()
            })
            .map(|number| number.trim().to_owned())
            .collect();
        Some(Disk {
            names,
            numbers,
            sysfs,
        })
    }

    fn users(&self, proc: &Path) -> Vec<String> {
        let mut users = BTreeSet::new();
        self.find_holders(&mut users);
        self.find_swaps(proc, &mut users);
        let mut seen_namespaces = HashSet::new();
        for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let process = entry.path();
            let namespace = fs::read_link(process.join("ns/mnt")).unwrap_or_default();
            if seen_namespaces.insert(namespace) {
                self.find_mounts(&process, &mut users);
            }
            if self.is_open_in(&process) {
                let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
                users.insert(format!("opened by {} (pid {pid})", command.trim()));
            }
        }
        users.into_iter().collect()
    }

    /// Device mapper, md, bcache and the like, by the kernel's own record.
    fn find_holders(&self, users: &mut BTreeSet<String>) {
        for name in &self.names {
            let base = if self.names[0] == *name {
                self.sysfs.clone()
            } else {
                self.sysfs.join(name)
            };
            for holder in fs::read_dir(base.join("holders"))
                .into_iter()
                .flatten()
                .flatten()
            {
                users.insert(format!("held by {}", holder.file_name().to_string_lossy()));
            }
        }
        for block in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let backing = fs::read_to_string(block.path().join("loop/backing_file"));
            if backing.is_ok_and(|path| self.is_node(Path::new(path.trim()))) {
                users.insert(format!("held by {}", block.file_name().to_string_lossy()));
            }
        }
    }

    fn find_swaps(&self, proc: &Path, users: &mut BTreeSet<String>) {
        let swaps = fs::read_to_string(proc.join("swaps")).unwrap_or_default();
        for line in swaps.lines().skip(1) {
            let path = line.split_whitespace().next().unwrap_or_default();
            if self.is_node(Path::new(path)) {
                users.insert(format!("used as swap at {path}"));
            }
        }
    }

    fn find_mounts(&self, process: &Path, users: &mut BTreeSet<String>) {
        let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        for place in mounts.lines().filter_map(|line| self.mounted_at(line)) {
            users.insert(format!("mounted at {place}"));
        }
    }

    /// The mount point of a mountinfo line that is about this disk. The number alone is not
    /// enough: btrfs mounts have a number of their own, and name the node.
    fn mounted_at<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let number = fields.next()?;
        let place = fields.nth(1)?;
        let source = source.split(' ').nth(1)?;
        let ours = self.numbers.contains(number)
            || source
                .strip_prefix("/dev/")
                .is_some_and(|name| self.names.iter().any(|ours| ours == name));
        ours.then_some(place)
    }

    fn is_open_in(&self, process: &Path) -> bool {
        fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            // Only nodes are looked at: a stat of any open file could wait for a dead server.
            .filter(|fd| {
                fs::read_link(fd.path()).is_ok_and(|target| {
                    target.starts_with("/dev") || target.to_string_lossy().contains("ublkb")
                })
            })
            .any(|fd| self.is_node(&fd.path()))
    }

    fn is_node(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|node| {
            let number = node.rdev();
            node.file_type().is_block_device()
                && self.numbers.contains(&format!(
                    "{}:{}",
                    libc::major(number),
                    libc::minor(number)
                ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        Disk {
            names: vec!["ublkb0".to_owned(), "ublkb0p1".to_owned()],
            numbers: HashSet::from(["259:0".to_owned(), "259:1".to_owned()]),
            sysfs: PathBuf::from("/nonexistent"),
        }
    }

    #[test]
    fn a_mount_is_found_by_number_and_by_name() {
        let line = "36 28 259:1 / /mnt/a rw,relatime shared:1 - ext4 /dev/root rw";
        assert_eq!(disk().mounted_at(line), Some("/mnt/a"));
        let line = "37 28 0:44 / /mnt/b rw - btrfs /dev/ublkb0 rw,space_cache=v2";
        assert_eq!(disk().mounted_at(line), Some("/mnt/b"));
        let line = "38 28 259:7 / /mnt/c rw - ext4 /dev/ublkb01 rw";
        assert_eq!(disk().mounted_at(line), None);
        assert_eq!(disk().mounted_at("nonsense"), None);
    }

    #[test]
    fn a_disk_that_is_not_there_has_no_users() {
        assert!(openers(1_048_575).is_empty());
    }
}
