// SPDX-License-Identifier: MIT OR Apache-2.0
//! F20, F22: what a worker of kblockd has ended is committed by the thread of the queue, under each
//! source of pressure that has workers serve, and while the disk is taken away.

use std::os::unix::fs::FileExt;
use std::thread::JoinHandle;

use ublk_ramdisk::stats::WakeUps;

use crate::disk::{Disk, MIB};
use crate::ioctl::{self, Buffer};
use crate::machine::{self, wait_for, Traces};
use crate::run::{need, ublk};
use crate::runner::{Outcome, Test};
use crate::verify::fio;

/// What has workers serve.
const CASES: [(&str, &[&str]); 4] = [
    ("requeue", &["--inject", "requeue=1,60,0,-1"]),
    ("slots", &["--slots", "3", "--inject", "requeue=4,100,0,-1"]),
    ("population", &["--first-write", "busy"]),
    (
        "memory",
        &["--memory-limit", "24M", "--inject", "requeue=7,100,0,-1"],
    ),
];

pub fn tests(tests: &mut Vec<Test>) {
    for (source, words) in CASES {
        let name = format!("f20_fio_verifies_what_workers_serve_under_{source}");
        let test = Test::skippable(name, move || verifies(words));
        // The kernels differ in their best path; one source is enough to meet each.
        let tells_of_kernel = source == "requeue";
        tests.push(if tells_of_kernel {
            test
        } else {
            test.anywhere()
        });
    }
    let mut add = |name: &str, body: fn()| tests.push(Test::new(name, body));
    add("f20_a_disk_is_deleted_while_workers_serve", goes_away);
    add("f20_a_server_is_killed_while_workers_serve", killed);
}

/// The data path that `auto` takes.
fn best_path() -> &'static str {
    let paths = machine::data_paths();
    paths.last().expect("every kernel has one")
}

/// Summed up over the queues.
fn wakeups(disk: &Disk) -> WakeUps {
    let mut sum = WakeUps::default();
    for queue in disk.stats().queues {
        sum.sent += queue.wakeups.sent;
        sum.saved += queue.wakeups.saved;
    }
    sum
}

/// Every byte is read back as it was written.
fn verifies(words: &[&str]) -> Outcome {
    need(&["fio"])?;
    let mut all = vec!["--queues", "2"];
    all.extend(words);
    let disk = Disk::on(best_path(), "none", "20M", &all);
    let read = fio(&disk, "verify-direct.fio");
    assert!(read >= 20 * MIB, "only {read} bytes were read back");
    let told = wakeups(&disk);
    println!("    {told:?}");
    assert!(told.sent + told.saved > 0, "workers served");
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

/// A disk whose workers serve, under load.
fn at_work(words: &[&str]) -> (Disk, Clients) {
    let disk = Disk::on(best_path(), "none", "8M", words);
    let clients = Clients::on(&disk);
    wait_for("results from workers", || {
        let told = wakeups(&disk);
        told.sent + told.saved > 0
    });
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
        // Else another server would take up the disk.
        let (disk, clients) = at_work(&[&REFUSED[..], &["--backing", "memfd"]].concat());
        ioctl::signal(disk.pid, libc::SIGKILL);
        clients.fail();
        ublk(&["del", "--force", &disk.name()]).well();
        disk.has_ended();
        before.assert_unchanged();
    }
}
