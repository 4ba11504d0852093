// SPDX-License-Identifier: MIT OR Apache-2.0
//! Figures of fio, the kernel and our server that agree, and that do not.

use super::*;

// A loop disk after tests/fio/trimmix.json, as it was.
const STAT: &str = "    1426        0    11408      140      622        0     4976       60        0        8      205       64        0     8192        4        0        0";
const NONE: &str = "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0";

fn mix() -> (Job, Sample) {
    let text = include_str!("../../tests/fio/trimmix.json");
    let sample = crate::fio::parse(text).unwrap();
    ("trimmix-4k-qd32".parse().unwrap(), sample)
}

fn file(more: &str) -> String {
    format!(
        "kernel.before\t{NONE}\nkernel.after\t{STAT}\nmost_bytes\t524288\nmost_discard\t4294966784\n{more}"
    )
}

fn ours(counts: [u64; 4], errors: u64) -> String {
    let [reads, writes, zeroes, discards] = counts;
    let count = |n: u64, of: u64| format!(r#"{{"requests":{n},"bytes":{}}}"#, n * of);
    format!(
        r#"[{{"id":0,"queues":[{{"errors":{errors},"read":{},"write":{},"flush":{},"discard":{},"write_zeroes":{}}}]}}]"#,
        count(reads, 4096),
        count(writes, 4096),
        count(0, 0),
        count(discards, 65536),
        count(zeroes, 4096),
    )
}

fn trace(reads: usize) -> String {
    let line = |kind: &str, sectors: u32, count: usize| {
        format!("fio-7 [0] 1.2: block_rq_complete: 7,0 {kind} () 8 + {sectors} none,0,0 [0]\n")
            .repeat(count)
    };
    line("R", 8, reads) + &line("WS", 8, 622) + &line("DS", 128, 64)
}

fn check(more: &str, trace: Option<&str>) -> CrossCheck {
    let (job, sample) = mix();
    let mut check = CrossCheck::default();
    let by = counted(&file(more), trace).unwrap();
    check.sample("here", "loop", &job, &sample, &by);
    check
}

#[test]
fn a_real_disk_and_fio_agree() {
    let check = check("", None);
    assert_eq!(check.differences, [""; 0]);
    assert_eq!((check.samples, check.compared), (1, 6));
    assert!(check.text().contains("no difference"));
}

#[test]
fn our_server_is_held_against_the_kernel_with_write_zeroes_as_writes() {
    let check = |reads: u64, errors: u64| {
        let (before, after) = (ours([0; 4], 0), ours([reads, 600, 22, 64], errors));
        check(
            &format!("ours.before\t{before}\nours.after\t{after}\n"),
            None,
        )
    };
    assert_eq!(check(1426, 0).differences, [""; 0]);
    let wrong = check(1425, 1).differences;
    assert_eq!(
        wrong,
        [
            "here, read requests: our server counted 1425, not 1426 as the kernel",
            "here, read bytes: our server counted 5836800, not 5840896 as the kernel",
            "here, errors: our server counted 1, not 0 as fio"
        ]
    );
}

#[test]
fn the_tracepoint_is_held_against_the_kernel() {
    assert_eq!(check("", Some(&trace(1426))).differences, [""; 0]);
    let wrong = check("", Some(&trace(1427))).differences;
    assert_eq!(wrong.len(), 2, "requests and bytes: {wrong:?}");
}

#[test]
fn a_difference_between_fio_and_the_kernel_is_said() {
    let (job, mut sample) = mix();
    sample.write.as_mut().unwrap().bytes += 4096;
    let mut check = CrossCheck::default();
    let by = counted(&file(""), None).unwrap();
    check.sample("batch, x, round 1", "batch", &job, &sample, &by);
    let text = check.text();
    assert!(text.contains("1 DIFFERENCES"), "{text}");
    assert!(
        text.contains("batch, x, round 1, write bytes: the kernel counted 2547712, not 2551808")
    );
}

#[test]
fn blocks_larger_than_a_request_are_split_and_buffered_ones_are_the_kernels_own() {
    let (mut job, mut sample) = mix();
    job.bs = 1 << 20;
    sample.read.as_mut().unwrap().ios -= 100;
    let by = counted(&file(""), None).unwrap();
    let mut check = CrossCheck::default();
    check.sample("here", "loop", &job, &sample, &by);
    assert_eq!(check.differences, [""; 0], "the kernel may have more");
    sample.read.as_mut().unwrap().ios += 200;
    check.sample("here", "loop", &job, &sample, &by);
    assert_eq!(check.differences.len(), 1, "but not less");
    let buffered: Job = "read-4k-qd1-buffered".parse().unwrap();
    let mut check = CrossCheck::default();
    check.sample("here", "loop", &buffered, &sample, &by);
    assert_eq!((check.compared, check.samples), (0, 1));
}

#[test]
fn what_fio_counts_anew_or_writes_through_the_page_cache_is_no_difference() {
    let (_, mut sample) = mix();
    sample.read.as_mut().unwrap().ios -= 1000;
    sample.read.as_mut().unwrap().bytes -= 4_096_000;
    let by = counted(&file(""), None).unwrap();
    let differences = |job: &str| {
        let mut check = CrossCheck::default();
        check.sample("here", "loop", &job.parse().unwrap(), &sample, &by);
        check.differences.len()
    };
    assert_eq!(differences("randread-4k-qd32"), 2);
    assert_eq!(differences("randread-4k-qd128-lat1000us"), 0);
    assert_eq!(differences("trimwrite-64k-qd16"), 0);
    assert_eq!(differences("randtrimwrite-64k-qd16"), 0);
}

#[test]
fn a_disk_on_which_the_kernel_counts_nothing_is_named() {
    let (job, sample) = mix();
    let by = counted(&file("").replace(STAT, NONE), None).unwrap();
    let mut check = CrossCheck::default();
    check.sample("here", "brd", &job, &sample, &by);
    check.sample("there", "brd", &job, &sample, &by);
    assert_eq!(check.differences, [""; 0]);
    assert_eq!(
        check.uncounted,
        ["brd (read)", "brd (write)", "brd (discard)"]
    );
    assert!(check.text().contains("does not count on brd (read)"));
    let no_discards = STAT.replace("64        0     8192        4", "0 0 0 0");
    let by = counted(&file("").replace(STAT, &no_discards), None).unwrap();
    let mut check = CrossCheck::default();
    check.sample("here", "zram", &job, &sample, &by);
    assert_eq!((check.differences.len(), check.compared), (0, 4));
    assert_eq!(check.uncounted, ["zram (discard)"]);
}

#[test]
fn what_the_tracepoint_says_is_summed_up() {
    let text = "\
 kworker/0:1H-9 [000] ..s1. 12.5: block_rq_complete: 259,0 WS () 2048 + 8 none,0,0 [0]
 fio-700 [001] d.h1. 12.6: block_rq_complete: 259,0 R () 8 + 1024 none,0,0 [0]
 fio-700 [001] d.h1. 12.6: block_rq_complete: 259,0 R () 1032 + 0 none,0,0 [0]
 fio-700 [001] d.h1. 12.6: block_rq_complete: 259,0 RA () 8 + 8 none,0,0 [0]
 fio-700 [001] d.h1. 12.6: block_rq_complete: 259,0 DS () 0 + 128 none,0,0 [0]
 fio-700 [001] d.h1. 12.6: block_rq_complete: 259,0 FF () 0 + 0 none,0,0 [0]
 fio-700 [001] d.h1. 12.6: block_rq_complete: 259,0 FWS () 0 + 8 none,0,0 [0]
 fio-700 [001] d.h1. 12.6: block_rq_issue: 259,0 FWS 4096 () 0 + 8 none,0,0 [fio]
# nothing else
";
    let counts = trace_counts(text);
    assert_eq!(counts.map(|count| count.ios), [2, 2, 1, 1]);
    assert_eq!(counts.map(|count| count.bytes / 512), [1032, 16, 128, 0]);
}

#[test]
fn discards_beside_the_job_are_no_difference() {
    let (job, mut sample) = mix();
    sample.trim.as_mut().unwrap().ios -= 8;
    sample.trim.as_mut().unwrap().bytes -= 8 << 16;
    let differences = |more: &str| {
        let mut check = CrossCheck::default();
        let by = counted(&file(more), None).unwrap();
        check.sample("here", "batch+memory", &job, &sample, &by);
        check.differences.len()
    };
    assert_eq!(differences(""), 2);
    assert_eq!(differences("others.discard\tyes\n"), 0);
}

#[test]
fn what_was_refused_meanwhile_is_the_servers_word() {
    let json = |psi: u64, slots: u64| {
        let hctx = format!(r#""hctx":{{"refused_by":{{"psi":{psi},"slots":{slots}}}}}"#);
        ours([0; 4], 0).replace(r#""errors":0"#, &format!(r#""errors":0,{hctx}"#))
    };
    let text = format!("ours.before\t{}\nours.after\t{}\n", json(3, 1), json(50, 1));
    let by = refused(&text).unwrap();
    assert_eq!((by.psi, by.total()), (47, 47));
    assert!(!is_to_be_compared(&text), "only the server was asked");
    assert_eq!(refused(&file("")), None);
    assert!(is_to_be_compared(&file("")));
}

#[test]
fn a_broken_file_is_said_to_be_broken() {
    for text in [
        "",
        "kernel.before\t1 2 3\nkernel.after\t1 2 3\n",
        &file("ours.before\t[]\nours.after\t[]\n"),
        &file("ours.before\tno\nours.after\tno\n"),
    ] {
        assert!(counted(text, None).is_err(), "{text}");
    }
}
