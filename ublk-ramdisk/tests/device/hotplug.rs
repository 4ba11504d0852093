// SPDX-License-Identifier: MIT OR Apache-2.0
//! C23, C27: a CPU leaves and comes back under a disk whose requests are refused on purpose, and
//! fio verifies all the time. In guests alone: nobody wants his own CPUs taken away.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::Disk;
use crate::ioctl::{self, Buffer};
use crate::machine::{self, read, wait_for};
use crate::run::{need, ublk, Said};
use crate::runner::{Outcome, Skip, Test};
use crate::verify::fio;

/// How often it leaves.
const TIMES: usize = 3;

pub fn tests(tests: &mut Vec<Test>) {
    for path in machine::data_paths() {
        let name = format!("c23_c27_a_cpu_leaves_and_returns_on_{path}_refused");
        let test = Test::skippable(name, move || leaves_and_returns(path));
        tests.push(test.on_path_and_kernel(path));
        let name = format!("c27_a_cpu_that_leaves_waits_for_what_a_worker_ends_on_{path}");
        let test = Test::skippable(name, move || waits_for_a_worker(path));
        tests.push(test.on_path_and_kernel(path));
    }
}

/// The second CPU, which is there again when this is dropped.
struct Cpu(PathBuf);

impl Cpu {
    fn second() -> Result<Self, Skip> {
        let switch = PathBuf::from("/sys/devices/system/cpu/cpu1/online");
        if std::env::var_os("UBLK_VM").is_none() {
            return Err(Skip("takes a CPU away: only in a guest".to_owned()));
        }
        if !switch.exists() {
            return Err(Skip("no second CPU that can leave".to_owned()));
        }
        Ok(Cpu(switch))
    }

    #[track_caller]
    fn switch(&self, on: &str) {
        fs::write(&self.0, on).expect("the kernel takes it away or back");
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, "1");
    }
}

/// The CPUs that the thread of the second queue may use.
fn cpus_of_thread(disk: &Disk) -> String {
    let mut tasks = machine::tasks(disk.pid).into_iter();
    let task = tasks.find(|task| read(task.join("comm")) == "ublkq1");
    let status = read(task.expect("the thread").join("status"));
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("in every status").trim().to_owned()
}

fn leaves_and_returns(path: &str) -> Outcome {
    need(&["fio"])?;
    let cpu = Cpu::second()?;
    let words = ["--queues", "2", "--inject", "requeue=1,60,0,-1"];
    let disk = Disk::on(path, "none", "20M", &words);
    assert_eq!(disk.queues, 2);
    let bound = cpus_of_thread(&disk);
    assert!(["0", "1"].contains(&bound.as_str()), "bound to {bound:?}");
    // Which queue the second CPU's requests get is the kernel's to say.
    let its = if bound == "1" { 1 } else { 0 };
    let is_inactive = || disk.stats().queues[its].now.inactive;
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let verifies = scope.spawn(|| {
            let mut read = 0;
            while !enough.load(Ordering::Relaxed) {
                read += fio(&disk, "verify-direct.fio");
            }
            read
        });
        let stops = Stops(&enough);
        for _ in 0..TIMES {
            let before = disk.stats().queues[its].hctx.refused();
            wait_for("requests of that CPU that are refused", || {
                disk.stats().queues[its].hctx.refused() > before || verifies.is_finished()
            });
            cpu.switch("0");
            wait_for("the queue without a CPU", || {
                is_inactive() || verifies.is_finished()
            });
            cpu.switch("1");
            wait_for("the queue with its CPU", || {
                !is_inactive() || verifies.is_finished()
            });
        }
        drop(stops);
        assert!(verifies.join().expect("fio verifies") > 0);
    });
    wait_for("the thread of the queue on its CPU", || {
        cpus_of_thread(&disk) == bound
    });
    for queue in disk.stats().queues {
        assert!(!queue.now.inactive, "{queue:?}");
        assert_eq!((queue.hctx.timeouts, queue.hctx.lost_races), (0, 0));
    }
    disk.end();
    Ok(())
}

/// Is the kernel waiting for the requests of a CPU that leaves?
fn waits_for_requests() -> bool {
    let tasks = fs::read_dir("/proc").expect("it is there").flatten();
    let mut folders = tasks.map(|task| task.path());
    let hotplug = folders.find(|task| read(task.join("comm")) == "cpuhp/1");
    let stack = read(hotplug.expect("the kernel's thread").join("stack"));
    stack.contains("blk_mq_hctx_notify_offline")
}

/// A disk that refuses every request until this is dropped, whatever happens here.
struct Refuses<'a>(&'a Disk);

impl<'a> Refuses<'a> {
    fn all(disk: &'a Disk) -> Self {
        let refuses = Refuses(disk);
        refuses.inject("requeue=1,100,0,1000000").well();
        refuses
    }

    fn inject(&self, faults: &str) -> Said {
        ublk(&["set", &self.0.name(), "--inject", faults])
    }
}

impl Drop for Refuses<'_> {
    fn drop(&mut self) {
        let lifted = self.inject("requeue=off");
        if !std::thread::panicking() {
            lifted.well();
        }
    }
}

/// The CPU that leaves waits for a request that a worker serves.
fn waits_for_a_worker(path: &str) -> Outcome {
    let cpu = Cpu::second()?;
    let words = ["--queues", "2", "--no-partition-scan"];
    let disk = Disk::on(path, "none", "8M", &words);
    std::thread::scope(|scope| {
        let refuses = Refuses::all(&disk);
        let client = scope.spawn(|| {
            ioctl::run_on(&[1]);
            let written = disk.open_direct().write_at(&Buffer::new(4096), 0);
            assert_eq!(written.expect("served in the end"), 4096);
        });
        wait_for("a refused write", || {
            disk.stats().queues.iter().any(|q| q.hctx.refused() > 0)
        });
        let leaves = scope.spawn(|| cpu.switch("0"));
        wait_for("a CPU that waits for it", waits_for_requests);
        drop(refuses);
        leaves.join().expect("it has left");
        client.join().expect("it was written");
    });
    drop(cpu);
    disk.end();
    Ok(())
}

/// Tells a client to end, whatever happens here.
pub struct Stops<'a>(pub &'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
