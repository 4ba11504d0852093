// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study a: throughput, latency and tries by the share of refusals and by the number of slots.

use super::ended;
use crate::study::outcome::{
    show, Axis, Figure, Kind, Measure, Part, Plot, Samples, Series, Table,
};
use crate::study::sim::{self, Said};
use crate::study::{Settings, StudyError};

const LOAD: &str = "--iodepth 32 --service-time 100us --rw randread";
const SHARES: [u32; 8] = [0, 10, 25, 50, 75, 90, 95, 99];
/// Whose latencies are drawn.
const DRAWN: [u32; 4] = [0, 10, 50, 90];
const SLOTS: [u32; 6] = [1, 2, 4, 8, 16, 32];
/// How many samples of a distribution are kept.
const KEPT: usize = 2000;

fn cells(said: &Said, full: f64) -> [f64; 6] {
    let runs = said.sum("run_sync") + said.sum("run_async") + said.sum("run_delayed");
    [
        said.at("total.iops"),
        said.at("total.iops") / full,
        said.tries() / said.ops(),
        runs / said.ops(),
        said.latency("p50"),
        said.latency("p99"),
    ]
}

const HEAD: [&str; 6] = [
    "reads/s",
    "of the most",
    "tries per I/O",
    "runs per I/O",
    "median, ms",
    "99 %, ms",
];

fn table(first: &str) -> Table {
    let head: Vec<&str> = [first].into_iter().chain(HEAD).collect();
    Table::new(&head)
}

fn refused(measures: &mut Vec<Measure>, ops: usize) -> Result<[Figure; 2], StudyError> {
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
    Ok([
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
    ])
}

fn slots(measures: &mut Vec<Measure>, ops: usize, full: f64) -> Result<Option<Figure>, StudyError> {
    if !sim::knows("--slots")? {
        return Ok(None);
    }
    let mut rows = table("slots");
    let mut curve = Series {
        name: "reads/s".into(),
        points: Vec::new(),
    };
    for slots in SLOTS {
        let said = ended(&format!("{LOAD} --ops {ops} --slots {slots}"))?;
        let found = cells(&said, full);
        rows.row([slots.to_string()].into_iter().chain(found.map(show)));
        measures.push(Measure::new(
            format!("share of full throughput, {slots} of 32 slots"),
            found[1],
            "",
        ));
        measures.push(Measure::new(
            format!("tries per I/O, {slots} of 32 slots"),
            found[2],
            "",
        ));
        curve.points.push((f64::from(slots), found[0]));
    }
    Ok(Some(Figure {
        id: "slots".into(),
        title: "Throughput by the number of device-wide slots, 32 requests in flight".into(),
        alt: "Reads per second against the number of slots from 1 to 32, both by decades: a straight line.".into(),
        plot: Plot::Lines {
            x: Axis::log("slots"),
            y: Axis::log("reads per second"),
            series: vec![curve],
            dots: false,
        },
        table: rows,
    }))
}

/// Runs it.
pub fn run(settings: &Settings) -> Result<Vec<Part>, StudyError> {
    let mut measures = Vec::new();
    let ops = settings.scaled(9600, 1600);
    let mut figures: Vec<Figure> = refused(&mut measures, ops)?.into();
    let full = measures.first().map_or(f64::NAN, |m: &Measure| m.value);
    figures.extend(slots(&mut measures, ops, full)?);
    let value = |name: &str| {
        measures
            .iter()
            .find(|m| m.name == name)
            .map_or(f64::NAN, |m| m.value)
    };
    let finding = format!(
        "With half of all tries refused a queue of 32 keeps {} % of its throughput for {} tries per I/O, with nine in \
         ten refused {} % for {}; the 99th percentile is then {} ms.",
        show((value("share of full throughput, 50 % refused") * 100.0).round()),
        show(value("tries per I/O, 50 % refused")),
        show((value("share of full throughput, 90 % refused") * 1000.0).round() / 10.0),
        show(value("tries per I/O, 90 % refused")),
        show(value("p99 latency, 90 % refused")),
    );
    Ok(vec![Part {
        kind: Kind::Deterministic,
        finding,
        measures,
        figures,
    }])
}
