// SPDX-License-Identifier: MIT OR Apache-2.0
//! J13, J14: what the threads of a server, also of a recovered one, and its supervisor may still do.

use std::os::unix::fs::FileExt;

use crate::disk::{try_add, Disk};
use crate::ioctl::Buffer;
use crate::machine::{self, read, wait_for, Traces};
use crate::recovery;
use crate::run::{self, command, need, tool, ublk};
use crate::runner::{Outcome, Test};

pub fn tests(tests: &mut Vec<Test>) {
    for path in machine::data_paths() {
        let name = format!("j13_j14_each_thread_can_do_no_more_than_it_needs_on_{path}");
        tests.push(Test::new(name, move || each_thread(path)).on_path(path));
    }
    tests.push(Test::skippable(
        "j14_a_call_that_a_filter_does_not_know_ends_the_server",
        forbidden_call,
    ));
    tests.push(Test::skippable("j14_the_filters_can_be_left_out", left_out));
    tests.push(Test::skippable("l1_add_without_privilege", no_privilege).anywhere());
}

const IPC_LOCK: u64 = 1 << 14;
const SYS_NICE: u64 = 1 << 23;
const SYS_RESOURCE: u64 = 1 << 24;
/// DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, KILL, SYS_PTRACE, SYS_ADMIN.
const STOPS: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 19 | 1 << 21;

/// Capabilities that may be raised and those in force, and the filters of a thread of this name.
fn expected(thread: &str) -> (u64, u64, u64) {
    let both = |set, filters| (set, set, filters);
    let run = IPC_LOCK | SYS_NICE | SYS_RESOURCE;
    let all = STOPS | run;
    match thread {
        "ublk-supervisor" => both(all, 0),
        "watch" => (all, IPC_LOCK, 1),
        "log" | "control" => both(IPC_LOCK, 1),
        name if name.starts_with("ublkq") => both(IPC_LOCK, 1),
        // The main thread, the workers of all pools, and what watches over them.
        _ => both(run, 1),
    }
}

/// Checks every thread of a process; returns how many.
#[track_caller]
fn check(pid: u32) -> usize {
    let mut checked = 0;
    for task in machine::tasks(pid) {
        let status = read(task.join("status"));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let number = |name: &str, base| u64::from_str_radix(&field(name), base);
        let name = field("Name:");
        // One that has just ended, or a thread of the kernel's own, which makes no calls.
        if name.is_empty() || name.starts_with("iou-") {
            continue;
        }
        let (permitted, in_force, filters) = expected(&name);
        // SECCOMP_MODE_FILTER.
        let mode = 2 * filters;
        for (field, base, value) in [
            ("CapPrm:", 16, permitted),
            ("CapEff:", 16, in_force),
            ("CapInh:", 16, 0),
            ("NoNewPrivs:", 10, 1),
            ("Seccomp:", 10, mode),
            ("Seccomp_filters:", 10, filters),
            ("Umask:", 8, 0o077),
        ] {
            assert_eq!(number(field, base), Ok(value), "{field} {status}");
        }
        checked += 1;
    }
    let limits = read(format!("/proc/{pid}/limits"));
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file"));
    assert!(core.is_some_and(|line| line.contains(" 0 ")), "{limits}");
    checked
}

/// Also of threads that are made while requests are refused, and of the next server.
fn each_thread(path: &str) {
    let queues = if machine::offers("QUIESCE") { "2" } else { "1" };
    let inject = ["--inject", "requeue=1,50,0,-1", "--queues", queues];
    let disk = Disk::on(path, "none", "8M", &inject);
    each_thread_of(&disk, disk.pid);
    let next = recovery::kill(&disk);
    each_thread_of(&disk, next);
    disk.end();
}

fn each_thread_of(disk: &Disk, server: u32) {
    // Answered by a main thread that is confined.
    disk.stats();
    let watch =
        |status: String| status.starts_with("Name:\twatch\n") && status.contains("Seccomp:\t2");
    wait_for("the filter of watch", || {
        let mut tasks = machine::tasks(server).into_iter();
        tasks.any(|task| watch(read(task.join("status"))))
    });
    assert_eq!(check(disk.supervisor), 1);
    assert!(check(server) > 6);
    let file = disk.open_direct();
    for at in 0..64 {
        file.write_all_at(&Buffer::new(4096), at * 4096)
            .expect("written");
    }
    drop(file);
    ublk(&["set", &disk.name(), "--psi", "some 50000 700000"]).well();
    if machine::offers("UPDATE_SIZE") {
        ublk(&["resize", &disk.name(), "16M"]).well();
        ublk(&["resize", &disk.name(), "8M"]).well();
    }
    check(server);
}

/// A queue thread asks for its parent, as no queue thread does.
fn forbidden_call() -> Outcome {
    need(&["strace"])?;
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M", "--backing", "memfd"]);
    let thread = machine::thread(disk.pid, "ublkq0").to_string();
    let mut strace = command("strace")
        .args(["-p", &thread, "-o", "/dev/null", "-e"])
        .args(["trace=io_uring_enter", "-e"])
        .arg("inject=io_uring_enter:error=EBADF:syscall=getppid")
        .spawn()
        .expect("strace starts");
    let client = disk.open_direct();
    wait_for("the end of the server", || {
        let _ = client.read_at(&mut Buffer::new(4096), 0);
        !machine::servers().contains(&disk.pid)
    });
    let _ = strace.wait();
    wait_for("the supervisor's word", || {
        machine::server_logs().contains("SIGSYS, a system call that it may not make")
    });
    drop(client);
    ublk(&["del", &disk.name()]).well();
    disk.has_ended();
    before.assert_unchanged();
    machine::forget_logs();
    Ok(())
}

fn left_out() -> Outcome {
    need(&["env"])?;
    let words = [
        "env",
        "UBLK_RAMDISK_SECCOMP=off",
        run::PROGRAM,
        "add",
        "--json",
    ];
    let disk = Disk::from_json(&tool(&[&words[..], &["--size", "8M"]].concat()).well());
    let status = read(format!("/proc/{}/status", disk.pid));
    assert!(status.contains("Seccomp:\t0"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    disk.end();
    Ok(())
}

/// As an ordinary user, and as root without the capability.
fn no_privilege() -> Outcome {
    need(&["setpriv"])?;
    let before = Traces::now();
    for limits in [
        &["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"][..],
        &["--reuid=65534", "--regid=65534", "--clear-groups"],
    ] {
        let words = [&["setpriv"], limits, &[run::PROGRAM, "add", "--size", "8M"]].concat();
        tool(&words).refused(3, &["run as root"]);
    }
    before.assert_unchanged();
    // The same words with privilege.
    Disk::from_json(&try_add(&["--size", "8M"]).well()).end();
    Ok(())
}
