// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parts of a run's tables: rows per job, columns per contender, and the median and the
//! spread of a series of samples.

use std::fmt::Write;

use crate::matrix::Job;
use crate::run::Run;

/// The jobs that have targets, in the order of the tables, and how many times a
/// rival's IOPS the RAM disk is to reach.
pub const TARGETS: [(&str, f64); 6] = [
    ("randread-4k-qd32", 1.05),
    ("randwrite-4k-qd32", 1.05),
    ("randread-4k-qd1", 1.05),
    ("randwrite-4k-qd1", 1.05),
    ("read-128k-qd8", 1.6),
    ("write-128k-qd8", 1.6),
];

/// A row of every table: a job, by name and for people.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) target: Option<f64>,
}

/// The jobs of a run: first those with targets, then by pattern, size and depth.
pub(crate) fn rows(run: &Run) -> Vec<Row> {
    let place = |name: &str| TARGETS.iter().position(|(job, _)| *job == name);
    let mut names = run.jobs();
    names.sort_by_key(|name| {
        (
            place(name).unwrap_or(TARGETS.len()),
            name.parse::<Job>().ok(),
        )
    });
    let row = |name: String| Row {
        title: name
            .parse::<Job>()
            .map_or_else(|_| name.clone(), |job| job.title()),
        target: place(&name).map(|at| TARGETS[at].1),
        name,
    };
    names.into_iter().map(row).collect()
}

/// The median of the values.
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

    /// Prints it, in several parts below each other when it is too wide.
    pub(crate) fn print(&self, out: &mut String) {
        let count = self.0.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut from = 1;
        loop {
            let mut to = from;
            let mut wide = width(0);
            while to < count && (to == from || wide + 2 + width(to) <= MOST_WIDE) {
                wide += 2 + width(to);
                to += 1;
            }
            for row in &self.0 {
                let _ = write!(out, "{:<1$}", row[0], width(0));
                for (column, cell) in row.iter().enumerate().take(to).skip(from) {
                    let _ = write!(out, "  {cell:>0$}", width(column));
                }
                out.push('\n');
            }
            out.push('\n');
            from = to;
            if from >= count {
                return;
            }
        }
    }
}

/// A table that is wider is printed in parts.
const MOST_WIDE: usize = 140;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_spread_of_few_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(spread(&[100.0]), Some(0.0));
        assert_eq!(spread(&[90.0, 100.0, 110.0]), Some(20.0));
    }

    #[test]
    fn a_wide_table_is_printed_in_parts() {
        let names: Vec<String> = (0..30).map(|n| format!("contender-{n}")).collect();
        let columns: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut table = Table::new("first", &columns);
        table.row("row", (0..30).map(|n| Some(n.to_string())));
        let mut text = String::new();
        table.print(&mut text);
        assert!(text.lines().all(|line| line.chars().count() <= MOST_WIDE));
        for name in &names {
            assert_eq!(
                text.matches(&format!("{name} ")).count()
                    + text.matches(&format!("{name}\n")).count(),
                1,
                "{name}: {text}"
            );
        }
        assert!(text.matches("first").count() > 1);
    }
}
