// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run: every sample of every contender, with the setting they were taken in.
//!
//! `scripts/bench-device` leaves fio's own JSON under `raw/CONTENDER/JOB/ROUND`,
//! and beside it what ran where as lines of tab-separated fields. Here that
//! becomes one compact file, `samples.json`, from which every table can be made
//! again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fio::{self, FioError, Sample};

/// Why a folder is not a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A sample could not be read.
    #[error("{path}: {source}", path = path.display())]
    Sample {
        /// The file with the sample.
        path: PathBuf,
        /// What is wrong with it.
        source: FioError,
    },
    /// `samples.json` is not as this program writes it.
    #[error("{path}: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// A name and a value.
pub type Pair = (String, String);

/// All that is kept of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// What ran where: machine, kernel, commit, versions, command.
    pub setting: Vec<Pair>,
    /// Each contender's device with its queue settings, in the order of the run.
    pub devices: Vec<Pair>,
    /// Contenders that could not take part, and why.
    pub absent: Vec<Pair>,
    /// By contender, then by job: one sample per round.
    pub samples: BTreeMap<String, BTreeMap<String, Vec<Sample>>>,
}

impl Run {
    /// Reads the folder of a run, from fio's own files if they are there.
    pub fn load(folder: &Path) -> Result<Self, RunError> {
        let kept = folder.join("samples.json");
        if folder.join("raw").is_dir() {
            return Self::collect(folder);
        }
        let text = read(&kept)?;
        serde_json::from_str(&text).map_err(|source| RunError::Json { path: kept, source })
    }

    fn collect(folder: &Path) -> Result<Self, RunError> {
        let mut run = Self {
            setting: pairs(&folder.join("setting"))?,
            devices: pairs(&folder.join("devices"))?,
            absent: pairs(&folder.join("absent"))?,
            samples: BTreeMap::new(),
        };
        for (contender, folder) in entries(&folder.join("raw"))? {
            for (job, folder) in entries(&folder)? {
                let mut rounds = entries(&folder)?;
                rounds.sort_by_key(|(round, _)| round.parse::<u32>().unwrap_or(u32::MAX));
                let samples = rounds.into_iter().map(|(_, path)| sample(path));
                let samples = samples.collect::<Result<Vec<_>, _>>()?;
                run.samples
                    .entry(contender.clone())
                    .or_default()
                    .insert(job, samples);
            }
        }
        Ok(run)
    }

    /// Writes `samples.json`, a line per series of samples.
    pub fn keep(&self, folder: &Path) -> Result<(), RunError> {
        let path = folder.join("samples.json");
        let json = |source| RunError::Json {
            path: path.clone(),
            source,
        };
        let mut text = format!(
            "{{\n\"setting\": {},\n\"devices\": {},\n\"absent\": {},\n\"samples\": {{\n",
            serde_json::to_string(&self.setting).map_err(json)?,
            serde_json::to_string(&self.devices).map_err(json)?,
            serde_json::to_string(&self.absent).map_err(json)?,
        );
        let mut contenders = Vec::new();
        for (contender, jobs) in &self.samples {
            let mut lines = Vec::new();
            for (job, samples) in jobs {
                let samples = serde_json::to_string(samples).map_err(json)?;
                lines.push(format!("  {job:?}: {samples}"));
            }
            contenders.push(format!("{contender:?}: {{\n{}\n}}", lines.join(",\n")));
        }
        text += &contenders.join(",\n");
        text += "\n}}\n";
        fs::write(&path, text).map_err(|source| RunError::Io { path, source })
    }

    /// The requests per second of a series, in the order of its rounds.
    pub fn iops(&self, contender: &str, job: &str) -> Vec<f64> {
        let series = self.samples.get(contender).and_then(|jobs| jobs.get(job));
        series.map_or_else(Vec::new, |series| {
            series.iter().map(|sample| sample.iops).collect()
        })
    }
}

fn sample(path: PathBuf) -> Result<Sample, RunError> {
    fio::parse(&read(&path)?).map_err(|source| RunError::Sample { path, source })
}

fn read(path: &Path) -> Result<String, RunError> {
    fs::read_to_string(path).map_err(|source| RunError::Io {
        path: path.to_owned(),
        source,
    })
}

/// What lies in a folder: names without their ending, and paths.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, RunError> {
    let fault = |source| RunError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        found.push((name.into_owned(), path));
    }
    Ok(found)
}

/// Lines of two fields with a tab between; none if there is no such file.
pub fn pairs(path: &Path) -> Result<Vec<Pair>, RunError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = read(path)?;
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_can_be_read_again() {
        let sample = Sample {
            iops: 31346.5,
            ios: 12288,
            runtime_ms: 392,
            mean_us: 1020.25,
            p99_us: 1433.6,
            fio_cpu: [22.0, 32.0],
        };
        let mut run = Run {
            setting: vec![("kernel".into(), "7.2 \"x\"".into())],
            ..Run::default()
        };
        for contender in ["brd", "libublk"] {
            let jobs = run.samples.entry(contender.into()).or_default();
            jobs.insert("read".into(), vec![sample.clone(), sample.clone()]);
            jobs.insert("write".into(), vec![sample.clone()]);
        }
        let folder = std::env::temp_dir().join(format!("bench-run-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        run.keep(&folder).unwrap();
        let again = Run::load(&folder);
        fs::remove_dir_all(&folder).unwrap();
        let again = again.unwrap();
        assert_eq!(again.samples, run.samples);
        assert_eq!(again.setting, run.setting);
        assert_eq!(again.iops("libublk", "read"), [31346.5, 31346.5]);
        assert!(again.iops("libublk", "trim").is_empty());
    }
}
