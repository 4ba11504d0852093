// SPDX-License-Identifier: MIT OR Apache-2.0
//! E1 to E5, E10, E16, E17, E22: a disk under pressure, and one that is full, as their clients and
//! the real driver see them: slower, and nothing else, until an end is asked for (B6).

use std::os::unix::fs::FileExt;

use ublk_ramdisk::mq::BySource;
use ublk_ramdisk::pressure::Settings;

use crate::disk::{Disk, MIB};
use crate::ioctl::Buffer;
use crate::machine;
use crate::run;
use crate::runner::Test;
use crate::verify::{fio, fio_for_long};

/// A source, the options that make it, and whether it had something to refuse. An accepted request
/// of a RAM disk is over before the next one comes: the delay has them hold their slots.
type Case = (&'static str, &'static [&'static str], fn(&BySource) -> bool);

const SINGLE: [Case; 3] = [
    (
        "e01_slots",
        &["--slots", "3", "--inject", "delay=1ms"],
        |by| by.slots > 0,
    ),
    ("e04_mbps", &["--mbps", "24"], |by| by.bandwidth > 0),
    // Each first write waits: that they all fit does not matter.
    (
        "e07_memory_limit",
        &["--memory-limit", "24M", "--first-write", "busy"],
        |by| by.memory > 0,
    ),
];

const ALL: Case = (
    "e05_all_together",
    &[
        "--slots",
        "6",
        "--mbps",
        "32",
        "--memory-limit",
        "24M",
        "--first-write",
        "busy",
        "--inject",
        "requeue=7,100,0,-1,delay=1ms",
    ],
    |by| by.slots > 0 && by.injection > 0 && by.memory > 0,
);

pub fn tests(tests: &mut Vec<Test>) {
    let mut verify = |path: &'static str, (name, words, refuses): Case| {
        let name = format!("{name}_fio_verifies_on_{path}");
        let test = Test::new(name, move || verifies(path, words, refuses));
        tests.push(test.on_path(path));
    };
    // What refuses stands in front of the data paths: each source alone on one of them, all
    // sources on each.
    let paths = machine::data_paths();
    for (path, case) in paths.iter().cycle().zip(SINGLE) {
        verify(path, case);
    }
    for path in &paths {
        verify(path, ALL);
    }
    let lost = Test::new("e16_a_lost_request_ends_with_etimedout", lost);
    tests.push(lost);
    let mut add = |name: &str, body: fn()| tests.push(Test::new(name, body).anywhere());
    add("e01_set_changes_a_disk_that_is_used", changed);
    add(
        "e16_a_queue_that_cannot_be_set_up_leaves_no_disk",
        not_set_up,
    );
    add("e17_bad_blocks_fail_and_no_others", bad_blocks);
    add(
        "e10_a_full_disk_serves_the_rest_and_recovers_by_discard",
        full,
    );
    add("e22_a_full_disk_without_patience_says_so", impatient);
}

fn refused_by(disk: &Disk) -> BySource {
    let mut sum = BySource::default();
    for queue in disk.stats().queues {
        let by = queue.hctx.refused_by;
        sum.slots += by.slots;
        sum.memory += by.memory;
        sum.bandwidth += by.bandwidth;
        sum.injection += by.injection;
    }
    sum
}

fn verifies(path: &str, words: &[&str], refuses: fn(&BySource) -> bool) {
    let mut all = vec!["--queues", "2"];
    all.extend(words);
    let disk = Disk::on(path, "none", "20M", &all);
    let (rounds, read) = fio_for_long(&disk, "verify-direct.fio");
    assert!(
        read >= rounds * 20 * MIB,
        "only {read} bytes were read back"
    );
    let by = refused_by(&disk);
    assert!(refuses(&by), "{by:?}");
    println!("    {rounds} rounds, {read} bytes read back, {by:?}");
    let pressure = disk.stats().pressure;
    assert_eq!(pressure.slots_free, pressure.settings.slots, "all are back");
    disk.end();
}

fn in_force(words: &[&str]) -> Settings {
    let text = run::ublk(words).well();
    serde_json::from_str(&text).expect("JSON")
}

fn rules(settings: &Settings) -> Vec<String> {
    settings.rules.iter().map(ToString::to_string).collect()
}

fn changed() {
    let disk = Disk::add(&["--size", "20M", "--queues", "2"]);
    let name = disk.name();
    let settings = in_force(&[
        "set",
        &name,
        "--json",
        "--slots",
        "2",
        "--inject",
        "delay=1ms",
    ]);
    assert_eq!(
        (settings.slots, rules(&settings)),
        (Some(2), vec!["delay: any: delay 1ms".to_owned()])
    );
    fio(&disk, "verify-direct.fio");
    assert!(refused_by(&disk).slots > 0);
    let settings = in_force(&["set", &name, "--json", "--slots", "off", "--mbps", "400"]);
    assert_eq!((settings.slots, settings.mbps), (None, Some(400)));
    assert_eq!(
        rules(&settings),
        ["delay: any: delay 1ms"],
        "what is not named stays"
    );
    let before = refused_by(&disk).slots;
    assert_eq!(fill(&disk, 64), (64, None));
    assert_eq!(refused_by(&disk).slots, before);
    let text = run::ublk(&["set", &name, "--slots", "2"]).well();
    assert_eq!(text, "slots 2, mbps 400, rule 'delay: any: delay 1ms'\n");
    run::ublk(&["set", &name, "--slots", "0"]).refused(2, &["--slots", "from 1"]);
    let nobody = (disk.id + 1).to_string();
    run::ublk(&["set", &nobody, "--slots", "1"]).refused(1, &[&nobody]);
    disk.end();
}

fn read_at(disk: &Disk, offset: u64) -> Option<i32> {
    let (file, mut buffer) = (disk.open_direct(), Buffer::new(4096));
    let outcome = file.read_exact_at(&mut buffer, offset);
    outcome.err().and_then(|error| error.raw_os_error())
}

fn lost() {
    let words = ["--size", "8M", "--no-partition-scan", "--timeout", "1"];
    let disk = Disk::add(&words);
    run::ublk(&["set", &disk.name(), "--inject", "timeout=1,100,0,1"]).well();
    assert_eq!(read_at(&disk, 0), Some(libc::ETIMEDOUT));
    assert_eq!(read_at(&disk, 0), None, "the next one is served");
    assert_eq!(disk.stats().pressure.lost, 0);
    assert_eq!(disk.end_after_errors(), 1);
}

fn not_set_up() {
    let words = ["--size", "8M", "--queues", "2", "--id", "77"];
    let (before, mut all) = (machine::Traces::now(), words.to_vec());
    all.extend(["--inject", "init_hctx=2,100,0,1", "--rule", "any: hang"]);
    crate::disk::try_add(&all).refused(1, &["hardware queue 1"]);
    before.assert_unchanged();
    assert!(!machine::nodes_of("77"), "nothing is left");
    Disk::add(&words).end();
}

fn bad_blocks() {
    let disk = Disk::add(&["--size", "8M", "--no-partition-scan"]);
    let name = disk.name();
    run::ublk(&["set", &name, "--inject", "badblocks=16-16,40-47:once"]).well();
    assert_eq!(read_at(&disk, 8192), Some(libc::EIO), "sector 16 is in it");
    assert_eq!(read_at(&disk, 8192), None, "repaired by the first hit");
    assert_eq!(read_at(&disk, 0), None);
    assert_eq!(read_at(&disk, 20 << 10), Some(libc::EIO));
    assert_eq!(read_at(&disk, 4096), None);
    assert_eq!(disk.end_after_errors(), 2);
}

/// Writes blocks from the beginning; answers how many were written before one failed.
fn fill(disk: &Disk, blocks: u64) -> (u64, Option<i32>) {
    let (file, mut buffer) = (disk.open_direct(), Buffer::new(4096));
    buffer.fill(7);
    for block in 0..blocks {
        if let Err(error) = file.write_all_at(&buffer, block * 4096) {
            return (block, error.raw_os_error());
        }
    }
    (blocks, None)
}

fn full() {
    let disk = Disk::add(&["--size", "32M", "--memory-limit", "4M", "--depth", "16"]);
    let (full, room) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| fill(&disk, 2048));
        machine::wait_for("a write waits for memory", || disk.stats().space.parked > 0);
        // Reads and overwrites go on meanwhile, and a discard makes room.
        assert_eq!(read_at(&disk, 0), None);
        assert_eq!(fill(&disk, 4), (4, None));
        let room = disk.allocated();
        let mut hole = 64u64;
        while !writer.is_finished() {
            let range = (hole * 4096).to_string();
            run::tool(&["blkdiscard", "-o", &range, "-l", "262144", &disk.path]).well();
            hole = (hole + 64) % 1536;
        }
        (writer.join().expect("it ends"), room)
    });
    assert_eq!(full, (2048, None), "no write failed");
    assert!(room <= 4 * MIB, "{room} bytes were held");
    disk.end();
}

fn impatient() {
    let words = [
        "--size",
        "32M",
        "--memory-limit",
        "4M",
        "--error-if-no-space",
    ];
    let disk = Disk::add(&words);
    let (written, error) = fill(&disk, 2048);
    assert!(
        written > 512,
        "{written} blocks of 1024 and less the tables"
    );
    assert_eq!(error, Some(libc::ENOSPC));
    assert_eq!(read_at(&disk, 0), None);
    assert_eq!(fill(&disk, 4), (4, None), "what is there can be written");
    run::tool(&["blkdiscard", &disk.path]).well();
    assert_eq!(fill(&disk, 512), (512, None), "there is room again");
    assert!(disk.end_after_errors() >= 1);
}
