// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublk-ramdisk sim` with less memory than the disk has: the limit, what becomes of writes that
//! wait, and the same run each time (E2, E6, E10, E22).

use super::common::{figures, number, refused, run, sim};
use serde_json::Value;

const HALF: &str = "--rw randwrite --size 8M --memory-limit 4M --iodepth 16 --ops 3000 \
                    --service-time exp:100us --verify";

#[test]
fn e06_a_higher_limit_lets_the_writes_go_on_that_waited() {
    let found = run(&format!("{HALF} --at '2s:set memory-limit=off'"));
    assert_eq!(number(&found, "/total/write/errors"), 0);
    assert_eq!(number(&found, "/total/write/ops"), 3000);
    assert_eq!(number(&found, "/verify/failed"), 0);
    assert_eq!(number(&found, "/space/limit"), 0);
    assert!(number(&found, "/refused_by/memory") > 0);
    // Some waited until then, and none for much longer.
    let longest = number(&found, "/total/latency/max");
    assert!(
        (1_900_000_000..2_000_000_000).contains(&longest),
        "{longest}"
    );
}

#[test]
fn e22_writes_end_with_nospc_after_the_timeout() {
    let found = run(&format!("{HALF} --no-space-timeout 5"));
    let failed = number(&found, "/errors/NOSPC");
    assert_eq!(failed + number(&found, "/total/write/ops"), 3000);
    assert_eq!(number(&found, "/verify/failed"), 0, "E23: reads go on");
    assert!(number(&found, "/space/used") <= 4 << 20);
    let elapsed = number(&found, "/elapsed_ns");
    assert!(
        (5_000_000_000..6_000_000_000).contains(&elapsed),
        "{elapsed}"
    );
    // At once with the option, or later from the script.
    let found = run(&format!("{HALF} --error-if-no-space"));
    assert!(number(&found, "/errors/NOSPC") > 0);
    assert!(number(&found, "/elapsed_ns") < 1_000_000_000);
    let found = run(&format!("{HALF} --at '9s:set no-space-timeout=9'"));
    let elapsed = number(&found, "/elapsed_ns");
    assert!(
        (9_000_000_000..10_000_000_000).contains(&elapsed),
        "{elapsed}"
    );
}

/// A discard frees memory while a write is being ended for lack of it. The disk does not go on ending
/// writes then.
#[test]
fn e22_no_error_mode_with_room_left() {
    for seed in 1..=8 {
        let found = run(&format!(
            "--size 16M --rw randwrite --iodepth 16 --ops 8000 --seed {seed} --zeros 0 --discard 40 \
             --memory-limit 1M --error-if-no-space"
        ));
        let used = number(&found, "/space/used");
        let full = used + 4096 > number(&found, "/space/limit");
        assert!(
            full || found["space"]["mode"] != "error",
            "seed {seed}: {used}"
        );
    }
}

/// A discard that frees nothing, here of a part of a page, does not stop the time of writes that wait
/// (E24).
#[test]
fn e24_a_discard_that_frees_nothing_does_not_stop_the_timeout() {
    let script: String = (1..12)
        .map(|n| format!(" --at '{}s:discard 0,512'", n * 5))
        .collect();
    let found = run(&format!(
        "--size 4M --rw write --iodepth 4 --ops 600 --zeros 0 --memory-limit 1200K \
         --no-space-timeout 10{script}"
    ));
    assert!(number(&found, "/errors/NOSPC") > 0);
    let elapsed = number(&found, "/elapsed_ns");
    assert!(elapsed < 12_000_000_000, "{elapsed}");
}

/// Discards make room, so that writes to twice the limit get through (E10).
#[test]
fn e10_discards_make_room_for_the_writes_that_wait() {
    let found = run(
        "--rw trimwrite --size 8M --memory-limit 4M --iodepth 4 --ops 6000 --service-time 100us \
         --verify --at '100ms:discard 0,4194304' --at '300ms:discard 4194304,4194304'",
    );
    assert_eq!(number(&found, "/total/write/errors"), 0);
    assert_eq!(number(&found, "/verify/failed"), 0);
}

/// More is written than the limit allows. Pages of zeros are given back, and the time line shows it.
#[test]
fn e19_pages_of_zeros_make_room_on_the_time_line() {
    let words = "--rw write --size 8M --memory-limit 4M --bs 64K --ops 120 --rate 100 --verify \
                 --error-if-no-space --sample 100ms";
    let sum = |found: &Value, name: &str| -> u64 {
        let samples = found["samples"].as_array().expect("a time line");
        samples.iter().map(|sample| number(sample, name)).sum()
    };
    let found = run(&format!("{words} --zeros 100"));
    assert_eq!(number(&found, "/verify/failed"), 0);
    assert_eq!(number(&found, "/total/write/errors"), 0);
    let given_back = number(&found, "/space/zero");
    assert!(given_back >= 60 << 16, "{given_back}");
    assert_eq!(sum(&found, "/zero"), given_back);
    // Without any it is full.
    let found = run(&format!("{words} --zeros 0"));
    assert_eq!(number(&found, "/space/zero"), 0);
    let no_space = number(&found, "/errors/NOSPC");
    assert!(no_space > 50, "{no_space}");
    assert_eq!(sum(&found, "/no_space"), no_space);
    for sample in found["samples"].as_array().expect("a time line") {
        assert!(number(sample, "/used") <= number(sample, "/limit"));
    }
    let modes = [0, 10].map(|n| found["samples"][n]["mode"].clone());
    assert_eq!(modes, ["enough", "error"]);
}

#[test]
fn a_thin_run_is_the_same_to_the_byte() {
    let words = "--rw randrw --size 16M --memory-limit 6M --iodepth 16 --jobs 4 --queues 2 \
                 --cpus 4 --ops 3000 --verify --discard 10 --flush 2 --service-time exp:100us \
                 --rate poisson:20000 --reclaim-every 1 --inject requeue=3,50,0,-1 \
                 --sample 100ms --at '300ms:set memory-limit=7M' --at '2s:set no-space-timeout=3' \
                 --json";
    let first = sim(words);
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    let found = figures(&first);
    assert!(number(&found, "/refused_by/memory") > 0);
    assert!(number(&found, "/space/used") > 4 << 20);
    let again = sim(words);
    assert!(again.stdout == first.stdout, "another run");
}

#[test]
fn l1_memory_that_no_disk_can_have_is_refused() {
    refused("--memory-limit 4K", "'--memory-limit 4096' 'too little'");
    refused("--memory-limit x", "--memory-limit 1.5G");
    refused("--no-space-timeout 500", "--no-space-timeout --force");
    let both = "--preallocate --memory-limit 1M";
    refused(both, "--preallocate --memory-limit");
    refused("--reclaim all", "--reclaim zero");
    refused("--zeros 101", "'--zeros 101' '100 per cent'");
    refused("--at '1s:set memory-limit=x'", "--at 'or off'");
    // What only the disk can tell is said where it happens.
    let found = run("--ops 100 --at '1us:set memory-limit=4K' --service-time 10us");
    let event = found.pointer("/events/0/what").and_then(Value::as_str);
    assert!(
        event.is_some_and(|what| what.contains("too little")),
        "{event:?}"
    );
}
