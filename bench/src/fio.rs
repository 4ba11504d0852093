// SPDX-License-Identifier: MIT OR Apache-2.0
//! One sample from fio's JSON: the figures of one job on one device.
//!
//! fio reports reads, writes and discards apart. The figure of a mixed job is all of its requests.
//! The figure of a verified job is its writes, because its reads are the verification.
//!
//! A job with an error, or one that moved nothing, is no sample: its rate would look like a fast
//! disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Why a file is not a sample.
#[derive(Debug, thiserror::Error)]
pub enum FioError {
    /// Not JSON, or not as fio writes it.
    #[error("not fio's JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A sample is one job.
    #[error("{0} jobs where one was expected")]
    Jobs(usize),
    /// The job moved nothing, or met errors: its figure means nothing.
    #[error("the job ended with error {error} after {ios} requests")]
    Failed {
        /// The errno that fio met first, 0 if none.
        error: i64,
        /// Requests done.
        ios: u64,
    },
}

/// What was done in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Requests, as fio made them.
    pub ios: u64,
    /// Bytes.
    pub bytes: u64,
    /// Requests per second.
    pub iops: f64,
}

/// What is kept of a sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Requests per second.
    pub iops: f64,
    /// Requests done.
    pub ios: u64,
    /// How long that took, by the clock of the machine fio ran on.
    pub runtime_ms: u64,
    /// Mean time from submission to completion, in the direction with more requests.
    pub mean_us: f64,
    /// The 99th percentile of the same.
    pub p99_us: f64,
    /// fio's own share of a processor, in per cent: user and system.
    pub fio_cpu: [f64; 2],
    /// Reads, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Done>,
    /// Writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<Done>,
    /// Discards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trim: Option<Done>,
    /// The depth that was found to keep the latency target, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_depth: Option<u32>,
}

/// Reads what `fio --output-format=json` wrote. Fails if it is not fio's, if it has more or less
/// than one job, and if that job failed or moved nothing.
pub fn parse(text: &str) -> Result<Sample, FioError> {
    // fio may print a warning before the JSON.
    let start = text.find('{').unwrap_or(0);
    let output: Output = serde_json::from_str(&text[start..])?;
    let [job] = output.jobs.as_slice() else {
        return Err(FioError::Jobs(output.jobs.len()));
    };
    let all = job.ways();
    // fio repeats the options of the job, and that is the only sign of a verification.
    let counted: Vec<&Way> = if job.options.verify.is_some() {
        vec![&job.write]
    } else {
        all.into_iter().filter(|way| way.total_ios > 0).collect()
    };
    let ios: u64 = counted.iter().map(|way| way.total_ios).sum();
    let iops: f64 = counted.iter().map(|way| way.iops).sum();
    // One latency for a sample: percentiles of two directions cannot be added.
    let main = counted.iter().max_by_key(|way| way.total_ios);
    let Some(main) = main.filter(|_| job.error == 0 && ios > 0 && iops > 0.0) else {
        return Err(FioError::Failed {
            error: job.error,
            ios: all.iter().map(|way| way.total_ios).sum(),
        });
    };
    // 99 is in fio's own list of percentiles (`percentile_list`), which no job file changes.
    let p99_ns = main.clat_ns.percentile.get("99.000000");
    Ok(Sample {
        iops,
        ios,
        // The directions of a mixed job run at the same time, so their times are not added.
        runtime_ms: counted.iter().map(|way| way.runtime).max().unwrap_or(0),
        mean_us: main.clat_ns.mean / 1000.0,
        p99_us: p99_ns.copied().unwrap_or(0.0) / 1000.0,
        fio_cpu: [job.usr_cpu, job.sys_cpu],
        read: job.read.done(),
        write: job.write.done(),
        trim: job.trim.done(),
        // fio prints a depth for every job. Only one with a target has looked for it.
        latency_depth: (job.latency_target > 0).then_some(job.latency_depth),
    })
}

/// What is read of fio's output. It has far more.
#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

/// One of fio's jobs. With `group_reporting`, which every job file has, it stands for all that run side by side.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Job {
    /// Its name.
    #[serde(rename = "jobname")]
    pub name: String,
    error: i64,
    /// Of a job that goes on after an error.
    total_err: f64,
    read: Way,
    write: Way,
    trim: Way,
    /// What fsync and fdatasync took, which fio keeps apart from the I/O of the job.
    sync: Flushes,
    /// Per cent of one CPU.
    usr_cpu: f64,
    sys_cpu: f64,
    #[serde(rename = "job options")]
    options: Options,
    /// 0 without a target.
    latency_target: u64,
    latency_depth: u32,
}

impl Job {
    fn ways(&self) -> [&Way; 3] {
        [&self.read, &self.write, &self.trim]
    }

    /// All directions together.
    fn sum(&self, of: impl Fn(&Way) -> f64) -> f64 {
        self.ways().into_iter().map(of).sum()
    }

    /// Requests that ended.
    pub fn ios(&self) -> f64 {
        self.sum(|way| way.total_ios as f64)
    }

    /// Requests per second.
    pub fn iops(&self) -> f64 {
        self.sum(|way| way.iops)
    }

    /// Bytes per second.
    pub fn bytes_per_second(&self) -> f64 {
        self.sum(|way| way.bw_bytes)
    }

    /// Requests that failed: all of a job that goes on after that, else the one that ended it.
    pub fn errors(&self) -> f64 {
        let ended_by = f64::from(u8::from(self.error != 0));
        self.total_err.max(ended_by)
    }

    /// Completion times in milliseconds, with how many requests took so long. Only the format `json+` has them.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let ways = self.ways().into_iter();
        ways.flat_map(|way| way.clat_ns.buckets()).collect()
    }

    /// The same of its flushes.
    pub fn flushes(&self) -> Vec<(f64, u64)> {
        self.sync.lat_ns.buckets()
    }
}

/// What the job file said, as fio repeats it.
#[derive(Default, Deserialize)]
struct Options {
    verify: Option<String>,
}

/// One direction of a job: reads, writes or discards.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Way {
    iops: f64,
    total_ios: u64,
    io_bytes: u64,
    /// Bytes per second; fio's `bw` is in KiB per second and rounded.
    bw_bytes: f64,
    /// Milliseconds in which this direction had requests.
    runtime: u64,
    /// Completion latency: without the time that fio takes to submit.
    clat_ns: Latency,
}

impl Way {
    /// What is kept of a direction, unless nothing moved in it.
    fn done(&self) -> Option<Done> {
        (self.total_ios > 0).then_some(Done {
            ios: self.total_ios,
            bytes: self.io_bytes,
            iops: self.iops,
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Flushes {
    /// Total latency; fio keeps no other of a flush.
    lat_ns: Latency,
}

/// Times in nanoseconds. fio writes percentiles and times as the names of members.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Latency {
    mean: f64,
    /// Per cent, as text, and nanoseconds.
    percentile: BTreeMap<String, f64>,
    /// Nanoseconds, as text, and requests. A bin is a bucket of fio's histogram, named by its middle.
    bins: BTreeMap<String, u64>,
}

impl Latency {
    /// The bins as numbers in rising order, which their names as text do not have. Milliseconds.
    fn buckets(&self) -> Vec<(f64, u64)> {
        let bins = self.bins.iter();
        let bins = bins.filter_map(|(ns, n)| Some((ns.parse::<f64>().ok()? / 1e6, *n)));
        let mut bins: Vec<(f64, u64)> = bins.collect();
        bins.sort_by(|a, b| a.0.total_cmp(&b.0));
        bins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(error: i64, reads: u64, writes: u64) -> String {
        let way = |ios: u64| {
            format!(
                r#"{{"iops": {ios}.5, "total_ios": {ios}, "runtime": 1000, "bw": 4,
                "clat_ns": {{"mean": 2500.0, "percentile": {{"99.000000": 9000}}}}}}"#
            )
        };
        format!(
            r#"{{"error": {error}, "read": {}, "write": {}, "usr_cpu": 1.5, "sys_cpu": 2.5}}"#,
            way(reads),
            way(writes)
        )
    }

    #[test]
    fn the_direction_that_moved_something_is_the_sample() {
        for (reads, writes) in [(70, 0), (0, 70)] {
            let text = format!(r#"{{"jobs": [{}]}}"#, job(0, reads, writes));
            let sample = parse(&text).unwrap();
            assert_eq!(
                (sample.iops, sample.ios, sample.runtime_ms),
                (70.5, 70, 1000)
            );
            assert_eq!((sample.mean_us, sample.p99_us), (2.5, 9.0));
        }
    }

    #[test]
    fn a_warning_before_the_json_is_skipped() {
        let text = format!("fio: hello\n{{\"jobs\": [{}]}}", job(0, 3, 0));
        assert!(parse(&text).is_ok());
    }

    #[test]
    fn a_failed_or_empty_job_is_no_sample() {
        for bad in [job(5, 70, 0), job(0, 0, 0)] {
            let text = format!(r#"{{"jobs": [{bad}]}}"#);
            assert!(matches!(parse(&text), Err(FioError::Failed { .. })));
        }
        assert!(matches!(parse(r#"{"jobs": []}"#), Err(FioError::Jobs(0))));
        assert!(matches!(parse("no disk"), Err(FioError::Json(_))));
    }

    /// Kept from fio 3.33 on real disks.
    fn kept(name: &str) -> Sample {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fio/");
        parse(&std::fs::read_to_string(format!("{folder}{name}.json")).unwrap()).unwrap()
    }

    #[test]
    fn a_mixed_job_counts_in_all_directions() {
        let sample = kept("trimmix");
        let ways = [sample.read, sample.write, sample.trim].map(Option::unwrap);
        assert_eq!(ways.map(|done| done.ios), [1426, 622, 64]);
        let bytes: u64 = ways.iter().map(|done| done.bytes).sum();
        assert_eq!(bytes, (2048 * 4 + 64 * 64) << 10);
        assert_eq!(sample.ios, 2112);
        assert!((sample.iops - ways.map(|done| done.iops).iter().sum::<f64>()).abs() < 0.01);
        assert!(sample.p99_us > sample.mean_us);
    }

    #[test]
    fn the_reads_of_a_verified_job_are_no_figure() {
        let sample = kept("verify");
        assert_eq!(sample.ios, sample.write.unwrap().ios);
        assert_eq!(sample.iops, sample.write.unwrap().iops);
        assert_eq!(sample.read.unwrap().ios, 2048, "but they are kept");
    }

    #[test]
    fn a_latency_target_comes_with_the_depth_that_keeps_it() {
        assert_eq!(kept("latency").latency_depth, Some(1));
        assert_eq!(kept("verify").latency_depth, None);
    }

    #[test]
    fn a_sample_of_an_older_run_is_read() {
        let text =
            r#"{"iops":9.5,"ios":8,"runtime_ms":5,"mean_us":4.5,"p99_us":7.5,"fio_cpu":[1.5,2.5]}"#;
        let sample: Sample = serde_json::from_str(text).unwrap();
        assert_eq!((sample.iops, sample.read), (9.5, None));
        assert_eq!(serde_json::to_string(&sample).unwrap(), text);
    }
}
