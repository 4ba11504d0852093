// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study e on the device: kblockd of high and of normal priority, bound and unbound, beside CPU hogs.

use super::act::{load_as, Guest, Rank};
use super::raw::Raw;
use crate::study::hogs::{allowed, Hogs};
use crate::study::outcome::{show, Axis, Figure, Kind, Measure, Part, Plot, Samples, Table};
use crate::study::StudyError;

/// CPU-bound threads on each CPU.
const HOGS: usize = 2;
const READS: u32 = 200;
const FLAGS: [(&str, &str); 3] = [
    ("HIGHPRI, bound", "mem_reclaim,highpri,percpu"),
    ("normal, bound", "mem_reclaim,percpu"),
    ("normal, unbound", "mem_reclaim,unbound"),
];

fn file_name(name: &str, hogs: usize) -> String {
    format!("{}-{hogs}", name.replace(", ", "-"))
}

/// The half in the guest. Client and queue threads have the highest priority, so that what hogs delay is kblockd.
pub fn act(guest: &Guest) -> Result<(), StudyError> {
    for each in [0, HOGS] {
        for (name, flags) in FLAGS {
            guest.experiment(&file_name(name, each), || {
                let disk = guest.disk(&format!(
                    "--size 16M --preallocate --inject requeue=1,50,0,-1 --kblockd-flags {flags}"
                ))?;
                disk.favour_queue_threads()?;
                let _hogs = Hogs::start(allowed().possible(), each)?;
                let reads = format!("--name=e --rw=randread --iodepth=1 --number_ios={READS}");
                load_as(Rank::First, &disk, &reads)
            })?;
        }
    }
    Ok(())
}

/// The half outside.
pub fn read(raw: &Raw, kind: Kind) -> Result<Part, StudyError> {
    let mut measures = Vec::new();
    let mut rows = Table::new(&[
        "kblockd",
        "hogs per CPU",
        "reads/s",
        "median, ms",
        "90 %, ms",
        "99 %, ms",
        "longest, ms",
    ]);
    let mut sets = Vec::new();
    for each in [0, HOGS] {
        for (name, _) in FLAGS {
            let of = raw.get(&file_name(name, each))?;
            let found = [0.5, 0.9, 0.99, 1.0].map(|q| of.latency(q));
            let who = if each == 0 { "idle" } else { "hogs" };
            for (what, value) in ["median", "90 %", "p99", "longest"].into_iter().zip(found) {
                measures.push(Measure::new(
                    format!("device: {who}: kblockd {name}: {what} read"),
                    value,
                    "ms",
                ));
            }
            rows.row(
                [name.to_owned(), each.to_string(), show(of.iops())]
                    .into_iter()
                    .chain(found.map(show)),
            );
            if each > 0 || name.starts_with("HIGHPRI") {
                sets.push(Samples {
                    name: format!("{name}{}", if each == 0 { ", no hogs" } else { "" }),
                    values: of.latencies(usize::MAX),
                });
            }
        }
    }
    let value = |name: &str| {
        let found = measures
            .iter()
            .find(|m| m.name == format!("device: {name}"));
        found.map_or(f64::NAN, |m| m.value)
    };
    let gain = value("hogs: kblockd normal, bound: p99 read")
        / value("hogs: kblockd HIGHPRI, bound: p99 read");
    let finding = format!(
        "On the real driver, half of the tries refused, beside {HOGS} hogs per CPU: 99 % of the reads within {} ms with a \
         HIGHPRI kblockd, {} with a normal one, {} with an unbound one; without hogs {} with HIGHPRI.",
        show(value("hogs: kblockd HIGHPRI, bound: p99 read")),
        show(value("hogs: kblockd normal, bound: p99 read")),
        show(value("hogs: kblockd normal, unbound: p99 read")),
        show(value("idle: kblockd HIGHPRI, bound: p99 read")),
    );
    measures.push(Measure::new(
        "device: hogs: HIGHPRI gain, p99 read",
        gain,
        "",
    ));
    Ok(Part {
        kind,
        finding,
        measures,
        figures: vec![Figure {
            id: "device-hogs".into(),
            title: "Real driver: reads that need kblockd, beside CPU hogs".into(),
            alt: "Latency of reads by percentile with a high-priority and with normal kblockds beside CPU hogs, and without \
                  hogs."
                .into(),
            plot: Plot::Percentiles {
                value: Axis::log("latency, ms"),
                sets,
            },
            table: rows,
        }],
    })
}
