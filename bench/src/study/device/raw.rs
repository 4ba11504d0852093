// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was kept of the experiments in a guest: reads the JSON of fio, of the server and of the
//! kernel as a [`Reading`], in the same terms as a case of the simulator.

use crate::fio::Job;
use crate::stats::quantile;
use crate::study::reading::{add_up, thin, Reading, QUANTILES};
use crate::study::settings::StudyError;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// The folder of one study's experiments.
pub struct Raw(pub PathBuf);

impl Raw {
    /// One experiment. Fails with a hint if it was not made.
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

    /// One experiment in the terms of all beds. `NAME:JOB` is what fio's jobs of that name did, `NAME:JOB/sync` their
    /// flushes.
    pub fn reading(&self, what: &str) -> Result<Reading, StudyError> {
        let (name, job) = what.split_once(':').unwrap_or((what, ""));
        let (job, flushes) = match job.strip_suffix("/sync") {
            Some(job) => (job, true),
            None => (job, false),
        };
        Ok(self.get(name)?.reading(job, flushes))
    }
}

/// What fio, the server and the kernel said of one experiment.
pub struct Experiment(pub Value);

impl Experiment {
    /// fio's jobs, in its order.
    pub fn jobs(&self) -> Vec<Job> {
        Vec::deserialize(&self.0["fio"]["jobs"]).unwrap_or_default()
    }

    /// How much the counters of the mirror's hardware queues have risen, and what else was counted.
    fn counters(&self) -> BTreeMap<String, f64> {
        // `before` and `after` are one object, or a list where an experiment has several disks.
        let sum = |when: &str| {
            let queues = self.0[when]["queues"].as_array().into_iter().flatten();
            add_up(queues.map(|queue| &queue["hctx"]))
        };
        let (before, mut counters) = (sum("before"), sum("after"));
        for (name, count) in &mut counters {
            *count -= before.get(name).unwrap_or(&0.0);
        }
        // Several disks, of which one whose server was killed says nothing any more.
        let disks = self.0["after"].as_array().into_iter().flatten();
        counters.extend(add_up(disks.map(|disk| &disk["kblockd"])));
        for name in ["threads_not_made", "oom_kills"] {
            let count = self.0[name].as_f64();
            counters.extend(count.map(|count| (name.to_owned(), count)));
        }
        counters
    }

    /// The same in the terms of all beds: of all jobs, or of those of a name; their requests, or their flushes.
    fn reading(&self, name: &str, flushes: bool) -> Reading {
        let mut jobs = self.jobs();
        jobs.retain(|job| name.is_empty() || job.name == name);
        // What failed has no time worth knowing.
        let well = jobs.iter().filter(|job| job.errors() == 0.0);
        let buckets = well.flat_map(if flushes { Job::flushes } else { Job::buckets });
        let mut buckets: Vec<(f64, u64)> = buckets.collect();
        // The directions and jobs come one after the other, and `thin` needs all of them in order.
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let times = thin(&buckets, usize::MAX);
        let sum = |of: fn(&Job) -> f64| jobs.iter().map(of).sum();
        Reading {
            iops: sum(Job::iops),
            ios: sum(Job::ios),
            bytes: sum(Job::bytes_per_second),
            counters: self.counters(),
            quantiles: QUANTILES.map(|q| quantile(&times, q)),
            buckets,
            jobs: jobs.iter().map(Job::ios).collect(),
            rates: jobs.iter().map(Job::iops).collect(),
            cpu_us: self.0["cpu_us"].as_f64().unwrap_or(f64::NAN),
            ..Reading::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_are_differences_and_jobs_are_added_up() {
        let queue = |accepted: u32, no_budget: u32| json!({"hctx": {"accepted": accepted, "no_budget": no_budget}});
        let job = |ios: u32| {
            json!({"jobname": "j", "read": {"total_ios": ios, "iops": 10.0,
                "clat_ns": {"bins": {"2000000": ios}}}})
        };
        let of = Experiment(json!({
            "fio": {"jobs": [job(3), job(1)]},
            "before": {"queues": [queue(1, 0), queue(0, 0)]},
            "after": {"queues": [queue(3, 4), queue(2, 0)]},
            "cpu_us": 80,
        }));
        let read = of.reading("", false);
        let quantity = |name| read.quantity(name).unwrap();
        assert_eq!((read.ios, read.iops, quantity("cpu")), (4.0, 20.0, 20.0));
        assert_eq!(
            (
                read.counter("accepted"),
                quantity("tries"),
                quantity("busy")
            ),
            (4.0, 2.0, 50.0)
        );
        assert_eq!(read.latencies(100), [2.0; 4]);
        let ended = Job::deserialize(json!({"jobname": "j", "error": 5})).unwrap();
        assert_eq!(ended.errors(), 1.0);
    }
}
