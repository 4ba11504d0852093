// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables of a run: medians, how far the samples of a series lie apart, and
//! what each of our data paths comes to against the rivals.
//!
//! A report judges, but a slow figure is not a failure: whoever reads it decides.

use std::fmt::Write;

use crate::run::Run;

/// The jobs in the order of the tables, and how many times a rival's IOPS the
/// RAM disk is to reach.
pub const JOBS: [(&str, &str, f64); 6] = [
    ("randread-4k-qd32", "4 KiB random read, QD 32", 1.05),
    ("randwrite-4k-qd32", "4 KiB random write, QD 32", 1.05),
    ("randread-4k-qd1", "4 KiB random read, QD 1", 1.05),
    ("randwrite-4k-qd1", "4 KiB random write, QD 1", 1.05),
    ("read-128k-qd8", "128 KiB read, QD 8", 1.6),
    ("write-128k-qd8", "128 KiB write, QD 8", 1.6),
];

/// Our data paths.
pub const OURS: [&str; 4] = ["plain", "get-data", "user-copy", "batch"];

/// Whom the targets are against: the RAM disk that comes with libublk as its
/// example, and the quickest that we could write on the same crate.
pub const RIVALS: [&str; 2] = ["libublk-example", "libublk"];

/// All contenders in the order of the columns.
const COLUMNS: [&str; 14] = [
    "plain",
    "get-data",
    "user-copy",
    "batch",
    RIVALS[0],
    RIVALS[1],
    "libublk-async",
    "rublk-null",
    "rublk-loop",
    "loop",
    "nbd",
    "zram",
    "null_blk",
    "brd",
];

/// The middle of the values; of an even number the mean of the middle two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// From the smallest to the largest value, in per cent of the median.
pub fn spread(values: &[f64]) -> Option<f64> {
    let median = median(values)?;
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    Some((most - least) / median * 100.0)
}

/// A table whose first column is text and whose others are figures.
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn new(first: &str, columns: &[&str]) -> Self {
        let mut header = vec![first.to_owned()];
        header.extend(columns.iter().map(|&column| column.to_owned()));
        Self(vec![header])
    }

    pub(crate) fn row(&mut self, name: &str, cells: impl Iterator<Item = Option<String>>) {
        let mut row = vec![name.to_owned()];
        row.extend(cells.map(|cell| cell.unwrap_or_else(|| "-".to_owned())));
        self.0.push(row);
    }

    pub(crate) fn print(&self, out: &mut String) {
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        for row in &self.0 {
            let _ = write!(out, "{:<1$}", row[0], width(0));
            for (column, cell) in row.iter().enumerate().skip(1) {
                let _ = write!(out, "  {cell:>0$}", width(column));
            }
            out.push('\n');
        }
        out.push('\n');
    }
}

/// Everything that there is to say about a run.
pub fn report(run: &Run) -> String {
    let mut out = String::new();
    for (name, value) in run.setting.iter() {
        let _ = writeln!(out, "{name:<14}{value}");
    }
    for (contender, why) in &run.absent {
        let _ = writeln!(out, "{:<14}{contender}: {why}", "absent");
    }
    out.push('\n');
    let columns: Vec<&str> = COLUMNS
        .into_iter()
        .filter(|&column| run.samples.contains_key(column))
        .collect();
    let jobs: Vec<_> = JOBS
        .iter()
        .filter(|(job, ..)| run.samples.values().any(|jobs| jobs.contains_key(*job)))
        .collect();

    let mut table = Table::new("IOPS, medians", &columns);
    for (job, name, _) in &jobs {
        let cell = |column: &&str| median(&run.iops(column, job)).map(|iops| format!("{iops:.0}"));
        table.row(name, columns.iter().map(cell));
    }
    table.print(&mut out);

    let rounds = run.samples.values().flat_map(|jobs| jobs.values());
    let rounds = rounds.map(Vec::len).max().unwrap_or(0);
    if rounds > 1 {
        let mut table = Table::new(&format!("spread of {rounds}, %"), &columns);
        for (job, name, _) in &jobs {
            let cell =
                |column: &&str| spread(&run.iops(column, job)).map(|per| format!("{per:.1}"));
            table.row(name, columns.iter().map(cell));
        }
        table.print(&mut out);
    }

    let ours = columns.iter().any(|column| OURS.contains(column));
    for rival in RIVALS {
        if ours && run.samples.contains_key(rival) {
            ratios(run, rival, &jobs, &columns, &mut out);
        }
    }
    out
}

/// Our paths over one rival, each with the target's verdict.
fn ratios(run: &Run, rival: &str, jobs: &[&(&str, &str, f64)], columns: &[&str], out: &mut String) {
    let mut ours: Vec<&str> = columns.to_vec();
    ours.retain(|column| OURS.contains(column));
    let mut header = ours.clone();
    header.extend(["best", "target", "best path"]);
    let mut table = Table::new(&format!("times {rival}"), &header);
    // Which paths reach every target of the run.
    let mut complete = ours.clone();
    for (job, name, target) in jobs {
        let ratio =
            |path: &str| Some(median(&run.iops(path, job))? / median(&run.iops(rival, job))?);
        let verdict = |ratio: f64| {
            // As printed: 1.0499 is not 1.05.
            let met = (ratio * 1000.0).floor() / 1000.0 >= *target;
            format!("{:.3} {}", ratio, if met { "met" } else { "not met" })
        };
        complete.retain(|path| ratio(path).is_some_and(|ratio| ratio >= *target));
        let best = ours
            .iter()
            .filter_map(|&path| Some((ratio(path)?, path)))
            .max_by(|left, right| left.0.total_cmp(&right.0));
        let cells = ours.iter().map(|path| ratio(path).map(verdict));
        let ends = [
            best.map(|(ratio, _)| verdict(ratio)),
            Some(format!("{target}")),
            best.map(|(_, path)| path.to_owned()),
        ];
        table.row(name, cells.chain(ends));
    }
    table.print(out);
    let complete = match complete.as_slice() {
        [] => "none".to_owned(),
        paths => paths.join(", "),
    };
    let _ = writeln!(
        out,
        "paths that meet every target against {rival} by themselves: {complete}\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIVAL: &str = RIVALS[1];
    use crate::fio::Sample;

    fn sample(iops: f64) -> Sample {
        Sample {
            iops,
            ios: 1,
            runtime_ms: 1,
            mean_us: 1.0,
            p99_us: 1.0,
            fio_cpu: [0.0; 2],
        }
    }

    fn run(series: &[(&str, &str, &[f64])]) -> Run {
        let mut run = Run::default();
        for (contender, job, values) in series {
            let samples = values.iter().map(|&iops| sample(iops)).collect();
            let jobs = run.samples.entry((*contender).into()).or_default();
            jobs.insert((*job).into(), samples);
        }
        run
    }

    #[test]
    fn median_and_spread_of_few_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(spread(&[100.0]), Some(0.0));
        assert_eq!(spread(&[90.0, 100.0, 110.0]), Some(20.0));
    }

    #[test]
    fn a_target_is_met_or_not_met_per_path() {
        let job = "randread-4k-qd32";
        let text = report(&run(&[
            (RIVAL, job, &[1000.0, 1010.0, 990.0]),
            ("batch", job, &[1050.0]),
            ("plain", job, &[1049.9]),
        ]));
        assert!(text.contains("1.050 met"), "{text}");
        assert!(text.contains("1.050 not met"), "{text}");
        assert!(text.contains("by themselves: batch\n"), "{text}");
        assert!(text.contains("4 KiB random read, QD 32"), "{text}");
        assert!(!text.contains("QD 8"), "only what was run: {text}");
    }

    #[test]
    fn a_run_without_the_rival_has_no_ratios() {
        let text = report(&run(&[("brd", "read-128k-qd8", &[6000.0])]));
        assert!(text.contains("6000"), "{text}");
        assert!(!text.contains("times"), "{text}");
    }

    #[test]
    fn the_rival_alone_has_no_ratios_and_a_missing_series_is_a_dash() {
        let text = report(&run(&[(RIVAL, "read-128k-qd8", &[1.0])]));
        assert!(!text.contains("times"), "{text}");
        let text = report(&run(&[
            (RIVAL, "read-128k-qd8", &[1000.0]),
            ("batch", "write-128k-qd8", &[2000.0]),
        ]));
        assert!(text.contains('-'), "{text}");
        assert!(text.contains("by themselves: none"), "{text}");
    }
}
