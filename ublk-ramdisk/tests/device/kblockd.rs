// SPDX-License-Identifier: MIT OR Apache-2.0
//! D7, J1, J3: requests that were refused are tried again with no thread to be had, every thread of
//! the server serves writeback, and none of them asks the system for more than the way of a request
//! needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::disk::{Disk, MIB};
use crate::ioctl::{self, Buffer};
use crate::machine::{self, read, wait_for};
use crate::run::{self, command};
use crate::runner::{Outcome, Skip, Test};

pub fn tests(tests: &mut Vec<Test>) {
    // Elsewhere the kernel reads each new disk for partitions, and waits while all is refused.
    if machine::offers("UBLK_F_NO_AUTO_PART_SCAN") || machine::offers("NO_AUTO_PART_SCAN") {
        tests.push(Test::skippable(
            "d07_with_no_thread_to_be_had_64_busy_queues_all_resume",
            all_resume,
        ));
        tests.push(Test::skippable(
            "d07_without_mem_reclaim_they_stay_stuck",
            stay_stuck,
        ));
    }
    tests.push(Test::skippable(
        "j01_every_thread_is_an_io_flusher",
        io_flushers,
    ));
    for path in machine::data_paths() {
        for refused in ["0", "20"] {
            let name = format!("j03_only_these_system_calls_on_{path}_refused_{refused}");
            let test = Test::skippable(name, move || system_calls(path, refused, "off"));
            tests.push(test.on_path(path));
        }
    }
    if machine::data_paths().contains(&"batch") {
        tests.push(Test::skippable(
            "j03_only_these_system_calls_where_workers_commit_refused_20",
            || system_calls("batch", "20", "on"),
        ));
    }
}

/// A cgroup in which no thread can be created, while it lives.
struct NoThreads(PathBuf);

impl NoThreads {
    /// Puts the servers of these disks in.
    fn around(disks: &[Disk]) -> Result<NoThreads, Skip> {
        let root = PathBuf::from("/sys/fs/cgroup");
        let pids = read(root.join("cgroup.subtree_control"));
        if !pids.split_whitespace().any(|word| word == "pids") {
            return Err(Skip("no cgroup2 with pids at /sys/fs/cgroup".to_owned()));
        }
        let group = NoThreads(root.join(format!("ublk-no-threads-{}", std::process::id())));
        fs::create_dir(&group.0).expect("a cgroup");
        for disk in disks {
            fs::write(group.0.join("cgroup.procs"), disk.pid.to_string()).expect("moved");
        }
        group.limit("1");
        Ok(group)
    }

    fn limit(&self, to: &str) {
        fs::write(self.0.join("pids.max"), to).expect("pids.max");
    }

    /// How often a thread was not created.
    fn failures(&self) -> u64 {
        let events = read(self.0.join("pids.events"));
        let max = events.strip_prefix("max ").expect("one line");
        max.parse().expect("a number")
    }
}

impl Drop for NoThreads {
    fn drop(&mut self) {
        self.limit("max");
        for pid in read(self.0.join("cgroup.procs")).lines() {
            let _ = fs::write("/sys/fs/cgroup/cgroup.procs", pid);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// One queue per CPU, and so many tries refused. No client reads before the test does.
fn refusing(times: usize, words: &[&str]) -> Result<Disk, Skip> {
    let (queues, inject) = (cpus().to_string(), format!("requeue=1,100,0,{times}"));
    let mut all = vec!["--size", "16M", "--no-partition-scan", "--queues", &queues];
    all.extend(["--inject", &inject]);
    all.extend(words);
    Ok(Disk::add(&all))
}

fn cpus() -> usize {
    std::thread::available_parallelism()
        .expect("some CPUs")
        .get()
}

/// On each CPU a write to each disk, all at once; `done` counts those that have ended.
fn write_everywhere(disks: &[Disk], done: &Arc<AtomicUsize>) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    for disk in disks {
        for cpu in 0..disk.queues as usize {
            let (file, done) = (disk.open_direct(), done.clone());
            threads.push(std::thread::spawn(move || {
                ioctl::run_on(&[cpu]);
                let at = cpu as u64 * 4096;
                file.write_all_at(&Buffer::new(4096), at).expect("written");
                done.fetch_add(1, Ordering::SeqCst);
            }));
        }
    }
    threads
}

/// Enough disks for 64 hardware queues. In each one worker sits in each pool, wants another before
/// it begins, and cannot make one. On every second disk whoever runs a queue also commits (F20).
fn all_resume() -> Outcome {
    let tries = 8 * cpus();
    let batch = machine::data_paths().contains(&"batch");
    let ways: [&[&str]; 2] = [&[], &["--worker-commit", "on"]];
    let ways = if batch { &ways[..] } else { &ways[..1] };
    let disks: Result<Vec<Disk>, Skip> = (0..64_usize.div_ceil(cpus()))
        .map(|number| refusing(tries, ways[number % ways.len()]))
        .collect();
    let disks = disks?;
    let group = NoThreads::around(&disks)?;
    let done = Arc::new(AtomicUsize::new(0));
    for thread in write_everywhere(&disks, &done) {
        thread.join().expect("no client fails");
    }
    let (mut queues, mut rescued, mut committed) = (0, 0, 0);
    for disk in &disks {
        let stats = disk.stats();
        assert!(stats.kblockd.rescued > 0, "{stats:?}");
        rescued += stats.kblockd.rescued;
        for queue in &stats.queues {
            assert!(queue.hctx.refused() > 0, "{queue:?}");
            committed += queue.wakeups.committed;
            queues += 1;
        }
    }
    assert!(queues >= 64);
    let failures = group.failures();
    assert!(failures > 0, "threads could be made");
    assert_eq!(committed > 0, batch, "commits by workers and rescuers");
    println!(
        "    {queues} queues, {failures} threads not made, {rescued} runs rescued, {committed} \
         commits by those who ran them"
    );
    drop(group);
    disks.into_iter().for_each(Disk::end);
    Ok(())
}

fn stay_stuck() -> Outcome {
    let tries = 8 * cpus();
    let disk = refusing(tries, &["--kblockd-flags", "highpri,percpu"])?;
    let disks = [disk];
    let group = NoThreads::around(&disks)?;
    let done = Arc::new(AtomicUsize::new(0));
    let threads = write_everywhere(&disks, &done);
    // Every pool has tried again and again.
    let enough = 3 * cpus() as u64;
    wait_for("the workers to fail to make others", || {
        group.failures() >= enough
    });
    let kblockd = disks[0].stats().kblockd;
    assert_eq!((kblockd.started, kblockd.rescued), (0, 0), "{kblockd:?}");
    assert_eq!(done.load(Ordering::SeqCst), 0);
    // And nothing was lost: with threads to be had it goes on.
    drop(group);
    for thread in threads {
        thread.join().expect("no client fails");
    }
    disks.into_iter().for_each(Disk::end);
    Ok(())
}

/// `flags` of a thread, as /proc shows them.
fn flags_of(stat: &str) -> u64 {
    let behind = stat.rsplit(')').next().expect("a name in brackets");
    let flags = behind.split_whitespace().nth(6).expect("nine fields");
    flags.parse().expect("a number")
}

/// What the kernel changes in a thread that is an I/O flusher no more.
fn flusher_flags() -> Result<u64, Skip> {
    let thread = std::thread::spawn(|| {
        let mine = || flags_of(&read("/proc/thread-self/stat"));
        ublk_ramdisk::sys::thread::set_io_flusher().map(|()| {
            let marked = mine();
            // SAFETY: no memory is involved. 57 is PR_SET_IO_FLUSHER.
            assert_eq!(unsafe { libc::prctl(57, 0, 0, 0, 0) }, 0);
            marked & !mine()
        })
    });
    let added = thread.join().expect("no panic");
    added.map_err(|error| Skip(format!("PR_SET_IO_FLUSHER: {error}")))
}

/// The threads of a server: number and name.
fn threads_of(disk: &Disk) -> BTreeMap<u32, String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", disk.pid)).expect("it runs");
    let tasks = tasks.map(|task| task.expect("a folder").path());
    tasks
        .map(|task| {
            let id = task.file_name().and_then(|name| name.to_str());
            let id = id.and_then(|id| id.parse().ok()).expect("a number");
            (id, read(task.join("comm")))
        })
        .collect()
}

fn io_flushers() -> Outcome {
    let flusher = flusher_flags()?;
    assert_ne!(flusher, 0, "the kernel marks it");
    let disk = Disk::add(&["--size", "16M", "--inject", "requeue=1,100,0,64"]);
    let file = disk.open_direct();
    for at in 0..64 {
        file.write_all_at(&Buffer::new(4096), at * 4096)
            .expect("written");
    }
    let threads = threads_of(&disk);
    for (thread, name) in &threads {
        let stat = read(format!("/proc/{}/task/{thread}/stat", disk.pid));
        // A worker may just have gone.
        if !stat.is_empty() {
            assert_eq!(flags_of(&stat) & flusher, flusher, "{name}: {stat}");
        }
    }
    let has = |start: &str| threads.values().any(|name| name.starts_with(start));
    assert!(has("ublkq") && has("kworker/"), "{threads:?}");
    assert!(
        threads.values().any(|name| name.contains("R-kb")),
        "{threads:?}"
    );
    println!("    {} threads", threads.len());
    drop(file);
    disk.end();
    Ok(())
}

/// A worker looks at what its run has cost.
const ACCOUNTS: [&str; 2] = ["clock_gettime", "getrusage"];
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

/// What the queue's threads and kblockd's workers do while a client reads and writes memory that is
/// there: UBLK_TEST_IOS requests, or 2000.
fn system_calls(path: &str, refused: &str, worker_commit: &str) -> Outcome {
    run::need(&["strace", "fio"])?;
    let ios = std::env::var("UBLK_TEST_IOS").unwrap_or_else(|_| "2000".to_owned());
    let ios: u64 = ios.parse().expect("UBLK_TEST_IOS is a number");
    let inject = format!("requeue=1,{refused},0,-1");
    let words = ["--worker-commit", worker_commit, "--inject", &inject];
    let disk = Disk::on(path, "none", "4M", &words);
    let file = disk.open_direct();
    for at in 0..4 {
        file.write_all_at(&Buffer::new(MIB as usize), at * MIB)
            .expect("written");
    }
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
        threads_of(&disk).keys().all(traced)
    });
    let number = ios.to_string();
    run::tool(&[
        "fio",
        "--name=j3",
        &format!("--filename={}", disk.path),
        "--rw=randrw",
        "--bs=4k",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=16",
        &format!("--number_ios={number}"),
        "--size=4M",
        "--io_size=1T",
    ])
    .well();
    let threads = threads_of(&disk);
    // SAFETY: the child is not waited for before.
    let told = unsafe { libc::kill(strace.id() as i32, libc::SIGTERM) };
    assert_eq!(told, 0);
    strace.wait().expect("it ends");
    let text = fs::read_to_string(&trace).expect("a trace");
    let found = calls(&text, &threads);
    let copies = path == "user-copy" || path == "batch";
    let allowed = |thread: &str, call: &str| match (thread, call) {
        ("ublkq", "io_uring_enter") => true,
        (_, "pread64 /dev/ublkc" | "pwrite64 /dev/ublkc") => copies,
        ("kworker", "write anon_inode:[eventfd]") => true,
        // Its own ring: a queue thread's would refuse it (F22).
        ("kworker", "io_uring_enter") => worker_commit == "on",
        // A worker that has nothing to do waits.
        ("kworker", "futex") => true,
        _ if refused == "0" => false,
        // A run is queued, and a worker woken; the pool's lock is wanted by two at once.
        (_, "futex" | "sched_yield") => true,
        ("kworker", call) => ACCOUNTS.contains(&call) || BIRTH.contains(&call),
        _ => false,
    };
    let bad: BTreeSet<_> = found
        .iter()
        .filter(|((thread, call), _)| !allowed(thread, call))
        .collect();
    println!("    {found:?}");
    assert!(bad.is_empty(), "{bad:?}");
    let served = disk.stats().queues[0].read.requests + disk.stats().queues[0].write.requests;
    assert!(served >= ios, "{served} requests");
    let commits = ("kworker".to_owned(), "io_uring_enter".to_owned());
    assert_eq!(found.contains_key(&commits), worker_commit == "on");
    drop(file);
    disk.end();
    Ok(())
}

/// Counts the calls of the I/O threads by kind of thread, call and file.
fn calls(trace: &str, threads: &BTreeMap<u32, String>) -> BTreeMap<(String, String), u64> {
    let mut found = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let thread = thread.parse().ok().and_then(|id: u32| threads.get(&id));
        let Some(kind) = thread.and_then(|name| {
            ["ublkq", "kworker"]
                .into_iter()
                .find(|kind| name.starts_with(kind))
        }) else {
            continue;
        };
        let Some((call, arguments)) = rest.trim_start().split_once('(') else {
            continue; // a signal, or an end
        };
        if call.starts_with('<') {
            continue; // resumed
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
        *found.entry((kind.to_owned(), name)).or_insert(0) += 1;
    }
    found
}
