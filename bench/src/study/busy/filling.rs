// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study g: a disk with less memory than it has blocks, filled, exhausted, and brought back.

use super::ended;
use crate::study::outcome::{show, Axis, Figure, Kind, Measure, Part, Plot, Series, Table};
use crate::study::sim::Said;
use crate::study::{Settings, StudyError};

const MIB: f64 = 1024.0 * 1024.0;
const LIMIT: f64 = 16.0 * MIB;
const LOAD: &str =
    "--size 32M --memory-limit 16M --no-space-timeout 5 --rw write --bs 64K --rate 40 --zeros 25 \
                    --iodepth 16 --service-time 1ms --duration 30s --verify --sample 10ms";
/// The script: seconds, event, and its name in the picture.
const EVENTS: [(f64, &str, &str); 4] = [
    (17.0, "discard 0,8388608", "8 MiB discarded"),
    (21.0, "psi on", "PSI: memory is short"),
    (21.6, "psi off", ""),
    (27.0, "set memory-limit=off", "limit taken away"),
];
/// So many samples become one point of the picture.
const POINT: usize = 25;

/// One sample of the time line.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Seconds.
    pub at: f64,
    /// Requests ended since the one before, well or not.
    pub ended: f64,
    /// Of these, with NOSPC.
    pub no_space: f64,
    /// Requests that wait.
    pub parked: f64,
    /// Bytes used.
    pub used: f64,
    /// Bytes of zeros given back since the one before.
    pub zero: f64,
    /// What a write gets: 0 memory, 1 a wait, 2 NOSPC.
    pub mode: f64,
}

impl Moment {
    /// Requests that ended well since the one before.
    pub fn well(&self) -> f64 {
        self.ended - self.no_space
    }
}

/// A mode as a number that can be drawn.
pub fn mode(name: &str) -> f64 {
    match name {
        "enough" => 0.0,
        "exhausted" => 1.0,
        "error" => 2.0,
        _ => f64::NAN,
    }
}

fn moments(said: &Said) -> Vec<Moment> {
    let samples = said.json["samples"].as_array();
    let samples = samples.map_or(&[][..], Vec::as_slice).iter();
    let number = |sample: &serde_json::Value, name: &str| sample[name].as_f64().unwrap_or(f64::NAN);
    samples
        .map(|sample| Moment {
            at: number(sample, "t_ns") / 1e9,
            ended: number(sample, "ops"),
            no_space: number(sample, "no_space"),
            parked: number(sample, "parked"),
            used: number(sample, "used"),
            zero: number(sample, "zero"),
            mode: mode(sample["mode"].as_str().unwrap_or_default()),
        })
        .collect()
}

/// The first moment from a time on that is as asked.
pub fn first(moments: &[Moment], from: f64, is: impl Fn(&Moment) -> bool) -> f64 {
    let found = moments.iter().find(|m| m.at >= from && is(m));
    found.map_or(f64::NAN, |m| m.at)
}

/// The panels of the timeline, so many samples to a point.
pub fn panels(moments: &[Moment], point: usize) -> Vec<(Axis, Series)> {
    let points: Vec<&[Moment]> = moments.chunks(point.max(1)).collect();
    let begins = |n: usize| match n {
        0 => 0.0,
        n => points[n - 1].last().map_or(0.0, |m| m.at),
    };
    let course = |name: &str, of: &dyn Fn(&[Moment], f64) -> f64| {
        let series = points.iter().enumerate().filter_map(|(n, some)| {
            let last = some.last()?;
            Some((last.at, of(some, last.at - begins(n))))
        });
        Series {
            name: name.into(),
            points: series.collect(),
        }
    };
    let last = |some: &[Moment]| some[some.len() - 1];
    let panel = |label: &str, series| (Axis::linear(label), series);
    vec![
        panel(
            "memory used and allowed, MiB",
            course("memory used, MiB", &|some, _| last(some).used / MIB),
        ),
        panel(
            "zeros given back, MiB in all",
            sums(course("zeros given back, MiB", &|some, _| {
                some.iter().map(|m| m.zero).sum::<f64>() / MIB
            })),
        ),
        panel(
            "a write gets: 0 memory, 1 a wait, 2 NOSPC",
            course("mode", &|some, _| last(some).mode),
        ),
        panel(
            "requests that wait",
            course("requests that wait", &|some, _| last(some).parked),
        ),
        panel(
            "writes ended well per second",
            course("writes ended well per second", &|some, time| {
                some.iter().map(Moment::well).sum::<f64>() / time
            }),
        ),
        panel(
            "writes ended with NOSPC, in all",
            sums(course("NOSPC", &|some, _| {
                some.iter().map(|m| m.no_space).sum()
            })),
        ),
    ]
}

/// The same, added up.
fn sums(mut series: Series) -> Series {
    let mut sum = 0.0;
    for point in &mut series.points {
        sum += point.1;
        point.1 = sum;
    }
    series
}

/// Runs it.
pub fn run(_settings: &Settings) -> Result<Vec<Part>, StudyError> {
    if !sim_knows()? {
        return Err(StudyError::Lacking(
            "this ublk-ramdisk has no sim --zeros".into(),
        ));
    }
    let script: String = EVENTS
        .iter()
        .map(|(at, event, _)| format!(" --at '{}ms:{event}'", at * 1000.0))
        .collect();
    let said = ended(&format!("{LOAD} --psi 'some 150000 1000000'{script}"))?;
    let moments = moments(&said);
    Ok(vec![part(&said, &moments)])
}

fn sim_knows() -> Result<bool, StudyError> {
    crate::study::sim::knows("--zeros")
}

fn part(said: &Said, moments: &[Moment]) -> Part {
    let [discard, psi, _, raised] = EVENTS.map(|e| e.0);
    let zeros = first(moments, 0.0, |m| m.zero > 0.0);
    let exhausted = first(moments, 0.0, |m| m.mode == 1.0);
    let failed = first(moments, 0.0, |m| m.no_space > 0.0);
    let back = first(moments, discard, |m| m.well() > 0.0 && m.mode != 2.0);
    let again = first(moments, back, |m| m.mode == 1.0);
    let up = first(moments, raised, |m| m.well() > 0.0 && m.mode == 0.0);
    let over = |of: &dyn Fn(&Moment) -> f64, range: std::ops::Range<f64>| {
        let some = moments.iter().filter(move |m| range.contains(&m.at));
        some.map(of).collect::<Vec<_>>()
    };
    let most = |values: Vec<f64>| values.into_iter().fold(0.0, f64::max);
    let sum = |values: Vec<f64>| values.into_iter().fold(0.0, |sum, value| sum + value);
    let before = sum(over(&|m| m.zero, 0.0..exhausted + 1e-6)) / MIB;
    // A wait of which nothing ended is as long as the samples in which that was so.
    let waited = {
        let psi_on = moments.iter().filter(|m| (psi..psi + 2.0).contains(&m.at));
        let mut longest: f64 = 0.0;
        let mut since = None;
        for m in psi_on {
            match (m.parked > 0.0, since) {
                (true, None) => since = Some(m.at),
                (true, Some(from)) => longest = longest.max(m.at - from),
                (false, _) => since = None,
            }
        }
        longest
    };
    let errors: f64 = said.json["errors"].as_object().map_or(0.0, |all| {
        let others = all.iter().filter(|(name, _)| *name != "NOSPC");
        others
            .filter_map(|(_, n)| n.as_f64())
            .fold(0.0, |sum, n| sum + n)
    });
    let last_used = moments.last().map_or(f64::NAN, |m| m.used);
    let refused = said.at("refused_by.psi");
    let measures = vec![
        Measure::new(
            "most memory used, of the limit",
            most(over(&|m| m.used, 0.0..raised)) / LIMIT,
            "",
        ),
        Measure::new("first zeros given back", zeros, "s"),
        Measure::new("zeros given back before it is exhausted", before, "MiB"),
        Measure::new("exhausted for the first time", exhausted, "s"),
        Measure::new(
            "writes wait, from exhausted to the first NOSPC",
            failed - exhausted,
            "s",
        ),
        Measure::new(
            "most requests that wait",
            most(over(&|m| m.parked, 0.0..31.0)),
            "",
        ),
        Measure::new(
            "writes ended with NOSPC while waiting was allowed",
            sum(over(&|m| m.no_space, 0.0..exhausted + 4.9)),
            "",
        ),
        Measure::new(
            "from NOSPC to accepted writes after the discard",
            back - discard,
            "s",
        ),
        Measure::new("requests that failed, but not with NOSPC", errors, ""),
        Measure::new("PSI: longest wait", waited, "s"),
        Measure::new("refused by PSI", refused, ""),
        Measure::new("from the raised limit to accepted writes", up - raised, "s"),
        Measure::new("blocks that read back wrong", said.at("verify.failed"), ""),
        Measure::new(
            "memory used at the end, of the limit",
            last_used / LIMIT,
            "",
        ),
    ];
    let mut table = Table::new(&["when, s", "what"]);
    let mut happened: Vec<(f64, String)> = vec![
        (zeros, "limit reached: zeros given back".into()),
        (exhausted, "exhausted: writes wait".into()),
        (failed, "patience over: NOSPC".into()),
        (again, "full again: writes wait".into()),
    ];
    let named = EVENTS.iter().filter(|e| !e.2.is_empty());
    happened.extend(named.map(|e| (e.0, e.2.to_owned())));
    happened.retain(|(at, _)| at.is_finite());
    happened.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (at, what) in &happened {
        table.row([format!("{at:.2}"), what.clone()]);
    }
    let limit = Series {
        name: "limit, MiB".into(),
        points: vec![(0.0, LIMIT / MIB), (raised, LIMIT / MIB)],
    };
    Part {
        kind: Kind::Deterministic,
        finding: format!(
            "Filled at 2.5 MiB/s, a fourth of it zeros, a disk that may use half its size reaches the limit after {} s and \
             lives on zeros ({} MiB) until {} s; then writes wait {} s and fail. {} s after a discard of 8 MiB they are \
             accepted again, without a word to the disk.",
            show(zeros),
            show(before),
            show(exhausted),
            show(failed - exhausted),
            show(back - discard),
        ),
        measures,
        figures: vec![Figure {
            id: "filling".into(),
            title: "A disk of 32 MiB with 16 MiB of memory: full, waiting, failing, and back".into(),
            alt: "Timeline of thirty seconds: memory used and its limit, zeros given back, what a write can expect, requests \
                  that wait, writes per second, and writes ended with NOSPC."
                .into(),
            plot: Plot::Stack {
                x: Axis::linear("time, s"),
                panels: panels(moments, POINT),
                levels: vec![(0, limit)],
                marks: happened,
            },
            table,
        }],
    }
}
