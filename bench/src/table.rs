// SPDX-License-Identifier: MIT OR Apache-2.0
//! A table, as all benchmarks print it and as the report of the studies shows it.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Texts in rows. The first column says what a row is about, the others hold figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// The head of each column.
    pub head: Vec<String>,
    /// The rows, each as long as the head.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes a table without rows.
    pub fn new<'a>(head: impl IntoIterator<Item = &'a &'a str>) -> Self {
        let head = head.into_iter().map(|&head| head.to_owned());
        Self {
            head: head.collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, name: impl Into<String>, cells: impl IntoIterator<Item = String>) {
        let name = std::iter::once(name.into());
        self.rows.push(name.chain(cells).collect());
    }

    /// Adds a row in which a figure that was not measured is a dash.
    pub fn row_with_gaps(&mut self, name: &str, cells: impl IntoIterator<Item = Option<String>>) {
        let dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
        self.row(name, cells.into_iter().map(dash));
    }

    /// Appends the table as text with aligned columns. One that is wider than a terminal is printed in parts below each
    /// other, each with the first column.
    pub fn print(&self, out: &mut String) {
        let all = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| {
            let cells = all().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut from = 1;
        loop {
            let mut to = from;
            let mut wide = width(0);
            while to < self.head.len() && (to == from || wide + 2 + width(to) <= MOST_WIDE) {
                wide += 2 + width(to);
                to += 1;
            }
            for row in all() {
                let _ = write!(out, "{:<1$}", row[0], width(0));
                for (column, cell) in row.iter().enumerate().take(to).skip(from) {
                    let _ = write!(out, "  {cell:>0$}", width(column));
                }
                out.push('\n');
            }
            out.push('\n');
            from = to;
            if from >= self.head.len() {
                return;
            }
        }
    }
}

/// The widest table that is printed whole, in characters.
const MOST_WIDE: usize = 140;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_table_is_printed_in_parts() {
        let names: Vec<String> = (0..30).map(|n| format!("contender-{n}")).collect();
        let columns: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut table = Table::new(["first"].iter().chain(&columns));
        table.row("row", (0..30).map(|n| n.to_string()));
        let mut text = String::new();
        table.print(&mut text);
        assert!(text.lines().all(|line| line.chars().count() <= MOST_WIDE));
        let words: Vec<&str> = text.split_whitespace().collect();
        for name in &columns {
            let count = words.iter().filter(|word| *word == name).count();
            assert_eq!(count, 1, "{name}: {text}");
        }
        assert!(text.matches("first").count() > 1);
    }
}
