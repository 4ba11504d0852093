// SPDX-License-Identifier: MIT OR Apache-2.0
//! K1, K5: what our server counts is what happened. fio's own counts, the kernel's on the disk
//! (`/sys/block/ublkbN/stat`, which iostat shows), the block tracepoint and `stats --json` are
//! held against each other for every kind of request, in requests and in bytes: on every data path,
//! and on one while every other try is refused.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ublk_ramdisk::stats::OpStats;

use crate::disk::Disk;
use crate::ioctl::{self, Buffer};
use crate::machine;
use crate::run::need;
use crate::runner::{Outcome, Skip, Test};
use crate::verify;

pub fn tests(tests: &mut Vec<Test>) {
    let paths = machine::data_paths();
    for &path in &paths {
        let name = format!("k05_all_who_count_agree_on_{path}");
        let test = Test::skippable(name, move || all_agree(path, &[]));
        tests.push(test.on_path_and_kernel(path));
    }
    // What is refused is tried again above the paths: one of them shows it.
    if let Some(path) = paths.into_iter().next_back() {
        let name = format!("k05_all_who_count_agree_on_{path}_refused");
        let words = ["--inject", "requeue=2,100,0,-1"];
        tests.push(Test::skippable(name, move || all_agree(path, &words)));
        let name = format!("k05_flushes_and_zeroes_are_counted_on_{path}");
        tests.push(Test::skippable(name, move || flushes_and_zeroes(path)));
    }
}

/// Requests and bytes of reads, writes, discards and flushes, in this order.
type Counts = [OpStats; 4];

const NONE: OpStats = OpStats {
    requests: 0,
    bytes: 0,
};

fn minus(after: Counts, before: Counts) -> Counts {
    let mut by = after;
    for (count, before) in by.iter_mut().zip(before) {
        count.requests -= before.requests;
        count.bytes -= before.bytes;
    }
    by
}

/// The kernel's counts of a disk. What it merged is counted apart: here nothing is, or the
/// tracepoint and the server would know nothing of it.
fn kernel(disk: &Disk) -> Counts {
    let text = disk.sysfs("stat");
    let fields: Vec<u64> = text
        .split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect();
    let kind = |at: usize| OpStats {
        requests: fields[at],
        bytes: fields[at + 2] * 512,
    };
    let flush = OpStats {
        requests: fields[15],
        bytes: 0,
    };
    [kind(0), kind(4), kind(11), flush]
}

/// The server's counts; the kernel counts WRITE_ZEROES as writes.
fn server(disk: &Disk) -> Counts {
    let (write, zeroes) = (disk.count(|q| q.write), disk.count(|q| q.write_zeroes));
    let flush = disk.count(|q| q.flush);
    [
        disk.count(|q| q.read),
        OpStats {
            requests: write.requests + zeroes.requests,
            bytes: write.bytes + zeroes.bytes,
        },
        disk.count(|q| q.discard),
        OpStats {
            requests: flush.requests,
            bytes: 0,
        },
    ]
}

/// The tracepoint of completed requests, for one disk, in an instance of its own.
struct Tracepoint(PathBuf);

impl Tracepoint {
    fn on(disk: &Disk) -> Result<Self, Skip> {
        let instances = PathBuf::from("/sys/kernel/tracing/instances");
        if !instances.is_dir() {
            return Err(Skip("no tracefs here".to_owned()));
        }
        let made = machine::new_tracer(&format!("ublk-device-tests-{}", disk.id));
        let trace = Tracepoint(made.expect("an instance"));
        let number = disk.sysfs("dev");
        let (major, minor) = number.split_once(':').expect("MAJOR:MINOR");
        let (major, minor): (u64, u64) = (major.parse().unwrap(), minor.parse().unwrap());
        let event = "events/block/block_rq_complete";
        trace.write("buffer_size_kb", "8192");
        trace.write(
            &format!("{event}/filter"),
            &format!("dev == {}", (major << 20) | minor),
        );
        trace.write(&format!("{event}/enable"), "1");
        Ok(trace)
    }

    #[track_caller]
    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// What it said: `block_rq_complete: 259,0 WS () 2048 + 8 none,0,0 [0]`.
    fn counts(&self) -> Counts {
        self.write("events/block/block_rq_complete/enable", "0");
        let mut counts = [NONE; 4];
        for line in fs::read_to_string(self.0.join("trace"))
            .expect("the trace")
            .lines()
        {
            let Some((_, event)) = line.split_once("block_rq_complete: ") else {
                continue;
            };
            let words: Vec<&str> = event.split(' ').collect();
            let plus = words
                .iter()
                .position(|word| *word == "+")
                .expect("a length");
            let sectors: u64 = words[plus + 1].parse().expect("sectors");
            let kind = match words[1].trim_start_matches('F').chars().next() {
                Some('R') => 0,
                Some('W') => 1,
                Some('D') => 2,
                _ => 3,
            };
            // Of a request that ends in a batch it speaks twice: of its sectors, then of none.
            if sectors > 0 || kind == 3 {
                counts[kind].requests += 1;
                counts[kind].bytes += sectors * 512;
            }
        }
        counts
    }
}

impl Drop for Tracepoint {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// What fio says of a job file.
fn fio(disk: &Disk, job: &str) -> Counts {
    let mut command = verify::fio_command(disk, job);
    let output = command.arg("--output-format=json").output().expect("fio");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{job}: {text}");
    let from = text.find('{').expect("JSON");
    let report: serde_json::Value = serde_json::from_str(&text[from..]).expect("JSON");
    let mut counts = [NONE; 4];
    for one in report["jobs"].as_array().expect("jobs") {
        assert_eq!(one["error"], 0, "{one}");
        for (count, way) in counts.iter_mut().zip(["read", "write", "trim"]) {
            count.requests += one[way]["total_ios"].as_u64().expect("a number");
            count.bytes += one[way]["io_bytes"].as_u64().expect("a number");
        }
    }
    counts
}

/// The kernel counts a request a moment after its client has been told of the end.
#[track_caller]
fn come_to(what: &str, expected: Counts, counts: impl Fn() -> Counts) {
    machine::wait_for(what, || {
        let found = counts();
        let more = |(found, expected): (&OpStats, &OpStats)| found.requests > expected.requests;
        assert!(!found.iter().zip(&expected).any(more), "{what}: {found:?}");
        found == expected
    });
}

fn all_agree(path: &str, words: &[&str]) -> Outcome {
    need(&["fio"])?;
    let disk = Disk::on(path, "none", "20M", words);
    let trace = Tracepoint::on(&disk)?;
    let (kernel_before, server_before) = (kernel(&disk), server(&disk));
    let said = fio(&disk, "cross-check.fio");
    let traced = trace.counts();
    drop(trace);
    assert!(
        said[..3].iter().all(|count| count.bytes >= 1 << 20),
        "{said:?}"
    );
    come_to("kernel and fio", said, || {
        minus(kernel(&disk), kernel_before)
    });
    assert_eq!(minus(server(&disk), server_before), said, "server and fio");
    assert_eq!(traced, said, "tracepoint and fio");
    disk.end();
    Ok(())
}

/// A flush is a request without bytes to the server; the kernel counts it apart, and the empty
/// write that asked for it with the writes.
fn flushes_and_zeroes(path: &str) -> Outcome {
    const FLUSHES: u64 = 7;
    let disk = Disk::on(path, "none", "20M", &["--volatile-cache"]);
    let (kernel_before, server_before) = (kernel(&disk), server(&disk));
    let file = disk.open_direct();
    let block = Buffer::new(4096);
    for number in 0..FLUSHES {
        file.write_all_at(&block, number * 4096).expect("write");
        file.sync_all().expect("flush");
    }
    ioctl::zero_out(&file, 1 << 20..3 << 20).expect("zeroed");
    drop(file);
    let server = minus(server(&disk), server_before);
    assert_eq!(server[3].requests, FLUSHES);
    assert_eq!(server[1].bytes, FLUSHES * 4096 + (2 << 20));
    assert_eq!(server[0], NONE, "nobody has read");
    let mut expected = server;
    // With the empty writes.
    expected[1].requests += FLUSHES;
    come_to("kernel and server", expected, || {
        minus(kernel(&disk), kernel_before)
    });
    disk.end();
    Ok(())
}
