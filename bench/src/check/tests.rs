// SPDX-License-Identifier: MIT OR Apache-2.0
//! Figures of fio, the kernel and our server that agree, and that do not.

use super::*;

// A loop disk after tests/fio/trimmix.json, as it was.
const STAT: &str = "    1426        0    11408      140      622        0     4976       60        0        8      205       64        0     8192        4        0        0";
// A disk that was never used, or one on which the kernel counts nothing.
const NONE: &str = "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0";

// The sample that belongs to STAT.
fn mix() -> (Job, Sample) {
    let text = include_str!("../../tests/fio/trimmix.json");
    let sample = crate::fio::parse(text).unwrap();
    ("trimmix-4k-qd32".parse().unwrap(), sample)
}

// What the runner leaves beside a sample, with `more` lines.
fn file(more: &str) -> String {
    format!(
        "kernel.before\t{NONE}\nkernel.after\t{STAT}\nmost_bytes\t524288\nmost_discard\t4294966784\n{more}"
    )
}

// Reads, writes, write zeroes and discards as `ublk-ramdisk stats --json` says them.
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

/// What comes of comparing a sample of a job with the counts of a file.
fn check(job: &Job, sample: &Sample, text: &str) -> CrossCheck {
    let mut check = CrossCheck::default();
    let by = counted(text).unwrap();
    check.sample("here", "disk", job, sample, &by);
    check
}

/// The same of the kept sample.
fn check_mix(more: &str) -> CrossCheck {
    let (job, sample) = mix();
    check(&job, &sample, &file(more))
}

#[test]
fn a_real_disk_and_fio_agree() {
    let check = check_mix("");
    assert_eq!(check.differences, [""; 0]);
    assert_eq!((check.samples, check.compared), (1, 6));
    assert!(check.text().contains("no difference"));
}

#[test]
fn our_server_is_held_against_the_kernel_with_write_zeroes_as_writes() {
    let differences = |reads: u64, errors: u64| {
        let (before, after) = (ours([0; 4], 0), ours([reads, 600, 22, 64], errors));
        check_mix(&format!("ours.before\t{before}\nours.after\t{after}\n")).differences
    };
    assert_eq!(differences(1426, 0), [""; 0]);
    assert_eq!(
        differences(1425, 1),
        [
            "here, read requests: our server counted 1425, not 1426 as the kernel",
            "here, read bytes: our server counted 5836800, not 5840896 as the kernel",
            "here, errors: our server counted 1, not 0 as fio"
        ]
    );
}

/// How many of fio's figures differ if it has done this much more or less than it has, and in which jobs that is none of
/// the kernel's business.
#[test]
fn fio_and_the_kernel_must_agree_where_nothing_stands_between() {
    for (job, reads, discards, differences) in [
        ("trimmix-4k-qd32", 0, 0, 0),
        ("trimmix-4k-qd32", -1, 0, 2),
        ("randread-4k-qd32", -1000, 0, 2),
        // A block that is larger than a request is split: the kernel may have more requests, but not fewer, nor other bytes.
        ("trimmix-1m-qd32", -100, 0, 1),
        ("trimmix-1m-qd32", 100, 0, 2),
        // While it seeks a depth fio begins to count anew.
        ("randread-4k-qd128-lat1000us", -1000, 0, 0),
        // These go through the page cache.
        ("read-4k-qd1-buffered", -1000, 0, 0),
        ("trimwrite-64k-qd16", -1000, 0, 0),
        ("randtrimwrite-64k-qd16", -1000, 0, 0),
        ("trimmix-4k-qd32", 0, -8, 2),
    ] {
        let (_, mut sample) = mix();
        for (way, by, bytes) in [
            (&mut sample.read, reads, 4096),
            (&mut sample.trim, discards, 65536),
        ] {
            let way = way.as_mut().unwrap();
            way.ios = way.ios.saturating_add_signed(by);
            way.bytes = way.bytes.saturating_add_signed(by * bytes);
        }
        let found = check(&job.parse().unwrap(), &sample, &file(""));
        let found = found.differences;
        assert_eq!(
            found.len(),
            differences,
            "{job} {reads} {discards}: {found:?}"
        );
    }
}

#[test]
fn a_difference_is_said_with_the_place_and_both_figures() {
    let (job, mut sample) = mix();
    sample.write.as_mut().unwrap().bytes += 4096;
    let text = check(&job, &sample, &file("")).text();
    for part in [
        "1 DIFFERENCES",
        "here, write bytes: the kernel counted 2547712, not 2551808",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_disk_on_which_the_kernel_counts_nothing_is_named_once() {
    let (job, sample) = mix();
    let no_discards = STAT.replace("64        0     8192        4", "0 0 0 0");
    for (stat, compared, uncounted) in [
        (
            NONE,
            0,
            &["disk (read)", "disk (write)", "disk (discard)"][..],
        ),
        (no_discards.as_str(), 8, &["disk (discard)"]),
    ] {
        let by = counted(&file("").replace(STAT, stat)).unwrap();
        let mut check = CrossCheck::default();
        check.sample("here", "disk", &job, &sample, &by);
        check.sample("there", "disk", &job, &sample, &by);
        assert_eq!(check.differences, [""; 0]);
        assert_eq!((check.samples, check.compared), (2, compared));
        assert_eq!(check.uncounted, uncounted);
        assert!(check.text().contains("does not count on disk ("));
    }
}

#[test]
fn a_broken_file_is_said_to_be_broken() {
    for text in [
        "",
        "kernel.before\t1 2 3\nkernel.after\t1 2 3\n",
        &file("ours.before\t[]\nours.after\t[]\n"),
        &file("ours.before\tno\nours.after\tno\n"),
    ] {
        assert!(counted(text).is_err(), "{text}");
    }
}
