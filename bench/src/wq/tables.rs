// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables of a run: medians with their spread, and ours against the best rival.
//!
//! They judge by the target that each case has, but a slow figure is not a failure: the reader
//! decides.

use super::contender::ours::{LEGACY, OURS};
use super::contender::rivals::{POOLS, RAYON, RIVALS};
use super::kept::Kept;
use crate::stats::{median, quantiles, spread};
use crate::table::Table;
use std::fmt::Write;

/// What a case is held against.
#[derive(Clone, Copy, Debug)]
enum Against {
    /// The rival with the lowest figure.
    Best,
    /// The pool with the lowest figure.
    BestPool,
    /// This one.
    One(&'static str),
    /// A number; there is no rival.
    Limit(f64),
}

/// A case of the tables; a lower figure is better in all of them.
struct Case {
    key: &'static str,
    unit: &'static str,
    against: Against,
    /// Ours has to be at most this many times the rival's.
    at_most: f64,
}

/// One item after the other, in bursts: one producer.
pub const SPAWN_1: &str = "enqueue to completed, 1 producer";

/// The same from four.
pub const SPAWN_4: &str = "enqueue to completed, 4 producers";

/// The idle pool: the median.
pub const WAKE_50: &str = "wake-up, p50";

/// The idle pool: the 99th per cent.
pub const WAKE_99: &str = "wake-up, p99";

/// One item in ten sleeps.
pub const BLOCKED: &str = "one of ten sleeps 2 ms";

/// A million timers.
pub const ARM: &str = "arming, to a million timers";

/// How many fired early, of all.
pub const EARLY: &str = "timers fired early";

/// Lateness of timers on an idle machine.
pub const LATE: &str = "lateness p99, sparse timers";

/// The median of the same.
pub const LATE_50: &str = "lateness p50, sparse timers";

/// The row of a thread that only sleeps until the same times.
pub const CONTROL: &str = "a sleeping thread";

/// Lateness of a million timers in eight seconds.
pub const LATE_MILLION: &str = "lateness p99, a million timers in 8 s";

/// Bytes, see [`super::memory`].
pub const BYTES: &str = "bytes";

/// Nanoseconds of an operation, see [`super::growth`].
pub const GROWTH: &str = "growth";

/// A row of [`CASES`].
const fn case(key: &'static str, unit: &'static str, against: Against, at_most: f64) -> Case {
    Case {
        key,
        unit,
        against,
        at_most,
    }
}

/// In the order of the tables.
const CASES: [Case; 10] = [
    case(SPAWN_1, "ns per item", Against::BestPool, 1.0),
    case(SPAWN_4, "ns per item", Against::BestPool, 0.5),
    case(WAKE_50, "us", Against::Best, 1.0),
    case(WAKE_99, "us", Against::Best, 1.0),
    case(BLOCKED, "ns per item", Against::One(RAYON), 0.35),
    case(ARM, "ns per timer", Against::Limit(300.0), 1.0),
    case(EARLY, "timers", Against::Limit(0.0), 1.0),
    case(LATE_50, "ms", Against::One(CONTROL), f64::INFINITY),
    case(LATE, "ms", Against::Limit(0.2), 1.0),
    // No target.
    case(LATE_MILLION, "ms", Against::Limit(f64::INFINITY), 1.0),
];

/// Everything that there is to say about a run.
pub fn tables(kept: &Kept) -> String {
    let mut out = String::new();
    for (name, value) in &kept.setting {
        let _ = writeln!(out, "{name:<14}{value}");
    }
    out.push('\n');
    for case in CASES.iter().filter(|c| kept.samples.contains_key(c.key)) {
        print(kept, case, &mut out);
    }
    for (key, title) in [(BYTES, BYTES), (GROWTH, "beside how many, ns")] {
        let Some(rows) = kept.samples.get(key) else {
            continue;
        };
        let mut table = Table::new(&[title, "each"]);
        for (what, samples) in rows {
            let cell = median(samples).map(|figure| format!("{figure:.1}"));
            table.row_with_gaps(what, [cell]);
        }
        table.print(&mut out);
    }
    out
}

/// The rival a case is held against, and its figure.
fn rival(kept: &Kept, case: &Case) -> Option<(&'static str, f64)> {
    let figure = |name: &'static str| Some((name, median(kept.series(case.key, name))?));
    let rivals = match case.against {
        Against::Limit(limit) => return Some(("the limit", limit)),
        Against::One(name) => return figure(name),
        Against::Best => &RIVALS[..],
        Against::BestPool => &POOLS,
    };
    let figures = rivals.iter().copied().filter_map(figure);
    figures.min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Prints the table of one case: each contender with its median, spread and ratio.
fn print(kept: &Kept, case: &Case, out: &mut String) {
    let rival = rival(kept, case);
    let against = match rival {
        Some((name, figure)) if figure.is_finite() => format!("times {name}"),
        _ => "-".to_owned(),
    };
    let title = match case.unit {
        "" => case.key.to_owned(),
        unit => format!("{}, {unit}", case.key),
    };
    let target = match case.at_most {
        no_target if no_target.is_infinite() => "no target".to_owned(),
        at_most => format!("at most {at_most}"),
    };
    let mut table = Table::new(&[
        &*title,
        "median",
        "lower quartile",
        "spread %",
        &against,
        &target,
    ]);
    let all = OURS.into_iter().chain([LEGACY]);
    for name in all.chain(RIVALS).chain([CONTROL]) {
        let series = kept.series(case.key, name);
        let Some(own) = median(series) else {
            continue;
        };
        let ratio = rival.map(|(_, figure)| own / figure);
        let ratio = ratio.filter(|ratio| ratio.is_finite() && *ratio > 0.0);
        let ours = OURS.contains(&name);
        let met = rival.is_some_and(|(_, figure)| own <= figure * case.at_most);
        let judged = ours && against != "-" && case.at_most.is_finite();
        let verdict = judged.then_some(if met { "met" } else { "not met" });
        let cells = [
            Some(format!("{own:.3}")),
            Some(format!("{:.3}", quantiles(series, [0.25])[0])),
            spread(series)
                .filter(|s| s.is_finite())
                .map(|s| format!("{s:.0}")),
            ratio.map(|ratio| format!("{ratio:.2}")),
            verdict.map(str::to_owned),
        ];
        table.row_with_gaps(name, cells);
    }
    table.print(out);
}
