// SPDX-License-Identifier: MIT OR Apache-2.0
//! C23, C27: a CPU leaves and comes back under a disk whose requests are refused on purpose, and
//! fio verifies all the time. In guests alone: nobody wants his own CPUs taken away.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::Disk;
use crate::machine::{self, read, wait_for};
use crate::run::need;
use crate::runner::{Outcome, Skip, Test};
use crate::verify::fio;

/// How often it leaves.
const TIMES: usize = 3;

pub fn tests(tests: &mut Vec<Test>) {
    for path in machine::data_paths() {
        let name = format!("c23_c27_a_cpu_leaves_and_returns_on_{path}_refused");
        let commits_by_workers = format!("f20_{name}_with_commits_by_workers");
        tests.push(Test::skippable(name, move || {
            leaves_and_returns(path, "auto")
        }));
        if path == "batch" {
            let body = move || leaves_and_returns(path, "on");
            tests.push(Test::skippable(commits_by_workers, body));
        }
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
    let tasks = fs::read_dir(format!("/proc/{}/task", disk.pid)).expect("it runs");
    let task = tasks
        .map(|task| task.expect("a folder").path())
        .find(|task| read(task.join("comm")) == "ublkq1");
    let status = read(task.expect("the thread").join("status"));
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("in every status").trim().to_owned()
}

fn leaves_and_returns(path: &str, commit: &str) -> Outcome {
    need(&["fio"])?;
    let cpu = Cpu::second()?;
    let words = [
        "--queues",
        "2",
        "--worker-commit",
        commit,
        "--inject",
        "requeue=1,60,0,-1",
    ];
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

/// Tells the verifier to end, whatever happens here.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
