// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk made by the program under test, as a test holds it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;

use ublk_ramdisk::stats::{DeviceStats, OpStats, QueueStats};

use crate::machine::{self, wait_for};
use crate::run::{self, Said};

/// A MiB.
pub const MIB: u64 = 1 << 20;

/// A disk that lives until [`Disk::end`].
pub struct Disk {
    pub id: u32,
    pub path: String,
    pub data_path: String,
    pub pid: u32,
    pub supervisor: u32,
    pub queues: u64,
    pub depth: u64,
    ended: bool,
}

/// The figures of all disks.
#[track_caller]
pub fn all_stats() -> Vec<DeviceStats> {
    let text = run::ublk(&["stats", "--json"]).well();
    serde_json::from_str(&text).expect("JSON")
}

/// At rest nothing is in flight and nothing was lost, neither by the queues nor by the mirror (K5);
/// answers how many requests ended with an error.
#[track_caller]
fn assert_at_rest(stats: impl Fn() -> Vec<DeviceStats>) -> u64 {
    let mut queues: Vec<QueueStats> = Vec::new();
    wait_for("inserted = ended + errors", || {
        queues = stats().into_iter().flat_map(|disk| disk.queues).collect();
        queues.iter().all(|q| {
            q.inserted == q.ended + q.errors && q.hctx.inserted == q.hctx.ended + q.hctx.errors
        })
    });
    for queue in &queues {
        assert_eq!(queue.hctx.fault_at_rest(), None, "{queue:?}");
        // What failed its check is not in the mirror.
        assert!(queue.hctx.inserted <= queue.inserted, "{queue:?}");
        assert_eq!(queue.hctx.ended, queue.ended, "{queue:?}");
    }
    queues.iter().map(|queue| queue.errors).sum()
}

/// Deletes these disks, which are all there are, at rest; every request must have ended well.
#[track_caller]
pub fn end_all(mut disks: Vec<Disk>) {
    assert_eq!(assert_at_rest(all_stats), 0, "requests ended with an error");
    disks.iter_mut().for_each(|disk| disk.ended = true);
    run::ublk(&["del", "--all"]).well();
    for disk in disks {
        assert!(fs::metadata(&disk.path).is_err(), "{} is gone", disk.path);
    }
}

/// `add` with these words, a log of its own and JSON, whatever comes of it.
pub fn try_add(words: &[&str]) -> Said {
    let log = machine::log_path();
    let mut all = vec!["add", "--json", "--log", log.to_str().expect("text")];
    all.extend(words);
    run::ublk(&all)
}

impl Disk {
    /// The threads of its server: number and name.
    pub fn threads(&self) -> BTreeMap<u32, String> {
        let tasks = machine::tasks(self.pid).into_iter();
        tasks
            .map(|task| {
                let id = task.file_name().and_then(|name| name.to_str());
                let id = id.and_then(|id| id.parse().ok()).expect("a number");
                (id, machine::read(task.join("comm")))
            })
            .collect()
    }

    /// Adds a disk; the words are those of `add`.
    #[track_caller]
    pub fn add(words: &[&str]) -> Disk {
        Disk::from_json(&try_add(words).well())
    }

    /// Adds a disk of so many MiB on a data path, under an elevator.
    #[track_caller]
    pub fn on(path: &str, elevator: &str, size: &str, words: &[&str]) -> Disk {
        let mut all = vec!["--size", size, "--data-path", path];
        all.extend(words);
        let disk = Disk::add(&all);
        assert_eq!(disk.data_path, path);
        disk.set_elevator(elevator);
        disk
    }

    /// The disk that `add --json` described. Its node must be a block device: a wrong name would
    /// have the tools make a plain file of it.
    #[track_caller]
    pub fn from_json(text: &str) -> Disk {
        let served: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let word = |name: &str| served[name].as_str().expect("text").to_owned();
        let number = |name: &str| served[name].as_u64().expect("a number");
        let disk = Disk {
            id: number("id") as u32,
            path: word("path"),
            data_path: word("data_path"),
            pid: number("pid") as u32,
            supervisor: machine::parent(number("pid") as u32),
            queues: number("queues"),
            depth: number("depth"),
            ended: false,
        };
        let node = fs::metadata(&disk.path).expect("the disk is there when add returns");
        assert!(node.file_type().is_block_device(), "{}", disk.path);
        disk
    }

    /// The id as a word.
    pub fn name(&self) -> String {
        self.id.to_string()
    }

    /// Opens it through the page cache.
    pub fn open(&self) -> File {
        let file = File::options().read(true).write(true).open(&self.path);
        file.unwrap_or_else(|error| panic!("{}: {error}", self.path))
    }

    /// Opens it past the page cache.
    pub fn open_direct(&self) -> File {
        crate::ioctl::open_direct(&self.path)
    }

    /// An attribute in sysfs.
    pub fn sysfs(&self, name: &str) -> String {
        machine::read(format!("/sys/block/ublkb{}/{name}", self.id))
    }

    /// A number in sysfs.
    #[track_caller]
    pub fn sysfs_number(&self, name: &str) -> u64 {
        let text = self.sysfs(name);
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}"))
    }

    /// Sets and checks the elevator.
    #[track_caller]
    pub fn set_elevator(&self, elevator: &str) {
        let attribute = format!("/sys/block/ublkb{}/queue/scheduler", self.id);
        fs::write(&attribute, elevator).unwrap_or_else(|error| panic!("{elevator}: {error}"));
        let active = format!("[{elevator}]");
        assert!(self.sysfs("queue/scheduler").contains(&active));
    }

    /// The server's figures.
    #[track_caller]
    pub fn stats(&self) -> DeviceStats {
        let text = run::ublk(&["stats", "--json", &self.name()]).well();
        let mut all: Vec<DeviceStats> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// Bytes of memory the disk holds.
    #[track_caller]
    pub fn allocated(&self) -> u64 {
        self.stats().allocated
    }

    /// One operation's figures over all queues.
    #[track_caller]
    pub fn count(&self, of: impl Fn(&QueueStats) -> OpStats) -> OpStats {
        let mut sum = OpStats::default();
        for queue in &self.stats().queues {
            sum.requests += of(queue).requests;
            sum.bytes += of(queue).bytes;
        }
        sum
    }

    /// Checks that it is at rest; answers how many requests ended with an error.
    #[track_caller]
    pub fn assert_at_rest(&self) -> u64 {
        assert_at_rest(|| vec![self.stats()])
    }

    /// Deletes it at rest; every request must have ended well.
    #[track_caller]
    pub fn end(self) {
        assert_eq!(self.end_after_errors(), 0, "requests ended with an error");
    }

    /// Deletes it at rest; answers how many requests ended with an error.
    #[track_caller]
    pub fn end_after_errors(mut self) -> u64 {
        let errors = self.assert_at_rest();
        self.ended = true;
        run::ublk(&["del", &self.name()]).well();
        assert!(fs::metadata(&self.path).is_err(), "{} is gone", self.path);
        errors
    }

    /// It was deleted by other means.
    pub fn has_ended(mut self) {
        self.ended = true;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Only a test that failed comes here; what it says is the first failure.
        if !self.ended {
            let _ = run::ublk(&["del", "--force", &self.name()]);
        }
    }
}
