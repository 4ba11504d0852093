// SPDX-License-Identifier: MIT OR Apache-2.0
//! E29 to E32: the rules of a disk, as its clients see them, and after the death of its server.

use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use ublk_ramdisk::rules::RuleStats;

use crate::disk::Disk;
use crate::ioctl::Buffer;
use crate::machine::{self, wait_for, Traces};
use crate::recovery::kill;
use crate::run::ublk;
use crate::runner::Test;
use crate::upgrade::upgrade;

pub fn tests(tests: &mut Vec<Test>) {
    let used = Test::new("e29_e31_rules_on_a_disk_that_is_used", used);
    tests.push(used.anywhere());
    let name = "e32_a_used_fault_stays_used_and_a_held_request_is_held_after_a_crash";
    tests.push(Test::new(name, after_a_crash));
}

fn read_at(disk: &Disk, offset: u64) -> Option<i32> {
    let (file, mut buffer) = (disk.open_direct(), Buffer::new(4096));
    let outcome = file.read_exact_at(&mut buffer, offset);
    outcome.err().and_then(|error| error.raw_os_error())
}

fn rule(disk: &Disk, name: &str) -> RuleStats {
    let mut rules = disk.stats().pressure.rules.into_iter();
    rules.find(|of| of.rule.name == name).expect(name)
}

fn rules(disk: &Disk, words: &[&str]) -> String {
    ublk(&[&["rules", &disk.name()], words].concat()).well()
}

/// What is printed can be typed again, and does the same.
fn used() {
    let before = Traces::now();
    let disk = Disk::add(&[
        "--size",
        "8M",
        "--no-partition-scan",
        "--rule",
        "slow: read @ 1M-2M: delay 50ms",
        "--rule",
        "read @ sector 16-23 once: error EREMOTEIO",
    ]);
    let printed = rules(&disk, &[]);
    let lines =
        "slow: read @ 1M-2M: delay 50ms\nrule1: read @ sector 16-23 once: error EREMOTEIO\n";
    assert_eq!(printed, lines);
    let begun = Instant::now();
    assert_eq!(read_at(&disk, 1 << 20), None);
    assert!(begun.elapsed() >= Duration::from_millis(50));
    assert_eq!(read_at(&disk, 8192), Some(libc::EREMOTEIO));
    assert_eq!(read_at(&disk, 8192), None, "used up");
    let used = rule(&disk, "rule1");
    assert_eq!((used.hits, used.left), (1, Some(0)));
    for line in printed.lines() {
        assert_eq!(rules(&disk, &["add", line]), printed, "in its place");
    }
    assert_eq!(
        read_at(&disk, 8192),
        Some(libc::EREMOTEIO),
        "it begins anew"
    );
    rules(&disk, &["add", "stall: write: hang"]);
    thread::scope(|scope| {
        for verb in ["release", "del"] {
            let writer = scope.spawn(|| {
                let file = disk.open_direct();
                file.write_all_at(&Buffer::new(4096), 0)
            });
            wait_for("the write is held", || rule(&disk, "stall").held == 1);
            assert_eq!(read_at(&disk, 0), None, "others are served");
            assert!(!writer.is_finished());
            rules(&disk, &[verb, "stall"]);
            writer.join().expect("no panic").expect("it goes on");
        }
    });
    ublk(&["rules", &disk.name(), "del", "stall"]).refused(2, &["no rule is called stall"]);
    ublk(&["rules", &disk.name(), "add", "read: dance"]).refused(2, &["column 7", "an action"]);
    let text = ublk(&["stats", &disk.name()]).well();
    assert!(text.contains("rule rule1: 1 hits, 0 left"), "{text}");
    assert_eq!(rules(&disk, &["clear"]), "");
    rules(&disk, &["add", "stall: write: hang"]);
    thread::scope(|scope| {
        let writer = scope.spawn(|| disk.open_direct().write_all_at(&Buffer::new(4096), 0));
        wait_for("the write is held", || rule(&disk, "stall").held == 1);
        ublk(&["del", "--force", &disk.name()]).well();
        let written = writer.join().expect("no panic");
        written.expect("who ends the disk lets go of it first");
    });
    disk.has_ended();
    before.assert_unchanged();
}

fn after_a_crash() {
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M", "--no-partition-scan"]);
    for rule in [
        "gone: read @ 16K-20K once: error EIO",
        "half: read @ 32K-36K times 2: error ENOSPC",
        "stall: write @ 64K-68K once: hang",
    ] {
        rules(&disk, &["add", rule]);
    }
    let printed = rules(&disk, &[]);
    assert_eq!(read_at(&disk, 16 << 10), Some(libc::EIO));
    assert_eq!(read_at(&disk, 32 << 10), Some(libc::ENOSPC));
    let file = machine::run_dir().join(format!("{}.rules", disk.id));
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut bytes = Buffer::new(4096);
            bytes.fill(9);
            disk.open_direct().write_all_at(&bytes, 64 << 10)
        });
        wait_for("the write is held", || rule(&disk, "stall").held == 1);
        upgrade(&disk);
        wait_for("it is held by the next server", || {
            rule(&disk, "stall").held == 1
        });
        kill(&disk);
        wait_for("it is held again", || rule(&disk, "stall").held == 1);
        assert_eq!(rules(&disk, &[]), printed, "order and names");
        assert_eq!(read_at(&disk, 16 << 10), None, "a used fault");
        assert_eq!(rule(&disk, "half").left, Some(1));
        assert_eq!(read_at(&disk, 32 << 10), Some(libc::ENOSPC));
        assert_eq!(read_at(&disk, 32 << 10), None);
        assert!(file.exists() && !writer.is_finished());
        rules(&disk, &["release", "stall"]);
        writer.join().expect("no panic").expect("it goes on");
    });
    let mut found = Buffer::new(4096);
    let read = disk.open_direct().read_exact_at(&mut found, 64 << 10);
    read.expect("read");
    assert!(
        found.iter().all(|&byte| byte == 9),
        "what was held is there"
    );
    disk.end_after_errors();
    assert!(!file.exists());
    before.assert_unchanged();
}
