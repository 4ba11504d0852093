// SPDX-License-Identifier: MIT OR Apache-2.0
//! kblockd's flags beside an item that keeps CPU 0's normal pool busy, in virtual time.

use crate::study::table::{column, measured, Block, Draw, Picture, Spec};

/// What is measured.
pub const SPEC: Spec = Spec {
    blocks: &[Block {
        vary: &[&[
            "HIGHPRI, bound|mem_reclaim,highpri,percpu",
            "normal, bound|mem_reclaim,percpu",
            "normal, unbound|mem_reclaim,unbound",
        ]],
        make: "--iodepth 1 --ops 400 --service-time 100us --inject requeue=1,50,0,-1 --hogs 1:20ms --kblockd-flags {0+}",
        key: "kblockd {0}",
        heads: &[("kblockd", "{0}")],
        columns: &[
            column("reads/s", |r| r.iops),
            column("median, ms", |r| r.latency(0)),
            measured("99 %, ms", |r| r.latency(2), "{}: p99 read", "ms"),
            measured("longest, ms", |r| r.latency(4), "{}: longest read", "ms"),
        ],
        ..Block::NEW
    }],
    full: 0.0,
    ratios: &[[
        "kblockd normal, unbound: p99 over HIGHPRI's",
        "99 %, ms, kblockd normal, unbound",
        "99 %, ms, kblockd HIGHPRI, bound",
        "",
    ]],
    sums: &[],
    pictures: &[Picture {
        id: "kblockd",
        title: "A busy normal pool holds up a normal kblockd, and not a HIGHPRI one",
        alt: "Latency of reads, half of whose tries are refused, by percentile, for a kblockd that is HIGHPRI, normal, and \
              normal and unbound, while one item keeps the CPU's normal pool busy.",
        draw: Draw::Percentiles(0, "kblockd {0}", &[], 1000),
        rows: (&[0], &[]),
    }],
    finding: "Beside an item that keeps a CPU's normal pool busy for 20 ms at a time, 99 % of the reads that need kblockd end \
              within {kblockd HIGHPRI, bound: p99 read} ms with kblockd as it is, HIGHPRI; within \
              {kblockd normal, bound: p99 read} ms if it were normal, and within {kblockd normal, unbound: p99 read} ms if \
              it were normal and unbound.",
};
