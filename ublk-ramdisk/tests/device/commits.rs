// SPDX-License-Identifier: MIT OR Apache-2.0
//! F14, F20, F22: what a worker of kblockd has ended is committed by the thread of the queue or by
//! the worker itself. Both ways under the sources of pressure that have workers serve, and both while
//! the disk is taken away under them.

use std::os::unix::fs::FileExt;
use std::thread::JoinHandle;

use ublk_ramdisk::stats::WakeUps;

use crate::disk::{try_add, Disk, MIB};
use crate::ioctl::{self, Buffer};
use crate::machine::{self, wait_for, Traces};
use crate::run::{need, ublk};
use crate::runner::{Outcome, Test};
use crate::verify::fio;

/// What has workers serve.
const CASES: [(&str, &[&str]); 4] = [
    ("requeue", &["--inject", "requeue=1,60,0,-1"]),
    ("slots", &["--slots", "3", "--inject", "requeue=4,100,0,-1"]),
    // Each first write to a page waits until it has been made.
    ("population", &[]),
    (
        "memory",
        &["--memory-limit", "24M", "--inject", "requeue=7,100,0,-1"],
    ),
];

pub fn tests(tests: &mut Vec<Test>) {
    if !machine::data_paths().contains(&"batch") {
        tests.push(Test::new("f20_without_batch_io_no_worker_commits", without));
        return;
    }
    for (name, words) in CASES {
        for how in ["on", "off"] {
            let name = format!("f20_fio_verifies_worker_commit_{how}_{name}");
            tests.push(Test::skippable(name, move || verifies(how, words)));
        }
    }
    let mut add = |name: &str, body: fn()| tests.push(Test::new(name, body));
    add("f20_a_disk_goes_away_while_workers_commit", goes_away);
    add("f20_a_server_is_killed_while_workers_commit", killed);
    add("f20_who_commits_is_shown", shown);
}

/// Summed up over the queues.
pub fn wakeups(disk: &Disk) -> WakeUps {
    let mut sum = WakeUps::default();
    for queue in disk.stats().queues {
        sum.sent += queue.wakeups.sent;
        sum.saved += queue.wakeups.saved;
        sum.committed += queue.wakeups.committed;
        sum.commits += queue.wakeups.commits;
    }
    sum
}

/// Every byte is read back as it was written, and each way is the one that was asked for.
fn verifies(how: &str, words: &[&str]) -> Outcome {
    need(&["fio"])?;
    let mut all = vec!["--queues", "2", "--worker-commit", how];
    all.extend(words);
    let disk = Disk::on("batch", "none", "20M", &all);
    let read = fio(&disk, "verify-direct.fio");
    assert!(read >= 20 * MIB, "only {read} bytes were read back");
    let told = wakeups(&disk);
    println!("    {told:?}");
    assert_eq!(told.committed > 0, how == "on", "{told:?}");
    assert!(
        told.commits <= told.committed,
        "some went together: {told:?}"
    );
    assert!(
        told.committed + told.sent + told.saved > 0,
        "workers served"
    );
    // Counts them all: K5.
    disk.end();
    Ok(())
}

/// Clients that write one block after the other, each on a part of the disk of its own, until the
/// disk gives an error.
struct Clients(Vec<JoinHandle<()>>);

impl Clients {
    fn on(disk: &Disk) -> Clients {
        let client = |number: u64| {
            let file = disk.open_direct();
            std::thread::spawn(move || {
                let buffer = Buffer::new(4096);
                let blocks = (0..MIB / 4096).cycle();
                for at in blocks.map(|block| number * MIB + block * 4096) {
                    // Of a disk that is gone: an error, or its end.
                    if !matches!(file.write_at(&buffer, at), Ok(4096)) {
                        return;
                    }
                }
            })
        };
        Clients((0..8).map(client).collect())
    }

    /// They end by themselves.
    fn fail(self) {
        for client in self.0 {
            client.join().expect("no panic");
        }
    }
}

/// A disk whose workers commit, under load.
fn at_work(words: &[&str]) -> (Disk, Clients) {
    let mut all = vec!["--worker-commit", "on"];
    all.extend(words);
    let disk = Disk::on("batch", "none", "8M", &all);
    let clients = Clients::on(&disk);
    wait_for("commits by workers", || wakeups(&disk).committed > 0);
    (disk, clients)
}

/// Requests are refused on purpose; or writes wait for memory that there is not.
const REFUSED: [&str; 4] = ["--queues", "2", "--inject", "requeue=1,60,0,-1"];
const PARKED: [&str; 4] = ["--inject", "requeue=2,100,0,-1", "--memory-limit", "1M"];

/// `del --force` under load, again and again, also with requests that are parked.
fn goes_away() {
    for words in [REFUSED, PARKED, REFUSED, PARKED] {
        let before = Traces::now();
        let (disk, clients) = at_work(&words);
        if words == PARKED {
            wait_for("a write that waits for memory", || {
                disk.stats().space.parked > 0
            });
        }
        ublk(&["del", "--force", &disk.name()]).well();
        clients.fail();
        disk.has_ended();
        before.assert_unchanged();
    }
}

fn killed() {
    for _ in 0..2 {
        let before = Traces::now();
        let (disk, clients) = at_work(&REFUSED);
        ioctl::signal(disk.pid, libc::SIGKILL);
        clients.fail();
        ublk(&["del", "--force", &disk.name()]).well();
        disk.has_ended();
        before.assert_unchanged();
    }
}

fn shown() {
    for how in ["on", "off"] {
        let disk = Disk::add(&["--size", "8M", "--worker-commit", how]);
        assert_eq!(disk.data_path, "batch");
        assert_eq!(disk.stats().worker_commit, how == "on");
        let rows = ublk(&["list", "--json", &disk.name()]).well();
        let rows: serde_json::Value = serde_json::from_str(&rows).expect("JSON");
        assert_eq!(rows[0]["worker_commit"], how == "on");
        let text = ublk(&["stats", &disk.name()]).well();
        assert_eq!(text.contains("commits by workers"), how == "on", "{text}");
        disk.end();
    }
    let shallow = ["--size", "8M", "--worker-commit", "on", "--depth", "1"];
    try_add(&shallow).refused(2, &["--worker-commit on", "--depth 1"]);
}

fn without() {
    let on = ["--size", "8M", "--worker-commit", "on"];
    let parts = ["--worker-commit on", "UBLK_F_BATCH_IO", "bit 15", "7.0"];
    try_add(&on).refused(3, &parts);
    for how in ["auto", "off"] {
        let disk = Disk::add(&["--size", "8M", "--worker-commit", how]);
        assert!(!disk.stats().worker_commit);
        disk.end();
    }
}
