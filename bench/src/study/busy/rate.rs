// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study a: throughput, latency and tries by the share of refusals and by the number of slots.

use super::cost::{cells, cost, table, KEPT, LOAD};
use super::{ended, slots};
use crate::study::outcome::{
    show, Axis, Figure, Kind, Measure, Part, Plot, Samples, Series, Table,
};
use crate::study::{Settings, StudyError};

const SHARES: [u32; 8] = [0, 10, 25, 50, 75, 90, 95, 99];
/// Whose latencies are drawn.
const DRAWN: [u32; 4] = [0, 10, 50, 90];
/// The figures, and of each share what BUSY cost: its share, the throughput in per cent, calls and runs per I/O.
fn refused(
    measures: &mut Vec<Measure>,
    ops: usize,
) -> Result<([Figure; 2], Vec<[f64; 3]>), StudyError> {
    let mut costs = Vec::new();
    let mut rows = table("refused, %");
    let mut latencies = Vec::new();
    let mut curves = ["of the most", "of all tries accepted"].map(|name| Series {
        name: name.into(),
        points: Vec::new(),
    });
    let mut full = f64::NAN;
    for share in SHARES {
        let inject = match share {
            0 => String::new(),
            share => format!("--inject requeue=1,{share},0,-1"),
        };
        let said = ended(&format!("{LOAD} --ops {ops} {inject}"))?;
        if share == 0 {
            full = said.at("total.iops");
            measures.push(Measure::new("throughput, nothing refused", full, "/s"));
        }
        let found = cells(&said, full);
        let (busy, cost) = cost(&said);
        costs.push([busy, found[1] * 100.0, cost]);
        rows.row([share.to_string()].into_iter().chain(found.map(show)));
        for (name, value, unit) in [
            ("share of full throughput", found[1], ""),
            ("tries per I/O", found[2], ""),
        ] {
            measures.push(Measure::new(
                format!("{name}, {share} % refused"),
                value,
                unit,
            ));
        }
        for (name, value) in [("median latency", found[4]), ("p99 latency", found[5])] {
            measures.push(Measure::new(
                format!("{name}, {share} % refused"),
                value,
                "ms",
            ));
        }
        curves[0].points.push((f64::from(share), found[1] * 100.0));
        curves[1].points.push((f64::from(share), 100.0 / found[2]));
        if DRAWN.contains(&share) {
            latencies.push((share, said));
        }
    }
    let mut quantiles = Table::new(&[
        "refused, %",
        "median, ms",
        "90 %, ms",
        "99 %, ms",
        "99.9 %, ms",
        "longest, ms",
    ]);
    for (share, said) in &latencies {
        let found = ["p50", "p90", "p99", "p999", "max"].map(|q| show(said.latency(q)));
        quantiles.row([share.to_string()].into_iter().chain(found));
    }
    let figures = [
        Figure {
            id: "refused".into(),
            title: "Throughput by the share of tries that are refused".into(),
            alt: "Throughput in per cent of the most, and the share of tries that are accepted, against the share of \
                  tries that the driver refuses."
                .into(),
            plot: Plot::Lines {
                x: Axis::linear("tries refused, %"),
                y: Axis::linear("%"),
                series: curves.into(),
                dots: false,
            },
            table: rows,
        },
        Figure {
            id: "latency".into(),
            title: "Latency by percentile: refusals make a tail of whole delays".into(),
            alt: "Latency of reads by percentile with 0, 10, 50 and 90 per cent of the tries refused.".into(),
            plot: Plot::Percentiles {
                value: Axis::log("latency, ms"),
                sets: latencies
                    .iter()
                    .map(|(share, said)| Samples {
                        name: format!("{share} % refused"),
                        values: said.latencies(KEPT),
                    })
                    .collect(),
            },
            table: quantiles,
        },
    ];
    Ok((figures, costs))
}

/// Runs it.
pub fn run(settings: &Settings) -> Result<Vec<Part>, StudyError> {
    let mut measures = Vec::new();
    let ops = settings.scaled(9600, 1600);
    let (figures, by_chance) = refused(&mut measures, ops)?;
    let mut figures: Vec<Figure> = figures.into();
    let full = measures.first().map_or(f64::NAN, |m: &Measure| m.value);
    figures.extend(slots::figures(&mut measures, ops, full, by_chance)?);
    let value = |name: &str| {
        measures
            .iter()
            .find(|m| m.name == name)
            .map_or(f64::NAN, |m| m.value)
    };
    let finding = format!(
        "With half of all tries refused a queue of 32 keeps {} % of its throughput for {} tries per I/O, with nine in \
         ten refused {} % for {}; the 99th percentile is then {} ms. Where BUSY means that all slots are taken and a \
         slot's return is announced, no throughput is lost beyond what the slots allow: 16 of 32 give {} of it, 1 gives {}.",
        show((value("share of full throughput, 50 % refused") * 100.0).round()),
        show(value("tries per I/O, 50 % refused")),
        show(value("share of full throughput, 90 % refused") * 100.0),
        show(value("tries per I/O, 90 % refused")),
        show(value("p99 latency, 90 % refused")),
        show(value("share of full throughput, 16 of 32 slots")),
        show(value("share of full throughput, 1 of 32 slots")),
    );
    Ok(vec![Part {
        kind: Kind::Deterministic,
        finding,
        measures,
        figures,
    }])
}
