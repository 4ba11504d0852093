// SPDX-License-Identifier: MIT OR Apache-2.0
//! L1: what the machine lacks or forbids, and what fails once the disk is there: each is named in
//! one line with its exit status, and nothing is left behind.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::disk::{try_add, Disk, MIB};
use crate::ioctl::{self, Buffer};
use crate::lifecycle::a_server_is_stopped;
use crate::machine::{self, wait_for, Traces};
use crate::run::{self, command, need, ublk, Said};
use crate::runner::{Outcome, Skip, Test};
use crate::verify::fio;

const ID: &str = "91";

pub fn tests(tests: &mut Vec<Test>) {
    let mut add = |name: &str, body: fn() -> Outcome| {
        tests.push(Test::skippable(name, body).anywhere());
    };
    add("l1_io_uring_switched_off_by_sysctl", switched_off);
    add("l1_io_uring_refused_as_by_seccomp", refused_setup);
    add("l1_the_node_does_not_appear", no_node);
    add(
        "l1_a_command_waits_for_a_free_descriptor_of_the_server",
        no_descriptor,
    );
    add("l1_buffers_beyond_the_limit_on_memory", buffers);
    add("l1_a_disk_outlives_a_limit_on_file_sizes", file_size_limit);
    add("j12_a_server_that_aborts_leaves_no_core", no_core);
    add("l1_the_log_goes_to_syslog", syslog);
    for path in machine::data_paths() {
        let name = format!("l1_a_queue_thread_that_fails_ends_the_server_on_{path}");
        let test = Test::skippable(name, move || dead_queue(path, &[]));
        tests.push(test.on_path(path));
    }
    let refused = &["--inject", "requeue=2,100,0,-1"];
    tests.push(Test::skippable(
        "f20_a_queue_thread_that_fails_while_workers_serve_ends_the_server",
        || dead_queue(machine::data_paths().last().expect("one"), refused),
    ));
    tests.push(Test::skippable(
        "c35_the_time_of_a_stopped_server_is_no_time_of_its_requests",
        paused,
    ));
}

/// Puts a setting of the kernel back when the test is over, also when it failed.
pub struct Sysctl(&'static str, String);

impl Sysctl {
    pub fn set(path: &'static str, value: &str) -> Sysctl {
        let before = machine::read(path);
        fs::write(path, value).expect("root may write it");
        Sysctl(path, before)
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        let _ = fs::write(self.0, &self.1);
    }
}

fn switched_off() -> Outcome {
    let path = "/proc/sys/kernel/io_uring_disabled";
    if !Path::new(path).exists() {
        return Err(Skip("the kernel has no kernel.io_uring_disabled".into()));
    }
    let _off = Sysctl::set(path, "2");
    let before = Traces::now();
    try_add(&["--size", "8M"]).refused(3, &["kernel.io_uring_disabled"]);
    ublk(&["list"]).refused(3, &["kernel.io_uring_disabled"]);
    let doctor = ublk(&["doctor"]);
    assert_eq!(doctor.status, Some(3), "{doctor:?}");
    assert!(
        doctor.out.contains("sysctl kernel.io_uring_disabled=0"),
        "{doctor:?}"
    );
    before.assert_unchanged();
    Ok(())
}

/// `add` of a small disk while strace has every call of a kind fail.
fn add_with(strace: &[&str]) -> Said {
    let mut all = vec!["strace", "-D", "-f", "--seccomp-bpf", "-o", "/dev/null"];
    all.extend(strace);
    all.extend([run::PROGRAM, "add", "--id", ID, "--size", "8M"]);
    all.extend(["--log", "/dev/null"]);
    run::tool(&all)
}

fn refused_setup() -> Outcome {
    need(&["strace"])?;
    let before = Traces::now();
    for error in ["EPERM", "ENOSYS"] {
        let inject = format!("inject=io_uring_setup:error={error}");
        let words = ["-e", "trace=io_uring_setup", "-e", &inject];
        add_with(&words).refused(3, &["seccomp"]);
    }
    before.assert_unchanged();
    Ok(())
}

/// The node is made, but whoever looks for it is told that it is not there.
fn no_node() -> Outcome {
    need(&["strace"])?;
    let before = Traces::now();
    let node = format!("/dev/ublkb{ID}");
    let never = "inject=statx:error=ENOENT";
    let said = add_with(&["-P", &node, "-e", "trace=statx", "-e", never]);
    said.refused(1, &[&node, "udev"]);
    before.assert_unchanged();
    Ok(())
}

fn buffers() -> Outcome {
    need(&["prlimit"])?;
    let before = Traces::now();
    let limit = format!("--as={}", 512 << 20);
    let mut words = vec!["prlimit", &limit, run::PROGRAM, "add", "--id", ID];
    words.extend(["--size", "8M", "--log", "/dev/null", "--depth", "64"]);
    words.extend(["--io-buffer", "32M"]);
    let needed = (64_u64 << 25).to_string();
    run::tool(&words).refused(3, &[&needed, "--io-buffer", "--depth"]);
    before.assert_unchanged();
    Ok(())
}

/// Its memory is a file, too.
fn file_size_limit() -> Outcome {
    need(&["prlimit"])?;
    let before = Traces::now();
    let limit = format!("--fsize={}", 100 << 20);
    let words = ["prlimit", &limit, run::PROGRAM, "add", "--id", ID];
    let rest = ["--size", "64M", "--log", "/dev/null", "--json"];
    let disk = Disk::from_json(&run::tool(&[&words[..], &rest].concat()).well());
    if machine::offers("UPDATE_SIZE") {
        ublk(&["resize", ID, "1G"]).refused(3, &["File too large"]);
    }
    disk.stats();
    disk.end();
    before.assert_unchanged();
    Ok(())
}

fn no_core() -> Outcome {
    need(&["prlimit"])?;
    let before = Traces::now();
    let file = |name: &str| machine::scratch().join(name);
    let (out, err) = (file("no-core"), file("no-core-log"));
    let mut server = command("prlimit")
        .args(["--core=unlimited", run::PROGRAM, "add", "--json"])
        // Of a disk that ends with its server.
        .args(["--foreground", "--size", "8M", "--backing", "memfd"])
        .stdout(File::create(&out).expect("a file"))
        .stderr(File::create(&err).expect("a file"))
        .spawn()
        .expect("it starts");
    wait_for("the disk", || machine::read(&out).ends_with('}'));
    let disk = Disk::from_json(&machine::read(&out));
    ioctl::signal(disk.pid, libc::SIGABRT);
    let status = server.wait().expect("it ends");
    assert_eq!(status.code(), Some(1));
    let said = machine::read(&err);
    assert!(said.contains("the server has ended: SIGABRT"), "{said}");
    assert!(!said.contains("core"), "the disk's contents are on a disk");
    ublk(&["del", &disk.name()]).well();
    disk.has_ended();
    before.assert_unchanged();
    Ok(())
}

fn syslog() -> Outcome {
    let path = "/dev/log";
    if Path::new(path).exists() {
        return Err(Skip(format!("{path} belongs to this machine's log")));
    }
    let socket = UnixDatagram::bind(path).expect("/dev can be written");
    let disk = Disk::from_json(&ublk(&["add", "--json", "--size", "8M"]).well());
    let mut packet = [0; 1024];
    let read = socket.recv(&mut packet).expect("a line");
    let line = String::from_utf8_lossy(&packet[..read]).into_owned();
    let head = format!("<30>ublk-ramdisk[{}]: serving {}: ", disk.pid, disk.path);
    assert!(line.starts_with(&head), "{line}");
    // Whoever reads the log starts anew: the next line finds the new socket.
    drop(socket);
    fs::remove_file(path).expect("ours");
    let socket = UnixDatagram::bind(path).expect("/dev can be written");
    disk.end();
    let read = socket.recv(&mut packet).expect("a line");
    let line = String::from_utf8_lossy(&packet[..read]).into_owned();
    assert!(line.contains("is gone, the server ends"), "{line}");
    fs::remove_file(path).expect("ours");
    Ok(())
}

/// The thread of a queue.
/// From some moment on every call of a queue thread to its ring fails. It may hold requests then,
/// and the other queue is alive: the disk must go away all the same, and the client be answered.
fn dead_queue(path: &str, words: &[&str]) -> Outcome {
    need(&["strace"])?;
    let before = Traces::now();
    let file = |name: &str| machine::scratch().join(name);
    let (out, err) = (file("out"), file("err"));
    let mut server = command(run::PROGRAM)
        // Of a disk that ends with its server.
        .args([
            "add",
            "--json",
            "--foreground",
            "--size",
            "8M",
            "--backing",
            "memfd",
        ])
        .args(["--queues", "2", "--data-path", path])
        .args(words)
        .stdout(File::create(&out).expect("a file"))
        .stderr(File::create(&err).expect("a file"))
        .spawn()
        .expect("it starts");
    wait_for("the disk", || machine::read(&out).ends_with('}'));
    let disk = Disk::from_json(&machine::read(&out));
    let client = disk.open_direct();
    let mut bytes = Buffer::new(4096);
    client.read_exact_at(&mut bytes, 0).expect("it is served");
    let thread = machine::thread(disk.pid, "ublkq1").to_string();
    let mut strace = command("strace")
        .args(["-p", &thread, "-o", "/dev/null", "-e"])
        .args(["trace=io_uring_enter", "-e"])
        .arg("inject=io_uring_enter:error=EBADF")
        .stderr(Stdio::null())
        .spawn()
        .expect("strace starts");
    let mut status = None;
    wait_for("the end of the server", || {
        // The queue may sleep in its call until something arrives, from whatever CPU.
        let _ = client.read_at(&mut bytes, 0);
        status = server.try_wait().expect("it is ours");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(1));
    let _ = strace.wait();
    let said = machine::read(&err);
    for part in ["queue 1", "is no longer served", "is taken away"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    // An open descriptor outlives the disk: an error, or the end of a disk without blocks.
    let read = client.read_at(&mut bytes, 0);
    assert!(!matches!(read, Ok(1..)), "the disk is gone: {read:?}");
    drop(client);
    disk.has_ended();
    before.assert_unchanged();
    Ok(())
}

/// Two servers are stopped for longer than their requests may take: what fio verifies is late, and a
/// request that is lost is given up later by as much.
fn paused() -> Outcome {
    need(&["fio"])?;
    let (timeout, stop) = (Duration::from_secs(6), Duration::from_secs(8));
    let words = ["--size", "20M", "--no-partition-scan", "--timeout", "6s"];
    let (good, loses) = (Disk::add(&words), Disk::add(&words));
    let set = |disk: &Disk, fault| ublk(&["set", &disk.name(), "--inject", fault]).well();
    set(&good, "delay=50ms");
    set(&loses, "timeout=1,100,0,1");
    let in_flight = |disk: &Disk| {
        let both = disk.sysfs("inflight");
        both.split_whitespace().any(|count| count != "0")
    };
    let (verified, given_up) = std::thread::scope(|scope| {
        let verified = scope.spawn(|| fio(&good, "verify-direct.fio"));
        // However long fio takes to start.
        while !in_flight(&good) {
            assert!(!verified.is_finished(), "no request of fio was seen");
            std::thread::sleep(Duration::from_millis(10));
        }
        let given_up = scope.spawn(|| {
            let begun = Instant::now();
            let read = loses.open_direct().read_at(&mut Buffer::new(4096), 0);
            (read.err().and_then(|e| e.raw_os_error()), begun.elapsed())
        });
        wait_for("a request to be lost", || in_flight(&loses));
        for disk in [&good, &loses] {
            a_server_is_stopped(disk);
        }
        std::thread::sleep(stop);
        for disk in [&good, &loses] {
            ioctl::signal(disk.pid, libc::SIGCONT);
        }
        (verified.join(), given_up.join())
    });
    assert!(verified.expect("fio saw no error") >= 20 * MIB);
    let (error, took) = given_up.expect("no panic");
    assert_eq!(error, Some(libc::ETIMEDOUT));
    // A stop is seen by a thread that was to wake within a second.
    let counted = took - stop;
    assert!(counted > timeout - Duration::from_secs(2), "{counted:?}");
    let timeouts = |disk: &Disk| -> u64 {
        let queues = disk.stats().queues;
        queues.iter().map(|queue| queue.hctx.timeouts).sum()
    };
    assert_eq!((timeouts(&good), timeouts(&loses)), (0, 1));
    good.end();
    assert_eq!(loses.end_after_errors(), 1);
    Ok(())
}

/// The server says that it cannot hear the command, and hears it when it can.
fn no_descriptor() -> Outcome {
    let disk = Disk::add(&["--size", "8M"]);
    let pid = disk.pid.to_string();
    let limits = machine::read(format!("/proc/{pid}/limits"));
    let line = limits.lines().find(|line| line.starts_with("Max open"));
    let before = line.and_then(|line| line.split_whitespace().nth(3));
    let before = before.expect("a soft limit").to_owned();
    let is_free = |fd: &u32| !fs::exists(format!("/proc/{pid}/fd/{fd}")).expect("/proc");
    let first_free = (0..).find(is_free).expect("one").to_string();
    let set = |limit: &str| {
        let soft = format!("--nofile={limit}:");
        run::tool(&["prlimit", "--pid", &pid, &soft]).well();
    };
    set(&first_free);
    std::thread::scope(|scope| {
        let stats = scope.spawn(|| disk.stats());
        let told = || machine::server_logs().contains("a command is not heard");
        wait_for("the server's word", told);
        set(&before);
        stats.join().expect("it is heard");
    });
    disk.end();
    Ok(())
}
