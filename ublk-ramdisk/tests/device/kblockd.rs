// SPDX-License-Identifier: MIT OR Apache-2.0
//! D7, J1: requests that were refused are tried again with no thread to be had, and every thread of
//! the server serves writeback.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::disk::{all_stats, end_all, Disk};
use crate::ioctl::{self, Buffer};
use crate::machine::{self, read, wait_for};
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
/// it begins, and cannot make one.
fn all_resume() -> Outcome {
    let tries = 8 * cpus();
    let disks: Result<Vec<Disk>, Skip> = (0..64_usize.div_ceil(cpus()))
        .map(|_| refusing(tries, &[]))
        .collect();
    let disks = disks?;
    let group = NoThreads::around(&disks)?;
    let done = Arc::new(AtomicUsize::new(0));
    for thread in write_everywhere(&disks, &done) {
        thread.join().expect("no client fails");
    }
    let (mut queues, mut rescued) = (0, 0);
    // By one command: the start of a program takes longest here.
    let all = all_stats();
    assert_eq!(all.len(), disks.len());
    for stats in &all {
        assert!(stats.kblockd.rescued > 0, "{stats:?}");
        rescued += stats.kblockd.rescued;
        for queue in &stats.queues {
            assert!(queue.hctx.refused() > 0, "{queue:?}");
            queues += 1;
        }
    }
    assert!(queues >= 64);
    let failures = group.failures();
    assert!(failures > 0, "threads could be made");
    println!("    {queues} queues, {failures} threads not made, {rescued} runs rescued");
    drop(group);
    end_all(disks);
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

fn io_flushers() -> Outcome {
    let flusher = flusher_flags()?;
    assert_ne!(flusher, 0, "the kernel marks it");
    let disk = Disk::add(&["--size", "16M", "--inject", "requeue=1,100,0,64"]);
    let file = disk.open_direct();
    for at in 0..64 {
        file.write_all_at(&Buffer::new(4096), at * 4096)
            .expect("written");
    }
    let threads = disk.threads();
    for (thread, name) in &threads {
        let stat = read(format!("/proc/{}/task/{thread}/stat", disk.pid));
        // A worker may just have gone.
        if !stat.is_empty() {
            assert_eq!(flags_of(&stat) & flusher, flusher, "{name}: {stat}");
        }
    }
    let has = |start: &str| threads.values().any(|name| name.starts_with(start));
    assert!(has("ublkq") && has("urd/"), "{threads:?}");
    assert!(
        threads.values().any(|name| name == "urd/R-kblockd"),
        "{threads:?}"
    );
    println!("    {} threads", threads.len());
    drop(file);
    disk.end();
    Ok(())
}
