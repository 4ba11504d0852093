// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublk-ramdisk sim` as an instrument: runs it and reads what it says.
//!
//! The program is the one beside this one, or that which UBLK_RAMDISK names. It lives by a virtual clock there, and the
//! same command line gives the same figures to the byte.

use super::StudyError;
use serde_json::Value;
use std::env;
use std::path::PathBuf;
use std::process::Command;

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

/// Does the program know this option?
pub fn knows(option: &str) -> Result<bool, StudyError> {
    let asked = Command::new(program()?).args(["sim", "--help"]).output();
    let asked = asked.map_err(|e| StudyError::Lacking(format!("ublk-ramdisk sim: {e}")))?;
    let help = String::from_utf8_lossy(&asked.stdout).into_owned();
    Ok(help
        .split_whitespace()
        .any(|word| word.trim_end_matches(',') == option))
}

/// What one run said.
#[derive(Clone, Debug)]
pub struct Said {
    /// The whole of it; null if the run ended with an error.
    pub json: Value,
    /// Its last line on stderr, if it ended with an error.
    pub error: Option<String>,
}

/// Runs it with these arguments, separated by spaces; an event of `--at` may have one in quotes.
pub fn run(arguments: &str) -> Result<Said, StudyError> {
    let mut words = vec!["sim".to_owned(), "--json".to_owned()];
    for (n, piece) in arguments.split('\'').enumerate() {
        match n % 2 {
            0 => words.extend(piece.split_whitespace().map(str::to_owned)),
            _ => words.push(piece.to_owned()),
        }
    }
    let ran = Command::new(program()?).args(&words).output();
    let ran = ran.map_err(|e| StudyError::Lacking(format!("ublk-ramdisk sim: {e}")))?;
    let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
    let last = stderr.lines().last().unwrap_or_default().to_owned();
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
            value = match name.parse::<usize>() {
                Ok(n) => &value[n],
                Err(_) => &value[name],
            };
        }
        value.as_f64().unwrap_or(f64::NAN)
    }

    /// A counter, summed over the hardware queues.
    pub fn sum(&self, counter: &str) -> f64 {
        let hctxs = self.json["hctxs"].as_array();
        let hctxs = hctxs.map_or(&[][..], Vec::as_slice);
        hctxs
            .iter()
            .map(|h| h[counter].as_f64().unwrap_or(0.0))
            .sum()
    }

    /// Requests that have ended.
    pub fn ops(&self) -> f64 {
        ["read", "write", "discard", "flush"]
            .map(|kind| self.at(&format!("total.{kind}.ops")))
            .iter()
            .filter(|n| n.is_finite())
            .sum()
    }

    /// Calls of the driver's queue_rq.
    pub fn tries(&self) -> f64 {
        [
            "accepted",
            "refused_resource",
            "refused_dev_resource",
            "refused_error",
        ]
        .map(|counter| self.sum(counter))
        .iter()
        .sum()
    }

    /// A latency in milliseconds.
    pub fn latency(&self, quantile: &str) -> f64 {
        self.at(&format!("total.latency.{quantile}")) / 1e6
    }

    /// All latencies in milliseconds, to the width of the program's buckets, in rising order, thinned to at most so
    /// many.
    pub fn latencies(&self, most: usize) -> Vec<f64> {
        let buckets = self.json["total"]["latency"]["buckets"].as_array();
        let pairs = buckets.map_or(&[][..], Vec::as_slice).iter();
        let pairs: Vec<(f64, usize)> = pairs
            .map(|b| {
                (
                    b[0].as_f64().unwrap_or(0.0) / 1e6,
                    b[1].as_u64().unwrap_or(0) as usize,
                )
            })
            .collect();
        let count: usize = pairs.iter().map(|p| p.1).sum();
        let every = count.div_ceil(most.max(1)).max(1);
        let (mut out, mut seen) = (Vec::new(), 0usize);
        for (value, times) in pairs {
            // One for each so many, counted from the end so that the largest stays.
            let before = (count - seen).div_ceil(every);
            seen += times;
            let after = (count - seen).div_ceil(every);
            out.extend(std::iter::repeat_n(value, before - after));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        let text = r#"{"total":{"iops":5.0,"latency":{"p50":2000000,"buckets":[[1000000,3],[2000000,6],[9000000,1]]}},
            "hctxs":[{"accepted":3,"refused_resource":1},{"accepted":4}]}"#;
        Said {
            json: serde_json::from_str(text).unwrap(),
            error: None,
        }
    }

    #[test]
    fn figures_are_found_by_their_place_and_counters_summed() {
        let said = said();
        assert_eq!((said.at("total.iops"), said.latency("p50")), (5.0, 2.0));
        assert_eq!((said.sum("accepted"), said.tries()), (7.0, 8.0));
        assert!(said.at("total.nothing").is_nan());
    }

    #[test]
    fn thinned_latencies_keep_the_largest_and_the_shares() {
        let said = said();
        assert_eq!(said.latencies(100).len(), 10);
        let few = said.latencies(5);
        assert_eq!(few, [1.0, 2.0, 2.0, 2.0, 9.0]);
    }
}
