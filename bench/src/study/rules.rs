// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study c: the rules of the 3.x kernels against those of 7.2.

use super::reading::Reading;
use super::table::{column, measured, Block, Draw, Picture, Spec};

/// In the simulation.
pub const SPEC: Spec = Spec {
    blocks: &[
        Block {
            vary: &[&["7.2", "3.x"]],
            make: "--call-cost 10us --service-time 100us --rw randread --blk-mq {0} --iodepth 32 --at '10ms:busy on' \
                   --at '110ms:busy off' --duration 200ms",
            key: "{0}",
            heads: &[("rules", "{0}")],
            columns: &[
                measured("refusals", Reading::refused, "refusals in 100 ms, {}", ""),
                column("median, ms", |r| r.latency(0)),
                measured("longest read, ms", |r| r.latency(4), "longest read, {}", "ms"),
                column("reads in 200 ms", |r| r.ios),
            ],
            ..Block::NEW
        },
        Block {
            vary: &[&["7.2", "3.x"]],
            make: "--call-cost 10us --service-time 100us --rw randread --blk-mq {0} --jobs 8 --iodepth 4 --ops {n} \
                   --inject requeue=1,50,0,-1",
            n: [500, 100],
            key: "{0}",
            heads: &[("rules", "{0}")],
            columns: &[
                column("reads/s", |r| r.iops),
                column("tries per I/O", Reading::calls),
                column("99 %, ms", |r| r.latency(2)),
                measured("slowest job, of the mean", Reading::slowest, "slowest job's share, {}", ""),
            ],
            ..Block::NEW
        },
    ],
    full: 0.0,
    ratios: &[["throughput, half refused, 7.2 over 3.x", "reads/s, 7.2", "reads/s, 3.x", ""]],
    sums: &[],
    pictures: &[
        Picture {
            id: "outage",
            title: "Everything refused for 100 ms, 32 in flight",
            alt: "Latency of reads by percentile under the rules of 7.2 and of the 3.x kernels, while everything is refused \
                  for 100 ms.",
            draw: Draw::Percentiles(0, "rules of {0}", &[], 2000),
            rows: (&[0], &[]),
        },
        Picture {
            id: "everyday",
            title: "Half of the tries refused, eight jobs",
            alt: "Latency of reads by percentile under the rules of 7.2 and of the 3.x kernels, with half of the tries \
                  refused.",
            draw: Draw::Percentiles(1, "rules of {0}", &[], 2000),
            rows: (&[1], &[]),
        },
    ],
    finding: "A driver that refuses everything for 100 ms is called {refusals in 100 ms, 3.x} times under the old rules and \
              {refusals in 100 ms, 7.2} times under those of 7.2. With half of the tries refused the new rules give \
              {throughput, half refused, 7.2 over 3.x|%} of the old throughput.",
};
