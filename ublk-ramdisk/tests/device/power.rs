// SPDX-License-Identifier: MIT OR Apache-2.0
//! H13 to H17: what a power cut leaves of a disk with a volatile cache, by itself and under file systems.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

use crate::disk::Disk;
use crate::filesystems::{available, Kind, Mounted, KINDS};
use crate::ioctl::{self, Buffer};
use crate::machine::{self, tmpfs_path, wait_for, Traces};
use crate::recovery::{kill, listed};
use crate::rng::Rng;
use crate::run::{need, tool, ublk};
use crate::runner::{number, Outcome, Test};

const PAGE: u64 = 4096;

pub fn tests(tests: &mut Vec<Test>) {
    for (kind, quick) in [(KINDS[0], 3), (KINDS[1], 2)] {
        let name = format!("h15_{}_holds_what_was_fsynced_after_power_cuts", kind.name);
        let cuts = move || fsynced_files_survive(kind, number("UBLK_TEST_CUTS", quick, 5));
        tests.push(Test::skippable(name, cuts).anywhere());
    }
    let name = "h15_a_program_that_forgets_an_fsync_is_caught";
    tests.push(Test::skippable(name, forgotten).anywhere());
    let mut add = |name: &str, body: fn()| tests.push(Test::new(name, body).anywhere());
    add("h17_the_death_of_a_server_is_no_power_cut", death);
    add("h16_a_disk_without_power_ends_every_request", off);
    let name = "h14_h17_what_is_kept_is_counted_and_goes_with_a_memfd";
    add(name, counted);
}

fn add(words: &[&str]) -> Disk {
    Disk::add(&[&["--volatile-cache"], words].concat())
}

/// Cuts the power, and leaves the disk off. Returns how many pages were not flushed, and how many of
/// them were lost.
#[track_caller]
fn cut(disk: &Disk, words: &[&str]) -> (u64, u64) {
    let name = disk.name();
    let all = [&["power-cut", &name, "--off", "--json"], words].concat();
    let done: serde_json::Value = serde_json::from_str(&ublk(&all).well()).expect("JSON");
    assert_eq!(done["off"], true);
    let pages = |name: &str| done[name].as_u64().expect("a number");
    (pages("unflushed"), pages("lost"))
}

#[track_caller]
fn switch_on(disk: &Disk) {
    let said = ublk(&["power-cut", &disk.name(), "--on"]).well();
    assert_eq!(said, format!("{} is on\n", disk.path));
}

/// What the file of this number holds.
fn contents(number: u64) -> Vec<u8> {
    let mut random = Rng::of(number);
    let mut bytes = vec![0; 1 + (random.next() % 40_000) as usize];
    random.fill(&mut bytes);
    bytes
}

/// One file of six is fsynced, with its folder. The others are written to the disk, no more.
const FSYNC_EVERY: u64 = 6;

/// Makes files until the disk is off.
fn make_files(folder: &Path, made: &AtomicU64) -> io::Result<()> {
    for number in 0.. {
        let mut file = File::create(folder.join(number.to_string()))?;
        file.write_all(&contents(number))?;
        if number % FSYNC_EVERY == 0 {
            file.sync_all()?;
            File::open(folder)?.sync_all()?;
        } else {
            ioctl::write_out(&file)?;
        }
        made.store(number + 1, SeqCst);
    }
    Ok(())
}

/// The file system replays its journal, has no fault, and holds every file that was fsynced.
fn fsynced_files_survive(kind: Kind, cuts: u64) -> Outcome {
    available(kind)?;
    let before = Traces::now();
    let disk = add(&["--size", "320M"]);
    tool(&[kind.make, &[&disk.path]].concat()).well();
    let mut random = Rng::of_run(0x90c7);
    let (mut all, mut files) = ((0, 0), 0);
    for cut_number in 0..cuts {
        let mounted = Mounted::at(&disk.path);
        let folder = mounted.0.join(cut_number.to_string());
        if cut_number > 0 {
            let former = mounted.0.join((cut_number - 1).to_string());
            fs::remove_dir_all(former).expect("removed");
        }
        fs::create_dir(&folder).expect("a folder");
        let (made, enough) = (AtomicU64::new(0), 3 + random.next() % 40);
        let seed = random.next().to_string();
        // Every second time sectors are chosen, else pages.
        let torn = ["512", "4K"][cut_number as usize % 2];
        let words = ["--keep", "random", "--seed", &seed, "--torn", torn];
        thread::scope(|scope| {
            let writer = scope.spawn(|| make_files(&folder, &made));
            wait_for("files", || made.load(SeqCst) >= enough);
            let (unflushed, lost) = cut(&disk, &words);
            all = (all.0 + unflushed, all.1 + lost);
            let ended = writer.join().expect("no panic");
            ended.expect_err("the disk is off");
        });
        mounted.unmount();
        switch_on(&disk);
        let mounted = Mounted::at(&disk.path);
        for number in (0..made.into_inner()).step_by(FSYNC_EVERY as usize) {
            let found = fs::read(mounted.0.join(format!("{cut_number}/{number}")));
            let is_whole = found.is_ok_and(|found| found == contents(number));
            assert!(is_whole, "cut {cut_number}, seed {seed}: file {number}");
            files += 1;
        }
        mounted.unmount();
        tool(&[kind.check, &[&disk.path]].concat()).well();
    }
    assert!(all.1 > 0, "nothing was lost: {all:?}");
    println!(
        "ROW {} {} cut {cuts} {files} {} of {} unflushed pages were lost",
        machine::kernel(),
        kind.name,
        all.1,
        all.0
    );
    assert!(disk.end_after_errors() > 0, "a disk that is off");
    before.assert_unchanged();
    Ok(())
}

/// A program that says "saved". It writes past the page cache, so its bytes are on the disk.
fn save(file: &File, byte: u8, forgets_fsync: bool) {
    let mut bytes = Buffer::new(PAGE as usize);
    bytes.fill(byte);
    file.write_all_at(&bytes, 0).expect("written");
    if !forgets_fsync {
        file.sync_all().expect("synced");
    }
}

fn forgotten() -> Outcome {
    available(KINDS[0])?;
    need(&["sync"])?;
    let disk = add(&["--size", "32M"]);
    tool(&["mkfs.ext4", "-q", &disk.path]).well();
    let mounted = Mounted::at(&disk.path);
    let paths = ["right", "wrong"].map(|name| mounted.0.join(name));
    for path in &paths {
        fs::write(path, [1; PAGE as usize]).expect("written");
    }
    tool(&["sync", "-f", mounted.0.to_str().expect("text")]).well();
    for (path, forgets_fsync) in paths.iter().zip([false, true]) {
        let file = ioctl::open_direct(path.to_str().expect("text"));
        save(&file, 2, forgets_fsync);
    }
    cut(&disk, &[]);
    mounted.unmount();
    switch_on(&disk);
    let mounted = Mounted::at(&disk.path);
    let found = paths.map(|path| fs::read(path).expect("there"));
    assert_eq!(found, [[2; PAGE as usize], [1; PAGE as usize]]);
    mounted.unmount();
    disk.end_after_errors();
    Ok(())
}

fn write(client: &File, page: u64, byte: u8) -> io::Result<()> {
    let mut bytes = Buffer::new(PAGE as usize);
    bytes.fill(byte);
    client.write_all_at(&bytes, page * PAGE)
}

#[track_caller]
fn assert_found(disk: &Disk, expected: &[u8]) {
    let client = disk.open_direct();
    let mut bytes = Buffer::new(PAGE as usize);
    for (page, byte) in (0..).zip(expected) {
        client.read_exact_at(&mut bytes, page * PAGE).expect("read");
        assert!(
            bytes.iter().all(|is| is == byte),
            "page {page}: {}",
            bytes[0]
        );
    }
}

/// Nothing is lost with the server, and what was not flushed before is lost in a cut after it.
fn death() {
    let before = Traces::now();
    let named = format!("tmpfs:{}", tmpfs_path("power"));
    for backing in ["private", &named] {
        let disk = add(&["--size", "8M", "--backing", backing, "--no-partition-scan"]);
        let client = disk.open_direct();
        (0..3).for_each(|page| write(&client, page, 1).expect("written"));
        client.sync_all().expect("flushed");
        (1..4).for_each(|page| write(&client, page, 2).expect("written"));
        kill(&disk);
        assert_found(&disk, &[1, 2, 2, 2]);
        let space = disk.stats().space;
        assert_eq!((space.unflushed, space.death_flushes), (Some(3), false));
        write(&client, 0, 3).expect("written");
        assert_eq!(cut(&disk, &[]), (4, 4));
        // It is as dark for the next server.
        kill(&disk);
        assert!(disk.stats().space.off && listed(&disk)["off"] == true);
        drop(client);
        switch_on(&disk);
        assert_found(&disk, &[1, 1, 1, 0]);
        let client = disk.open_direct();
        write(&client, 0, 4).expect("written");
        ublk(&["upgrade", &disk.name()]).well();
        drop(client);
        assert_eq!(cut(&disk, &["--keep", "all"]), (1, 0));
        switch_on(&disk);
        assert_found(&disk, &[4, 1, 1, 0]);
        disk.end_after_errors();
    }
    fs::remove_file(tmpfs_path("power")).expect("kept by `del`");
    before.assert_unchanged();
}

/// Also those that wait for memory, or that a rule holds. It comes back when nobody has it open.
fn off() {
    let before = Traces::now();
    let disk = add(&["--size", "8M", "--no-partition-scan"]);
    let client = disk.open_direct();
    (0..2).for_each(|page| write(&client, page, 1).expect("written"));
    client.sync_all().expect("flushed");
    let limit = disk.stats().space.used;
    let set = |words: &[&str]| ublk(&[&["set", &disk.name()], words].concat()).well();
    set(&["--memory-limit", &limit.to_string(), "--reclaim", "off"]);
    set(&["--rule", "stall: read: hang"]);
    thread::scope(|scope| {
        let overwrites = scope.spawn(|| write(&client, 0, 2));
        let new_page = scope.spawn(|| write(&client, 9, 2));
        let read = scope.spawn(|| client.read_at(&mut Buffer::new(PAGE as usize), 0));
        wait_for("requests that wait", || {
            let stats = disk.stats();
            stats.space.parked == 2 && stats.pressure.rules[0].held == 1
        });
        assert_eq!(cut(&disk, &[]), (0, 0));
        let ends = [overwrites.join(), new_page.join()].map(|end| end.expect("no panic"));
        let read = read.join().expect("no panic").map(drop);
        for end in ends.into_iter().chain([read]) {
            let error = end.expect_err("the disk is off").raw_os_error();
            assert_eq!(error, Some(libc::EIO));
        }
    });
    assert!(write(&client, 0, 2).is_err() && client.sync_all().is_err());
    ioctl::discard(&client, 0..PAGE).expect_err("the disk is off");
    let note = format!("{} is off", disk.path);
    assert!(ublk(&["list", &disk.name()]).well().contains(&note));
    let text = ublk(&["stats", &disk.name()]).well();
    assert!(text.contains("volatile cache: off, 0 pages"), "{text}");
    ublk(&["power-cut", &disk.name()]).refused(1, &["is off", "--on"]);
    if machine::offers("UPDATE_SIZE") {
        ublk(&["resize", &disk.name(), "16M"]).refused(1, &["is off", "--on"]);
    }
    set(&["--memory-limit", "off"]);
    ublk(&["rules", &disk.name(), "clear"]).well();
    thread::scope(|scope| {
        let on = scope.spawn(|| ublk(&["power-cut", &disk.name(), "--on"]));
        assert!(write(&client, 0, 2).is_err(), "it is open");
        drop(client);
        assert_eq!(on.join().expect("no panic").status, Some(0));
    });
    assert_found(&disk, &[1, 1, 0]);
    let plain = Disk::add(&["--size", "8M"]);
    ublk(&["power-cut", &plain.name()]).refused(2, &["--volatile-cache"]);
    ublk(&["power-cut", &plain.name(), "--on"]).well();
    plain.end();
    disk.end_after_errors();
    let large = add(&["--size", "8M", "--block-size", "4K"]);
    ublk(&["power-cut", &large.name(), "--torn", "512"]).refused(2, &["--torn 512", "4096"]);
    assert_eq!(
        ublk(&["power-cut", &large.name()]).well().lines().count(),
        2
    );
    large.end();
    before.assert_unchanged();
}

/// By the size of what is written between two flushes.
fn counted() {
    let before = Traces::now();
    let disk = add(&["--size", "64M", "--backing", "memfd", "--no-partition-scan"]);
    let client = disk.open_direct();
    let mut bytes = Buffer::new(8 << 20);
    bytes.fill(1);
    client.write_all_at(&bytes, 0).expect("written");
    client.sync_all().expect("flushed");
    let flushed = disk.stats().space;
    assert_eq!((flushed.unflushed, flushed.death_flushes), (Some(0), true));
    client.write_all_at(&bytes, 0).expect("written");
    let space = disk.stats().space;
    assert_eq!(space.unflushed, Some(2048));
    assert_eq!(space.used, flushed.used + (8 << 20));
    let text = ublk(&["stats", &disk.name()]).well();
    assert!(
        text.contains("the death of the server flushes all"),
        "{text}"
    );
    client.sync_all().expect("flushed");
    wait_for("the memory", || disk.stats().space.used == flushed.used);
    drop(client);
    disk.end();
    before.assert_unchanged();
}
