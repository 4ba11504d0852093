// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study h: each job's share, and the longest wait, while the driver refuses; on the real driver also flushes that
//! overtake.

use super::device::act::Guest;
use super::reading::Reading;
use super::table::{column, measured, Block, Column, Draw, Picture, Spec};
use super::StudyError;

fn over_median(r: &Reading) -> f64 {
    r.latency(4) / r.latency(0)
}

const COLUMNS: &[Column] = &[
    column("requests/s", |r| r.iops),
    column("median, ms", |r| r.latency(0)),
    column("99 %, ms", |r| r.latency(2)),
    column("longest, ms", |r| r.latency(4)),
    measured(
        "longest over median",
        over_median,
        "longest latency over median, {}",
        "",
    ),
    measured(
        "least, of the mean",
        Reading::least,
        "slowest job's share, {}",
        "",
    ),
    column("most, of the mean", Reading::most),
    column("never ended", Reading::lost),
];

/// In the simulation.
pub const SPEC: Spec = Spec {
    blocks: &[
        Block {
            vary: &[&[
                "nothing|",
                "25 %|--inject requeue=1,25,0,-1",
                "50 %|--inject requeue=1,50,0,-1",
                "75 %|--inject requeue=1,75,0,-1",
                "90 %|--inject requeue=1,90,0,-1",
            ]],
            make: "--jobs 8 --iodepth 8 --service-time 50us..150us --rw randrw --duration {n}ms {0+}",
            n: [100, 20],
            key: "{0} refused",
            heads: &[("refused", "{0}")],
            columns: COLUMNS,
            ..Block::NEW
        },
        Block {
            make: "--jobs 8 --iodepth 8 --service-time 50us..150us --rw randrw --duration {n}ms \
                   --inject requeue=1,50,0,-1 --flush 1",
            n: [100, 20],
            key: "with FLUSH",
            columns: &[column("requests/s", |r| r.iops), column("never ended", Reading::lost)],
            ..Block::NEW
        },
    ],
    full: 0.0,
    ratios: &[[
        "throughput with 1 % FLUSH over without",
        "requests/s, with FLUSH",
        "requests/s, 50 % refused",
        "",
    ]],
    sums: &[["requests that never ended", "never ended"]],
    pictures: &[
        Picture {
            id: "shares",
            title: "What each of eight jobs gets, as a share of the mean",
            alt: "Heat map of the requests of eight jobs, as shares of the mean, by the share of tries refused.",
            draw: Draw::Shares(0, "{0}"),
            rows: (&[0], &[5, 6]),
        },
        Picture {
            id: "waits",
            title: "How long a request waits, by percentile",
            alt: "Latency by percentile for 0, 25, 50, 75 and 90 per cent of the tries refused.",
            draw: Draw::Percentiles(0, "{0} refused", &[], 1500),
            rows: (&[0], &[0, 1, 2, 3, 4]),
        },
    ],
    finding: "With half of the tries refused the worst-served of eight jobs gets {slowest job's share, 50 % refused|%} of the \
              mean, and the longest wait is {longest latency over median, 50 % refused} times the median; with nine in ten \
              refused {slowest job's share, 90 % refused|%} and {longest latency over median, 90 % refused} times.",
};

/// On the device.
pub const DEVICE: Spec = Spec {
    blocks: &[
        Block {
            vary: &[&["0", "50", "90"]],
            make: "refused-{0}",
            device: [
                "--size 64M --preallocate --inject delay=4ms --inject requeue=1,{0},0,-1",
                "--name=h --rw=randrw --iodepth=8 --numjobs=8 --size=8m --offset_increment=8m --time_based \
                 --runtime=1500ms",
            ],
            key: "{0} % refused",
            heads: &[("refused, %", "{0}")],
            columns: &[
                column("requests/s", |r| r.iops),
                measured("least, of the mean", Reading::least, "device: slowest job's share, {}", ""),
                column("most, of the mean", Reading::most),
                column("median, ms", |r| r.latency(0)),
                column("99 %, ms", |r| r.latency(2)),
                column("longest, ms", |r| r.latency(4)),
                measured("longest over median", over_median, "device: longest latency over median, {}", ""),
                measured("never ended", Reading::lost, "device: requests that never ended, {}", ""),
            ],
            ..Block::NEW
        },
        // Of one experiment: the jobs of a name, and what they flushed.
        Block {
            vary: &[&[
                "reads, which wait for a slot|flush:readers",
                "writes, which wait for a slot|flush:flusher",
                "flushes, which need none|flush:flusher/sync",
            ]],
            make: "{0+}",
            key: "{0}",
            heads: &[("requests", "{0}")],
            columns: &[
                column("how many", |r| r.buckets.iter().map(|b| b.1).sum::<u64>() as f64),
                column("median, ms", |r| r.latency(0)),
                column("99 %, ms", |r| r.latency(2)),
                column("longest, ms", |r| r.latency(4)),
            ],
            ..Block::NEW
        },
    ],
    full: 0.0,
    ratios: &[
        [
            "device: flush over read, median",
            "median, ms, flushes, which need none",
            "median, ms, reads, which wait for a slot",
            "",
        ],
        [
            "device: flush over read, longest",
            "longest, ms, flushes, which need none",
            "longest, ms, reads, which wait for a slot",
            "",
        ],
    ],
    sums: &[],
    pictures: &[
        Picture {
            id: "device-shares",
            title: "Real driver: what each of eight fio jobs gets, as a share of the mean",
            alt: "Heat map of the requests of eight fio jobs on the device, as shares of the mean, by the share of tries \
                  refused.",
            draw: Draw::Shares(0, "{0} %"),
            rows: (&[0], &[]),
        },
        Picture {
            id: "device-waits",
            title: "Real driver: how long a request waits, by percentile",
            alt: "Latency by percentile for 0, 50 and 90 per cent of the tries refused, on the device.",
            draw: Draw::Percentiles(0, "{0} % refused", &[], 1500),
            rows: (&[0], &[]),
        },
        Picture {
            id: "device-flush",
            title: "Real driver: flushes overtake what waits for a slot",
            alt: "Latency by percentile of reads and writes that wait for one of four slots, and of flushes, which need \
                  none.",
            draw: Draw::Percentiles(1, "{0}", &[], usize::MAX),
            rows: (&[1], &[]),
        },
    ],
    finding: "On the real driver the worst-served of eight fio jobs gets {device: slowest job's share, 50 % refused|%} of the \
              mean with half of the tries refused, and {device: slowest job's share, 90 % refused|%} with nine in ten. A \
              FLUSH waits {device: flush over read, median|%} of a read's median while all slots are taken.",
};

/// The half in the guest.
pub fn act(guest: &Guest) -> Result<(), StudyError> {
    guest.block(&DEVICE.blocks[0])?;
    // libaio's times of a flush begin with the write before it: the flusher uses psync.
    guest.load_experiment(
        "flush",
        "--size 64M --preallocate --volatile-cache --inject delay=2ms --slots 4",
        "--time_based --runtime=1500ms --size=4m --name=readers --rw=randread --iodepth=8 --numjobs=4 --name=flusher \
         --numjobs=1 --ioengine=psync --rw=randwrite --iodepth=1 --fsync=1 --offset=32m",
    )
}
