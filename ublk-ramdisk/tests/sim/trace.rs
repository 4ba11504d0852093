// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sim --trace`: one request can be followed through the file, and the file is the same each time.

use super::chrome_format::{check, File, Step};
use super::common::sim;
use std::path::PathBuf;

/// A temporary folder, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("sim-trace-{name}-{}", std::process::id());
        let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&place).expect("a folder");
        Self(place)
    }

    fn file(&self, name: &str) -> String {
        self.0
            .join(name)
            .to_str()
            .expect("a path in UTF-8")
            .to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a simulation, and reads both of its files.
fn traced(name: &str, line: &str) -> (File, String, Vec<u8>) {
    let place = Place::new(name);
    let (json, lines) = (place.file("trace.json"), place.file("trace.txt"));
    let output = sim(&format!("{line} --trace '{json}' --trace-text '{lines}'"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &said[..]), (Some(0), ""));
    let bytes = std::fs::read(json).expect("a trace");
    let lines = std::fs::read_to_string(lines).expect("lines");
    (check(&bytes), lines, bytes)
}

fn stops(flow: &[Step]) -> Vec<(char, u64, &str, &str)> {
    let bar = |step: &Step| step.bars.first().expect("one").clone();
    let ends = flow.iter();
    ends.map(|step| {
        let outer: &str = match &bar(step)[..] {
            "run_work" => "run_work",
            "tried again" => "tried again",
            _ => "the request",
        };
        (step.phase, step.time / 1000, &step.thread[..], outer)
    })
    .collect()
}

/// From idle: two tries at once, then one each 3 ms (C18). At 5 ms the queue is run by the script,
/// and the request accepted. It takes 100 us.
#[test]
fn k03_a_refused_request_is_followed_over_timer_and_worker_to_its_end() {
    let line = "--ops 1 --service-time 100us --at '0:busy on' --at '5ms:busy off'";
    let (file, lines, _) = traced("one", line);
    let [flow] = &file.flows.values().collect::<Vec<_>>()[..] else {
        panic!("one request: {:?}", file.flows);
    };
    let job = &flow[0].thread[..];
    let worker = "kworker/0:0H";
    let expected = [
        ('s', 0, job, "the request"),
        ('t', 3000, "wq/timer", "tried again"),
        ('t', 3000, worker, "run_work"),
        ('t', 5000, job, "tried again"),
        ('t', 5000, worker, "run_work"),
        ('f', 5100, job, "the request"),
    ];
    assert_eq!(stops(flow), expected);
    assert_eq!(flow[2].bars[1], "read", "{:?}", flow[2]);
    // The lines tell the same story.
    let acts = lines.lines().filter(|line| line.contains(" tag 0"));
    let acts: Vec<_> = acts.filter_map(|l| l.split_whitespace().nth(5)).collect();
    let in_vain = ["D", "R", "refuse", "park", "unpark"];
    let told = [&["Q"][..], &in_vain, &in_vain, &in_vain, &["D", "C", "X"]].concat();
    // The first refusal was the job's, the second the run's that followed it at once, here.
    assert_eq!(acts, told, "{lines}");
}

/// Everything that could depend on which thread is quicker, and no worker can be made: the rescuer
/// is seen at work.
#[test]
fn k03_the_files_are_the_same_to_the_byte_and_show_the_rescuer() {
    let line = "--rw randrw --iodepth 16 --jobs 8 --queues 4 --cpus 4 --ops 100 --flush 2 \
                --discard 5 --service-time exp:100us --inject requeue=3,50,0,-1 \
                --rate poisson:20000 --call-cost 2us --hogs 2:1ms --json \
                --at '0:fail-worker-creation on' --at '2ms:busy on' --at '8ms:busy off' \
                --at '100ms:fail-worker-creation off'";
    let (file, lines, bytes) = traced("all-1", line);
    for round in 2..4 {
        let again = traced(&format!("all-{round}"), line);
        assert!(again.1 == lines, "the lines of run {round} differ");
        assert!(again.2 == bytes, "the file of run {round} differs");
    }
    let rescued = |flow: &&Vec<Step>| {
        let by = |step: &Step| step.thread.starts_with("kworker/R-") && step.bars[0] == "run_work";
        flow.iter().any(by)
    };
    assert!(file.flows.values().any(|flow| rescued(&flow)));
    for told in [
        "create_failed of=kworker/",
        "mayday of=kblockd",
        "rescue of=kblockd",
    ] {
        assert!(lines.contains(told), "no {told}");
    }
    assert!(
        lines.ends_with(" 0 lost\n"),
        "{}",
        lines.lines().last().unwrap_or("")
    );
}

#[test]
fn k03_a_run_that_is_traced_has_the_same_figures() {
    let line = "--ops 300 --iodepth 4 --jobs 2 --service-time 9us --slots 3";
    let place = Place::new("same");
    let traced = sim(&format!("{line} --trace '{}'", place.file("trace.json")));
    assert!(sim(line).stdout == traced.stdout);
    assert!(!traced.stdout.is_empty());
}

/// The times in seconds at which a source begins and ceases to refuse.
fn pressures(lines: &str, source: &str) -> Vec<String> {
    let lines = lines.lines().filter(|line| line.contains(" pressure "));
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let told = words.filter(|words| words[words.len() - 2] == source);
    told.map(|words| format!("{} {}", words[3], words[words.len() - 1]))
        .collect()
}

#[test]
fn k03_slots_bandwidth_and_psi_tell_when_they_refuse() {
    let line = "--rw randwrite --ops 3 --iodepth 3 --slots 2 --service-time 1ms";
    let (_, lines, _) = traced("slots", line);
    let told = pressures(&lines, "slots");
    assert_eq!(told[0], "0.000000000 began");
    assert!(told.last().expect("some").ends_with(" ceased"), "{told:?}");

    // One tick lets 20 971 bytes pass: the sixth block of 4 KiB takes the balance below 0, and the
    // seventh waits for the next tick, at 20 ms.
    let (_, lines, _) = traced("mbps", "--rw write --ops 7 --iodepth 7 --mbps 1");
    let expected = ["0.000000000 began", "0.020000000 ceased"];
    assert_eq!(pressures(&lines, "bandwidth"), expected);

    let line = "--rw randwrite --duration 4ms --rate 1000 --psi 'some 150000 1000000' \
                --at '1ms:psi on' --at '2ms:psi off'";
    let (_, lines, _) = traced("psi", line);
    let expected = ["0.001000000 began", "0.002000000 ceased"];
    assert_eq!(pressures(&lines, "psi"), expected);
}

#[test]
fn k03_overwritten_events_are_counted_and_the_rest_is_a_whole_file() {
    let place = Place::new("lost");
    let file = place.file("trace.json");
    let output = sim(&format!("--ops 500 --trace '{file}' --records 64"));
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("older events were overwritten"), "{said}");
    let file = check(&std::fs::read(file).expect("a trace"));
    assert!(file.events.len() > 64);
}

#[test]
fn l1_a_trace_that_cannot_be_written_is_one_line() {
    let output = sim("--ops 1 --trace /nowhere/trace.json");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot write /nowhere/trace.json"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(output.stdout.is_empty(), "before the run");
}

/// All memory is there at the beginning. Each block is discarded, and made again by the write after it.
#[test]
fn k03_memory_is_a_counter_of_what_is_used() {
    let (file, lines, _) = traced("memory", "--rw trimwrite --ops 6 --iodepth 1 --size 1M");
    let full = (1 << 20) + 4 * 256;
    assert_eq!(file.memory, [full - 4096, full].repeat(3));
    let told = lines.lines().filter(|line| line.contains(" memory "));
    let told: Vec<_> = told
        .filter_map(|line| line.split(' ').next_back())
        .collect();
    assert_eq!(
        told,
        file.memory.iter().map(u64::to_string).collect::<Vec<_>>()
    );
}

/// Each hit of a rule is an event of its request, with the name of the rule.
#[test]
fn e29_k03_each_hit_of_a_rule_is_an_event() {
    let line = "--rw read --ops 20 --iodepth 1 --size 1M --rule 'slow: every 4: delay 1ms'";
    let (_, lines, json) = traced("rules", line);
    let hits = lines
        .lines()
        .filter(|line| line.contains(" rule ") && line.ends_with("slow"));
    assert_eq!(hits.count(), 5, "{lines}");
    let text = String::from_utf8_lossy(&json);
    assert!(text.contains("mq_rule"));
}
