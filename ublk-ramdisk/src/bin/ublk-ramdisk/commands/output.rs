// SPDX-License-Identifier: MIT OR Apache-2.0
//! Standard output and standard error, used by every command.
//!
//! A reader that went away is no error: what is left to print is dropped. Every complaint is one
//! line.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;
use ublk_ramdisk::error::{Exit, Failure};

/// Prints text to standard output.
///
/// # Errors
/// Standard output cannot be written, for another reason than a reader that went away.
pub fn print(text: &str) -> Result<(), Failure> {
    print_while_heard(text).map(|_| ())
}

/// As [`print`]; false once the reader has gone away.
pub fn print_while_heard(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::runtime(format!(
            "cannot write to standard output: {error}"
        ))),
        Err(_) => Ok(false),
        Ok(()) => Ok(true),
    }
}

/// Prints a value as JSON, ended by a line end.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::runtime(format!("cannot print as JSON: {error}")))?;
    print(&format!("{text}\n"))
}

/// Prints a value as JSON if that is asked for, else as its text.
pub fn show<T: Serialize>(
    json: bool,
    value: &T,
    text: impl Fn(&T) -> String,
) -> Result<Exit, Failure> {
    match json {
        true => print_json(value)?,
        false => print(&text(value))?,
    }
    Ok(Exit::Done)
}

/// Says on standard error why a command, or a part of it, failed.
pub fn complain(failure: &Failure) {
    say(&failure.message);
}

/// Says on standard error what the user should know though the command goes on.
pub fn warn(message: &str) {
    say(&format!("warning: {message}"));
}

/// One line, whatever the message holds: line ends and runs of spaces become one space.
fn say(message: &str) {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    // If standard error is closed, there is no place left to report to.
    let _ = writeln!(io::stderr(), "ublk-ramdisk: {line}");
}

/// A column of a table whose rows are of `T`.
#[derive(Debug)]
pub struct Column<T> {
    /// The title, and the name for `-o`.
    pub name: &'static str,
    /// It is shown without being asked for.
    pub usual: bool,
    /// What it says of a row; none where that is not known.
    pub cell: fn(&T) -> Option<String>,
}

/// The columns of these names, in that order; capitals do not matter.
pub fn named_columns<'c, T>(
    all: &[&'c Column<T>],
    names: &[String],
) -> Result<Vec<&'c Column<T>>, Failure> {
    let find = |name: &String| {
        let found = all
            .iter()
            .find(|column| column.name.eq_ignore_ascii_case(name));
        found.copied().ok_or_else(|| {
            let names: Vec<_> = all.iter().map(|column| column.name).collect();
            Failure::usage(format!(
                "-o {name}: there is no such column; give some of {}",
                names.join(",")
            ))
        })
    };
    names.iter().map(find).collect()
}

/// Sets rows out in columns, the first row being the titles. Columns of figures are aligned at
/// their right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    // A column is one of figures if each of its cells is, or has nothing to say.
    let is_figure = |cell: &String| cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit());
    let of_figures = |column: usize| {
        let mut cells = rows.iter().skip(1).filter_map(|row| row.get(column));
        cells.all(is_figure)
    };
    let right: Vec<bool> = (0..columns).map(of_figures).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths.iter().zip(&right))
            .map(|(cell, (&width, right))| match right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            })
            .collect();
        // Without the padding of the last cell.
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Breaks a text into indented lines of at most `width` characters.
/// The indent comes on top of them, and a longer word has a line of its own.
pub fn wrapped(text: &str, width: usize, indent: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines += &format!("{indent}{line}\n");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines + &format!("{indent}{line}\n")
}

/// A size in at most six characters, rounded.
pub fn rounded_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["", "K", "M", "G", "T", "P", "E"].iter();
    let mut unit = units.next().copied().unwrap_or_default();
    // At 1000 and not at 1024: four digits go to the next unit.
    while value >= 1000.0 {
        (value, unit) = (value / 1024.0, units.next().copied().unwrap_or("E"));
    }
    match unit {
        "" => bytes.to_string(),
        _ if value >= 99.95 => format!("{value:.0}{unit}"),
        _ => format!("{value:.1}{unit}"),
    }
}

/// A time with three digits.
pub fn human_time(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => (nanos as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s"),
    };
    // By where rounding adds a digit: 9.996 is printed as 10.0.
    let digits = match value {
        0.0..9.995 => 2,
        9.995..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        let times = [0, 999, 1000, 12_345, 999_999, 3_000_000, 61_000_000_000];
        let shown = times.map(human_time);
        let expected = [
            "0ns", "999ns", "1.00us", "12.3us", "1000us", "3.00ms", "61.0s",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn rounded_sizes_are_short() {
        let sizes = [
            0,
            999,
            1024,
            20480,
            5 << 20,
            300 << 20,
            1023 << 20,
            u64::MAX,
        ];
        let shown = sizes.map(rounded_size);
        let expected = ["0", "999", "1.0K", "20.0K", "5.0M", "300M", "1.0G", "16.0E"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let rows = vec![
            vec!["ID".to_owned(), "STATE".to_owned()],
            vec!["100".to_owned(), "LIVE".to_owned()],
        ];
        assert_eq!(table(&rows), " ID  STATE\n100  LIVE\n");
    }
}
