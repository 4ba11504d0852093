// SPDX-License-Identifier: MIT OR Apache-2.0
//! H18 to H20: a disk over an image, back to it, and a disk's contents as a file.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;

use crate::disk::{Disk, MIB};
use crate::filesystems::{available, Mounted, KINDS};
use crate::ioctl::Buffer;
use crate::machine::{self, scratch, Traces};
use crate::model::{compare_whole, play_round};
use crate::recovery::{kill, listed};
use crate::rng::Rng;
use crate::run::{tool, ublk};
use crate::runner::{number, Outcome, Test};

/// Bytes of the image, whose last page is a part of one.
const LENGTH: u64 = 9 * MIB - 1536;

pub fn tests(tests: &mut Vec<Test>) {
    for path in machine::data_paths() {
        let name = format!("h18_h19_random_operations_over_an_image_match_a_model_on_{path}");
        tests.push(Test::new(name, move || matches_model(path)).on_path_and_kernel(path));
    }
    let name = "h18_h20_each_disk_begins_with_the_file_system_that_was_saved";
    tests.push(Test::skippable(name, same_file_system).anywhere());
    let name = "h18_h19_what_does_not_go_with_an_image_is_refused";
    tests.push(Test::new(name, refused).anywhere());
}

/// Makes an image of random bytes with holes. Returns its path and what it holds.
fn image(name: &str) -> (String, Vec<u8>) {
    let path = scratch().join(name).to_str().expect("text").to_owned();
    let file = File::create(&path).expect("a file");
    let (mut bytes, mut random) = (vec![0; LENGTH as usize], Rng::of_run(0x1a6e));
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + 4096 * random.within(1..64) as usize);
        if random.within(0..2) == 0 || end == bytes.len() {
            random.fill(&mut bytes[at..end]);
            file.write_all_at(&bytes[at..end], at as u64)
                .expect("written");
        }
        at = end;
    }
    file.set_len(LENGTH).expect("set");
    (path, bytes)
}

/// Also over the death of a server in the middle of it.
fn matches_model(path: &str) {
    let before = Traces::now();
    let (image, bytes) = image("model.img");
    let words = ["--base", &image, "--no-partition-scan"];
    let disk = Disk::on(path, "none", "12M", &words);
    let mut fresh = bytes;
    fresh.resize(12 * MIB as usize, 0);
    compare_whole(&disk, &fresh);
    let tables = disk.stats().space.tables;
    assert_eq!(disk.stats().space.used, tables, "reading takes no memory");
    let mut model = fresh.clone();
    let operations = number("UBLK_TEST_OPS", 600, 20_000);
    for round in 0..2 {
        thread::scope(|scope| {
            let play = scope.spawn(|| play_round(&disk, &mut model, round, operations));
            if listed(&disk)["outlives_server"] == true {
                kill(&disk);
            }
            play.join().expect("no client sees an error");
        });
        compare_whole(&disk, &model);
        let saved = scratch().join("saved.img");
        ublk(&["save", &disk.name(), saved.to_str().expect("text")]).well();
        assert!(fs::read(&saved).expect("saved") == model, "as it was read");
        ublk(&["reset", &disk.name()]).well();
        compare_whole(&disk, &fresh);
        assert_eq!(disk.stats().space.used, tables, "all was given back");
        model.clone_from(&fresh);
    }
    disk.end();
    before.assert_unchanged();
}

fn same_file_system() -> Outcome {
    available(KINDS[0])?;
    let before = Traces::now();
    let first = Disk::add(&["--size", "64M"]);
    tool(&["mkfs.ext4", "-q", &first.path]).well();
    let mounted = Mounted::at(&first.path);
    fs::write(mounted.0.join("kept"), "kept").expect("written");
    mounted.unmount();
    let saved = scratch()
        .join("ext4.img")
        .to_str()
        .expect("text")
        .to_owned();
    ublk(&["save", &first.name(), &saved]).well();
    first.end();
    let found = fs::metadata(&saved).expect("saved");
    assert_eq!(found.len(), 64 * MIB);
    assert!(found.blocks() * 512 < 16 * MIB, "{} blocks", found.blocks());
    let disks = [0, 1].map(|_| Disk::add(&["--base", &saved, "--volatile-cache"]));
    for disk in &disks {
        assert_eq!(listed(disk)["base"], *saved);
        let mounted = Mounted::at(&disk.path);
        fs::write(mounted.0.join("more"), "more").expect("written");
        fs::remove_file(mounted.0.join("kept")).expect("removed");
        // Some of what is discarded is in the image.
        tool(&["fstrim", mounted.0.to_str().expect("text")]).well();
        ublk(&["reset", &disk.name()]).refused(4, &["is not reset, it is in use", "mounted at"]);
        mounted.unmount();
        ublk(&["reset", &disk.name()]).well();
        let mounted = Mounted::at(&disk.path);
        let names = fs::read_dir(&mounted.0).expect("a folder");
        let mut names: Vec<_> = names
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["kept", "lost+found"]);
        mounted.unmount();
        tool(&["e2fsck", "-fn", &disk.path]).well();
    }
    disks.into_iter().for_each(Disk::end);
    before.assert_unchanged();
    Ok(())
}

fn refused() {
    let before = Traces::now();
    let (path, bytes) = image("refused.img");
    let add = |words: &[&str]| ublk(&[&["add", "--base", &path], words].concat());
    add(&["--size", "8M"]).refused(2, &["smaller than its image", &path]);
    add(&["--preallocate"]).refused(2, &["--preallocate contradicts --base"]);
    add(&["--swap"]).refused(2, &["--swap contradicts --base"]);
    add(&["--thp", "on"]).refused(2, &["--thp on contradicts --base"]);
    let named = format!("tmpfs:{}", machine::tmpfs_path("over"));
    add(&["--backing", &named, "--size", "16M"]).refused(2, &["contradicts --base"]);
    ublk(&["add", "--base", "/dev/null"]).refused(2, &["/dev/null", "not a regular file"]);
    ublk(&["add", "--base", "/nowhere"]).refused(3, &["/nowhere", "No such file"]);
    let disk = Disk::from_json(&add(&["--json"]).well());
    let size = disk.sysfs_number("size") * 512;
    assert_eq!(size, bytes.len().next_multiple_of(512) as u64);
    if machine::offers("UPDATE_SIZE") {
        ublk(&["resize", &disk.name(), "1M"]).refused(2, &["smaller than its image"]);
    }
    // A failed save leaves nothing.
    let none = scratch().join("none");
    ublk(&["save", "1000", none.to_str().expect("text")]).refused(1, &["/dev/ublkb1000"]);
    assert!(fs::metadata(none).is_err());
    ublk(&["save", &disk.name(), &path]).refused(4, &["is the image of device"]);
    // It is cut: what is lost fails, and the rest does not.
    let file = File::options().write(true).open(&path).expect("ours");
    file.set_len(LENGTH / 2).expect("cut");
    ublk(&["upgrade", &disk.name()]).refused(3, &["has changed"]);
    let client = disk.open_direct();
    let mut page = Buffer::new(4096);
    let last = LENGTH / 4096 * 4096 - 4096;
    client.read_exact_at(&mut page, last).expect_err("lost");
    client.write_all_at(&page[..512], last).expect_err("lost");
    client.write_all_at(&page, 4096).expect("whole");
    drop(client);
    let plain = Disk::add(&["--size", "8M", "--preallocate"]);
    let taken = plain.stats().space.used;
    assert!(taken >= 8 * MIB, "{taken}");
    let client = plain.open_direct();
    let mut bytes = Buffer::new(4096);
    bytes.fill(1);
    client.write_all_at(&bytes, 0).expect("written");
    ublk(&["reset", &plain.name()]).refused(4, &["is not reset, it is in use"]);
    ublk(&["reset", &plain.name(), "--force"]).well();
    client.read_exact_at(&mut bytes, 0).expect("read");
    assert!(
        bytes.iter().all(|byte| *byte == 0),
        "zeros without an image"
    );
    assert_eq!(plain.stats().space.used, taken, "taken again");
    drop(client);
    plain.end();
    disk.end_after_errors();
    before.assert_unchanged();
}
