// SPDX-License-Identifier: MIT OR Apache-2.0
//! G15, H12: fio writes and verifies on every data path, under every elevator, on one queue and
//! on two; and the same while requests are refused on purpose (E5, B6). The jobs are files in
//! `scripts/fio/`. A quick run has pairs of these.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::disk::{Disk, MIB};
use crate::machine;
use crate::run;
use crate::runner::{self, Test};

pub fn tests(tests: &mut Vec<Test>) {
    for (path, elevator, alone) in machine::paths_and_elevators() {
        for queues in ["1", "2"] {
            if runner::is_quick() && alone != queues {
                continue;
            }
            let name = format!("g15_h12_fio_verifies_on_{path}_{elevator}_{queues}q");
            let test = Test::new(name, move || verifies(path, elevator, queues));
            tests.push(test.on_path(path));
        }
    }
    for (number, path) in (0..).zip(machine::data_paths()) {
        for (turn, (fault, queues)) in (0..).zip(REQUEUES) {
            if runner::is_quick() && ![number, BY_CHANCE].contains(&turn) {
                continue;
            }
            let name = format!("e05_fio_verifies_on_{path}_refused_{fault}_{queues}q");
            let test = Test::new(name, move || refused(path, fault, queues));
            tests.push(test.on_path(path));
        }
    }
}

/// Every other try for ever, every single one for a while, and by chance.
const REQUEUES: [(&str, &str); 3] = [
    ("2,100,0,-1", "2"),
    ("1,100,100,2000", "1"),
    ("1,60,0,-1", "2"),
];
/// The last of them.
const BY_CHANCE: usize = 2;

/// Whatever the driver refuses, with RESOURCE and by a requeue in turn, is tried again until it is
/// done, and no client hears of it.
fn refused(path: &str, fault: &str, queues: &str) {
    let fault = format!("requeue={fault}");
    let words = ["--queues", queues, "--inject", &fault];
    let disk = Disk::on(path, "none", "20M", &words);
    let read = fio(&disk, "verify-direct.fio");
    assert!(read >= 20 * MIB, "only {read} bytes were read back");
    disk.assert_at_rest();
    for queue in disk.stats().queues {
        let hctx = &queue.hctx;
        assert!(hctx.requeued > 0, "{hctx:?}");
        let ahead = hctx.refused_by.injection - hctx.requeued;
        assert!(ahead <= 1, "they alternate: {hctx:?}");
        let on_kblockd = hctx.run_async + hctx.run_delayed;
        assert!(on_kblockd > 0, "kblockd runs the queue: {hctx:?}");
        assert_eq!((hctx.errors, hctx.timeouts, hctx.lost_races), (0, 0, 0));
    }
    disk.end();
}

fn verifies(path: &str, elevator: &str, queues: &str) {
    let disk = Disk::on(path, elevator, "20M", &["--queues", queues]);
    assert_eq!(disk.queues.to_string(), queues, "the kernel grants both");
    let read = fio(&disk, "verify-direct.fio");
    assert!(read >= 20 * MIB, "only {read} bytes were read back");
    // The page cache is above the queues: once per path and elevator is enough.
    if queues == "2" {
        let read = fio(&disk, "verify-buffered.fio");
        assert!(read >= 16 * MIB, "only {read} bytes were read back");
    }
    disk.end();
}

/// A job file of the project.
pub fn job_file(name: &str) -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    project.expect("a workspace").join("scripts/fio").join(name)
}

/// fio with a job file on this disk.
pub fn fio_command(disk: &Disk, job: &str) -> Command {
    let mut command = run::command("fio");
    command.arg(job_file(job)).env("DISK", &disk.path);
    command
}

/// How long a verifying job is repeated at least: UBLK_TEST_SECONDS, or not at all.
pub fn length() -> Duration {
    let seconds = std::env::var("UBLK_TEST_SECONDS").unwrap_or_else(|_| "0".to_owned());
    Duration::from_secs(seconds.parse().expect("UBLK_TEST_SECONDS is a number"))
}

/// Runs a job file again and again, each time with other random numbers, for as long as was asked
/// for; answers how many rounds there were and how many bytes were read back.
#[track_caller]
pub fn fio_for_long(disk: &Disk, job: &str) -> (u64, u64) {
    let (begun, mut rounds, mut read) = (Instant::now(), 0, 0);
    loop {
        let mut command = fio_command(disk, job);
        command.arg(format!("--randseed={}", rounds + 1));
        read += run_fio(command, job);
        rounds += 1;
        if begun.elapsed() >= length() {
            return (rounds, read);
        }
    }
}

/// Runs a job file to its good end; answers how many bytes were read.
#[track_caller]
pub fn fio(disk: &Disk, job: &str) -> u64 {
    run_fio(fio_command(disk, job), job)
}

#[track_caller]
fn run_fio(mut command: Command, job: &str) -> u64 {
    let output = command.arg("--output-format=json").output();
    let output = output.expect("fio is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{job}: {complaints} {text}");
    let from = text.find('{').expect("JSON");
    let report: serde_json::Value = serde_json::from_str(&text[from..]).expect("JSON");
    let jobs = report["jobs"].as_array().expect("jobs");
    for one in jobs {
        assert_eq!(one["error"], 0, "{job}: {one}");
    }
    let read = |one: &serde_json::Value| one["read"]["io_bytes"].as_u64();
    jobs.iter().filter_map(read).sum()
}
