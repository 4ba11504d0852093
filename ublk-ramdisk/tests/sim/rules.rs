// SPDX-License-Identifier: MIT OR Apache-2.0
//! E29 to E32 in `sim`: what each selector chooses and each action does, to the nanosecond of the
//! virtual clock.

use super::common::{figures, number, run, sim};

/// 100 reads of 4 KiB, one after the other, from byte 0 on.
const READS: &str = "--rw read --bs 4K --size 1M --ops 100 --iodepth 1";

/// How many of `READS` end with EIO.
fn failing(selectors: &str) -> u64 {
    let found = run(&format!("{READS} --rule 'r: {selectors}: error EIO'"));
    let errors = found.pointer("/errors/IOERR").and_then(|n| n.as_u64());
    assert_eq!(
        errors.unwrap_or(0),
        number(&found, "/total/read/errors"),
        "{selectors}"
    );
    errors.unwrap_or(0)
}

#[test]
fn e29_each_selector_chooses_what_it_says() {
    for (selectors, expected) in [
        ("any", 100),
        ("read", 100),
        ("write flush discard", 0),
        ("4K", 100),
        ("4K..8K", 100),
        ("..4095", 0),
        ("4097..", 0),
        ("@ 0-4K", 1),
        ("@ 4095-4097", 2),
        ("@ sector 8-15", 1),
        ("@ 8K-1M", 98),
        ("@ 1M-2M", 0),
        ("0%", 0),
        ("100%", 100),
        ("every 10", 10),
        ("every 3", 33),
        ("after 98", 2),
        ("after 7 every 10", 9),
        ("next 5", 5),
        ("next 5 every 2", 2),
        ("once", 1),
        ("times 3", 3),
        ("times 3 every 2 after 1", 3),
        ("times 0", 0),
        ("next 50 @ 8K-1M times 7", 7),
        ("when inflight > 0", 0),
    ] {
        assert_eq!(failing(selectors), expected, "{selectors}");
    }
    let share = failing("30%");
    assert!((15..=45).contains(&share), "{share}");
    assert_eq!(failing("30%"), share, "the same in each run");
}

#[test]
fn e29_a_time_window_and_the_requests_in_flight_select() {
    let found = run(
        "--rw read --iodepth 1 --ops 100 --rate 1000 --size 1M --rule 'any for 20ms: error EIO'",
    );
    // One each millisecond, the first after one.
    assert_eq!(number(&found, "/errors/IOERR"), 19);
    let found = run(
        "--rw randread --iodepth 16 --ops 640 --size 1M --service-time 1ms \
         --rule 'when inflight > 4: busy'",
    );
    // Four and the one that makes it more: five each millisecond.
    assert!(number(&found, "/refused_by/injection") > 0);
    let longest = number(&found, "/elapsed_ns");
    assert!((128_000_000..600_000_000).contains(&longest), "{longest}");
    let usual = run("--rw randread --iodepth 16 --ops 640 --size 1M --service-time 1ms");
    assert_eq!(number(&usual, "/elapsed_ns"), 40_000_000);
}

#[test]
fn e30_delays_are_those_of_their_distribution() {
    let mean = |delay: &str| {
        let found = run(&format!(
            "--rw read --iodepth 1 --ops 2000 --size 8M --rule 'read: delay {delay}'"
        ));
        let [mean, least, most] = ["mean", "min", "max"]
            .map(|of| found["total"]["latency"][of].as_f64().expect("a number") / 1e6);
        (mean, least, most)
    };
    let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 0.08;
    let (of_constant, least, most) = mean("2ms");
    assert!(near(of_constant, 2.0) && near(least, 2.0) && near(most, 2.0));
    let (of_uniform, least, most) = mean("uniform(1ms, 3ms)");
    assert!(near(of_uniform, 2.0) && near(least, 1.0) && near(most, 3.0));
    assert!(near(mean("exponential(2ms)").0, 2.0));
    // The mean is the median times e to the half of sigma squared.
    assert!(near(mean("lognormal(2ms, 0.5)").0, 2.0 * 1.1331));
    let (of_list, least, most) = mean("list(1ms, 2ms, 6ms)");
    assert!(near(of_list, 3.0) && near(least, 1.0) && near(most, 6.0));
}

#[test]
fn e30_delays_add_up_and_an_error_is_late_too() {
    let latency = |rules: &str| {
        let found = run(&format!("--rw read --iodepth 1 --ops 10 {rules}"));
        number(&found, "/elapsed_ns")
    };
    let slow = "--rule 'read: delay 1ms' --rule 'read: delay 2ms'";
    assert_eq!(latency(slow), 30_000_000);
    assert_eq!(
        latency(&format!("{slow} --rule 'read: error EIO'")),
        30_000_000
    );
    assert_eq!(
        latency(&format!("--rule 'read: error EIO' {slow}")),
        0,
        "in their order"
    );
}

/// A delayed DISCARD, which the disk would keep by itself, is late, too.
#[test]
fn e30_every_operation_can_be_delayed() {
    for op in ["write", "discard", "flush"] {
        let found = run(&format!(
            "--rw trimwrite --flush 20 --iodepth 1 --ops 60 --size 1M --rule '{op}: delay 5ms' --verify"
        ));
        let ops = number(&found, &format!("/total/{op}/ops"));
        assert!(ops > 3, "{op}");
        let elapsed = number(&found, "/elapsed_ns");
        assert!(
            elapsed >= 5_000_000 * ops && elapsed < 5_000_000 * (ops + 1),
            "{op}: {elapsed}"
        );
    }
}

#[test]
fn e31_each_status_is_what_the_client_gets() {
    for (errno, status) in [
        ("EIO", "IOERR"),
        ("ENOSPC", "NOSPC"),
        ("EREMOTEIO", "TARGET"),
    ] {
        let found = run(&format!("{READS} --rule 'read once: error {errno}'"));
        assert_eq!(number(&found, &format!("/errors/{status}")), 1);
    }
}

/// What is acknowledged and stored wrong, or not at all, is found by the check.
#[test]
fn e31_corruption_and_writes_that_are_ignored_are_found() {
    for action in ["corrupt bit", "ignore"] {
        let words = "--rw write --bs 4K --ops 64 --size 256K --verify";
        let output = sim(&format!("{words} --json --rule 'write next 3: {action}'"));
        assert_eq!(output.status.code(), Some(1), "{action}");
        let found = figures(&output);
        assert_eq!(number(&found, "/verify/failed"), 3, "{action}");
        assert_eq!(number(&found, "/total/write/errors"), 0, "{action}");
    }
    let found = run("--rw trimwrite --ops 64 --size 1M --verify --rule 'flush: ignore'");
    assert_eq!(number(&found, "/verify/failed"), 0);
}

#[test]
fn e31_partial_transfers_what_lies_before_the_place() {
    let words = "--rw write --bs 64K --size 1M --ops 16";
    let found = run(&format!(
        "{words} --rule 'write @ 80K-84K: error EIO partial'"
    ));
    assert_eq!(number(&found, "/errors/IOERR"), 1);
    let found = run(&format!("{words} --rule 'write once: error EIO partial'"));
    assert_eq!(number(&found, "/errors/IOERR"), 1);
}

#[test]
fn e31_busy_and_requeue_are_tried_again_and_fail_nothing() {
    for (action, refused, requeued) in [
        ("busy", 20, 0),
        ("busy dev", 20, 0),
        ("requeue", 0, 20),
        ("busy or requeue", 10, 10),
    ] {
        let found = run(&format!("{READS} --rule 'any every 3 times 20: {action}'"));
        // Nothing is in flight, so nothing would run the queue again after DEV_RESOURCE (B3).
        assert_eq!(
            number(&found, "/hctxs/0/refused_resource"),
            refused,
            "{action}"
        );
        assert_eq!(number(&found, "/hctxs/0/requeued"), requeued, "{action}");
        assert_eq!(number(&found, "/total/read/ops"), 100, "{action}");
    }
    let found = run(
        "--rw randread --iodepth 8 --ops 1000 --service-time 1ms --rule 'any every 3: busy dev'",
    );
    let [resource, dev] =
        ["resource", "dev_resource"].map(|of| number(&found, &format!("/hctxs/0/refused_{of}")));
    assert!(dev > 300 && resource < 50, "{dev} and {resource}");
    assert_eq!(number(&found, "/total/read/ops"), 1000);
}

/// What is turned away for another cause has not used up the rule.
#[test]
fn e29_a_rule_is_used_up_only_by_a_request_that_gets_through() {
    for pressure in [
        "--mbps 1",
        "--slots 1",
        "--rule 'b: any every 2 times 9: busy'",
        "--rule 'b: any every 2 times 9: requeue'",
    ] {
        let found = run(&format!(
            "--size 1M --rw write --bs 64K --ops 16 --iodepth 4 --rule 'a: write after 4 next 2: delay 70ms' \
             --rule 'e: write once: error EIO partial' {pressure}"
        ));
        assert_eq!(number(&found, "/errors/IOERR"), 1, "{pressure}");
        let slowest = number(&found, "/total/latency/max");
        assert!(slowest >= 70_000_000, "{pressure}: {slowest}");
    }
}

#[test]
fn e31_a_request_that_hangs_goes_on_when_its_rule_lets_go() {
    let words = "--rw write --iodepth 4 --ops 4 --bs 4K --size 1M --verify --rule 'h: write: hang'";
    for event in ["release h", "del h", "clear"] {
        let found = run(&format!("{words} --at '70s:rules {event}' --patience 2m"));
        let slowest = number(&found, "/total/latency/max");
        assert!(
            (70_000_000_000..70_100_000_000).contains(&slowest),
            "{event}: {slowest}"
        );
        assert_eq!(number(&found, "/verify/checked"), 4, "{event}");
    }
    let output = sim(&format!("{words} --patience 90s"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("stuck: 4 requests"), "for ever: {said}");
}

#[test]
fn e29_rules_are_added_changed_and_taken_away_while_they_are_used() {
    let found = run("--rw read --iodepth 1 --ops 100 --rate 1000 --size 1M \
         --at '10ms:rules add r: read times 5: error EIO' \
         --at '30ms:rules add s: read once: error ENOSPC' \
         --at '40ms:rules add r: read times 7: error EIO' \
         --at '60ms:set rule t: read: error EREMOTEIO' --at '70ms:rules del t' \
         --at '80ms:rules del nobody' --at '90ms:rules release nobody'");
    assert_eq!(number(&found, "/errors/IOERR"), 5 + 7);
    assert_eq!(number(&found, "/errors/NOSPC"), 1);
    assert_eq!(number(&found, "/errors/TARGET"), 10);
    let events = found["events"].to_string();
    assert_eq!(
        events.matches("no rule is called nobody").count(),
        2,
        "{events}"
    );
}

#[test]
fn e29_a_run_with_rules_is_the_same_to_the_byte() {
    let words = "--rw randrw --iodepth 8 --jobs 2 --ops 400 --json --service-time exp:100us --verify \
                 --rule 'read 10%: delay lognormal(1ms, 1)' --rule 'write 5%: delay exponential(3ms)' \
                 --rule 'any 3%: requeue' --rule 'any every 7: busy dev' --slots 5";
    let first = sim(words);
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    for _ in 0..3 {
        assert!(sim(words).stdout == first.stdout);
    }
}
