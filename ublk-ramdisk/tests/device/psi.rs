// SPDX-License-Identifier: MIT OR Apache-2.0
//! E3, E12, E13: memory is short for real, in a control group of the test's, and the kernel says
//! so: writes that need memory wait, each for a second at most, nothing else does, and when the
//! shortage is over nothing is refused any more.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Instant;

use ublk_ramdisk::mq::BySource;

use crate::disk::{try_add, Disk, MIB};
use crate::ioctl::Buffer;
use crate::machine::{self, read, wait_for};
use crate::run::{self, command};
use crate::runner::{Outcome, Skip, Test};
use crate::verify::{fio, length};

pub fn tests(tests: &mut Vec<Test>) {
    // A kernel without PSI refuses to read it, or has no such file.
    if fs::read("/proc/pressure/memory").is_err() {
        tests.push(Test::new(
            "e12_without_psi_the_disk_comes_up_with_a_warning",
            absent,
        ));
        return;
    }
    tests.push(Test::skippable(
        "e03_while_the_machine_is_short_of_memory_writes_wait_and_then_recover",
        machine_short,
    ));
    tests.push(Test::skippable(
        "e03_while_its_control_group_is_short_of_memory_writes_wait_and_then_recover",
        group_short,
    ));
    let name = "e03_fio_verifies_while_the_machine_is_short_of_memory";
    tests.push(Test::skippable(name, verifies).anywhere());
    tests.push(Test::skippable(
        "e27_a_control_group_keeps_its_reserve_and_the_disk_goes_on",
        group_reserve,
    ));
    if machine::is_guest() {
        let name = "e08_a_program_takes_the_rest_of_memory_and_reads_go_on";
        tests.push(Test::new(name, rest_taken));
    }
    tests.push(Test::skippable(
        "e12_a_control_group_that_goes_away_is_no_pressure",
        group_goes,
    ));
}

/// A control group whose memory can be made short.
struct Group {
    path: PathBuf,
    /// A process in it, which ends with the group.
    hog: Option<Child>,
}

impl Group {
    fn new(name: &str) -> Result<Group, Skip> {
        let root = PathBuf::from("/sys/fs/cgroup");
        let controllers = read(root.join("cgroup.subtree_control"));
        if !controllers.split_whitespace().any(|word| word == "memory") {
            return Err(Skip("no cgroup2 with memory at /sys/fs/cgroup".to_owned()));
        }
        let path = root.join(format!("ublk-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup");
        Ok(Group { path, hog: None })
    }

    fn take_in(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("cgroup.procs");
    }

    fn number(&self, name: &str) -> u64 {
        read(self.path.join(name)).parse().expect("a number")
    }

    /// A process in the group wants far more memory than the group may use without being held up.
    fn make_short(&mut self) {
        let high = self.number("memory.current") + 4 * MIB;
        fs::write(self.path.join("memory.high"), high.to_string()).expect("memory.high");
        let procs = self.path.join("cgroup.procs");
        let hog = command("sh")
            .args([
                "-c",
                "echo $$ >\"$0\" && exec dd if=/dev/zero of=/dev/null bs=256M",
            ])
            .arg(procs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.hog = Some(hog.expect("sh starts"));
    }

    fn is_short(&self) -> bool {
        let events = read(self.path.join("memory.events"));
        let high = events.lines().find_map(|line| line.strip_prefix("high "));
        high.is_some_and(|count| count != "0")
    }

    fn relieve(&mut self) {
        fs::write(self.path.join("memory.high"), "max").expect("memory.high");
        if let Some(mut hog) = self.hog.take() {
            hog.kill().expect("it is ours");
            hog.wait().expect("it ends");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.relieve();
        for pid in read(self.path.join("cgroup.procs")).lines() {
            let _ = fs::write("/sys/fs/cgroup/cgroup.procs", pid);
        }
        let _ = fs::remove_dir(&self.path);
    }
}

fn refused_by(disk: &Disk) -> BySource {
    disk.stats().queues[0].hctx.refused_by
}

/// Writes where nothing was written before.
fn write_new(disk: &Disk, block: u64) {
    let mut buffer = Buffer::new(4096);
    buffer.fill(block as u8 | 1);
    let written = disk.open_direct().write_all_at(&buffer, block * 4096);
    written.expect("no client hears of it (B6)");
}

fn read_back(disk: &Disk, block: u64) {
    let mut buffer = Buffer::new(4096);
    let answer = disk.open_direct().read_exact_at(&mut buffer, block * 4096);
    answer.expect("reads are served");
    assert!(buffer.iter().all(|&byte| byte == block as u8 | 1));
}

/// The group is made short of memory, and relieved.
fn refuses_and_recovers(disk: &Disk, group: &mut Group) {
    write_new(disk, 0);
    assert_eq!(refused_by(disk).psi, 0);
    let under_pressure = || disk.stats().pressure.under_pressure;
    assert!(!under_pressure());
    group.make_short();
    wait_for("the kernel says that memory is short", under_pressure);
    assert!(group.is_short());
    // What needs no memory is not held up, and what does is not held up for ever (E9, E13).
    read_back(disk, 0);
    write_new(disk, 0);
    let mut block = 1;
    wait_for("a write is refused by PSI", || {
        write_new(disk, block);
        block += 1;
        refused_by(disk).psi > 0
    });
    group.relieve();
    wait_for("the shortage is over", || !under_pressure());
    let before = refused_by(disk).psi;
    for at in 0..16 {
        write_new(disk, block + at);
    }
    assert_eq!(refused_by(disk).psi, before, "nothing is refused any more");
    for at in 0..block + 16 {
        read_back(disk, at);
    }
    let by = refused_by(disk);
    println!("    {block} writes in need, {before} refusals");
    assert_eq!((by.slots, by.bandwidth, by.injection), (0, 0, 0), "{by:?}");
}

/// A disk that listens to this trigger, in a group if there is one.
fn listening(trigger: &str, group: Option<&Group>) -> Disk {
    let disk = Disk::add(&["--size", "20M", "--queues", "1", "--no-partition-scan"]);
    if let Some(group) = group {
        group.take_in(disk.pid);
    }
    run::ublk(&["set", &disk.name(), "--psi", trigger]).well();
    disk
}

fn machine_short() -> Outcome {
    let mut group = Group::new("short")?;
    let disk = listening("some 50000 500000", None);
    refuses_and_recovers(&disk, &mut group);
    disk.end();
    Ok(())
}

/// Whatever waits a second for its memory, every byte is read back as it was written.
fn verifies() -> Outcome {
    run::need(&["fio", "blkdiscard"])?;
    let mut group = Group::new("short")?;
    let disk = listening("some 50000 500000", None);
    let (begun, mut rounds, mut bytes) = (Instant::now(), 0, 0);
    group.make_short();
    let under_pressure = || disk.stats().pressure.under_pressure;
    wait_for("the kernel says that memory is short", under_pressure);
    // Each round writes where there is no memory; one may fall into a moment of plenty.
    while rounds == 0 || begun.elapsed() < length() || refused_by(&disk).psi == 0 {
        run::tool(&["blkdiscard", &disk.path]).well();
        bytes += fio(&disk, "verify-direct.fio");
        rounds += 1;
    }
    group.relieve();
    let by = refused_by(&disk);
    println!(
        "    {rounds} rounds, {} MiB read back, {} refusals",
        bytes / MIB,
        by.psi
    );
    wait_for("the shortage is over", || !under_pressure());
    disk.end();
    Ok(())
}

/// The server is in the short group itself.
fn group_short() -> Outcome {
    let mut group = Group::new("short")?;
    let disk = listening("cgroup:some 50000 500000", Some(&group));
    refuses_and_recovers(&disk, &mut group);
    disk.end();
    Ok(())
}

/// A program takes all but 64 MiB as fast as it can, while writes make pages. They may wait; reads do not,
/// and no request fails.
fn rest_taken() {
    let disk = Disk::add(&["--size", "256M", "--queues", "1", "--no-partition-scan"]);
    let (last, bytes) = (256 * MIB / 4096 - 1, 128 * MIB);
    write_new(&disk, last);
    let available = || {
        let text = read("/proc/meminfo");
        let found = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
        let kib = found.and_then(|text| text.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .expect("a number")
            << 10
    };
    let program = "echo 1000 >/proc/self/oom_score_adj && exec dd if=/dev/zero of=/dev/null bs=$0";
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| {
            let (file, mut buffer) = (disk.open_direct(), Buffer::new(MIB as usize));
            buffer.fill(7);
            for at in (0..bytes).step_by(MIB as usize) {
                file.write_all_at(&buffer, at).expect("no write fails");
            }
        });
        let rest = available() - bytes - 64 * MIB;
        let mut dd = command("sh");
        dd.args(["-c", program, &rest.to_string()]);
        let dd = dd.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut dd = dd.expect("sh starts");
        wait_for("little memory", || {
            assert_eq!(dd.try_wait().expect("it is ours"), None, "dd has ended");
            available() < bytes + 96 * MIB
        });
        for _ in 0..200 {
            read_back(&disk, last);
        }
        dd.kill().expect("it is ours");
        dd.wait().expect("it ends");
        writes.join().expect("no panic");
    });
    let mut buffer = Buffer::new(MIB as usize);
    for at in (0..bytes).step_by(MIB as usize) {
        let answer = disk.open_direct().read_exact_at(&mut buffer, at);
        answer.expect("reads are served");
        assert!(buffer.iter().all(|&byte| byte == 7), "MiB {}", at / MIB);
    }
    disk.end();
}

/// The group of the server has less memory than the disk: the kernel is not asked for what the group
/// lacks, so it kills nobody and waits for nothing. Reads are served while a write waits.
fn group_reserve() -> Outcome {
    let mut group = Group::new("full")?;
    let neighbor = command("sleep").arg("1h").spawn().expect("sleep starts");
    group.take_in(neighbor.id());
    group.hog = Some(neighbor);
    group.take_in(std::process::id());
    let disk = Disk::add(&["--size", "256M", "--queues", "1", "--no-space-timeout", "1"]);
    fs::write(
        "/sys/fs/cgroup/cgroup.procs",
        std::process::id().to_string(),
    )
    .expect("moved");
    let max = group.number("memory.current") + 24 * MIB;
    fs::write(group.path.join("memory.max"), max.to_string()).expect("memory.max");
    let (file, mut buffer) = (disk.open_direct(), Buffer::new(MIB as usize));
    buffer.fill(7);
    let full = std::thread::scope(|scope| {
        let full = scope.spawn(|| {
            let mut writes = 0..256;
            writes.find(|at| file.write_all_at(&buffer, at * MIB).is_err())
        });
        wait_for("a write waits", || disk.stats().queues[0].now.parked > 0);
        let (waiting, mut first) = (disk.open_direct(), Buffer::new(4096));
        waiting.read_exact_at(&mut first, 0).expect("it is served");
        assert!(first.iter().all(|&byte| byte == 7));
        full.join().expect("no panic")
    });
    let full = full.expect("the group has less memory");
    println!("    {full} MiB written");
    assert!((8..24).contains(&full));
    let events = read(group.path.join("memory.events"));
    assert!(events.lines().any(|line| line == "oom 0"), "{events}");
    let neighbor = group.hog.as_mut().expect("it was begun");
    assert_eq!(neighbor.try_wait().expect("it is ours"), None);
    file.read_exact_at(&mut buffer, 0)
        .expect("reads are served");
    assert!(buffer.iter().all(|&byte| byte == 7));
    fs::write(group.path.join("memory.max"), "max").expect("memory.max");
    wait_for("writes are taken again", || {
        file.write_all_at(&buffer, full * MIB).is_ok()
    });
    drop(file);
    assert!(disk.end_after_errors() > 0);
    Ok(())
}

fn group_goes() -> Outcome {
    let mut group = Group::new("gone")?;
    let disk = listening("cgroup:some 50000 500000", Some(&group));
    group.make_short();
    let under_pressure = || disk.stats().pressure.under_pressure;
    wait_for("the kernel says that memory is short", under_pressure);
    drop(group);
    wait_for("the group is gone", || !under_pressure());
    wait_for("the server says so", || {
        machine::server_logs().contains("its control group is gone")
    });
    write_new(&disk, 0);
    disk.end();
    Ok(())
}

fn absent() {
    let words = ["--size", "8M", "--psi", "some 50000 500000"];
    let disk = Disk::from_json(&try_add(&words).well());
    assert_eq!(disk.stats().pressure.settings.psi, None);
    assert!(machine::server_logs().contains("--psi: "));
    disk.end();
}
