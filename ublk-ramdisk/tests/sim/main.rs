// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublk-ramdisk sim` as a program: the same run each time, right data, the figures of C18 and D7,
//! and one line for bad usage.

#[path = "../common/chrome_format.rs"]
mod chrome_format;
mod common;
mod rules;
mod script;
mod space;
mod trace;

use common::{figures, number, refused, run, sim};
use std::process::{Command, Output};

/// A run with everything in it that could depend on which thread is quicker.
const EVERYTHING: &str = "
    --rw randrw --iodepth 16 --jobs 8 --queues 4 --cpus 4 --ops 400 --verify --flush 2 --discard 5
    --service-time exp:100us --inject requeue=3,50,0,-1 --rate poisson:20000 --call-cost 2us
    --hogs 2:1ms --sample 1ms --json --at '0:fail-worker-creation on' --at '5ms:busy on'
    --at '15ms:busy off' --at '150ms:fail-worker-creation off'";

#[test]
fn a_run_is_the_same_to_the_byte_each_time() {
    let first = sim(EVERYTHING);
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    for round in 1..5 {
        let again = sim(EVERYTHING);
        assert!(again.stdout == first.stdout, "run {round} differs");
    }
    let other = sim(&format!("{EVERYTHING} --seed 2"));
    let total = |output: &Output| figures(output)["total"].clone();
    assert!(
        total(&other) != total(&first),
        "another seed changes nothing"
    );
    let found = figures(&first);
    assert_eq!(number(&found, "/verify/failed"), 0);
    assert!(number(&found, "/verify/checked") > 1000);
    assert!(
        number(&found, "/kblockd/rescued") > 0,
        "{}",
        found["kblockd"]
    );
    assert!(number(&found, "/refused_by/injection") > 0);
}

#[test]
fn every_kind_of_load_reads_back_what_was_written() {
    let (ops, jobs) = (300, 3);
    for rw in "read write rw randread randwrite randrw trimwrite".split(' ') {
        let found = run(&format!(
            "--rw {rw} --ops {ops} --jobs {jobs} --iodepth 8 --batch 4 --verify \
             --service-time 1us..50us --size 4M"
        ));
        let kinds = ["read", "write", "discard", "flush"];
        let sum: u64 = kinds
            .iter()
            .map(|kind| number(&found, &format!("/total/{kind}/ops")))
            .sum();
        assert_eq!(sum, ops * jobs, "{rw}");
        assert_eq!(number(&found, "/total/latency/count"), sum, "{rw}");
        assert_eq!(number(&found, "/verify/failed"), 0, "{rw}");
        assert!(number(&found, "/verify/checked") > 0, "{rw}");
    }
}

#[test]
fn a_damaged_byte_is_found() {
    let words = "--rw write --ops 64 --size 1M --verify --service-time 10us";
    let output = sim(&format!("{words} --at '630us:corrupt 40963'"));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("byte 40960") && said.contains("1 blocks are wrong"),
        "{said}"
    );
    // Damage that is overwritten does no harm.
    let overwritten = sim(&format!("{words} --at '5us:corrupt 40963'"));
    assert_eq!(overwritten.status.code(), Some(0));
}

#[test]
fn m3_the_old_rules_spin_and_the_new_ones_wait() {
    let calls = |rules: &str| {
        let found = run(&format!(
            "--blk-mq {rules} --call-cost 1us --iodepth 8 --ops 8 --verify --rw write \
             --at '0:busy on' --at '30ms:busy off'"
        ));
        assert_eq!(number(&found, "/verify/checked"), 8);
        number(&found, "/hctxs/0/refused_resource")
    };
    let (new, old) = (calls("7.2"), calls("3.x"));
    assert!(new < 30, "{new}");
    // One call per microsecond, for 30 ms.
    assert!((29_000..31_000).contains(&old), "{old}");
}

#[test]
fn c18_from_idle_two_calls_at_once_and_then_one_per_3_ms() {
    let calls = |busy_for: &str| {
        let found = run(&format!(
            "--ops 1 --at '0:busy on' --at '{busy_for}:busy off'"
        ));
        number(&found, "/hctxs/0/refused_resource")
    };
    // The first on arrival, the second in the run that follows at once.
    assert_eq!(calls("2999us"), 2);
    assert_eq!(calls("3500us"), 3);
    assert_eq!(calls("6500us"), 4);
    // After the first two no more than 334 per second.
    let found = run("--ops 1 --at '0:busy on' --at '10s:busy off'");
    let tries = number(&found, "/hctxs/0/refused_resource");
    assert!((3330..=3342).contains(&tries), "{tries}");
    assert_eq!(number(&found, "/total/latency/max") / 100_000_000, 100);
}

#[test]
fn e05_c18_a_disk_that_refuses_every_try_is_not_tried_without_end() {
    // The first `failing` tries fail. The latency in milliseconds is the time that they take.
    let latency = |waiting: u64, failing: u64| {
        let found = run(&format!(
            "--iodepth {waiting} --ops {waiting} --inject requeue=1,100,0,{failing}"
        ));
        let refused = number(&found, "/hctxs/0/refused_resource");
        assert_eq!(refused + number(&found, "/hctxs/0/requeued"), failing);
        number(&found, "/total/latency/max") / 1_000_000
    };
    // One request: three tries at once, by RESOURCE, its run, and the kick; then one per 3 ms.
    assert_eq!(latency(1, 3 + 1000), 3003);
    // Of several, RESOURCE has one tried again after 3 ms, and a requeue another.
    for waiting in [2, 3, 16, 64] {
        let took = latency(waiting, 2 + 3 * waiting + 2000);
        assert!(
            (2990..=6100).contains(&took),
            "{waiting} waiting: {took} ms"
        );
    }
}

#[test]
fn b03_dev_resource_is_tried_again_by_the_driver_that_promised_it() {
    let found = run("--ops 1 --at '0:busy dev' --at '10s:busy off'");
    assert_eq!(number(&found, "/hctxs/0/refused_dev_resource"), 2);
    assert_eq!(number(&found, "/hctxs/0/run_delayed"), 0);
}

const D7: &str = "--queues 64 --jobs 64 --ops 1 --at '0:fail-worker-creation on' \
                  --at '0:busy on' --at '200ms:busy off'";

#[test]
fn d07_64_queues_resume_through_the_rescuer() {
    let found = run(D7);
    assert_eq!(number(&found, "/total/read/ops"), 64);
    assert!(
        number(&found, "/kblockd/rescued") >= 64,
        "{}",
        found["kblockd"]
    );
    assert_eq!(found["kblockd"]["rescued"], found["kblockd"]["completed"]);
}

#[test]
fn d07_without_mem_reclaim_they_stay_stuck() {
    let output = sim(&format!("{D7} --kblockd-flags highpri,percpu --json"));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("stuck: 64 requests of 64 hardware queues"),
        "{said}"
    );
    // The figures are printed all the same.
    let found = figures(&output);
    assert_eq!(number(&found, "/kblockd/completed"), 0);
    assert_eq!(number(&found, "/total/read/ops"), 0);
}

#[test]
fn e01_slots_can_be_changed_while_requests_are_in_flight() {
    let found = run(
        "--iodepth 16 --service-time 1ms --duration 3s --slots 16 --sample 1s \
         --at '1s:set slots=4' --at '2s:set slots=off'",
    );
    let iops = |n: usize| found["samples"][n]["iops"].as_f64().expect("a number");
    // Slots over service time, and without a limit the depth over service time.
    assert!((15_900.0..=16_000.0).contains(&iops(0)), "{}", iops(0));
    assert!((3_900.0..=4_100.0).contains(&iops(1)), "{}", iops(1));
    assert!((15_900.0..=16_100.0).contains(&iops(2)), "{}", iops(2));
    assert!(number(&found, "/refused_by/slots") > 0);
}

/// A range that is bad once is met by the try that is accepted, not by one that is refused.
#[test]
fn e17_a_range_that_is_bad_once_is_met_after_a_refused_try() {
    for pressure in [
        "",
        "--mbps 1",
        "--slots 1",
        "--memory-limit 512K --error-if-no-space",
    ] {
        let found = run(&format!(
            "--size 1M --rw write --bs 64K --ops 8 {pressure} \
             --inject badblocks=192-199:once:partial"
        ));
        assert_eq!(number(&found, "/errors/IOERR"), 1, "{pressure}");
        assert_eq!(number(&found, "/total/write/errors"), 1, "{pressure}");
    }
}

#[test]
fn e15_mbps_is_met_on_the_virtual_clock() {
    let found = run("--iodepth 8 --bs 64K --duration 10s --service-time 10us --mbps 100");
    let rate = found["total"]["bytes_per_s"].as_f64().expect("a number") / f64::from(1 << 20);
    assert!((95.0..=105.0).contains(&rate), "{rate}");
    assert!(number(&found, "/refused_by/bandwidth") > 0);
}

const UNDER_PSI: &str = "--psi 'some 150000 1000000' --at '0:psi on'";

#[test]
fn e13_psi_refuses_no_request_for_longer_than_a_second() {
    let found = run(&format!(
        "{UNDER_PSI} --rw randwrite --ops 10 --service-time 1ms"
    ));
    assert_eq!(number(&found, "/total/write/ops"), 10);
    assert!(number(&found, "/refused_by/psi") > 0);
    let longest = number(&found, "/total/latency/max");
    assert!((900_000_000..1_100_000_000).contains(&longest), "{longest}");
}

/// What `sim --help` gives as examples can be typed as it stands there.
#[test]
fn l1_the_examples_of_the_help_run() {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_ublk-ramdisk"));
    let help = Command::new(program).args(["sim", "--help"]).output();
    let help = String::from_utf8(help.expect("the program starts").stdout).unwrap();
    let (_, examples) = help.split_once("Examples:\n").expect("there are some");
    let (examples, _) = examples.split_once("\n\n").expect("an end of them");
    let place = std::env::temp_dir().join(format!("sim-examples-{}", std::process::id()));
    std::fs::create_dir(&place).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    for example in examples.replace("\\\n", " ").lines() {
        let mut shell = Command::new("sh");
        shell.args(["-c", example]).env("PATH", &path);
        let output = shell.current_dir(&place).output().unwrap();
        assert!(output.status.success(), "{example}: {output:?}");
    }
    std::fs::remove_dir_all(&place).unwrap();
}

/// Each write waits for its own second, at the same time as the others. Reads do not wait (E10).
#[test]
fn e13_e10_writes_that_psi_refuses_hold_back_no_other_request() {
    let pressed = |words: &str| run(&format!("{UNDER_PSI} {words}"));
    let found = pressed("--size 64M --rw write --iodepth 16 --ops 32");
    let longest = number(&found, "/total/latency/max");
    assert!((900_000_000..1_100_000_000).contains(&longest), "{longest}");
    // Nothing was written before, so reads need no memory. Half of the requests are reads.
    let found = pressed("--size 64M --rw randrw --iodepth 16 --ops 200");
    let median = number(&found, "/total/latency/p50");
    assert!(median < 1_100_000_000, "{median}");
    let slowest = number(&found, "/total/latency/max");
    assert!(slowest < 1_100_000_000, "{slowest}");
    // A write that would be refused again is not tried each time that a read ends.
    let found = pressed("--size 64M --rw randrw --iodepth 64 --ops 2000 --service-time 100us");
    let refusals = number(&found, "/refused_by/psi");
    let writes = number(&found, "/total/write/ops");
    assert!(
        refusals <= 10 * writes,
        "{refusals} refusals of {writes} writes"
    );
}

/// A limit above the number of tags is no limit, and can be lowered later.
#[test]
fn e01_the_largest_limit_of_slots_and_a_small_one_after_it() {
    for script in [
        "--at '100ms:set slots=4' --at '200ms:set slots=5'",
        "--at '100ms:set slots=off' --at '200ms:set slots=4'",
    ] {
        let most = u32::MAX;
        let found = run(&format!(
            "--size 1M --ops 1000 --rate 1000 --slots {most} {script}"
        ));
        assert_eq!(number(&found, "/total/read/ops"), 1000);
        assert_eq!(number(&found, "/total/latency/max"), 0, "nobody waited");
    }
}

#[test]
fn d01_highpri_does_not_wait_for_hogs() {
    let slowest = |flags: &str| {
        let found = run(&format!(
            "--hogs 2:10ms --inject requeue=2,100,0,-1 --ops 200 --kblockd-flags {flags} \
             --service-time 10us"
        ));
        number(&found, "/total/latency/max")
    };
    assert!(slowest("mem_reclaim,highpri,percpu") < 5_000_000);
    assert!(slowest("mem_reclaim,percpu") >= 10_000_000);
}

#[test]
fn l1_a_bad_value_is_named_in_one_line() {
    for (option, bad, form) in [
        ("--rw", "dance", "randread"),
        ("--bs", "5X", "1.5G"),
        ("--iodepth", "many", "invalid"),
        ("--jobs", "-1", "--jobs"),
        ("--rate", "0", "poisson:RATE"),
        ("--ops", "x", "invalid"),
        ("--duration", "5", "10ms"),
        ("--seed", "-1", "--seed"),
        ("--service-time", "2us..1us", "longer"),
        ("--rerun-delay", "soon", "never"),
        ("--call-cost", "1", "10ms"),
        ("--blk-mq", "4.x", "3.x"),
        ("--kblockd-flags", "percpu,unbound", "exclude"),
        ("--hogs", "4", "COUNT:TIME"),
        ("--at", "3ms:dance", "fail-worker-creation"),
        ("--at", "busy on", "TIME:EVENT"),
        ("--sample", "now", "10ms"),
        ("--patience", "long", "10ms"),
        ("--inject", "requeue=1", "INTERVAL"),
        ("--size", "0", "--size"),
        ("--queues", "0", "--queues"),
        ("--depth", "5000", "4096"),
    ] {
        refused(&format!("{option} '{bad}'"), &format!("{option} '{form}'"));
    }
    refused("--bs 1000", "'--bs 1000' '--block-size 512'");
    refused("--bs 1M", "--bs --io-buffer");
    refused("--iodepth 129", "'--iodepth 129' '--depth 128'");
    refused("--iodepth 4 --batch 5", "'--batch 5' '--iodepth 4'");
    refused("--jobs 0", "'--jobs 0' 1..=4096");
    refused("--jobs 100", "'--jobs 100' '--queues 1'");
    refused("--flush 60 --discard 60", "'--flush 60' '--discard 60'");
    refused("--read-share 101", "'--read-share 101'");
    refused("--size 16K --iodepth 8", "'--size 16384' '--iodepth 8'");
    refused("--size 4T", "--size --bs");
    refused("--read-only --rw write", "--read-only --rw");
    refused("--ops 0", "'--ops 0'");
    refused("--duration 0", "'--duration 0'");
    refused("--blk-mq 3.x", "'--blk-mq 3.x' --call-cost");
    refused("--rerun-delay 0", "'--rerun-delay 0' --call-cost");
    refused("--duration 1s", "--duration --service-time");
    refused("--at '0:corrupt 67108864'", "'corrupt 67108864' 67108864");
    refused("--at '0:discard 1,512'", "'discard 1,512' 512");
}
