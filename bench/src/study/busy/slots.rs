// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of study a with device-wide slots (E1), held against refusals by chance.

use super::cost::{cells, cost, table, KEPT, LOAD};
use super::ended;
use crate::study::outcome::{show, Axis, Figure, Measure, Plot, Samples, Series};
use crate::study::{sim, StudyError};

const SLOTS: [u32; 6] = [1, 2, 4, 8, 16, 32];
/// Whose latencies are drawn.
const DRAWN: [u32; 4] = [32, 16, 4, 1];

/// The figures. `by_chance` is what refusals by chance cost: share of BUSY, throughput in per cent of what the service
/// allows, calls and runs.
pub(super) fn figures(
    measures: &mut Vec<Measure>,
    ops: usize,
    full: f64,
    by_chance: Vec<[f64; 3]>,
) -> Result<Vec<Figure>, StudyError> {
    if !sim::knows("--slots")? {
        return Ok(Vec::new());
    }
    let mut rows = table("slots");
    rows.head.extend([
        "BUSY, % of the answers".into(),
        "calls and runs per I/O".into(),
    ]);
    let mut curve = Series {
        name: "reads/s".into(),
        points: Vec::new(),
    };
    let (mut latencies, mut costs) = (Vec::new(), Vec::new());
    for slots in SLOTS {
        let said = ended(&format!("{LOAD} --ops {ops} --slots {slots}"))?;
        let found = cells(&said, full);
        let (busy, cost) = cost(&said);
        let row = [slots.to_string()].into_iter().chain(found.map(show));
        rows.row(row.chain([busy, cost].map(show)));
        let mut measure = |name: &str, value, unit| {
            measures.push(Measure::new(
                format!("{name}, {slots} of 32 slots"),
                value,
                unit,
            ));
        };
        measure("share of full throughput", found[1], "");
        measure("tries per I/O", found[2], "");
        measure("runs per I/O", found[3], "");
        measure("p99 latency", found[5], "ms");
        measure("BUSY among the answers", busy, "%");
        curve.points.push((f64::from(slots), found[0]));
        // What so many slots can serve is all there is to have.
        let allowed = f64::from(slots) / f64::from(SLOTS[SLOTS.len() - 1]);
        costs.push([busy, found[1] / allowed * 100.0, cost]);
        latencies.push((slots, said));
    }
    let by = |n: usize| {
        [("by chance", &by_chance), ("no slot is free", &costs)].map(|(name, of)| {
            let mut points: Vec<_> = of.iter().map(|c| (c[0], c[n])).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Series {
                name: name.into(),
                points,
            }
        })
    };
    let drawn = DRAWN
        .iter()
        .filter_map(|n| latencies.iter().find(|l| l.0 == *n));
    let sets = drawn.map(|(slots, said)| Samples {
        name: format!("{slots} slots"),
        values: said.latencies(KEPT),
    });
    let busy = || Axis::linear("answers that were BUSY, %");
    Ok(vec![
        Figure {
            id: "slots".into(),
            title: "Throughput by the number of device-wide slots, 32 requests in flight".into(),
            alt: "Reads per second against the number of slots from 1 to 32, both by decades: a straight line.".into(),
            plot: Plot::Lines {
                x: Axis::log("slots"),
                y: Axis::log("reads per second"),
                series: vec![curve],
                dots: false,
            },
            table: rows.clone(),
        },
        Figure {
            id: "slots-latency".into(),
            title: "Latency by percentile with 32 requests for 1 to 32 slots: everybody waits his turn".into(),
            alt: "Latency of reads by percentile with 1, 4, 16 and 32 slots for 32 requests.".into(),
            plot: Plot::Percentiles {
                value: Axis::log("latency, ms"),
                sets: sets.collect(),
            },
            table: rows.clone(),
        },
        Figure {
            id: "busy-throughput".into(),
            title: "BUSY costs throughput where nothing announces its end".into(),
            alt: "Throughput in per cent of what the requests served at a time allow, against the share of BUSY among the \
                  driver's answers, for refusals by chance and for slots."
                .into(),
            plot: Plot::Lines {
                x: busy(),
                y: Axis::linear("throughput, % of what service allows"),
                series: by(1).into(),
                dots: false,
            },
            table: rows.clone(),
        },
        Figure {
            id: "busy-cost".into(),
            title: "What an I/O costs by the share of BUSY, in calls of the driver and runs of the queue".into(),
            alt: "Calls of queue_rq and runs of the hardware queue per I/O against the share of BUSY among the driver's \
                  answers, for refusals by chance and for slots."
                .into(),
            plot: Plot::Lines {
                x: busy(),
                y: Axis::log("calls and runs per I/O"),
                series: by(2).into(),
                dots: false,
            },
            table: rows,
        },
    ])
}
