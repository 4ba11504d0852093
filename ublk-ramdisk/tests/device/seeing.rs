// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be seen of a disk from outside its server: traces, the files of debugfs, rates (K2, K3).

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use ublk_ramdisk::mq::debugfs::{HCTX_FILES, QUEUE_FILES};
use ublk_ramdisk::stats::files::{DEVICE_FILES, HCTX_FILE};

use crate::disk::Disk;
use crate::hotplug::Stops;
use crate::ioctl::Buffer;
use crate::machine::{self, wait_for};
use crate::run::{self, PROGRAM};
use crate::runner::Test;

pub fn tests(tests: &mut Vec<Test>) {
    let mut add = |name: &str, body: fn()| tests.push(Test::new(name, body).anywhere());
    add(
        "k03_a_request_is_followed_through_busy_to_its_commit",
        followed,
    );
    add("k03_a_trace_that_nobody_waits_for_ends", given_up);
    add(
        "k02_the_run_directory_has_the_files_of_debugfs",
        run_directory,
    );
    add("k02_stats_watch_shows_rates", watched);
    add("k06_queues_are_run_by_hand", run_by_hand);
    add("k02_as_many_requests_are_timed_as_was_asked_for", sampled);
}

/// Every other try is refused.
fn busy_disk() -> Disk {
    Disk::add(&["--size", "8M", "--inject", "requeue=2,100,0,-1"])
}

fn write_blocks(disk: &Disk, blocks: u64) {
    let (file, mut buffer) = (disk.open_direct(), Buffer::new(4096));
    buffer.fill(7);
    for block in 0..blocks {
        file.write_all_at(&buffer, block * 4096).expect("written");
    }
}

/// Does `work` while somebody writes to the disk without end.
fn while_written<R>(disk: &Disk, work: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                write_blocks(disk, 16);
            }
        });
        let stops = Stops(&stop);
        let result = work();
        drop(stops);
        writer.join().expect("every write succeeds");
        result
    })
}

/// How many requests of a trace file were refused.
fn parked(trace: &Value) -> usize {
    let events = trace["traceEvents"].as_array().expect("events");
    let mut refused = BTreeSet::new();
    for event in events.iter().filter(|event| event["cat"] == "request") {
        let id = event["id"].as_str().expect("an id");
        if event["name"].as_str().expect("a name") == "parked" {
            refused.insert(id);
        }
    }
    refused.len()
}

/// A machine may do little in the time of one recording, so there are as many as it takes.
fn followed() {
    let disk = busy_disk();
    let (file, name) = (machine::scratch().join("trace.json"), disk.name());
    let to = file.to_str().expect("text");
    let dev = disk.sysfs("dev").replace(':', ",");
    while_written(&disk, || {
        wait_for("a refused request in a trace", || {
            run::ublk(&["trace", &name, "--duration", "500ms", "-o", to]).well();
            let text = fs::read_to_string(&file).expect("a file");
            let trace: Value = serde_json::from_str(&text).expect("JSON");
            let mut events = trace["traceEvents"].as_array().expect("events").iter();
            let run_work = |event: &Value| event["name"] == "run_work" && event["ph"] == "B";
            parked(&trace) > 0
                && events.clone().any(|event| event["args"]["dev"] == dev)
                && events.any(run_work)
        });
        wait_for("a refusal in the lines", || {
            let text = run::ublk(&["trace", &name, "--duration", "200ms", "--text"]).well();
            let mut refusals = text.lines().filter(|line| line.contains(" refuse "));
            let named = |line: &str| line.ends_with("RESOURCE injection");
            assert!(refusals.clone().all(named), "{text}");
            refusals.next().is_some()
        });
    });
    disk.end();
}

fn given_up() {
    let disk = busy_disk();
    let name = disk.name();
    let words = ["trace", &name, "--duration", "10m", "-o", "never.json"];
    let start = || run::command(PROGRAM).args(words).spawn();
    let mut client = start().expect("it starts");
    let second = ["trace", &name, "--duration", "1ms", "-o", "second.json"];
    wait_for("the recording", || {
        // The second may have come first, and the first have been refused for it.
        if client.try_wait().expect("a child").is_some() {
            client = start().expect("it starts");
        }
        run::ublk(&second).status == Some(4)
    });
    client.kill().expect("it runs");
    client.wait().expect("it ends");
    wait_for("the recording's end", || {
        run::ublk(&second).status == Some(0)
    });
    assert!(!machine::scratch().join("never.json").exists());
    disk.end();
}

fn run_directory() {
    let disk = busy_disk();
    write_blocks(&disk, 8);
    let place = run::ublk(&["debugfs", &disk.name(), "--files"]).well();
    let place = machine::run_dir().join(place.trim());
    for queue in 0..disk.queues {
        let of_queue = place.join(format!("hctx{queue}"));
        for file in HCTX_FILES.iter().chain([&HCTX_FILE]) {
            assert!(of_queue.join(file).is_file(), "{file} in {of_queue:?}");
        }
        let tags = machine::read(of_queue.join("tags"));
        assert!(tags.contains(&format!("nr_tags={}", disk.depth)), "{tags}");
    }
    for file in QUEUE_FILES.iter().chain(DEVICE_FILES) {
        assert!(place.join(file).is_file(), "{file} in {place:?}");
    }
    let refused = machine::read(place.join("hctx0/refused"));
    let by = disk.stats().queues[0].hctx.refused_by;
    let injected = format!("injection={}", by.injection);
    assert!(refused.lines().any(|line| line == injected), "{refused}");
    let one = run::ublk(&["debugfs", &disk.name(), "hctx0/dispatch_busy"]).well();
    assert!(one.trim().parse::<u32>().is_ok(), "{one}");
    disk.end();
    assert!(!place.exists(), "nothing is left behind");
}

/// The first line of `stats --watch` that is `wanted`, while the disk is written.
fn first_of_watch(disk: &Disk, words: &[&str], wanted: impl Fn(&str) -> bool) -> String {
    let mut client = run::command(PROGRAM)
        .args(["stats", &disk.name(), "--watch", "0.2"])
        .args(words)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let out = BufReader::new(client.stdout.take().expect("a pipe"));
    let found = while_written(disk, || {
        let mut lines = out.lines().map(|line| line.expect("a line"));
        lines.find(|line| wanted(line))
    });
    client.kill().expect("it runs");
    client.wait().expect("it ends");
    found.expect("it goes on until it is ended")
}

fn watched() {
    let disk = busy_disk();
    let line = first_of_watch(&disk, &[], |line| {
        line.contains(" write ") && line.split_whitespace().nth(2) != Some("0")
    });
    let bytes = line.split_whitespace().nth(3);
    assert!(bytes.is_some_and(|bytes| bytes != "0"), "{line}");
    let of_line = |line: &str| serde_json::from_str::<Value>(line).expect("an object in a line");
    let line = first_of_watch(&disk, &["--json"], |line| {
        let times = &of_line(line)["disks"][0]["queues"][0]["latency"]["write"];
        times["p99_ns"].as_u64() > Some(0)
    });
    let found = of_line(&line);
    assert_eq!(found["schema"], 1);
    assert!(
        found["seconds"].as_f64() > Some(0.0) && found["time"].is_string(),
        "{line}"
    );
    let text = run::ublk(&["stats", &disk.name(), "--prometheus"]).well();
    let size = format!("ublk_ramdisk_size_bytes{{disk=\"ublkb{}\"}} ", disk.id);
    assert!(text.contains(&size), "{text}");
    let stats = disk.stats();
    assert!(stats
        .queues
        .iter()
        .any(|queue| queue.latency.write.count() > 0));
    assert!(stats.kblockd.completed > 0 && !stats.kblockd.pools.is_empty());
    disk.end();
}

fn sampled() {
    let words = ["--size", "8M", "--no-partition-scan"];
    let timed = |disk: &Disk| {
        let before = disk.stats().queues[0].latency.write.count();
        write_blocks(disk, 64);
        disk.stats().queues[0].latency.write.count() - before
    };
    let disk = Disk::add(&[&words[..], &["--latency-sample", "off"]].concat());
    assert_eq!((disk.stats().latency_sample, timed(&disk)), (0, 0));
    let set = ["set", &disk.name(), "--latency-sample", "1"];
    assert_eq!(run::ublk(&set).well(), "latency-sample 1\n");
    let all = timed(&disk);
    assert_eq!((disk.stats().latency_sample, all >= 64), (1, true), "{all}");
    run::ublk(&["set", &disk.name(), "--slots", "4"]).well();
    assert_eq!(disk.stats().latency_sample, 1, "what is not named stays");
    disk.end();
}

fn run_by_hand() {
    let disk = busy_disk();
    for verb in ["run", "start", "kick"] {
        run::ublk(&["debugfs", &disk.name(), &format!("state={verb}")]).well();
    }
    write_blocks(&disk, 4);
    disk.end();
}
