// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublk-ramdisk sim` as an instrument: runs it and reads what it says.
//!
//! The program is the one beside this one, or that which UBLK_RAMDISK names. It lives by a virtual
//! clock, and the same command line gives the same figures to the byte. That it is a program and
//! not a call keeps the study to what a user can do, too: each case is a command line.

use super::reading::{add_up, Reading};
use super::settings::StudyError;
use serde_json::Value;
use std::env;
use std::path::PathBuf;
use std::process::Command;

/// The simulator.
fn program() -> Result<PathBuf, StudyError> {
    if let Some(named) = env::var_os("UBLK_RAMDISK") {
        return Ok(named.into());
    }
    let own = env::current_exe().map_err(|e| StudyError::Lacking(e.to_string()))?;
    // Test programs live a folder deeper.
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("ublk-ramdisk"));
    beside.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        StudyError::Lacking("ublk-ramdisk is not built: cargo build -p ublk-ramdisk, or name it in UBLK_RAMDISK".into())
    })
}

/// What one run said.
#[derive(Clone, Debug)]
pub struct Said {
    /// The whole of it; null if the run ended with an error.
    pub json: Value,
    /// Its last line on stderr, if it ended with an error.
    pub error: Option<String>,
}

/// The words of a command line. What is between two of `'` is one word.
pub fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split('\'')
        .enumerate()
        .flat_map(|(n, piece)| match n % 2 {
            0 => piece.split_whitespace().collect::<Vec<_>>(),
            _ => vec![piece],
        })
}

/// Runs it with these arguments, separated by spaces; an event of `--at` may have one in quotes.
/// Fails if the program is not there or refuses the arguments. A run that ends with an error is a
/// result.
pub fn run(arguments: &str) -> Result<Said, StudyError> {
    let mut command = Command::new(program()?);
    let ran = command
        .args(["sim", "--json"])
        .args(words(arguments))
        .output();
    let ran = ran.map_err(|e| StudyError::Lacking(format!("ublk-ramdisk sim: {e}")))?;
    let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
    let last = stderr.lines().last().unwrap_or_default().to_owned();
    // Status 2 is bad usage: a fault of the study's table and no result.
    if ran.status.code() == Some(2) {
        return Err(StudyError::Lacking(format!(
            "ublk-ramdisk sim {arguments}: {last}"
        )));
    }
    Ok(Said {
        json: serde_json::from_slice(&ran.stdout).unwrap_or(Value::Null),
        error: (!ran.status.success()).then_some(last),
    })
}

impl Said {
    /// A figure by its place, as in `total.iops`; not a number if it is not there.
    pub fn at(&self, place: &str) -> f64 {
        let mut value = &self.json;
        for name in place.split('.') {
            // A number is a place in a list.
            value = match name.parse::<usize>() {
                Ok(n) => &value[n],
                Err(_) => &value[name],
            };
        }
        value.as_f64().unwrap_or(f64::NAN)
    }

    /// A list by its place; empty if it is not there.
    fn list(&self, place: &str) -> &[Value] {
        let found = place
            .split('.')
            .fold(&self.json, |value, name| &value[name]);
        found.as_array().map_or(&[], Vec::as_slice)
    }

    /// The same in the terms of all beds.
    fn reading(&self) -> Reading {
        let ops = |of: &Value| -> f64 {
            let kinds = ["read", "write", "discard", "flush"].iter();
            kinds.filter_map(|kind| of[kind]["ops"].as_f64()).sum()
        };
        let buckets = self.list("total.latency.buckets").iter();
        // Nanoseconds to milliseconds.
        let buckets = buckets.map(|b| {
            (
                b[0].as_f64().unwrap_or(0.0) / 1e6,
                b[1].as_u64().unwrap_or(0),
            )
        });
        let quantile = |name| self.at(&format!("total.latency.{name}")) / 1e6;
        Reading {
            iops: self.at("total.iops"),
            ios: ops(&self.json["total"]),
            counters: add_up(self.list("hctxs")),
            quantiles: ["p50", "p90", "p99", "p999", "max"].map(quantile),
            buckets: buckets.collect(),
            jobs: self.list("jobs").iter().map(ops).collect(),
            rates: self
                .list("jobs")
                .iter()
                .filter_map(|job| job["iops"].as_f64())
                .collect(),
            // Such as a hardware queue that nobody runs again: the simulator gives up after `--patience`.
            stands: self.error.is_some(),
            ..Reading::default()
        }
    }
}

/// Runs it with these arguments, and says what it gave in the terms of all beds.
pub fn read(arguments: &str) -> Result<Reading, StudyError> {
    Ok(run(arguments)?.reading())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_place_and_counters_summed() {
        let text = r#"{"total":{"iops":5.0,"read":{"ops":9},"latency":{"p50":2000000,"buckets":[[1000000,3],[2000000,6]]}},
            "hctxs":[{"accepted":3,"refused_resource":1},{"accepted":4}],"jobs":[{"read":{"ops":9},"iops":5.0}]}"#;
        let said = Said {
            json: serde_json::from_str(text).unwrap(),
            error: None,
        };
        assert!(said.at("total.nothing").is_nan());
        let reading = said.reading();
        assert_eq!(
            (reading.iops, reading.ios, reading.quantiles[0]),
            (5.0, 9.0, 2.0)
        );
        assert_eq!(
            (
                reading.counter("accepted"),
                reading.counter("refused_resource")
            ),
            (7.0, 1.0)
        );
        assert_eq!(
            (reading.jobs.as_slice(), reading.buckets.len()),
            (&[9.0][..], 2)
        );
    }
}
