// SPDX-License-Identifier: MIT OR Apache-2.0
//! kblockd's flags beside an item that keeps CPU 0's normal pool busy, in virtual time.

use crate::study::outcome::{show, Axis, Figure, Kind, Measure, Part, Plot, Samples, Table};
use crate::study::sim;
use crate::study::StudyError;

const LOAD: &str =
    "--iodepth 1 --ops 400 --service-time 100us --inject requeue=1,50,0,-1 --hogs 1:20ms";
const FLAGS: [(&str, &str); 3] = [
    ("HIGHPRI, bound", "mem_reclaim,highpri,percpu"),
    ("normal, bound", "mem_reclaim,percpu"),
    ("normal, unbound", "mem_reclaim,unbound"),
];

/// Runs it.
pub fn part() -> Result<Part, StudyError> {
    let mut measures = Vec::new();
    let mut table = Table::new(&[
        "kblockd",
        "reads/s",
        "median, ms",
        "99 %, ms",
        "longest, ms",
    ]);
    let mut sets = Vec::new();
    let mut p99 = Vec::new();
    for (name, flags) in FLAGS {
        let said = sim::run(&format!("{LOAD} --kblockd-flags {flags}"))?;
        if let Some(error) = said.error {
            return Err(StudyError::Refused(format!("ublk-ramdisk sim: {error}")));
        }
        let found = [
            said.latency("p50"),
            said.latency("p99"),
            said.latency("max"),
        ];
        measures.push(Measure::new(
            format!("kblockd {name}: p99 read"),
            found[1],
            "ms",
        ));
        measures.push(Measure::new(
            format!("kblockd {name}: longest read"),
            found[2],
            "ms",
        ));
        table.row(
            [name.to_owned(), show(said.at("total.iops"))]
                .into_iter()
                .chain(found.map(show)),
        );
        p99.push(found[1]);
        sets.push(Samples {
            name: name.into(),
            values: said.latencies(1000),
        });
    }
    measures.push(Measure::new(
        "kblockd normal, unbound: p99 over HIGHPRI's",
        p99[2] / p99[0],
        "",
    ));
    let finding = format!(
        "Beside an item that keeps a CPU's normal pool busy for 20 ms at a time, a read that needs kblockd takes {} ms \
         (99 %) with kblockd as it is, HIGHPRI; {} ms were it normal, {} ms were it normal and unbound.",
        show(p99[0]),
        show(p99[1]),
        show(p99[2]),
    );
    let figure = Figure {
        id: "kblockd".into(),
        title: "A busy normal pool holds up a normal kblockd, and not a HIGHPRI one".into(),
        alt: "Latency of reads, half of whose tries are refused, by percentile, for a kblockd that is HIGHPRI, normal, \
              and normal and unbound, while one item keeps the CPU's normal pool busy."
            .into(),
        plot: Plot::Percentiles {
            value: Axis::log("latency, ms"),
            sets,
        },
        table,
    };
    Ok(Part {
        kind: Kind::Deterministic,
        finding,
        measures,
        figures: vec![figure],
    })
}
