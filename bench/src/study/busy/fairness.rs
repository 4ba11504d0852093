// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study h: each job's share, and the longest wait, while the driver refuses.

use super::ended;
use crate::study::outcome::{show, Axis, Figure, Kind, Measure, Part, Plot, Samples, Table};
use crate::study::sim::Said;
use crate::study::{Settings, StudyError};

const JOBS: usize = 8;
const LOAD: &str = "--jobs 8 --iodepth 8 --service-time 50us..150us --rw randrw";
const SHARES: [(u32, &str); 5] = [
    (0, "nothing refused"),
    (25, "25 % refused"),
    (50, "50 % refused"),
    (75, "75 % refused"),
    (90, "90 % refused"),
];

/// The requests of each job as multiples of the mean.
fn shares(said: &Said) -> Vec<f64> {
    let ops = |job: usize| -> f64 {
        let kinds = ["read", "write", "discard", "flush"];
        let ops = kinds.map(|kind| said.at(&format!("jobs.{job}.{kind}.ops")));
        ops.iter().filter(|n| n.is_finite()).sum()
    };
    let ops: Vec<f64> = (0..JOBS).map(ops).collect();
    let mean = ops.iter().sum::<f64>() / JOBS as f64;
    ops.iter().map(|n| n / mean).collect()
}

/// The share of the job that got least, of the mean. Of jobs with a number of requests to do it is the rate.
pub(super) fn slowest(said: &Said) -> f64 {
    let rates = (0..JOBS).map(|job| said.at(&format!("jobs.{job}.iops")));
    let rates: Vec<f64> = rates.filter(|r| r.is_finite()).collect();
    let mean = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
    rates.iter().copied().fold(f64::INFINITY, f64::min) / mean
}

/// Runs it.
pub fn run(settings: &Settings) -> Result<Vec<Part>, StudyError> {
    let load = format!("{LOAD} --duration {}ms", settings.scaled(100, 20));
    let mut measures = Vec::new();
    let mut waits = Table::new(&[
        "refused, %",
        "requests/s",
        "median, ms",
        "99 %, ms",
        "longest, ms",
        "longest over median",
    ]);
    let mut heat = Table::new(&["refused, %", "least, of the mean", "most, of the mean"]);
    let (mut values, mut sets, mut lost, mut without) = (Vec::new(), Vec::new(), 0.0, f64::NAN);
    for (share, name) in SHARES {
        let inject = match share {
            0 => String::new(),
            share => format!("--inject requeue=1,{share},0,-1"),
        };
        let said = ended(&format!("{load} {inject}"))?;
        let shares = shares(&said);
        let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
        let most = shares.iter().copied().fold(0.0, f64::max);
        measures.push(Measure::new(
            format!("slowest job's share, {name}"),
            least,
            "",
        ));
        let (median, longest) = (said.latency("p50"), said.latency("max"));
        measures.push(Measure::new(
            format!("longest latency over median, {name}"),
            longest / median,
            "",
        ));
        lost += said.sum("inserted") - said.sum("ended");
        if share == 50 {
            without = said.at("total.iops");
        }
        let cells = [
            said.at("total.iops"),
            median,
            said.latency("p99"),
            longest,
            longest / median,
        ];
        waits.row([share.to_string()].into_iter().chain(cells.map(show)));
        heat.row(
            [share.to_string()]
                .into_iter()
                .chain([least, most].map(show)),
        );
        values.push(shares);
        sets.push(Samples {
            name: name.into(),
            values: said.latencies(1500),
        });
    }
    let said = ended(&format!("{load} --inject requeue=1,50,0,-1 --flush 1"))?;
    measures.push(Measure::new(
        "throughput with 1 % FLUSH over without",
        said.at("total.iops") / without,
        "",
    ));
    lost += said.sum("inserted") - said.sum("ended");
    measures.push(Measure::new("requests that never ended", lost, ""));
    let value = |name: &str| {
        measures
            .iter()
            .find(|m| m.name == name)
            .map_or(f64::NAN, |m| m.value)
    };
    let finding = format!(
        "With half of the tries refused the worst-served of eight jobs gets {} of the mean, and the longest wait is {} \
         times the median; with nine in ten refused {} and {}.",
        show(value("slowest job's share, 50 % refused")),
        show(value("longest latency over median, 50 % refused")),
        show(value("slowest job's share, 90 % refused")),
        show(value("longest latency over median, 90 % refused")),
    );
    let figures = vec![
        Figure {
            id: "shares".into(),
            title: "What each of eight jobs gets, as a share of the mean".into(),
            alt: "Heat map of the requests of eight jobs, as shares of the mean, by the share of tries refused.".into(),
            plot: Plot::Heat {
                x: Axis::linear("job"),
                y: Axis::linear("tries refused"),
                value: Axis::linear("requests, of the mean of all jobs"),
                columns: (0..JOBS).map(|job| job.to_string()).collect(),
                rows: SHARES.iter().map(|(share, _)| format!("{share} %")).collect(),
                values,
            },
            table: heat,
        },
        Figure {
            id: "waits".into(),
            title: "How long a request waits, by percentile".into(),
            alt: "Latency by percentile for 0, 25, 50, 75 and 90 per cent of the tries refused.".into(),
            plot: Plot::Percentiles {
                value: Axis::log("latency, ms"),
                sets,
            },
            table: waits,
        },
    ];
    Ok(vec![Part {
        kind: Kind::Deterministic,
        finding,
        measures,
        figures,
    }])
}
