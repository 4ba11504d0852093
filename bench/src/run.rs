// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run of the device benchmark: every sample of every contender, with the setting they were taken
//! in.
//!
//! [`crate::runner`] leaves fio's own JSON under `raw/CONTENDER/JOB/ROUND.json`, beside each what
//! kernel and server counted meanwhile, and what ran where as lines of a name and a value. Here
//! that becomes one compact file, `samples.json`, from which every table can be made again. The
//! folder `raw` is large and is not committed.

use crate::check::{self, CrossCheck};
use crate::files::{at, pairs, read, read_if_there, read_json, write_json, FileError, Pair};
use crate::fio::{self, FioError, Sample};
use crate::matrix::Job;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// All that is kept of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// What ran where: machine, kernel, commit, versions, command.
    pub setting: Vec<Pair>,
    /// Each contender's device with its queue settings, in the order of the run.
    pub devices: Vec<Pair>,
    /// How each was set up. Runs before 0.2 lack it, and what follows.
    #[serde(default)]
    pub setup: Vec<Pair>,
    /// Contenders that could not take part, and why.
    pub absent: Vec<Pair>,
    /// Jobs that a contender's disk cannot do, and why.
    #[serde(default)]
    pub unfit: Vec<Pair>,
    /// Samples that could not be taken, and why.
    #[serde(default)]
    pub failed: Vec<Pair>,
    /// What came of holding the counters against each other, if that was asked for.
    #[serde(default)]
    pub cross_check: Option<CrossCheck>,
    /// By contender, then by job: one sample per round.
    pub samples: BTreeMap<String, BTreeMap<String, Vec<Sample>>>,
}

impl Run {
    /// Reads the folder of a run, from fio's own files if they are there. Fails if a file cannot be
    /// read. A sample that fio failed at is no such failure: it is listed in `failed`.
    pub fn load(folder: &Path) -> Result<Self, FileError> {
        match folder.join("raw").is_dir() {
            true => Self::collect(folder),
            false => read_json(&folder.join("samples.json")),
        }
    }

    /// Makes a run of the files that [`crate::runner`] has left.
    fn collect(folder: &Path) -> Result<Self, FileError> {
        let mut run = Self {
            setting: pairs(&folder.join("setting"))?,
            devices: pairs(&folder.join("devices"))?,
            setup: pairs(&folder.join("setup"))?,
            absent: pairs(&folder.join("absent"))?,
            unfit: pairs(&folder.join("unfit"))?,
            failed: pairs(&folder.join("failed"))?,
            cross_check: None,
            samples: BTreeMap::new(),
        };
        // What only the host knows, such as the command, the commit and the version of QEMU.
        run.setting.extend(pairs(&folder.join("setting.host"))?);
        for contender in entries(&folder.join("raw"))? {
            for job in entries(&contender)? {
                let mut rounds = entries(&job)?;
                rounds.retain(|round| round.extension().is_some_and(|end| end == "json"));
                // By number: as text, round 10 would stand before round 2.
                rounds.sort_by_key(|round| number(round).parse::<u32>().unwrap_or(u32::MAX));
                for round in &rounds {
                    run.take(&name(&contender), &name(&job), round)?;
                }
            }
        }
        Ok(run)
    }

    /// Takes one sample in; one that fio failed at is named instead.
    fn take(&mut self, contender: &str, job: &str, round: &Path) -> Result<(), FileError> {
        // A run of many hours is not lost by one sample that failed.
        let sample = match fio::parse(&read(round)?) {
            Ok(sample) => sample,
            Err(why @ FioError::Failed { .. }) => {
                let why = format!("{job}, round {}: {why}", number(round));
                self.failed.push((contender.to_owned(), why));
                return Ok(());
            }
            Err(why) => return Err(at(round)(why)),
        };
        let counters = read_if_there(&round.with_extension("counters"))?;
        if let Some(counters) = counters {
            let checks = self.cross_check.get_or_insert_default();
            let place = format!("{contender}, {job}, round {}", number(round));
            match (check::counted(&counters), job_of(job)) {
                (Ok(by), Some(job)) => checks.sample(&place, contender, &job, &sample, &by),
                (Err(why), _) => checks.differences.push(format!("{place}: {why}")),
                // A job of an older version: what it should have counted is not known.
                (Ok(_), None) => {}
            }
        }
        // The load of the cross-check is no measurement.
        if job != CROSS_CHECK {
            let jobs = self.samples.entry(contender.to_owned()).or_default();
            jobs.entry(job.to_owned()).or_default().push(sample);
        }
        Ok(())
    }

    /// Writes `samples.json`, a line per series of samples.
    /// A line each keeps the difference small when a run is committed again.
    pub fn keep(&self, folder: &Path) -> Result<(), FileError> {
        write_json(&folder.join("samples.json"), self)
    }

    /// Did everything that was asked for come about, with the same figures from
    /// all who count?
    pub fn is_sound(&self) -> bool {
        let agree = |check: &CrossCheck| check.differences.is_empty();
        self.failed.is_empty() && self.cross_check.as_ref().is_none_or(agree)
    }

    /// All names of jobs that there are samples of.
    pub fn jobs(&self) -> Vec<String> {
        let all = self.samples.values().flat_map(|jobs| jobs.keys());
        let mut names: Vec<String> = all.cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    /// One figure of a series, in the order of its rounds.
    pub fn series(&self, contender: &str, job: &str, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let series = self.samples.get(contender).and_then(|jobs| jobs.get(job));
        series.map_or_else(Vec::new, |series| series.iter().map(of).collect())
    }

    /// The requests per second of a series, in the order of its rounds.
    pub fn iops(&self, contender: &str, job: &str) -> Vec<f64> {
        self.series(contender, job, |sample| sample.iops)
    }
}

/// The folder of the load that is only there to be counted.
pub const CROSS_CHECK: &str = "cross-check";

/// The job of a folder. That load has discards beside blocks of 4 to 64 KiB, all
/// within one request.
fn job_of(name: &str) -> Option<Job> {
    let name = match name {
        // A pattern of all three directions, so that none of them is left out of the comparison.
        CROSS_CHECK => "trimmix-64k-qd16",
        name => name,
    };
    name.parse().ok()
}

/// The last part of a path.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The round of a sample: its name without the ending.
fn number(sample: &Path) -> String {
    name(&sample.with_extension(""))
}

/// What lies in a folder, by name.
/// The order of a directory differs between file systems; that of a report must not.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = fs::read_dir(folder).map_err(at(folder))?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths: Vec<_> = paths.collect::<io::Result<_>>().map_err(at(folder))?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Scratch;

    #[test]
    fn what_is_kept_can_be_read_again() {
        let sample = Sample {
            iops: 31346.5,
            ios: 12288,
            runtime_ms: 392,
            mean_us: 1020.25,
            p99_us: 1433.6,
            fio_cpu: [22.0, 32.0],
            ..Sample::default()
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
        let folder = Scratch::new("bench-run").unwrap();
        run.keep(&folder.0).unwrap();
        let again = Run::load(&folder.0).unwrap();
        assert_eq!(again.samples, run.samples);
        assert_eq!(again.setting, run.setting);
        assert_eq!(again.iops("libublk", "read"), [31346.5, 31346.5]);
        assert!(again.iops("libublk", "trim").is_empty());
    }

    // After tests/fio/trimmix.json: reads, writes, discards and flushes as `/sys/block/DISK/stat` has them.
    const STAT: &str = "1426 0 11408 1 622 0 4976 6 0 8 2 64 0 8192 4 0 0";

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_folder_of_raw_samples_becomes_a_run() {
        let folder = Scratch::new("bench-raw").unwrap();
        let raw = folder.0.join("raw");
        let mix = include_str!("../tests/fio/trimmix.json");
        let none = ["0"; 17].join(" ");
        let counters = format!(
            "kernel.before\t{none}\nkernel.after\t{STAT}\nmost_bytes\t524288\nmost_discard\t1048576\n"
        );
        for round in ["1", "2", "10"] {
            let place = raw.join("loop/trimmix-4k-qd32").join(round);
            write(place.with_extension("json"), mix);
            write(place.with_extension("counters"), &counters);
        }
        write(raw.join("loop/trimmix-4k-qd32/11.part"), "{");
        write(
            raw.join("batch/read-4k-qd1/1.json"),
            &mix.replace("\"error\" : 0", "\"error\" : 5"),
        );
        write(raw.join("loop/cross-check/1.json"), mix);
        write(
            raw.join("loop/cross-check/1.counters"),
            &counters.replace("1426", "1427"),
        );
        write(folder.0.join("setting"), "kernel\t7.2\n");
        let run = Run::load(&folder.0).unwrap();
        assert_eq!(run.jobs(), ["trimmix-4k-qd32"], "the cross-check is none");
        assert_eq!(run.iops("loop", "trimmix-4k-qd32").len(), 3);
        assert_eq!(run.failed[0].0, "batch");
        assert!(
            run.failed[0].1.starts_with("read-4k-qd1, round 1: "),
            "{:?}",
            run.failed
        );
        let check = run.cross_check.as_ref().unwrap();
        assert_eq!((check.samples, check.compared), (4, 24));
        assert_eq!(check.differences.len(), 1, "{check:?}");
        assert!(!run.is_sound());
    }

    #[test]
    fn every_kept_run_of_the_project_can_be_read() {
        let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
        let mut found = 0;
        for entry in entries(&runs).unwrap() {
            let text = fs::read_to_string(entry.join("samples.json")).unwrap_or_default();
            if text.contains("fio_cpu") {
                let jobs = Run::load(&entry).unwrap().jobs();
                assert!(!jobs.is_empty(), "{}", entry.display());
                found += 1;
            }
        }
        assert!(found > 0);
    }
}
