// SPDX-License-Identifier: MIT OR Apache-2.0
//! One sample out of fio's JSON: what one job on one device came to.
//!
//! fio reports reads and writes apart, and a job here is one or the other.

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

/// What is kept of a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Requests per second.
    pub iops: f64,
    /// Requests done.
    pub ios: u64,
    /// How long that took, by the clock of the machine fio ran on.
    pub runtime_ms: u64,
    /// Mean time from submission to completion.
    pub mean_us: f64,
    /// The same, exceeded by one request in a hundred.
    pub p99_us: f64,
    /// fio's own share of a processor, in per cent: user and system.
    pub fio_cpu: [f64; 2],
}

/// Reads what `fio --output-format=json` wrote.
pub fn parse(text: &str) -> Result<Sample, FioError> {
    // fio may print a warning before the JSON.
    let start = text.find('{').unwrap_or(0);
    let output: Output = serde_json::from_str(&text[start..])?;
    let [job] = output.jobs.as_slice() else {
        return Err(FioError::Jobs(output.jobs.len()));
    };
    let way = if job.read.total_ios > 0 {
        &job.read
    } else {
        &job.write
    };
    if job.error != 0 || way.total_ios == 0 || way.iops <= 0.0 {
        return Err(FioError::Failed {
            error: job.error,
            ios: way.total_ios,
        });
    }
    Ok(Sample {
        iops: way.iops,
        ios: way.total_ios,
        runtime_ms: way.runtime,
        mean_us: way.clat_ns.mean / 1000.0,
        p99_us: way.clat_ns.percentile.p99 / 1000.0,
        fio_cpu: [job.usr_cpu, job.sys_cpu],
    })
}

#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i64,
    read: Way,
    write: Way,
    usr_cpu: f64,
    sys_cpu: f64,
}

#[derive(Deserialize)]
struct Way {
    iops: f64,
    total_ios: u64,
    runtime: u64,
    clat_ns: Latency,
}

#[derive(Deserialize)]
struct Latency {
    mean: f64,
    // Absent for the direction that the job does not have.
    #[serde(default)]
    percentile: Percentiles,
}

#[derive(Default, Deserialize)]
struct Percentiles {
    #[serde(rename = "99.000000", default)]
    p99: f64,
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
}
