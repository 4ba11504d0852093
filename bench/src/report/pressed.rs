// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables of contenders under pressure: their figures beside the same disk's without it, and how
//! often their source has refused. A limit that a load never reaches gives the figures of a disk at
//! ease, and 0 refused.

use std::fmt::Write;

use ublk_ramdisk::mq::{BySource, Source};

use super::Row;
use crate::contender::{Contender, OURS};
use crate::fio::Sample;
use crate::run::Run;
use crate::stats::median;
use crate::table::Table;

/// The columns that are `base` under some pressure.
fn of_base<'a>(base: &str, columns: &[&'a str]) -> Vec<&'a str> {
    let is_its = |column: &&str| column.split_once('+').is_some_and(|(name, _)| name == base);
    columns.iter().copied().filter(is_its).collect()
}

/// All of its samples.
fn samples<'a>(run: &'a Run, column: &str) -> impl Iterator<Item = &'a Sample> {
    let jobs = run.samples.get(column);
    jobs.into_iter().flat_map(|jobs| jobs.values()).flatten()
}

/// Tries refused in all samples, by source; none if the server was not asked.
/// Differences of the server's `refused_by` counters, taken before and after each sample.
fn refused(run: &Run, column: &str) -> Option<BySource> {
    let by = samples(run, column).filter_map(|sample| sample.refused);
    by.reduce(|all, by| all.with(&by, &u64::saturating_add))
}

/// The source that presses on a column of ours.
/// None for a rival and for a column of ours at ease.
fn source(column: &str) -> Option<Source> {
    let contender: Contender = column.parse().ok()?;
    Some(contender.pressure_of_ours()?.source)
}

/// The tables.
pub(crate) fn tables(run: &Run, rows: &[Row], columns: &[&str], out: &mut String) {
    // Each beside its own disk at ease: ratios to another data path would mix two effects.
    for base in OURS.into_iter().chain(["null_blk"]) {
        let pressed = of_base(base, columns);
        if pressed.is_empty() {
            continue;
        }
        // A run may have the pressed disk alone. The counts are of use even so.
        if run.samples.contains_key(base) {
            let title = format!("times {base} at ease");
            let mut table = Table::new([title.as_str()].iter().chain(&pressed));
            for row in rows {
                let ratio = |column: &&str| {
                    let ratio =
                        median(&run.iops(column, &row.name))? / median(&run.iops(base, &row.name))?;
                    Some(format!("{ratio:.3}"))
                };
                table.row_with_gaps(&row.title, pressed.iter().map(ratio));
            }
            table.print(out);
        }
        counts(run, rows, &pressed, out);
    }
}

/// How often each source has refused, by job, and all of them in all.
fn counts(run: &Run, rows: &[Row], pressed: &[&str], out: &mut String) {
    let mut asked = pressed.to_vec();
    asked.retain(|column| refused(run, column).is_some());
    if !asked.is_empty() {
        let title = "tries its source refused, medians";
        let mut table = Table::new([title].iter().chain(&asked));
        for row in rows {
            // A try, not a request: one request may be refused many times.
            let count = |column: &&str| {
                let source = source(column)?;
                let jobs = run.samples.get(*column)?;
                let by = jobs.get(&row.name)?.iter().filter_map(|s| s.refused);
                let counts: Vec<f64> = by.map(|by| by.of(source) as f64).collect();
                median(&counts).map(|count| format!("{count:.0}"))
            };
            table.row_with_gaps(&row.title, asked.iter().map(count));
        }
        table.print(out);
    }
    let mut lines = String::new();
    for column in asked {
        let by = refused(run, column).unwrap_or_default();
        let sources = Source::ALL.iter().filter(|source| by.of(**source) > 0);
        let texts: Vec<String> = sources
            .map(|source| format!("{} {}", source.name(), by.of(*source)))
            .collect();
        // The number of requests beside it tells if the refusals were many.
        let done: u64 = samples(run, column).map(|sample| sample.ios).sum();
        let _ = writeln!(
            lines,
            "refused in all: {column}: {} (of {done} requests)",
            if texts.is_empty() {
                "nothing".to_owned()
            } else {
                texts.join(", ")
            }
        );
    }
    if !lines.is_empty() {
        lines.push('\n');
    }
    *out += &lines;
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "randread-4k-qd32";

    fn run(series: &[(&str, f64, Option<BySource>)]) -> Run {
        let mut run = Run::default();
        for (contender, iops, refused) in series {
            let sample = Sample {
                iops: *iops,
                ios: 500,
                runtime_ms: 1000,
                refused: *refused,
                ..Sample::default()
            };
            let jobs = run.samples.entry((*contender).into()).or_default();
            // Two rounds, so that a median and a sum of the counts differ.
            jobs.insert(JOB.into(), vec![sample.clone(), sample]);
        }
        run
    }

    // Through JSON: the type has a field for each source, and a test names one.
    fn by(source: &str, count: u64) -> Option<BySource> {
        serde_json::from_value(serde_json::json!({ source: count })).ok()
    }

    #[test]
    fn ours_under_pressure_stands_beside_ours_at_ease_with_what_was_refused() {
        let run = run(&[
            ("batch", 1000.0, None),
            ("batch+slots", 640.0, by("slots", 77)),
            ("null_blk", 2000.0, None),
            ("null_blk+mbps", 500.0, None),
        ]);
        let text = crate::report::report(&run);
        for part in [
            "times batch at ease",
            "0.640",
            "times null_blk at ease",
            "0.250",
            "77\n",
            "refused in all: batch+slots: slots 154 (of 1000 requests)",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
