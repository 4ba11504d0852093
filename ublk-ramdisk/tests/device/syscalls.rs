// SPDX-License-Identifier: MIT OR Apache-2.0
//! J3: no thread on a request's way asks the system for more than that way needs. What is asked for,
//! and of which file, strace shows of a few hundred requests; that nothing else ever comes, the
//! kernel's own count of a million, which costs next to nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::disk::{Disk, MIB};
use crate::ioctl::Buffer;
use crate::machine::{self, new_tracer, read, wait_for};
use crate::run::{self, command};
use crate::runner::{number, Outcome, Skip, Test};

pub fn tests(tests: &mut Vec<Test>) {
    for path in machine::data_paths() {
        for refused in ["0", "20"] {
            let name = format!("j03_only_these_system_calls_on_{path}_refused_{refused}");
            let test = Test::skippable(name, move || system_calls(path, refused));
            tests.push(test.on_path(path));
        }
    }
}

/// Requests under strace, which shows what is called; how often the kernel counts.
const TRACED: u64 = 500;
/// Requests that the kernel counts the calls of, unless UBLK_TEST_IOS says otherwise.
const COUNTED: u64 = 20_000;
/// The same in a quick run, and where some of them wait.
const COUNTED_REFUSED: u64 = 4000;

/// How often a kind of thread made a call, of a file where that is known.
type Found = BTreeMap<(String, String), u64>;

/// A worker looks at what its run has cost.
const ACCOUNTS: [&str; 2] = ["clock_gettime", "getrusage"];
/// A worker ends.
const DEATH: [&str; 5] = ["exit", "madvise", "munmap", "rt_sigprocmask", "sigaltstack"];
/// A worker makes another, as workers do that leave none behind them; the rescuer never does.
const BIRTH: [&str; 15] = [
    "clone3",
    "getpriority",
    "gettid",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "prctl",
    "rseq",
    "rt_sigprocmask",
    "sched_getaffinity",
    "sched_setaffinity",
    "set_robust_list",
    "setpriority",
    "sigaltstack",
];

/// How often a thread of this number made this call.
type Calls = BTreeMap<(u32, String), u64>;

/// The kernel's count of all system calls, in an instance of the tracer of its own.
struct Counted(PathBuf);

impl Counted {
    /// Counts from now on.
    fn start() -> Result<Self, Skip> {
        let made = new_tracer(&format!("ublk-j3-{}", std::process::id()));
        let made = made.map_err(|error| Skip(format!("no tracefs to count with: {error}")))?;
        let counted = Counted(made);
        // The size is that of a hash table, of which it uses half before it drops.
        let trigger = "hist:keys=common_pid,id.syscall:size=16384";
        fs::write(counted.event("trigger"), trigger)
            .map_err(|error| Skip(format!("no event histograms in this kernel: {error}")))?;
        Ok(counted)
    }

    fn event(&self, file: &str) -> PathBuf {
        self.0.join("events/raw_syscalls/sys_enter").join(file)
    }

    fn calls(&self) -> Calls {
        let text = read(self.event("hist"));
        let dropped = text.lines().find(|line| line.contains("Dropped: "));
        assert!(
            dropped.is_some_and(|line| line.ends_with(" 0")),
            "{dropped:?}"
        );
        let calls = text.lines().filter_map(count_in_line);
        calls.collect()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Of `{ common_pid: 12, id: sys_read [ 0] } hitcount: 3`.
fn count_in_line(line: &str) -> Option<((u32, String), u64)> {
    let rest = line.trim_start().strip_prefix("{ common_pid:")?;
    let (pid, rest) = rest.split_once(',')?;
    let (call, rest) = rest.trim_start().strip_prefix("id:")?.split_once('[')?;
    let (_, count) = rest.split_once("hitcount:")?;
    let call = call.trim().trim_start_matches("sys_").to_owned();
    Some(((pid.trim().parse().ok()?, call), count.trim().parse().ok()?))
}

/// Random reads and writes.
fn fio(disk: &Disk, ios: u64) {
    run::tool(&[
        "fio",
        "--name=j3",
        &format!("--filename={}", disk.path),
        "--rw=randrw",
        "--bs=4k",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=16",
        &format!("--number_ios={ios}"),
        "--size=4M",
        "--io_size=1T",
    ])
    .well();
}

/// What the queue's threads and kblockd's workers do while a client reads and writes memory that is
/// there.
fn system_calls(path: &str, refused: &str) -> Outcome {
    run::need(&["strace", "fio"])?;
    let whole = if refused == "0" {
        COUNTED
    } else {
        COUNTED_REFUSED
    };
    let ios = number("UBLK_TEST_IOS", COUNTED_REFUSED, whole);
    let inject = format!("requeue=1,{refused},0,-1");
    // The device's timer is armed with the first request and then as seldom as can be.
    let words = ["--timeout", "3600", "--inject", &inject];
    let disk = Disk::on(path, "none", "4M", &words);
    let file = disk.open_direct();
    for at in 0..4 {
        file.write_all_at(&Buffer::new(MIB as usize), at * MIB)
            .expect("written");
    }
    let copies = path == "user-copy" || path == "batch";
    let allowed = |thread: &str, call: &str| match (thread, call) {
        ("ublkq", "io_uring_enter") => true,
        (_, "pread64 /dev/ublkc" | "pwrite64 /dev/ublkc" | "pread64" | "pwrite64") => copies,
        ("urd/", "write anon_inode:[eventfd]" | "write") => true,
        // A worker that has nothing to do waits.
        ("urd/", "futex") => true,
        // One that had nothing to do for minutes ends.
        ("urd/", call) if DEATH.contains(&call) => true,
        _ if refused == "0" => false,
        // A run is queued, and a worker woken; the pool's lock is wanted by two at once. Who looks
        // for a run that another thread is just queueing looks again, after a short sleep.
        (_, "futex" | "sched_yield" | "clock_nanosleep") => true,
        ("urd/", call) => ACCOUNTS.contains(&call) || BIRTH.contains(&call),
        _ => false,
    };
    let check = |found: Found, traced: bool| {
        let bad: BTreeSet<_> = found
            .iter()
            .filter(|((thread, call), _)| !allowed(thread, call))
            .collect();
        println!("    {found:?}");
        for ((_, call), _) in bad.iter().filter(|_| traced) {
            // The arguments tell what for.
            let trace = read(machine::scratch().join("trace"));
            let call = call.split(' ').next().unwrap_or_default();
            for line in trace.lines().filter(|line| line.contains(call)).take(20) {
                println!("    {line}");
            }
        }
        assert!(bad.is_empty(), "{bad:?}");
    };
    check(traced(&disk), true);
    // Threads that are born and have died meanwhile are counted with nobody.
    let counted = Counted::start()?;
    let before = disk.threads();
    fio(&disk, ios);
    let threads: BTreeMap<u32, String> = before.into_iter().chain(disk.threads()).collect();
    check(
        by_kind(
            counted
                .calls()
                .into_iter()
                .map(|((thread, call), times)| (thread, call, times)),
            &threads,
        ),
        false,
    );
    drop(counted);
    let served = disk.stats().queues[0].read.requests + disk.stats().queues[0].write.requests;
    assert!(served >= ios + TRACED, "{served} requests");
    drop(file);
    disk.end();
    Ok(())
}

/// What strace sees.
fn traced(disk: &Disk) -> Found {
    let trace = machine::scratch().join("trace");
    let mut strace = command("strace")
        .args(["-f", "-y", "-qq", "-s", "0", "-o"])
        .arg(&trace)
        .args(["-p", &disk.pid.to_string()])
        .spawn()
        .expect("strace starts");
    wait_for("strace has every thread", || {
        let traced = |thread: &u32| {
            let status = read(format!("/proc/{}/task/{thread}/status", disk.pid));
            !status.contains("TracerPid:\t0")
        };
        disk.threads().keys().all(traced)
    });
    fio(disk, TRACED);
    let threads = disk.threads();
    // SAFETY: the child is not waited for before.
    let told = unsafe { libc::kill(strace.id() as i32, libc::SIGTERM) };
    assert_eq!(told, 0);
    strace.wait().expect("it ends");
    let text = fs::read_to_string(&trace).expect("a trace");
    calls(&text, &threads)
}

/// Counts the calls of the I/O threads by kind of thread, call and file.
fn calls(trace: &str, threads: &BTreeMap<u32, String>) -> Found {
    let calls = trace.lines().filter_map(|line| {
        let (thread, rest) = line.split_once(' ')?;
        // Not a signal, nor an end.
        let (call, arguments) = rest.trim_start().split_once('(')?;
        if call.starts_with('<') {
            return None; // resumed
        }
        // The descriptor's file stands in angle brackets; its number is of no interest.
        let file = arguments.split_once('<').filter(|(number, _)| {
            number.chars().all(|digit| digit.is_ascii_digit()) && call != "io_uring_enter"
        });
        let file = file.map(|(_, file)| {
            let file = file.split('>').next().unwrap_or_default();
            file.trim_end_matches(|end: char| end.is_ascii_digit())
        });
        let name = match file {
            Some(file) => format!("{call} {file}"),
            None => call.to_owned(),
        };
        Some((thread.parse().ok()?, name, 1))
    });
    by_kind(calls, threads)
}

/// Of the I/O threads alone.
fn by_kind(
    calls: impl Iterator<Item = (u32, String, u64)>,
    threads: &BTreeMap<u32, String>,
) -> Found {
    let mut found = Found::new();
    for (thread, call, times) in calls {
        let name = threads.get(&thread).map_or("", String::as_str);
        let kinds = ["ublkq", "urd/"].into_iter();
        if let Some(kind) = kinds.into_iter().find(|kind| name.starts_with(kind)) {
            *found.entry((kind.to_owned(), call)).or_insert(0) += times;
        }
    }
    found
}
