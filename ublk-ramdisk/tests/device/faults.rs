// SPDX-License-Identifier: MIT OR Apache-2.0
//! L2: every step of `add` fails in turn, and nothing is left behind.
//!
//! The kernel makes the steps fail: strace answers the nth call of a kind with an error, and
//! limits on descriptors refuse one after the other. The program has no hook for it. A step that
//! it can do without (the mark of an I/O flusher, the pinning of a thread) may fail and the disk
//! comes up all the same.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::disk::Disk;
use crate::machine::{self, tmpfs_path, wait_for, Traces};
use crate::run::{self, command, need, ublk, Said};
use crate::runner::{is_quick, Outcome, Test};

/// Device number of every try.
const ID: &str = "90";
/// No step is reached more often before the disk is there.
const MOST: u32 = 24;

/// A kind of system call and how it fails.
#[derive(Clone, Copy)]
struct Fault {
    call: &'static str,
    error: &'static str,
    /// Only calls about this file.
    file: Option<&'static str>,
    effect: Effect,
}

/// What a fault does to `add`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Effect {
    /// The first call that fails ends it.
    Ends,
    /// The program goes on without the call, wherever it is.
    Tolerated,
    /// The program can do without some of the calls.
    Mixed,
}

const fn fault(call: &'static str, error: &'static str) -> Fault {
    Fault {
        call,
        error,
        file: None,
        effect: Effect::Ends,
    }
}

const fn on(file: &'static str, fault: Fault) -> Fault {
    Fault {
        file: Some(file),
        ..fault
    }
}

const fn tolerated(fault: Fault) -> Fault {
    Fault {
        effect: Effect::Tolerated,
        ..fault
    }
}

const fn mixed(fault: Fault) -> Fault {
    Fault {
        effect: Effect::Mixed,
        ..fault
    }
}

const CHAR: &str = "/dev/ublkc90";
const RING: &str = "anon_inode:[io_uring]";
/// Stands for the backing file, whose name each run makes.
const STORE: &str = "STORE";

const FAULTS: [Fault; 30] = [
    on("/dev/ublk-control", fault("openat", "EACCES")),
    fault("io_uring_setup", "ENOMEM"),
    on(RING, fault("mmap", "ENOMEM")),
    fault("io_uring_enter", "ENOMEM"),
    fault("io_uring_register", "ENOMEM"),
    fault("memfd_create", "EMFILE"),
    on(STORE, fault("openat", "EACCES")),
    on(STORE, fault("fstatfs", "EIO")),
    on(STORE, fault("flock", "ENOLCK")),
    on(STORE, fault("ftruncate", "ENOSPC")),
    // The store is mapped with less room if it cannot have much.
    mixed(on(STORE, fault("mmap", "ENOMEM"))),
    on(STORE, fault("lseek", "EIO")),
    // Huge pages can be done without, but not that the disk's bytes stay out of core files.
    mixed(fault("madvise", "EINVAL")),
    fault("eventfd2", "EMFILE"),
    on(CHAR, fault("openat", "EIO")),
    on(CHAR, fault("mmap", "ENOMEM")),
    fault("clone3", "EAGAIN"),
    tolerated(fault("prctl", "EPERM")),
    tolerated(fault("unshare", "EPERM")),
    tolerated(fault("capset", "EPERM")),
    tolerated(fault("seccomp", "EINVAL")),
    tolerated(fault("sched_setaffinity", "EINVAL")),
    fault("clone", "EAGAIN"),
    fault("setsid", "EPERM"),
    fault("pipe2", "EMFILE"),
    fault("signalfd4", "EMFILE"),
    fault("socket", "EMFILE"),
    fault("bind", "EADDRINUSE"),
    fault("rename", "EACCES"),
    fault("linkat", "EACCES"),
];

pub fn tests(tests: &mut Vec<Test>) {
    for (number, fault) in (0..).zip(FAULTS) {
        let file = fault.file.unwrap_or_default();
        let file = file.rsplit('/').next().unwrap_or_default();
        let name = format!("l2_{}_{}_{}", fault.call, fault.error, file);
        let name = name.trim_end_matches('_').to_owned();
        tests.push(Test::skippable(name, move || fail_each(fault, number)).anywhere());
    }
    tests.push(Test::skippable("l2_descriptors_run_out", descriptors).anywhere());
    let name = "l2_a_slow_queue_beside_one_that_fails";
    tests.push(Test::skippable(name, slow_queue).anywhere());
    tests.push(Test::skippable("l1_little_address_space", address_space).anywhere());
}

/// Lets the first, second, third call fail, until there is none to fail.
fn fail_each(fault: Fault, number: u32) -> Outcome {
    need(&["strace"])?;
    let (mut reached, mut failed) = (0, 0);
    // True if there was such a call to fail.
    let mut meets = |when: When, foreground: bool| {
        match Attempt::start(fault, number, when, foreground).judge() {
            End::NotReached => return false,
            End::Up => {}
            End::Failed => failed += 1,
        }
        reached += 1;
        true
    };
    if fault.effect == Effect::Tolerated && is_quick() {
        meets(When::Always, true);
        meets(When::Always, false);
    } else {
        // Calls are counted per thread. In the foreground the main thread makes all but the queues'.
        let last = (1..=MOST)
            .take_while(|&nth| meets(When::Nth(nth), true))
            .last();
        let in_background: BTreeSet<u32> = match last {
            // Whatever fails there, the command hears of it in the same way.
            Some(last) if is_quick() => [1, last].into(),
            _ => (1..=MOST).collect(),
        };
        for nth in in_background {
            if !meets(When::Nth(nth), false) {
                break;
            }
        }
    }
    assert!(reached > 0, "no step of `add` makes this call");
    // A call that fails without effect is one that the program need not make, or does not check.
    let as_said = match fault.effect {
        Effect::Ends => failed > 0,
        Effect::Tolerated => failed == 0,
        Effect::Mixed => true,
    };
    assert!(as_said, "{failed} of {reached} failed");
    Ok(())
}

/// Which calls of a thread fail.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Nth(u32),
    Always,
}

/// What came of an attempt.
enum End {
    /// There was no such call to fail.
    NotReached,
    /// The disk came up all the same.
    Up,
    /// `add` failed as it should.
    Failed,
}

/// One `add` with a fault in it.
struct Attempt {
    fault: Fault,
    when: When,
    foreground: bool,
    child: Child,
    out: PathBuf,
    err: PathBuf,
    trace: PathBuf,
    store: String,
    before: Traces,
}

impl Attempt {
    fn start(fault: Fault, number: u32, when: When, foreground: bool) -> Attempt {
        let before = Traces::now();
        let file = |name: &str| machine::scratch().join(name);
        let (out, err, trace) = (file("out"), file("err"), file("trace"));
        let _ = fs::remove_file(&trace);
        let store = tmpfs_path(&format!("faults-{number}"));
        let mut inject = format!("inject={}:error={}", fault.call, fault.error);
        if let When::Nth(nth) = when {
            inject.push_str(&format!(":when={nth}"));
        }
        let mut strace = command("strace");
        strace.args(["-D", "-f", "--seccomp-bpf", "-o"]).arg(&trace);
        strace.args(["-e", &format!("trace={}", fault.call), "-e", &inject]);
        if let Some(file) = fault.file {
            strace.args(["-P", if file == STORE { &store } else { file }]);
        }
        strace.args([run::PROGRAM, "add", "--json", "--id", ID]);
        strace.args(["--size", "8M", "--no-partition-scan"]);
        let backing = match fault.call {
            "memfd_create" => "memfd",
            "linkat" => "private",
            _ => &format!("tmpfs:{store}"),
        };
        strace.args(["--backing", backing]);
        if foreground {
            strace.arg("--foreground");
        } else {
            strace.arg("--log").arg(machine::log_path());
        }
        let child = strace
            .stdout(File::create(&out).expect("a file"))
            .stderr(File::create(&err).expect("a file"))
            .stdin(Stdio::null())
            .spawn()
            .expect("strace starts");
        Attempt {
            fault,
            when,
            foreground,
            child,
            out,
            err,
            trace,
            store,
            before,
        }
    }

    /// Checks what came of it.
    fn judge(mut self) -> End {
        let what = format!(
            "{} {} {:?}{}",
            self.fault.call,
            self.fault.error,
            self.when,
            if self.foreground { ", foreground" } else { "" }
        );
        let mut status = None;
        wait_for(&what, || {
            status = self.child.try_wait().expect("it is ours");
            status.is_some() || machine::read(&self.out).ends_with('}')
        });
        let up = machine::read(&self.out).ends_with('}');
        if up {
            self.take_down(&what);
        } else {
            let status = status.and_then(|status| status.code());
            self.has_failed_well(status, &what);
        }
        // strace lives as long as the last process it follows.
        let traced = || machine::read(&self.trace);
        wait_for("the end of the trace", || {
            !traced().is_empty() && !self.is_traced()
        });
        let injected = traced().contains("(INJECTED)");
        if !up {
            assert!(injected, "{what}: failed by itself: {}", self.said());
        }
        let _ = fs::remove_file(&self.store);
        self.before.assert_unchanged();
        if !injected {
            return End::NotReached;
        }
        if !up {
            return End::Failed;
        }
        // Later than `add`, in a place where it may fail, or a call that may fail.
        let may_fail = self.fault.effect != Effect::Ends || self.when != When::Nth(1);
        assert!(may_fail, "{what}: the disk came up without it");
        End::Up
    }

    fn said(&self) -> String {
        machine::read(&self.err)
    }

    fn is_traced(&self) -> bool {
        machine::servers()
            .difference(self.before.servers())
            .next()
            .is_some()
    }

    /// The disk is there all the same: then it can be deleted.
    fn take_down(&mut self, what: &str) {
        // The fault may hit the server while it serves or ends; then the driver is asked alone.
        let ended = ublk(&["del", ID]);
        if ended.status != Some(0) && machine::nodes_of(ID) {
            ublk(&["del", "--force", ID]);
        }
        if self.foreground {
            let mut status = None;
            wait_for(what, || {
                status = self.child.try_wait().expect("it is ours");
                status.is_some()
            });
        } else {
            let status = self.child.wait().expect("it is ours");
            assert_eq!(status.code(), Some(0), "{what}");
        }
        self.has_not_panicked(what);
    }

    /// Neither where the user looks nor in the log (L3).
    fn has_not_panicked(&self, what: &str) {
        let all = format!("{}\n{}", self.said(), machine::server_logs());
        for word in ["panicked", "internal error"] {
            assert!(!all.contains(word), "{what}: {all}");
        }
    }

    fn has_failed_well(&self, status: Option<i32>, what: &str) {
        let said = self.said();
        assert!(
            matches!(status, Some(1 | 3 | 4)),
            "{what}: {status:?} {said}"
        );
        self.has_not_panicked(what);
        assert_eq!(machine::read(&self.out), "", "{what}");
        // In the foreground the log goes there too.
        let complaints = said.lines().filter(|line| {
            let words = line.strip_prefix("ublk-ramdisk: ");
            words.is_some_and(|words| !words.starts_with("warning: "))
        });
        assert_eq!(complaints.count(), 1, "{what}: {said}");
        if !self.foreground {
            assert_eq!(said.lines().count(), 1, "{what}: {said}");
        }
        assert!(
            fs::metadata(&self.store).is_err(),
            "{what}: the backing file is left"
        );
    }
}

/// One descriptor after the other is refused by a limit, in the command and in the server.
fn descriptors() -> Outcome {
    need(&["prlimit"])?;
    for limit in 4..64 {
        let before = Traces::now();
        let store = tmpfs_path("descriptors");
        let said = run::tool(&[
            "prlimit",
            &format!("--nofile={limit}"),
            run::PROGRAM,
            "add",
            "--json",
            "--id",
            ID,
            "--size",
            "8M",
            "--queues",
            "2",
            "--backing",
            &format!("tmpfs:{store}"),
            "--log",
            "/dev/null",
        ]);
        if said.status == Some(0) {
            Disk::from_json(&said.out).end();
            fs::remove_file(&store).expect("removed");
            assert!(limit > 9, "{limit} descriptors and no more");
            return Ok(());
        }
        assert!(
            matches!(said.status, Some(1 | 3 | 4)),
            "limit {limit}: {said:?}"
        );
        said.has_one_line();
        assert!(fs::metadata(&store).is_err(), "limit {limit}: a file");
        before.assert_unchanged();
    }
    panic!("64 descriptors are not enough for a disk");
}

/// Under some limit one queue gets its ring and the other does not. The one with a ring is made
/// slow, so that it fetches long after the other has failed: it must be waited for, or what ends
/// the fetches comes too early for it and it never ends.
fn slow_queue() -> Outcome {
    need(&["strace", "prlimit"])?;
    let slow_ring = [
        "strace",
        "-D",
        "-f",
        "--seccomp-bpf",
        "-o",
        "/dev/null",
        "-e",
        "trace=io_uring_register",
        "-e",
        "inject=io_uring_register:delay_enter=1000000:when=1",
    ];
    let mut queue_failed = false;
    for limit in 8..64 {
        let said = under_limit(limit, &[]);
        if said.status == Some(0) {
            Disk::from_json(&said.out).end();
            assert!(queue_failed, "no limit was met by a queue");
            return Ok(());
        }
        // The step that met the limit is one of a queue's.
        if said.err.starts_with("ublk-ramdisk: queue ") {
            queue_failed = true;
            let before = Traces::now();
            let said = under_limit(limit, &slow_ring);
            assert!(matches!(said.status, Some(1 | 3 | 4)), "{limit}: {said:?}");
            assert_eq!(said.err.lines().count(), 1, "{limit}: {said:?}");
            before.assert_unchanged();
        }
    }
    panic!("64 descriptors are not enough for a disk");
}

/// `add` of a disk with two queues under a limit on descriptors, behind other words.
fn under_limit(limit: u32, words: &[&str]) -> Said {
    let nofile = format!("--nofile={limit}");
    let limited = [
        "prlimit",
        &nofile,
        run::PROGRAM,
        "add",
        "--json",
        "--id",
        ID,
    ];
    let rest = ["--size", "8M", "--queues", "2", "--log", "/dev/null"];
    run::tool(&[words, &limited, &rest].concat())
}

/// Where address space is limited the store is mapped as it is.
fn address_space() -> Outcome {
    need(&["prlimit"])?;
    let limit = format!("--as={}", 256 << 20);
    let words = [
        "prlimit",
        &limit,
        run::PROGRAM,
        "add",
        "--json",
        "--log",
        "/dev/null",
        "--size",
    ];
    let said = run::tool(&[&words[..], &["16M"]].concat());
    let disk = Disk::from_json(&said.well());
    disk.assert_at_rest();
    disk.end();
    let said = run::tool(&[&words[..], &["1G"]].concat());
    said.refused(3, &["1073741824"]);
    Ok(())
}
