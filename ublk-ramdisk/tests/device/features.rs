// SPDX-License-Identifier: MIT OR Apache-2.0
//! H2, H5, H6, H8 and the features that a kernel may lack: what it can do is done, what it
//! cannot is refused in the documented words.

use std::fs::Permissions;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use crate::disk::{try_add, Disk, MIB};
use crate::ioctl::{self, Buffer};
use crate::machine::{self, offers, tmpfs_path};
use crate::rng::Rng;
use crate::run;
use crate::runner::Test;

/// Data path, the feature it needs, its bit, and the first kernel that has it.
const PATHS: [(&str, &str, &str, &str); 2] = [
    ("user-copy", "USER_COPY", "bit 7", "6.5"),
    ("batch", "BATCH_IO", "bit 15", "7.0"),
];

pub fn tests(tests: &mut Vec<Test>) {
    let mut add = |name: &str, body: fn()| tests.push(Test::new(name, body));
    add("l1_doctor_finds_this_machine_able", doctor);
    add("l1_a_data_path_is_offered_or_refused_by_bit", data_paths);
    add("g14_auto_takes_the_best_path", auto);
    add("h2_no_cache_no_flush", no_flush);
    add("h2_a_volatile_cache_brings_flush_and_fua", flush);
    add("h5_read_only_refuses_writes", read_only);
    add("h6_rotational_is_in_sysfs", rotational);
    if offers("UPDATE_SIZE") {
        add("h8_grow_while_open", grow);
        add("h8_shrink_only_when_closed_or_forced", shrink);
        add("h8_bad_sizes_are_refused", bad_sizes);
        add("h8_resizing_leaks_nothing", resize_often);
        add(
            "h8_the_memory_limit_counts_at_every_size",
            limit_at_every_size,
        );
        add("h8_a_preallocated_disk_stays_so", preallocated_grows);
        add(
            "h8_a_discard_beside_a_resize_takes_nothing_new",
            discard_beside_resize,
        );
    } else {
        add("h8_resize_is_refused_by_bit", no_resize);
    }
}

fn doctor() {
    let text = run::ublk(&["doctor"]).well();
    assert!(!text.is_empty());
}

fn data_paths() {
    for (path, feature, bit, since) in PATHS {
        let said = try_add(&["--size", "4M", "--data-path", path]);
        if offers(feature) {
            Disk::from_json(&said.well()).end();
        } else {
            said.refused(3, &[path, feature, bit, since]);
        }
    }
    Disk::on("buffer", "none", "4M", &[]).end();
}

fn auto() {
    let disk = Disk::add(&["--size", "4M"]);
    let paths = machine::data_paths();
    assert_eq!(disk.data_path, paths[paths.len() - 1]);
    disk.end();
}

fn no_flush() {
    let disk = Disk::add(&["--size", "8M"]);
    let file = disk.open_direct();
    file.write_all_at(&Buffer::new(4096), 0).expect("write");
    file.sync_all().expect("fsync");
    assert_eq!(disk.count(|q| q.flush).requests, 0);
    drop(file);
    disk.end();
}

fn flush() {
    for path in machine::data_paths() {
        let disk = Disk::on(path, "none", "8M", &["--volatile-cache"]);
        assert_eq!(disk.sysfs("queue/write_cache"), "write back");
        assert_eq!(disk.sysfs_number("queue/fua"), 1);
        let file = disk.open_direct();
        let mut bytes = Buffer::new(4096);
        bytes.fill(5);
        file.write_all_at(&bytes, 0).expect("write");
        let before = disk.count(|q| q.flush).requests;
        file.sync_all().expect("fsync");
        assert_eq!(disk.count(|q| q.flush).requests, before + 1, "{path}");
        let synchronous = ioctl::open_direct_synchronous(&disk.path);
        let writes = disk.count(|q| q.write).requests;
        synchronous.write_all_at(&bytes, 4096).expect("FUA write");
        assert_eq!(disk.count(|q| q.write).requests, writes + 1, "{path}");
        let mut found = Buffer::new(8192);
        file.read_exact_at(&mut found, 0).expect("read");
        assert!(found.iter().all(|&byte| byte == 5));
        drop((file, synchronous));
        disk.end();
    }
}

fn read_only() {
    let backing = tmpfs_path("read-only");
    let words = ["--backing", &format!("tmpfs:{backing}")];
    let mut wanted = vec![0; MIB as usize];
    Rng::of_run(5).fill(&mut wanted);
    std::fs::write(&backing, &wanted).expect("written");
    // One that others can open is refused.
    std::fs::set_permissions(&backing, Permissions::from_mode(0o600)).expect("ours");
    for path in machine::data_paths() {
        let disk = Disk::add(&[&words[..], &["--read-only", "--data-path", path]].concat());
        assert_eq!(disk.sysfs_number("ro"), 1);
        let file = std::fs::File::open(&disk.path).expect("opened for reading");
        let mut found = Buffer::new(MIB as usize);
        file.read_exact_at(&mut found, 0).expect("read");
        assert!(*found == *wanted, "{path}");
        // Some kernels refuse to open it for writing, the others to write.
        let writable = std::fs::File::options().write(true).open(&disk.path);
        if let Ok(writable) = writable {
            let bytes = Buffer::new(4096);
            assert!(writable.write_at(&bytes, 0).is_err(), "{path}");
            assert!(ioctl::discard(&writable, 0..4096).is_err(), "{path}");
            assert!(ioctl::zero_out(&writable, 0..4096).is_err(), "{path}");
        }
        assert_eq!(disk.count(|q| q.write).requests, 0);
        drop(file);
        disk.end();
    }
    assert!(std::fs::read(&backing).expect("read") == wanted);
    std::fs::remove_file(backing).expect("removed");
}

fn rotational() {
    let disk = Disk::add(&["--size", "4M", "--rotational"]);
    assert_eq!(disk.sysfs_number("queue/rotational"), 1);
    disk.end();
}

fn grow() {
    for path in machine::data_paths() {
        let disk = Disk::on(path, "none", "16M", &[]);
        let file = disk.open_direct();
        let mut bytes = Buffer::new(MIB as usize);
        Rng::of_run(8).fill(&mut bytes);
        file.write_all_at(&bytes, 15 * MIB).expect("write");
        run::ublk(&["resize", &disk.name(), "48M"]).well();
        assert_eq!(disk.sysfs_number("size"), 48 * MIB / 512);
        assert_eq!(disk.stats().size, 48 * MIB);
        let mut found = Buffer::new(MIB as usize);
        file.read_exact_at(&mut found, 15 * MIB).expect("read");
        assert!(*found == *bytes, "{path}: what was there stays");
        file.read_exact_at(&mut found, 16 * MIB).expect("read");
        assert!(found.iter().all(|&byte| byte == 0), "{path}: zeros");
        file.write_all_at(&bytes, 47 * MIB).expect("to the new end");
        file.read_exact_at(&mut found, 47 * MIB).expect("read");
        assert!(*found == *bytes, "{path}");
        drop(file);
        disk.end();
    }
}

fn shrink() {
    for path in machine::data_paths() {
        let disk = Disk::on(path, "none", "32M", &[]);
        let file = disk.open_direct();
        let mut bytes = Buffer::new(MIB as usize);
        Rng::of_run(9).fill(&mut bytes);
        for at in (0..32 * MIB).step_by(MIB as usize) {
            file.write_all_at(&bytes, at).expect("write");
        }
        let asked = ["resize", &disk.name(), "8M"];
        run::ublk(&asked).refused(4, &["--force"]);
        assert_eq!(disk.stats().size, 32 * MIB);
        run::ublk(&[&asked[..], &["--force"]].concat()).well();
        assert_eq!(disk.sysfs_number("size"), 8 * MIB / 512);
        assert_eq!(disk.allocated(), 8 * MIB, "{path}: the tail is given back");
        let mut found = Buffer::new(MIB as usize);
        file.read_exact_at(&mut found, 7 * MIB).expect("read");
        assert!(*found == *bytes, "{path}");
        assert!(file.write_at(&bytes, 8 * MIB).is_err(), "{path}");
        drop(file);
        run::ublk(&["resize", &disk.name(), "4M"]).well();
        run::ublk(&["resize", &disk.name(), "32M"]).well();
        let file = disk.open_direct();
        for at in (4 * MIB..32 * MIB).step_by(MIB as usize) {
            file.read_exact_at(&mut found, at).expect("read");
            assert!(found.iter().all(|&byte| byte == 0), "{path}: old bytes");
        }
        assert_eq!(disk.allocated(), 4 * MIB, "{path}");
        drop(file);
        disk.end();
    }
}

/// What is acknowledged behind the old end survives discards up to it that are under way.
fn discard_beside_resize() {
    // Not whole pages: the last one is zeroed in part by a discard, and given back by none.
    let size = 16 * MIB + 512;
    let disk = Disk::add(&["--size", &size.to_string(), "--queues", "2"]);
    let (file, other) = (disk.open_direct(), disk.open_direct());
    let (mut bytes, mut found) = (Buffer::new(512), Buffer::new(512));
    for round in 0..6 {
        let end = size + round * 512;
        Rng::of_run(round).fill(&mut bytes);
        std::thread::scope(|scope| {
            scope.spawn(|| ioctl::discard(&file, 8 * MIB..end).expect("discard"));
            let larger = (end + 512).to_string();
            run::ublk(&["resize", &disk.name(), &larger]).well();
            other.write_all_at(&bytes, end).expect("behind the old end");
        });
        other.read_exact_at(&mut found, end).expect("read");
        assert!(*found == *bytes, "round {round}");
    }
    drop((file, other));
    disk.end();
}

fn bad_sizes() {
    let disk = Disk::add(&["--size", "8M", "--block-size", "4096"]);
    for size in ["0", "512", "8388609", "x"] {
        run::ublk(&["resize", &disk.name(), size]).refused(2, &[size]);
    }
    assert_eq!(disk.stats().size, 8 * MIB);
    disk.end();
    run::ublk(&["resize", "1048575", "8M"]).refused(1, &["1048575"]);
}

fn resize_often() {
    const CYCLES: usize = 10;
    let disk = Disk::add(&["--size", "8M"]);
    let held = |of: &str| {
        let entries = std::fs::read_dir(Path::new("/proc").join(disk.pid.to_string()).join(of));
        entries.expect("the server lives").count()
    };
    let cycle = || {
        run::ublk(&["resize", &disk.name(), "16M"]).well();
        run::ublk(&["resize", &disk.name(), "8M"]).well();
        disk.stats()
    };
    cycle();
    let (descriptors, threads) = (held("fd"), held("task"));
    for _ in 0..CYCLES {
        cycle();
    }
    // A pool may have made another worker, but no resize makes one of its own.
    machine::wait_for("descriptors and threads as before", || {
        held("fd") == descriptors && held("task") < threads + CYCLES
    });
    disk.end();
}

/// What was typed at `add` counts after a resize, and a size that it does not fit is refused as `add`
/// refuses it.
fn limit_at_every_size() {
    let disk = Disk::add(&[
        "--size",
        "8M",
        "--memory-limit",
        "64M",
        "--no-space-timeout",
        "1",
    ]);
    let asked = ["resize", &disk.name(), "512G"];
    run::ublk(&asked).refused(2, &["--memory-limit", "67108864", "536870912"]);
    assert_eq!(disk.stats().size, 8 * MIB, "nothing is changed");
    assert_eq!(disk.sysfs_number("size"), 8 * MIB / 512);
    run::ublk(&["resize", &disk.name(), "32M"]).well();
    let file = disk.open_direct();
    let bytes = Buffer::new(MIB as usize);
    for at in (0..32 * MIB).step_by(MIB as usize) {
        file.write_all_at(&bytes, at).expect("within the limit");
    }
    assert_eq!(disk.allocated(), 32 * MIB);
    drop(file);
    disk.end();
}

fn preallocated_grows() {
    let disk = Disk::add(&["--size", "8M", "--preallocate"]);
    run::ublk(&["resize", &disk.name(), "24M"]).well();
    assert_eq!(disk.allocated(), 24 * MIB);
    let name = disk.name();
    let too_much = run::ublk(&["resize", &name, "900G"]);
    too_much.refused(3, &["--preallocate", "available"]);
    let now = disk.stats();
    assert_eq!((now.size, now.allocated), (24 * MIB, 24 * MIB));
    disk.end();
}

fn no_resize() {
    let disk = Disk::add(&["--size", "8M"]);
    for size in ["16M", "4M"] {
        let said = run::ublk(&["resize", &disk.name(), size]);
        said.refused(3, &["UPDATE_SIZE", "bit 10", "6.16"]);
    }
    assert_eq!(disk.sysfs_number("size"), 8 * MIB / 512);
    disk.end();
}
