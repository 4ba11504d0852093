// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was kept of the experiments in a guest.

use crate::study::StudyError;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// The folder of one study's experiments.
pub struct Raw(pub PathBuf);

impl Raw {
    /// One experiment.
    pub fn get(&self, name: &str) -> Result<Experiment, StudyError> {
        let path = self.0.join(format!("{name}.json"));
        let text = fs::read_to_string(path).map_err(|_| {
            StudyError::Lacking(format!(
                "the experiment {name} was not made; the same command goes on"
            ))
        })?;
        let found = serde_json::from_str(&text).map(Experiment);
        found.map_err(|e| StudyError::Lacking(format!("the experiment {name} cannot be read: {e}")))
    }
}

/// What fio, the server and the kernel said of one experiment.
pub struct Experiment(pub Value);

impl Experiment {
    /// fio's jobs, in its order.
    pub fn jobs(&self) -> Vec<Job<'_>> {
        let jobs = self.0["fio"]["jobs"].as_array();
        jobs.map_or(&[][..], Vec::as_slice)
            .iter()
            .map(Job)
            .collect()
    }

    /// How much a counter of the mirror's hardware queues has risen, summed over them.
    pub fn risen(&self, counter: &str) -> f64 {
        let sum = |when: &str| -> f64 {
            let queues = self.0[when]["queues"].as_array();
            let queues = queues.map_or(&[][..], Vec::as_slice).iter();
            queues
                .map(|queue| queue["hctx"][counter].as_f64().unwrap_or(0.0))
                .sum()
        };
        sum("after") - sum("before")
    }

    /// Requests that ended.
    pub fn ios(&self) -> f64 {
        self.jobs().iter().map(Job::ios).sum()
    }

    /// Requests per second of all jobs.
    pub fn iops(&self) -> f64 {
        self.jobs().iter().map(Job::iops).sum()
    }

    /// Completion times of all jobs in milliseconds, in rising order, thinned.
    pub fn latencies(&self, most: usize) -> Vec<f64> {
        let mut all: Vec<(f64, u64)> = self.jobs().iter().flat_map(Job::buckets).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        expand(&all, most)
    }

    /// A quantile of the same.
    pub fn latency(&self, q: f64) -> f64 {
        crate::study::outcome::quantile(&self.latencies(usize::MAX), q)
    }

    /// Microseconds of the server's CPU time per request.
    pub fn cpu_us(&self) -> f64 {
        self.0["cpu_us"].as_f64().unwrap_or(f64::NAN) / self.ios()
    }

    /// Answers of the driver, or of the budget before it, per request.
    pub fn tries(&self) -> f64 {
        let counters = [
            "accepted",
            "refused_resource",
            "refused_dev_resource",
            "refused_error",
            "no_budget",
        ];
        counters.map(|c| self.risen(c)).iter().sum::<f64>() / self.ios()
    }

    /// The share of these that were BUSY, in per cent.
    pub fn busy(&self) -> f64 {
        let all = self.tries() * self.ios();
        100.0 * (all - self.risen("accepted")) / all
    }

    /// Runs of the hardware queues per request.
    pub fn runs(&self) -> f64 {
        let runs = ["run_sync", "run_async", "run_delayed"];
        runs.map(|c| self.risen(c)).iter().sum::<f64>() / self.ios()
    }
}

/// One of fio's jobs.
pub struct Job<'e>(&'e Value);

const WAYS: [&str; 3] = ["read", "write", "trim"];

impl Job<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        self.0["jobname"].as_str().unwrap_or_default()
    }

    fn number(&self, name: &str) -> f64 {
        let each = WAYS.map(|way| self.0[way][name].as_f64().unwrap_or(0.0));
        each.iter().sum()
    }

    /// Requests that ended.
    pub fn ios(&self) -> f64 {
        self.number("total_ios")
    }

    /// Requests per second.
    pub fn iops(&self) -> f64 {
        self.number("iops")
    }

    /// Bytes per second.
    pub fn bytes_per_second(&self) -> f64 {
        self.number("bw_bytes")
    }

    /// Requests that failed: all of a job that goes on after that, else the one that ended it.
    pub fn errors(&self) -> f64 {
        let ended_by = f64::from(u8::from(
            self.0["error"].as_i64().is_some_and(|errno| errno != 0),
        ));
        self.0["total_err"].as_f64().unwrap_or(0.0).max(ended_by)
    }

    /// Completion times in milliseconds with how many took so long.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        WAYS.iter()
            .flat_map(|way| buckets(&self.0[way]["clat_ns"]))
            .collect()
    }

    /// The same of its flushes.
    pub fn flushes(&self) -> Vec<(f64, u64)> {
        buckets(&self.0["sync"]["lat_ns"])
    }
}

fn buckets(of: &Value) -> Vec<(f64, u64)> {
    let bins = of["bins"].as_object().into_iter().flatten();
    let bins = bins.filter_map(|(ns, n)| Some((ns.parse::<f64>().ok()? / 1e6, n.as_u64()?)));
    let mut bins: Vec<(f64, u64)> = bins.collect();
    bins.sort_by(|a, b| a.0.total_cmp(&b.0));
    bins
}

/// Values in rising order with how often each came, as at most so many values. The largest stays.
pub fn expand(buckets: &[(f64, u64)], most: usize) -> Vec<f64> {
    let count: u64 = buckets.iter().map(|b| b.1).sum();
    let every = count.div_ceil(most.max(1) as u64).max(1);
    let (mut out, mut seen) = (Vec::new(), 0);
    for &(value, times) in buckets {
        // One for each so many, counted from the end.
        let before = (count - seen).div_ceil(every);
        seen += times;
        let after = (count - seen).div_ceil(every);
        out.extend(std::iter::repeat_n(value, (before - after) as usize));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn thinned_values_keep_the_largest_and_their_number() {
        let buckets = [(1.0, 3), (2.0, 6), (9.0, 1)];
        assert_eq!(expand(&buckets, 100).len(), 10);
        assert_eq!(expand(&buckets, 5), [1.0, 2.0, 2.0, 2.0, 9.0]);
        assert!(expand(&[], 5).is_empty());
    }

    #[test]
    fn counters_are_differences_and_jobs_are_added_up() {
        let queue = |accepted: u32, no_budget: u32| json!({"hctx": {"accepted": accepted, "no_budget": no_budget}});
        let job = |ios: u32| {
            json!({"jobname": "j", "read": {"total_ios": ios, "iops": 10.0,
                "clat_ns": {"bins": {"2000000": ios}}}, "total_err": 1})
        };
        let of = Experiment(json!({
            "fio": {"jobs": [job(3), job(1)]},
            "before": {"queues": [queue(1, 0), queue(0, 0)]},
            "after": {"queues": [queue(3, 4), queue(2, 0)]},
            "cpu_us": 80,
        }));
        assert_eq!((of.ios(), of.iops(), of.cpu_us()), (4.0, 20.0, 20.0));
        assert_eq!(
            (of.risen("accepted"), of.tries(), of.busy()),
            (4.0, 2.0, 50.0)
        );
        assert_eq!(of.latencies(100), [2.0; 4]);
        assert_eq!(of.jobs()[0].errors(), 1.0);
        let ended = json!({"jobname": "j", "error": 5});
        assert_eq!(Job(&ended).errors(), 1.0);
    }
}
