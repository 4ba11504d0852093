// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a disk's bytes live: the program's own tmpfs, a named file on tmpfs that outlives its server, huge pages, and a
//! tmpfs that runs full.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use crate::disk::{try_add, Disk, MIB};
use crate::ioctl::{self, Buffer};
use crate::machine::{self, tmpfs_path, Traces};
use crate::rng::Rng;
use crate::run::{self, need, tool, ublk};
use crate::runner::{Outcome, Skip, Test};

pub fn tests(tests: &mut Vec<Test>) {
    let kernel = |name, body: fn()| Test::new(name, body);
    tests.extend([
        kernel(
            "i1_i13_a_private_store_outlives_its_server",
            private_outlives,
        ),
        kernel(
            "i13_a_private_store_is_on_a_mount_of_its_own",
            private_mount,
        ),
    ]);
    let mut add = |name: &str, body: fn() -> Outcome| {
        tests.push(Test::skippable(name, body).anywhere());
    };
    add("i1_a_tmpfs_file_keeps_its_contents", tmpfs_keeps);
    let name = "l1_a_private_store_is_refused_where_it_would_go_with_a_process";
    add(name, private_elsewhere);
    add("i11_a_second_server_of_a_file_is_refused", tmpfs_locked);
    add("l1_a_bad_backing_file_is_refused", tmpfs_bad);
    add("l1_too_few_huge_pages_names_both_numbers", hugetlb_too_few);
    add("e08_g1_huge_pages_that_run_out_are_enospc", hugetlb_limited);
    add("g1_a_file_of_huge_pages_keeps_its_contents", hugetlb_file);
    tests.push(Test::skippable("g1_huge_pages_hold_a_disk", hugetlb));
    // Not every kernel has it, so none leaves it to another.
    if machine::offers("UPDATE_SIZE") {
        let name = "h8_i1_a_smaller_size_survives_a_kill";
        tests.push(Test::skippable(name, smaller_and_killed));
    }
    for path in machine::data_paths() {
        let name = format!("b1_a_full_tmpfs_is_enospc_on_{path}");
        let test = Test::new(name, move || tmpfs_full(path));
        tests.push(test.on_path(path));
        let name = format!("g16_a_backing_file_cut_short_on_{path}");
        let test = Test::new(name, move || cut_short(path));
        tests.push(test.on_path(path));
    }
}

fn tmpfs_keeps() -> Outcome {
    let file = tmpfs_path("kept");
    let backing = format!("tmpfs:{file}");
    let mut bytes = Buffer::new(MIB as usize);
    Rng::of_run(3).fill(&mut bytes);
    let disk = Disk::add(&["--size", "16M", "--backing", &backing]);
    disk.open_direct()
        .write_all_at(&bytes, 5 * MIB)
        .expect("write");
    disk.end();
    let kept = fs::metadata(&file).expect("the file is kept");
    assert_eq!(kept.len(), 16 * MIB);
    assert_eq!(kept.blocks() * 512, MIB, "holes stay holes");

    let disk = Disk::add(&["--backing", &backing]);
    assert_eq!(disk.stats().size, 16 * MIB, "the file has the size");
    assert_eq!(disk.allocated(), MIB);
    let mut found = Buffer::new(6 << 20);
    disk.open_direct()
        .read_exact_at(&mut found, 0)
        .expect("read");
    assert!(found[..5 << 20].iter().all(|&byte| byte == 0));
    assert!(found[5 << 20..] == *bytes);
    assert_eq!(disk.allocated(), MIB, "G11 for holes found at the start");
    disk.end();
    fs::remove_file(&file).expect("removed");
    Ok(())
}

/// The folder of private stores.
fn stores() -> PathBuf {
    machine::run_dir().join("store")
}

#[track_caller]
fn kill_server(disk: &Disk) {
    // Else there would be a new one.
    for pid in [disk.supervisor, disk.pid] {
        ioctl::signal(pid, libc::SIGKILL);
        machine::wait_for("its end", || !machine::servers().contains(&pid));
    }
}

/// What a client has written is in a file that only root can reach, whatever becomes of the server:
/// until `del`. What no device claims goes sooner.
fn private_outlives() {
    let before = Traces::now();
    let disk = Disk::add(&["--size", "16M"]);
    let (stats, store) = (disk.stats(), stores().join(disk.name()));
    assert_eq!((&*stats.backing, stats.outlives_server), ("private", true));
    let listed = ublk(&["list", "--columns", "backing,outlives-server", &disk.name()]).well();
    assert!(listed.ends_with("yes\n"), "{listed}");
    let mut bytes = Buffer::new(MIB as usize);
    Rng::of_run(7).fill(&mut bytes);
    let client = disk.open_direct();
    client.write_all_at(&bytes, 5 * MIB).expect("write");
    drop(client);
    kill_server(&disk);
    let file = File::open(&store).expect("it outlives the server");
    let held = file.metadata().expect("open");
    assert_eq!((held.len(), held.blocks() * 512), (16 * MIB, MIB));
    assert_eq!((held.mode() & 0o777, held.nlink()), (0o600, 1));
    let mut found = vec![0; MIB as usize];
    file.read_exact_at(&mut found, 5 * MIB).expect("read");
    assert!(found[..] == bytes[..]);
    drop(file);
    // The device has no server, but it still is there, and so are its bytes.
    let unclaimed = stores().join("1048575");
    fs::write(&unclaimed, "nobody's").expect("written");
    fs::set_permissions(&unclaimed, fs::Permissions::from_mode(0o600)).expect("ours");
    let other = Disk::add(&["--size", "8M"]);
    assert!(store.exists() && !unclaimed.exists());
    // A disk that is stopped keeps its bytes until it is deleted, too.
    ublk(&["stop", &other.name()]).well();
    let stopped = stores().join(other.name());
    assert!(stopped.exists());
    ublk(&["del", "--force", &disk.name()]).well();
    assert!(!store.exists() && stopped.exists());
    ublk(&["del", &other.name()]).well();
    disk.has_ended();
    other.has_ended();
    before.assert_unchanged();
}

/// No limit of its own, never swapped out, and huge pages as asked for; gone with the last disk.
fn private_mount() {
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M", "--thp", "off"]);
    let huge = Disk::add(&["--size", "8M", "--thp", "on"]);
    let mounts = machine::read("/proc/self/mounts");
    for (folder, option) in [("store", "mode=700"), ("store-advise", "huge=advise")] {
        let place = machine::run_dir().join(folder);
        let place = format!(" {} tmpfs ", place.display());
        let mount = mounts.lines().find(|line| line.contains(&place));
        let mount = mount.unwrap_or_else(|| panic!("no {folder} in {mounts}"));
        for option in [option, "noswap", "nosuid"] {
            assert!(mount.contains(option), "no {option}: {mount}");
        }
        // Of blocks: a tmpfs without a number has half of the memory.
        let place = machine::run_dir().join(folder);
        let said = tool(&["stat", "-f", "-c", "%b", place.to_str().expect("text")]).well();
        assert_eq!(said.trim(), "0", "a limit: {mount}");
    }
    huge.end();
    assert!(!machine::run_dir().join("store-advise").exists());
    disk.end();
    before.assert_unchanged();
}

/// A mount in another namespace goes with it.
fn private_elsewhere() -> Outcome {
    need(&["unshare"])?;
    let log = machine::log_path();
    let add = [
        "unshare",
        "-m",
        run::PROGRAM,
        "add",
        "--size",
        "8M",
        "--json",
    ];
    let log = ["--log", log.to_str().expect("text")];
    let said = tool(&[&add[..], &log, &["--backing", "private"]].concat());
    said.refused(3, &["process 1", "--backing memfd"]);
    let said = tool(&[&add[..], &log].concat());
    assert_eq!(said.err.lines().count(), 1, "said once: {said:?}");
    assert!(said.err.contains("warning: "), "{said:?}");
    let disk = Disk::from_json(&said.well());
    let stats = disk.stats();
    assert_eq!((&*stats.backing, stats.outlives_server), ("memfd", false));
    disk.end();
    Ok(())
}

/// The server is killed after the disk has become smaller: the next one finds the new size.
fn smaller_and_killed() -> Outcome {
    let file = tmpfs_path("smaller");
    let backing = format!("tmpfs:{file}");
    let before = Traces::now();
    let disk = Disk::add(&["--size", "16M", "--backing", &backing]);
    let bytes = Buffer::new(MIB as usize);
    let client = disk.open_direct();
    client.write_all_at(&bytes, 12 * MIB).expect("write");
    drop(client);
    ublk(&["resize", &disk.name(), "8M"]).well();
    assert_eq!(fs::metadata(&file).expect("the file").len(), 8 * MIB);
    kill_server(&disk);
    ublk(&["del", "--force", &disk.name()]).well();
    disk.has_ended();
    let disk = Disk::add(&["--backing", &backing]);
    assert_eq!(disk.stats().size, 8 * MIB, "the new size");
    disk.end();
    fs::remove_file(&file).expect("removed");
    before.assert_unchanged();
    Ok(())
}

fn tmpfs_locked() -> Outcome {
    let file = tmpfs_path("locked");
    let backing = format!("tmpfs:{file}");
    let disk = Disk::add(&["--size", "8M", "--backing", &backing]);
    try_add(&["--backing", &backing]).refused(4, &[&file]);
    assert_eq!(disk.stats().size, 8 * MIB);
    disk.end();
    Disk::add(&["--backing", &backing]).end();
    fs::remove_file(&file).expect("removed");
    Ok(())
}

fn tmpfs_bad() -> Outcome {
    let folder = machine::scratch().to_str().expect("text").to_owned();
    try_add(&["--backing", &format!("tmpfs:{folder}")]).refused(2, &[&folder]);
    let nowhere = tmpfs_path("none/disk");
    let words = ["--size", "8M", "--backing", &format!("tmpfs:{nowhere}")];
    try_add(&words).refused(3, &[&nowhere]);
    // devtmpfs is a tmpfs as good as any, sysfs is not.
    let on_sysfs = ["--backing", "tmpfs:/sys/kernel/uevent_seqnum"];
    let said = try_add(&on_sysfs);
    assert!(matches!(said.status, Some(2 | 3)), "{said:?}");
    said.has_one_line();
    let file = tmpfs_path("too-large");
    let backing = format!("tmpfs:{file}");
    let said = try_add(&["--size", "1T", "--preallocate", "--backing", &backing]);
    said.refused(3, &["--preallocate"]);
    assert!(!fs::exists(&file).expect("a folder"), "it was made for it");
    let file = tmpfs_path("other-size");
    fs::write(&file, [0; 8192]).expect("written");
    let words = ["--size", "1M", "--backing", &format!("tmpfs:{file}")];
    try_add(&words).refused(2, &["8192"]);
    assert_eq!(fs::metadata(&file).expect("it stays").len(), 8192);
    fs::remove_file(&file).expect("removed");
    Ok(())
}

/// Huge pages for the time of a test.
struct HugePages {
    before: String,
}

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    /// As many as are in use, plus this many.
    fn free(count: u64) -> Result<HugePages, Skip> {
        let before = machine::read(NR_HUGEPAGES);
        let pages = HugePages { before };
        let in_use = meminfo("HugePages_Total") - meminfo("HugePages_Free");
        let wanted = (in_use + count).to_string();
        fs::write(NR_HUGEPAGES, &wanted).map_err(|e| Skip(format!("{NR_HUGEPAGES}: {e}")))?;
        let free = meminfo("HugePages_Free");
        if free != count {
            return Err(Skip(format!("{count} huge pages wanted, {free} are free")));
        }
        if meminfo("Hugepagesize") != 2048 {
            return Err(Skip("huge pages are not 2 MiB here".to_owned()));
        }
        Ok(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(NR_HUGEPAGES, &self.before);
    }
}

fn meminfo(name: &str) -> u64 {
    let text = machine::read("/proc/meminfo");
    let line = text.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn hugetlb_too_few() -> Outcome {
    let _pages = HugePages::free(2)?;
    let (needed, there) = ((64 * MIB).to_string(), (4 * MIB).to_string());
    let said = try_add(&["--size", "64M", "--backing", "hugetlb"]);
    said.refused(3, &[&needed, &there]);
    try_add(&["--size", "1M", "--backing", "hugetlb"]).refused(2, &["1048576"]);
    Ok(())
}

fn hugetlb() -> Outcome {
    let _pages = HugePages::free(16)?;
    for path in machine::data_paths() {
        let words = ["--size", "32M", "--backing", "hugetlb"];
        let disk = Disk::on(path, "none", "32M", &words[2..]);
        assert_eq!(disk.sysfs_number("queue/discard_granularity"), 2 * MIB);
        let needed = (32 * MIB).to_string();
        try_add(&words).refused(3, &[&needed, "0 available"]);
        let file = disk.open_direct();
        let mut bytes = Buffer::new(MIB as usize);
        let mut found = Buffer::new(MIB as usize);
        let tables = disk.stats().space.used;
        assert!(tables < 2 * MIB, "{path}: a new disk uses {tables} bytes");
        for at in (0..32 * MIB).step_by(MIB as usize) {
            file.read_exact_at(&mut found, at).expect("read");
            assert!(found.iter().all(|&byte| byte == 0), "{path}: {at}");
        }
        assert_eq!(disk.allocated(), 0, "{path}: G11");
        file.write_all_at(&bytes, 3 * MIB).expect("write");
        assert_eq!(disk.allocated(), 2 * MIB, "{path}");
        assert_eq!(disk.stats().space.used, tables + 2 * MIB, "{path}");
        for at in (0..32 * MIB).step_by(MIB as usize) {
            Rng::of_run(at).fill(&mut bytes);
            file.write_all_at(&bytes, at).expect("write");
            file.read_exact_at(&mut found, at).expect("read");
            assert!(*found == *bytes, "{path}: {at}");
        }
        ioctl::discard(&file, 512..4 * MIB).expect("discard");
        file.read_exact_at(&mut found, 0).expect("read");
        assert!(found[512..].iter().all(|&byte| byte == 0), "{path}");
        ioctl::discard(&file, 0..32 * MIB).expect("discard");
        file.read_exact_at(&mut found, 31 * MIB).expect("read");
        assert!(found.iter().all(|&byte| byte == 0), "{path}");
        assert_eq!(disk.allocated(), 0, "{path}");
        drop(file);
        disk.end();
    }
    Ok(())
}

/// A budget holds back huge pages too; and where others have emptied the pool, a write ends with
/// ENOSPC and the server lives.
fn hugetlb_limited() -> Outcome {
    let _pages = HugePages::free(4)?;
    let words = ["--backing", "hugetlb", "--no-space-timeout", "1"];
    let limited = |limit| [&words[..], &["--memory-limit", limit]].concat();
    let mut bytes = Buffer::new(65536);
    Rng::of_run(1).fill(&mut bytes);
    for path in machine::data_paths() {
        let disk = Disk::on(path, "none", "32M", &limited("5M"));
        let file = disk.open_direct();
        let full = |at: u64| {
            let result = file.write_all_at(&bytes, at);
            let error = result.expect_err("no memory is left");
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{path}: {error}");
        };
        file.write_all_at(&bytes, 0).expect("a first page");
        file.write_all_at(&bytes, 8 * MIB).expect("a second one");
        full(16 * MIB);
        assert_eq!(disk.allocated(), 4 * MIB, "{path}");
        ioctl::discard(&file, 8 * MIB..10 * MIB).expect("discard");
        assert_eq!(disk.allocated(), 2 * MIB, "{path}");
        // The pool is as large as what is in use of it.
        let pool = machine::read(NR_HUGEPAGES);
        let in_use = meminfo("HugePages_Total") - meminfo("HugePages_Free");
        fs::write(NR_HUGEPAGES, in_use.to_string()).expect("fewer huge pages");
        full(24 * MIB);
        let mut found = Buffer::new(65536);
        file.read_exact_at(&mut found, 24 * MIB).expect("a hole");
        file.read_exact_at(&mut found, 0).expect("read");
        assert!(*found == *bytes, "{path}");
        fs::write(NR_HUGEPAGES, pool).expect("more huge pages");
        drop(file);
        disk.end_after_errors();
    }
    let (needed, there) = ((10 * MIB).to_string(), (8 * MIB).to_string());
    let too_much = [&["--size", "32M"], &limited("11M")[..]].concat();
    try_add(&too_much).refused(3, &[&needed, &there]);
    let disk = Disk::add(&["--size", "8M", "--backing", "hugetlb", "--preallocate"]);
    assert_eq!(disk.allocated(), 8 * MIB);
    disk.end();
    if machine::offers("UPDATE_SIZE") {
        let disk = Disk::add(&["--size", "4M", "--backing", "hugetlb"]);
        ublk(&["resize", &disk.name(), "8M"]).well();
        let file = disk.open_direct();
        file.write_all_at(&bytes, 6 * MIB).expect("the new part");
        assert_eq!(disk.allocated(), 2 * MIB);
        drop(file);
        disk.end();
    }
    Ok(())
}

/// A file on a hugetlbfs does not tell its holes: all of it is there when it is opened again.
fn hugetlb_file() -> Outcome {
    let _pages = HugePages::free(4)?;
    let mount = Mount::new("hugetlbfs", "pagesize=2M");
    let file = format!("{}/disk", mount.0);
    let backing = format!("tmpfs:{file}");
    let mut bytes = Buffer::new(MIB as usize);
    Rng::of_run(4).fill(&mut bytes);
    let disk = Disk::add(&["--size", "8M", "--backing", &backing]);
    assert_eq!(fs::metadata(&file).expect("a file").len(), 8 * MIB);
    disk.end();
    let disk = Disk::add(&["--backing", &backing]);
    assert_eq!(disk.allocated(), 0, "nothing was written");
    disk.open_direct().write_all_at(&bytes, MIB).expect("write");
    assert_eq!(disk.allocated(), 2 * MIB);
    disk.end();
    let disk = Disk::add(&["--backing", &backing]);
    assert_eq!(disk.allocated(), 8 * MIB);
    assert!(disk.stats().space.used >= 8 * MIB);
    let mut found = Buffer::new(2 << 20);
    let client = disk.open_direct();
    client.read_exact_at(&mut found, 0).expect("read");
    assert!(found[..1 << 20].iter().all(|&byte| byte == 0));
    assert!(found[1 << 20..] == *bytes);
    drop(client);
    disk.end();
    fs::remove_file(&file).expect("removed");
    Ok(())
}

/// A file system in memory for the time of a test.
struct Mount(String);

impl Mount {
    fn new(kind: &str, options: &str) -> Mount {
        let place = machine::scratch().join("small");
        fs::create_dir_all(&place).expect("a folder");
        let place = place.to_str().expect("text").to_owned();
        tool(&["mount", "-t", kind, "-o", options, "small", &place]).well();
        Mount(place)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        tool(&["umount", &self.0]);
    }
}

/// Somebody cuts the file of a disk in use: requests for what is lost fail, and the rest works.
fn cut_short(path: &str) {
    let file = tmpfs_path("cut");
    let backing = format!("tmpfs:{file}");
    let words = ["--backing", &backing, "--reclaim-every", "1"];
    let disk = Disk::on(path, "none", "8M", &words);
    let client = disk.open_direct();
    let mut bytes = Buffer::new(MIB as usize);
    Rng::of_run(5).fill(&mut bytes);
    for at in (0..8 * MIB).step_by(MIB as usize) {
        client.write_all_at(&bytes, at).expect("write");
    }
    let other = fs::File::options()
        .write(true)
        .open(&file)
        .expect("it has a name");
    other.set_len(4 * MIB).expect("cut");
    let mut found = Buffer::new(MIB as usize);
    for result in [
        client.read_exact_at(&mut found, 6 * MIB),
        client.write_all_at(&bytes, 6 * MIB),
    ] {
        let error = result.expect_err("these pages are lost");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{path}: {error}");
    }
    client.read_exact_at(&mut found, MIB).expect("what is left");
    assert!(*found == *bytes, "{path}");
    // The sign that a pass over the whole disk looks for zeros, and has survived it.
    client
        .write_all_at(&Buffer::new(65536), MIB)
        .expect("zeros");
    machine::wait_for("a pass", || disk.stats().space.zero > 0);
    let log = machine::server_logs();
    let told = log.matches("has been cut to 4194304 of 8388608").count();
    assert_eq!(told, 1, "{path}: {log}");
    drop((client, other));
    assert!(disk.end_after_errors() >= 2, "{path}");
    fs::remove_file(&file).expect("removed");
}

fn tmpfs_full(path: &str) {
    let small = Mount::new("tmpfs", "size=8M");
    let backing = format!("tmpfs:{}/disk", small.0);
    let words = ["--backing", &backing, "--no-space-timeout", "1"];
    let disk = Disk::on(path, "none", "32M", &words);
    let file = disk.open_direct();
    let mut bytes = Buffer::new(65536);
    let mut written = 0;
    let full: io::Error = loop {
        Rng::of_run(written).fill(&mut bytes);
        match file.write_all_at(&bytes, written) {
            Ok(()) => written += 65536,
            Err(error) => break error,
        }
        assert!(written < 32 * MIB, "a tmpfs of 8 MiB took it all");
    };
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{path}: {full}");
    assert!(written >= 7 * MIB, "{written} bytes fit");
    let mut found = Buffer::new(65536);
    for at in (0..written).step_by(65536) {
        Rng::of_run(at).fill(&mut bytes);
        file.read_exact_at(&mut found, at).expect("read when full");
        assert!(*found == *bytes, "{path}: {at}");
    }
    file.write_all_at(&bytes, 0)
        .expect("what is there is overwritten");
    file.read_exact_at(&mut found, 24 * MIB).expect("a hole");
    ioctl::discard(&file, 0..4 * MIB).expect("discard when full");
    for at in (16 * MIB..18 * MIB).step_by(65536) {
        file.write_all_at(&bytes, at).expect("there is room again");
    }
    drop(file);
    assert!(disk.end_after_errors() > 0, "ENOSPC is an error");
}
