// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study b: the delay after RESOURCE, and DEV_RESOURCE.

use super::ended;
use crate::study::outcome::{
    show, Axis, Figure, Kind, Measure, Part, Plot, Samples, Series, Table,
};
use crate::study::sim;
use crate::study::{Settings, StudyError};

const DELAYS: [&str; 4] = ["0", "1", "3", "10"];
const COST: &str = "--call-cost 10us --service-time 100us --rw randread";
const BUSY: &str = "--at '10ms:busy on' --at '110ms:busy off' --duration 200ms";

/// Everything is refused for a while.
fn outage(measures: &mut Vec<Measure>) -> Result<Figure, StudyError> {
    let mut table = Table::new(&[
        "in flight",
        "answer",
        "delay, ms",
        "refusals",
        "longest read, ms",
        "reads in 200 ms",
    ]);
    let mut series = Vec::new();
    for depth in [1, 32] {
        let mut points = Vec::new();
        for delay in DELAYS {
            let said = ended(&format!(
                "{COST} {BUSY} --iodepth {depth} --rerun-delay {delay}ms"
            ))?;
            let refusals = said.sum("refused_resource") + said.sum("refused_dev_resource");
            let longest = said.latency("max");
            let key = |what: &str| format!("{what}, delay {delay} ms, {depth} in flight");
            measures.push(Measure::new(key("refusals in 100 ms"), refusals, ""));
            measures.push(Measure::new(key("longest read"), longest, "ms"));
            points.push((delay.parse().unwrap_or(f64::NAN), refusals));
            let cells = [refusals, longest, said.ops()].map(show);
            let head = [depth.to_string(), "RESOURCE".into(), delay.to_owned()];
            table.row(head.into_iter().chain(cells));
        }
        series.push(Series {
            name: format!("{depth} in flight"),
            points,
        });
    }
    // With restarts alone a run may never end; the program gives up then.
    let alone = sim::run(&format!(
        "{COST} {BUSY} --iodepth 1 --rerun-delay never --patience 10s"
    ))?;
    let stands = f64::from(u8::from(alone.error.is_some()));
    measures.push(Measure::new(
        "stands still, restarts alone, 1 in flight",
        stands,
        "",
    ));
    // The end of the busy time is announced, as a driver's own event would be; the end of an injected refusal is not.
    let quiet =
        "--iodepth 1 --ops 1000 --inject requeue=1,50,0,-1 --rerun-delay never --patience 10s";
    let quiet = sim::run(&format!("{COST} {quiet}"))?;
    let unannounced = f64::from(u8::from(quiet.error.is_some()));
    measures.push(Measure::new(
        "stands still, restarts alone, half refused, 1 in flight",
        unannounced,
        "",
    ));
    let end = if alone.error.is_some() {
        "for ever".into()
    } else {
        show(alone.latency("max"))
    };
    let row = [
        "1".into(),
        "RESOURCE".into(),
        "restarts alone".into(),
        "–".into(),
        end,
        "–".into(),
    ];
    table.row(row);
    for depth in [1, 32] {
        let busy = BUSY.replace("busy on", "busy dev");
        let said = ended(&format!("{COST} {busy} --iodepth {depth}"))?;
        let refusals = said.sum("refused_resource") + said.sum("refused_dev_resource");
        let key = format!("refusals in 100 ms, DEV_RESOURCE, {depth} in flight");
        measures.push(Measure::new(key, refusals, ""));
        let cells = [refusals, said.latency("max"), said.ops()].map(show);
        table.row(
            [depth.to_string(), "DEV_RESOURCE".into(), "3".into()]
                .into_iter()
                .chain(cells),
        );
    }
    Ok(Figure {
        id: "outage".into(),
        title: "What the delay saves: calls of a driver that refuses everything for 100 ms".into(),
        alt: "Calls of the driver during 100 ms in which it refuses everything, by decades, against delays of 0, 1, 3 and \
              10 ms: some 10000 without delay, 35 with 3 ms, whether 1 request is in flight or 32."
            .into(),
        plot: Plot::Lines {
            x: Axis::linear("delay, ms"),
            y: Axis::log("calls while everything is refused"),
            series,
            dots: false,
        },
        table,
    })
}

/// Half of the tries are refused.
fn everyday(measures: &mut Vec<Measure>, ops: usize) -> Result<[Figure; 2], StudyError> {
    let mut table = Table::new(&[
        "in flight",
        "delay, ms",
        "reads/s",
        "tries per I/O",
        "median, ms",
        "99 %, ms",
    ]);
    let mut curves = Vec::new();
    let mut sets = Vec::new();
    for depth in [1, 32] {
        let mut rates = Vec::new();
        for delay in DELAYS {
            let said = ended(&format!(
                "{COST} --iodepth {depth} --ops {ops} --inject requeue=1,50,0,-1 --rerun-delay {delay}ms"
            ))?;
            let found = [
                said.at("total.iops"),
                said.tries() / said.ops(),
                said.latency("p50"),
                said.latency("p99"),
            ];
            table.row(
                [depth.to_string(), delay.to_owned()]
                    .into_iter()
                    .chain(found.map(show)),
            );
            rates.push(found[0]);
            if depth == 1 {
                sets.push(Samples {
                    name: format!("{delay} ms"),
                    values: said.latencies(2000),
                });
            }
        }
        let ratio = |a: usize, b: usize| rates[a] / rates[b];
        for (name, value) in [
            ("3 ms over 0 ms", ratio(2, 0)),
            ("10 ms over 3 ms", ratio(3, 2)),
        ] {
            let name = format!("{name}, throughput, half refused, {depth} in flight");
            measures.push(Measure::new(name, value, ""));
        }
        let points = DELAYS.iter().zip(&rates);
        let points = points.map(|(d, &rate)| (d.parse().unwrap_or(f64::NAN), rate));
        curves.push(Series {
            name: format!("{depth} in flight"),
            points: points.collect(),
        });
    }
    let mut quantiles = Table::new(&["delay, ms", "longest read, ms", "samples"]);
    for set in &sets {
        let longest = set.values.last().copied().unwrap_or(f64::NAN);
        quantiles.row([
            set.name.clone(),
            show(longest),
            set.values.len().to_string(),
        ]);
    }
    Ok([
        Figure {
            id: "throughput".into(),
            title: "Half of the tries refused: what the delay costs".into(),
            alt: "Reads per second against the delay, with one request in flight and with 32.".into(),
            plot: Plot::Lines {
                x: Axis::linear("delay, ms"),
                y: Axis::log("reads per second"),
                series: curves,
                dots: false,
            },
            table,
        },
        Figure {
            id: "latency".into(),
            title: "With one request in flight the tail is made of whole delays".into(),
            alt: "Latency of reads by percentile for delays of 0, 1, 3 and 10 ms, one request in flight.".into(),
            plot: Plot::Percentiles {
                value: Axis::log("latency, ms"),
                sets,
            },
            table: quantiles,
        },
    ])
}

/// Runs it.
pub fn run(settings: &Settings) -> Result<Vec<Part>, StudyError> {
    let mut measures = Vec::new();
    let mut figures = vec![outage(&mut measures)?];
    figures.extend(everyday(&mut measures, settings.scaled(4000, 1000))?);
    let value = |name: &str| {
        measures
            .iter()
            .find(|m| m.name == name)
            .map_or(f64::NAN, |m| m.value)
    };
    let finding = format!(
        "A driver that refuses everything for 100 ms is called {} times with the 3 ms delay, {} times without delay. With \
         half of the tries refused and one request in flight, 10 ms instead of 3 leave {} of the throughput. With restarts alone and nothing in flight I/O {}.",
        show(value("refusals in 100 ms, delay 3 ms, 1 in flight")),
        show(value("refusals in 100 ms, delay 0 ms, 1 in flight")),
        show(value("10 ms over 3 ms, throughput, half refused, 1 in flight")),
        match value("stands still, restarts alone, half refused, 1 in flight") {
            1.0 => "stands still for ever",
            _ => "went on all the same",
        },
    );
    Ok(vec![Part {
        kind: Kind::Deterministic,
        finding,
        measures,
        figures,
    }])
}
