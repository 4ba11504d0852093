// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study e on the device: kblockd of high and of normal priority, bound and unbound, beside CPU hogs.

use crate::study::device::act::{load_as, Guest, Rank};
use crate::study::hogs::{allowed, Hogs};
use crate::study::table::{column, measured, Block, Draw, Picture, Spec};
use crate::study::StudyError;

/// What is measured.
pub const DEVICE: Spec = Spec {
    blocks: &[Block {
        vary: &[
            // CPU-bound threads on each CPU.
            &["idle|0", "hogs|2"],
            &[
                "HIGHPRI, bound|mem_reclaim,highpri,percpu",
                "normal, bound|mem_reclaim,percpu",
                "normal, unbound|mem_reclaim,unbound",
            ],
        ],
        make: "{1}-{0+}",
        device: [
            "--size 16M --preallocate --inject requeue=1,50,0,-1 --kblockd-flags {1+}",
            "--name=e --rw=randread --iodepth=1 --number_ios=200",
        ],
        key: "{0}: kblockd {1}",
        heads: &[("kblockd", "{1}"), ("hogs per CPU", "{0+}")],
        columns: &[
            column("reads/s", |r| r.iops),
            measured("median, ms", |r| r.latency(0), "device: {}: median read", "ms"),
            measured("90 %, ms", |r| r.latency(1), "device: {}: 90 % read", "ms"),
            measured("99 %, ms", |r| r.latency(2), "device: {}: p99 read", "ms"),
            measured("longest, ms", |r| r.latency(4), "device: {}: longest read", "ms"),
        ],
        ..Block::NEW
    }],
    full: 0.0,
    ratios: &[[
        "device: hogs: HIGHPRI gain, p99 read",
        "99 %, ms, hogs: kblockd normal, bound",
        "99 %, ms, hogs: kblockd HIGHPRI, bound",
        "",
    ]],
    sums: &[],
    pictures: &[Picture {
        id: "device-hogs",
        title: "Real driver: reads that need kblockd, beside CPU hogs",
        alt: "Latency of reads by percentile with a high-priority and with normal kblockds beside CPU hogs, and without \
              hogs.",
        draw: Draw::Percentiles(
            0,
            "{0}: kblockd {1}",
            &[
                "idle: kblockd HIGHPRI, bound",
                "hogs: kblockd HIGHPRI, bound",
                "hogs: kblockd normal, bound",
                "hogs: kblockd normal, unbound",
            ],
            usize::MAX,
        ),
        rows: (&[0], &[]),
    }],
    finding: "On the real driver, with half of the tries refused and beside 2 hogs per CPU, 99 % of the reads end within \
              {device: hogs: kblockd HIGHPRI, bound: p99 read} ms with a HIGHPRI kblockd, within \
              {device: hogs: kblockd normal, bound: p99 read} with a normal one, and within \
              {device: hogs: kblockd normal, unbound: p99 read} with an unbound one; without hogs within \
              {device: idle: kblockd HIGHPRI, bound: p99 read} with HIGHPRI.",
};

/// The half in the guest. Client and queue threads have the highest priority, so that what hogs delay is kblockd.
pub fn act(guest: &Guest) -> Result<(), StudyError> {
    let block = &DEVICE.blocks[0];
    for words in block.cases() {
        let [options, job] = block.on_device(&words);
        guest.experiment(&block.experiment(&words), || {
            let disk = guest.disk(&options)?;
            disk.favor_queue_threads()?;
            let each = if words[0].starts_with("hogs") { 2 } else { 0 };
            let _hogs = Hogs::start(allowed().possible(), each)?;
            load_as(Rank::First, &disk, &job)
        })?;
    }
    Ok(())
}
