// SPDX-License-Identifier: MIT OR Apache-2.0
//! Standard output of the programs: text, and tables.

use super::Failure;
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;

/// Prints text. `Break` if nobody reads any more, which is no error: what is left to print is
/// dropped.
pub(crate) fn print(text: &str) -> Result<ControlFlow<()>, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(e) => Err(Failure::lost(format!(
            "cannot write to standard output: {e}"
        ))),
    }
}

/// Sets rows out in columns, the first row being the titles: the first column to the left, the
/// others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line += &match n {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let row = |cells: &[&str]| cells.iter().map(|&c| c.to_owned()).collect();
        let rows: Vec<Vec<String>> = vec![row(&["", "total"]), row(&["events", "7"]), row(&["é"])];
        assert_eq!(table(&rows), "        total\nevents      7\né\n");
    }
}
