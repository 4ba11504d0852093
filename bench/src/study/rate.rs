// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study a: throughput, latency and tries by the share of refusals and by the number of slots; on the real driver also
//! the kernel's null_blk beside ours under the same limit of bandwidth.

use super::device::act::{load, Fio, Guest, NullBlk};
use super::reading::Reading;
use super::table::{column, measured, Block, Column, Draw, Picture, Spec};
use super::StudyError;
use serde_json::json;

const LOAD: &str = "--iodepth 32 --service-time 100us --rw randread --ops {n} {0+}";
/// Samples of a distribution that are kept.
const KEPT: usize = 2000;
const N: [usize; 2] = [9600, 1600];

fn of_most(r: &Reading) -> f64 {
    r.iops / r.full
}

/// What 32 requests at a time would do, with this many slots.
fn allowed(r: &Reading) -> f64 {
    r.full * r.words[0] / 32.0
}

const COLUMNS: &[Column] = &[
    column("reads/s", |r| r.iops),
    measured("of the most", of_most, "share of full throughput, {}", ""),
    measured("tries per I/O", Reading::calls, "tries per I/O, {}", ""),
    measured("runs per I/O", Reading::runs, "runs per I/O, {}", ""),
    measured("median, ms", |r| r.latency(0), "median latency, {}", "ms"),
    column("90 %, ms", |r| r.latency(1)),
    measured("99 %, ms", |r| r.latency(2), "p99 latency, {}", "ms"),
    column("99.9 %, ms", |r| r.latency(3)),
    column("longest, ms", |r| r.latency(4)),
    measured(
        "BUSY, % of the answers",
        Reading::busy,
        "BUSY among the answers, {}",
        "%",
    ),
    column("calls and runs per I/O", |r| r.calls() + r.runs()),
];

/// In the simulation.
pub const SPEC: Spec = Spec {
    blocks: &[
        Block {
            vary: &[&[
                "0|",
                "10|--inject requeue=1,10,0,-1",
                "25|--inject requeue=1,25,0,-1",
                "50|--inject requeue=1,50,0,-1",
                "75|--inject requeue=1,75,0,-1",
                "90|--inject requeue=1,90,0,-1",
                "95|--inject requeue=1,95,0,-1",
                "99|--inject requeue=1,99,0,-1",
            ]],
            make: LOAD,
            n: N,
            key: "{0} % refused",
            heads: &[("refused, %", "{0}")],
            columns: COLUMNS,
            ..Block::NEW
        },
        Block {
            vary: &[&[
                "1|--slots 1",
                "2|--slots 2",
                "4|--slots 4",
                "8|--slots 8",
                "16|--slots 16",
                "32|--slots 32",
            ]],
            make: LOAD,
            n: N,
            key: "{0} of 32 slots",
            heads: &[("slots", "{0}")],
            columns: COLUMNS,
            ..Block::NEW
        },
    ],
    full: 0.0,
    ratios: &[["throughput, nothing refused", "reads/s, 0 % refused", "1", "/s"]],
    sums: &[],
    pictures: &[
        Picture {
            id: "refused",
            title: "Throughput by the share of tries that are refused",
            alt: "Throughput in per cent of the most, and the share of tries that are accepted, against the share of tries \
                  that the driver refuses.",
            draw: Draw::Lines(
                [("tries refused, %", false), ("%", false)],
                &[
                    (0, "throughput, % of the most", |r| r.words[0], |r| of_most(r) * 100.0),
                    (0, "tries accepted, % of all", |r| r.words[0], |r| 100.0 / r.calls()),
                ],
            ),
            rows: (&[0], &[0, 1, 2, 3, 4, 6]),
        },
        Picture {
            id: "latency",
            title: "Latency by percentile: refusals make a tail of whole delays",
            alt: "Latency of reads by percentile with 0, 10, 50 and 90 per cent of the tries refused.",
            draw: Draw::Percentiles(
                0,
                "{0} % of the tries refused",
                &["0 % refused", "10 % refused", "50 % refused", "90 % refused"],
                KEPT,
            ),
            rows: (&[0], &[4, 5, 6, 7, 8]),
        },
        Picture {
            id: "slots",
            title: "Throughput by the number of device-wide slots, 32 requests in flight",
            alt: "Reads per second against the number of slots from 1 to 32, both by decades: a straight line.",
            draw: Draw::Lines(
                [("slots", true), ("reads per second", true)],
                &[(1, "reads/s", |r| r.words[0], |r| r.iops)],
            ),
            rows: (&[1], &[0, 1, 2, 3, 4, 6, 9, 10]),
        },
        Picture {
            id: "slots-latency",
            title: "Latency by percentile with 32 requests for 1 to 32 slots: each waits its turn",
            alt: "Latency of reads by percentile with 1, 4, 16 and 32 slots for 32 requests.",
            draw: Draw::Percentiles(
                1,
                "{0} of 32 slots",
                &["32 of 32 slots", "16 of 32 slots", "4 of 32 slots", "1 of 32 slots"],
                KEPT,
            ),
            rows: (&[1], &[4, 5, 6, 7, 8]),
        },
        Picture {
            id: "busy-throughput",
            title: "BUSY costs throughput where nothing announces its end",
            alt: "Throughput in per cent of what the requests served at a time allow, against the share of BUSY among the \
                  driver's answers, for tries refused by chance and for slots.",
            draw: Draw::Lines(
                [("answers that were BUSY, %", false), ("throughput, % of what service allows", false)],
                &[
                    (0, "every try refused by chance", Reading::busy, |r| of_most(r) * 100.0),
                    (1, "refused while no slot is free", Reading::busy, |r| r.iops / allowed(r) * 100.0),
                ],
            ),
            rows: (&[1], &[0, 1, 2, 3, 4, 6, 9, 10]),
        },
        Picture {
            id: "busy-cost",
            title: "What an I/O costs by the share of BUSY, in calls of the driver and runs of the queue",
            alt: "Calls of queue_rq and runs of the hardware queue per I/O against the share of BUSY among the driver's \
                  answers, for tries refused by chance and for slots.",
            draw: Draw::Lines(
                [("answers that were BUSY, %", false), ("calls and runs per I/O", true)],
                &[
                    (0, "every try refused by chance", Reading::busy, |r| r.calls() + r.runs()),
                    (1, "refused while no slot is free", Reading::busy, |r| r.calls() + r.runs()),
                ],
            ),
            rows: (&[1], &[0, 1, 2, 3, 4, 6, 9, 10]),
        },
    ],
    finding: "If half of all tries are refused by chance, a queue of 32 keeps {share of full throughput, 50 % refused|%} of \
              its throughput for {tries per I/O, 50 % refused} tries per I/O; if nine in ten are, \
              {share of full throughput, 90 % refused|%} for {tries per I/O, 90 % refused}, with a 99th percentile of \
              {p99 latency, 90 % refused} ms. If BUSY means that all slots are taken, and a slot's return is announced, \
              nothing is lost beyond what the slots allow: 16 of 32 give \
              {share of full throughput, 16 of 32 slots|%}, 1 gives {share of full throughput, 1 of 32 slots|%}.",
};

const DEVICE_COLUMNS: [Column; 8] = [
    column("reads/s", |r| r.iops),
    measured(
        "of the most",
        of_most,
        "device: share of full throughput, {}",
        "",
    ),
    column("BUSY, % of the answers", Reading::busy),
    measured(
        "tries per I/O",
        Reading::tries,
        "device: tries per I/O, {}",
        "",
    ),
    measured(
        "runs per I/O",
        Reading::runs,
        "device: runs per I/O, {}",
        "",
    ),
    measured(
        "CPU per I/O, us",
        Reading::cpu,
        "device: CPU per I/O, {}",
        "us",
    ),
    column("median, ms", |r| r.latency(0)),
    measured(
        "99 %, ms",
        |r| r.latency(2),
        "device: p99 latency, {}",
        "ms",
    ),
];

/// On the device. Service takes 4 ms, so that full is 8000 a second.
pub const DEVICE: Spec = Spec {
    blocks: &[
        Block {
            vary: &[&["1|500", "2|600", "4|800", "8|1200", "16|2000", "32|3600"]],
            make: "slots-{0}",
            device: [
                "--size 64M --preallocate --inject delay=4ms --slots {0}",
                "--name=a --rw=randread --iodepth=32 --number_ios={0+}",
            ],
            key: "{0} of 32 slots",
            heads: &[("slots", "{0}")],
            columns: &[
                DEVICE_COLUMNS[0],
                DEVICE_COLUMNS[1],
                DEVICE_COLUMNS[2],
                DEVICE_COLUMNS[3],
                DEVICE_COLUMNS[4],
                DEVICE_COLUMNS[5],
                DEVICE_COLUMNS[6],
                DEVICE_COLUMNS[7],
                measured(
                    "of what the slots allow",
                    |r| r.iops / allowed(r),
                    "device: throughput, of what the slots allow, {}",
                    "",
                ),
            ],
            ..Block::NEW
        },
        Block {
            vary: &[&["0", "10", "50", "90"]],
            make: "refused-{0}",
            device: [
                "--size 64M --preallocate --inject delay=4ms --inject requeue=1,{0},0,-1",
                "--name=a --rw=randread --iodepth=32 --number_ios=3200",
            ],
            key: "{0} % refused",
            heads: &[("refused, %", "{0}")],
            columns: &DEVICE_COLUMNS,
            ..Block::NEW
        },
        LIMITED,
    ],
    full: 8000.0,
    ratios: &[
        [
            "device: null_blk, rate of the limit, 4k",
            "MiB/s, null_blk, 4k, round 1 + MiB/s, null_blk, 4k, round 2",
            "40",
            "",
        ],
        [
            "device: ours, rate of the limit, 4k",
            "MiB/s, ours, 4k, round 1 + MiB/s, ours, 4k, round 2",
            "40",
            "",
        ],
        [
            "device: ours over null_blk, rate, 4k",
            "MiB/s, ours, 4k, round 1 + MiB/s, ours, 4k, round 2",
            "MiB/s, null_blk, 4k, round 1 + MiB/s, null_blk, 4k, round 2",
            "",
        ],
        [
            "device: null_blk, rate of the limit, 64k",
            "MiB/s, null_blk, 64k, round 1 + MiB/s, null_blk, 64k, round 2",
            "40",
            "",
        ],
        [
            "device: ours, rate of the limit, 64k",
            "MiB/s, ours, 64k, round 1 + MiB/s, ours, 64k, round 2",
            "40",
            "",
        ],
        [
            "device: ours over null_blk, rate, 64k",
            "MiB/s, ours, 64k, round 1 + MiB/s, ours, 64k, round 2",
            "MiB/s, null_blk, 64k, round 1 + MiB/s, null_blk, 64k, round 2",
            "",
        ],
    ],
    sums: &[],
    pictures: &[
        Picture {
            id: "device-slots",
            title: "Real driver: throughput by the number of slots, 32 in flight, 4 ms each",
            alt: "Reads per second against the number of slots from 1 to 32, both by decades, on the device.",
            draw: Draw::Lines(
                [("slots", true), ("reads per second", true)],
                &[
                    (0, "measured", |r| r.words[0], |r| r.iops),
                    (0, "ideal: slots / 4 ms", |r| r.words[0], allowed),
                ],
            ),
            rows: (&[0], &[]),
        },
        Picture {
            id: "device-slots-latency",
            title: "Real driver: latency by percentile with 1 to 32 slots for 32 requests",
            alt: "Latency of reads by percentile with 1, 4, 16 and 32 slots for 32 requests, on the device.",
            draw: Draw::Percentiles(
                0,
                "{0} of 32 slots",
                &["32 of 32 slots", "16 of 32 slots", "4 of 32 slots", "1 of 32 slots"],
                1500,
            ),
            rows: (&[0], &[]),
        },
        Picture {
            id: "device-cpu",
            title: "Real driver: the server's CPU time per I/O by the share of BUSY",
            alt: "CPU time of the server per I/O in microseconds against the share of BUSY among the driver's answers, for \
                  tries refused by chance and for slots.",
            draw: Draw::Lines(
                [("answers that were BUSY, %", false), ("CPU time per I/O, us", false)],
                &[
                    (1, "every try refused by chance", Reading::busy, Reading::cpu),
                    (0, "refused while no slot is free", Reading::busy, Reading::cpu),
                ],
            ),
            rows: (&[1], &[]),
        },
        Picture {
            id: "device-null-blk",
            title: "Real driver: null_blk and ours, both at most 20 MiB/s, under the same fio job",
            alt: "Latency by percentile of null_blk and of our disk under the same limit of bandwidth, with requests of 4 \
                  and of 64 KiB.",
            draw: Draw::Percentiles(
                2,
                "{1}, requests of {0}",
                &[
                    "null_blk, 4k, round 1",
                    "ours, 4k, round 1",
                    "null_blk, 64k, round 1",
                    "ours, 64k, round 1",
                ],
                1500,
            ),
            rows: (&[2], &[]),
        },
    ],
    finding: "On the real driver 16 of 32 slots give {device: throughput, of what the slots allow, 16 of 32 slots|%} of what \
              they allow, 1 gives {device: throughput, of what the slots allow, 1 of 32 slots|%}. An I/O costs the server \
              {device: CPU per I/O, 32 of 32 slots} us of CPU without BUSY, {device: CPU per I/O, 1 of 32 slots} with 1 \
              slot, and {device: CPU per I/O, 90 % refused} if nine in ten tries are refused. Under the same 20 MiB/s \
              ours passes {device: ours over null_blk, rate, 4k} times as much as null_blk.",
};

/// Ours and null_blk under the same limit and the same job, in two rounds.
const LIMITED: Block = Block {
    vary: &[&["4k|32", "64k|8"], &["null_blk", "ours"], &["1", "2"]],
    make: "{1}-{0}-{2}",
    device: [
        "--size 64M --preallocate --mbps 20",
        "--name=a --rw=randread --bs={0} --iodepth={0+} --io_size=40m --size=64m",
    ],
    key: "{1}, {0}, round {2}",
    heads: &[("disk, job", "{1}, {0}, {0+} in flight"), ("round", "{2}")],
    columns: &[
        column("MiB/s", |r| r.bytes / 1024.0 / 1024.0),
        column("of the limit", |r| r.bytes / 1024.0 / 1024.0 / 20.0),
        column("median, ms", |r| r.latency(0)),
        column("90 %, ms", |r| r.latency(1)),
        column("99 %, ms", |r| r.latency(2)),
        column("longest, ms", |r| r.latency(4)),
    ],
    ..Block::NEW
};

/// The half in the guest.
pub fn act(guest: &Guest) -> Result<(), StudyError> {
    guest.block(&DEVICE.blocks[0])?;
    guest.block(&DEVICE.blocks[1])?;
    // The disks take turns.
    for round in ["1", "2"] {
        for words in LIMITED.cases().iter().filter(|words| words[2] == round) {
            let [options, job] = LIMITED.on_device(words);
            guest.experiment(&LIMITED.experiment(words), || match words[1] {
                "ours" => load(&guest.disk(&options)?, &job),
                _ => {
                    let disk = NullBlk::new(64, 20)?;
                    Ok(json!({ "fio": Fio::start(&disk.path, &job)?.end()? }))
                }
            })?;
        }
    }
    Ok(())
}
