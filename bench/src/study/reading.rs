// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one load gave, in the same terms for the simulator and for the real driver.
//!
//! A study's table names quantities (`iops`, `tries`, `p99`). This file says what each of them is,
//! in [`Reading::quantity`].

use serde_json::Value;
use std::collections::BTreeMap;

/// The shares whose latencies are known: median, 90 %, 99 %, 99.9 %, all.
pub const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Requests per second.
    pub iops: f64,
    /// Requests that ended.
    pub ios: f64,
    /// Bytes per second.
    pub bytes: f64,
    /// What the hardware queues counted, summed over them.
    pub counters: BTreeMap<String, f64>,
    /// Latencies in milliseconds at [`QUANTILES`].
    pub quantiles: [f64; 5],
    /// Latencies in milliseconds with how often each came, in rising order.
    pub buckets: Vec<(f64, u64)>,
    /// Requests that each job ended.
    pub jobs: Vec<f64>,
    /// Requests per second of each job.
    pub rates: Vec<f64>,
    /// CPU time of the server in microseconds.
    pub cpu_us: f64,
    /// The study's requests per second at ease, where it compares with that.
    pub full: f64,
    /// The words of the case that are numbers.
    pub words: Vec<f64>,
    /// The run came to no end, and was given up.
    pub stands: bool,
}

impl Reading {
    /// A counter.
    pub fn counter(&self, name: &str) -> f64 {
        self.counters.get(name).copied().unwrap_or(0.0)
    }

    /// Several counters together.
    fn sum(&self, names: &[&str]) -> f64 {
        names.iter().map(|name| self.counter(name)).sum()
    }

    /// Calls of the driver's queue_rq.
    fn calls(&self) -> f64 {
        self.sum(&[
            "accepted",
            "refused_error",
            "refused_resource",
            "refused_dev_resource",
        ])
    }

    /// Calls of queue_rq, and lookups for a budget that found none.
    fn tries(&self) -> f64 {
        self.calls() + self.counter("no_budget")
    }

    /// Runs of the hardware queues: on the thread that asked for one, on kblockd at once, and on kblockd later.
    fn runs(&self) -> f64 {
        self.sum(&["run_sync", "run_async", "run_delayed"])
    }

    /// What the slots that the first word names allow of 32.
    fn slots_allow(&self) -> f64 {
        self.full * self.words.first().unwrap_or(&f64::NAN) / 32.0
    }

    /// Requests whose latency is known.
    fn samples(&self) -> f64 {
        self.buckets.iter().map(|b| b.1).sum::<u64>() as f64
    }

    /// Milliseconds of all requests that took longer than this.
    fn waited(&self, longer: f64) -> f64 {
        let waits = self.buckets.iter().filter(|b| b.0 > longer);
        waits.map(|b| b.0 * b.1 as f64).sum()
    }

    /// The requests of each job as multiples of the mean.
    fn shares(&self) -> Vec<f64> {
        of_mean(&self.jobs)
    }

    /// All latencies in milliseconds in rising order, thinned to at most this many.
    pub fn latencies(&self, most: usize) -> Vec<f64> {
        thin(&self.buckets, most)
    }

    /// A quantity by the name that a study's table has for it. Calls, tries, runs and CPU time are per request, latencies
    /// in milliseconds, CPU time in microseconds.
    pub fn quantity(&self, name: &str) -> Option<f64> {
        Some(match name {
            "iops" => self.iops,
            "ios" => self.ios,
            "mib_s" => self.bytes / 1024.0 / 1024.0,
            "of_full" => self.iops / self.full,
            "of_full_percent" => self.iops / self.full * 100.0,
            "slots_allow" => self.slots_allow(),
            "of_slots" => self.iops / self.slots_allow(),
            "of_slots_percent" => self.iops / self.slots_allow() * 100.0,
            "word_0" | "word_1" => {
                let place = usize::from(name.ends_with('1'));
                self.words.get(place).copied().unwrap_or(f64::NAN)
            }
            "calls" => self.calls() / self.ios,
            "tries" => self.tries() / self.ios,
            // Requests that ended, so the driver has accepted each: a refused call ends none.
            "accepted_percent" => 100.0 * self.ios / self.calls(),
            "runs" => self.runs() / self.ios,
            "calls_and_runs" => (self.calls() + self.runs()) / self.ios,
            // The share of tries that came to nothing, in per cent.
            "busy" => 100.0 * (self.tries() - self.counter("accepted")) / self.tries(),
            "cpu" => self.cpu_us / self.ios,
            "refused" => self.sum(&["refused_resource", "refused_dev_resource"]),
            // Refusals per second of all waits longer than 1 ms, which is what a request takes by itself.
            "refused_while_waiting" => {
                let refused = self.sum(&["refused_resource", "refused_dev_resource"]);
                refused / (self.waited(1.0) / 1000.0)
            }
            "refused_resource"
            | "refused_dev_resource"
            | "threads_not_made"
            | "rescued"
            | "oom_kills" => self.counter(name),
            "lost" => self.counter("inserted") - self.counter("ended"),
            "stands" => f64::from(u8::from(self.stands)),
            "samples" => self.samples(),
            "shortest" => self.buckets.first().map_or(f64::NAN, |b| b.0),
            "mean" => self.waited(0.0) / self.samples(),
            // Later than a client that gives each request 30 ms waits, in per cent.
            "late" => {
                let late = self.buckets.iter().filter(|b| b.0 > 30.0).map(|b| b.1);
                100.0 * late.sum::<u64>() as f64 / self.samples()
            }
            "median" => self.quantiles[0],
            "p90" => self.quantiles[1],
            "p99" => self.quantiles[2],
            "p999" => self.quantiles[3],
            "longest" => self.quantiles[4],
            "longest_over_median" => self.quantiles[4] / self.quantiles[0],
            "least" => least(&self.shares()),
            "most" => self.shares().into_iter().fold(0.0, f64::max),
            "slowest" => least(&of_mean(&self.rates)),
            _ => return None,
        })
    }
}

/// Values as multiples of their mean.
fn of_mean(values: &[f64]) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    values.iter().map(|value| value / mean).collect()
}

/// The smallest value.
fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Adds up the numbers of objects, name by name.
pub fn add_up<'v>(objects: impl IntoIterator<Item = &'v Value>) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for object in objects {
        for (name, number) in object.as_object().into_iter().flatten() {
            *sums.entry(name.clone()).or_insert(0.0) += number.as_f64().unwrap_or(0.0);
        }
    }
    sums
}

/// Values in rising order with how often each came, as at most this many values. The largest stays.
/// So the shape of the curve stays, and with it the longest latency, which is what one looks for
/// first.
pub fn thin(buckets: &[(f64, u64)], most: usize) -> Vec<f64> {
    let count: u64 = buckets.iter().map(|b| b.1).sum();
    let every = count.div_ceil(most.max(1) as u64).max(1);
    let (mut out, mut seen) = (Vec::new(), 0);
    for &(value, times) in buckets {
        // Every n-th, counted from the end.
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

    #[test]
    fn thinned_values_keep_the_largest_and_their_shares() {
        let buckets = [(1.0, 3), (2.0, 6), (9.0, 1)];
        assert_eq!(thin(&buckets, 100).len(), 10);
        assert_eq!(thin(&buckets, 5), [1.0, 2.0, 2.0, 2.0, 9.0]);
        assert!(thin(&[], 5).is_empty());
    }

    #[test]
    fn counters_become_figures_per_request() {
        let counters = [
            ("accepted", 4.0),
            ("no_budget", 4.0),
            ("run_sync", 2.0),
            ("inserted", 5.0),
            ("ended", 4.0),
        ];
        let reading = Reading {
            ios: 4.0,
            cpu_us: 80.0,
            counters: counters.map(|(name, n)| (name.to_owned(), n)).into(),
            jobs: vec![3.0, 1.0],
            ..Reading::default()
        };
        let quantities = [
            "calls", "tries", "busy", "runs", "cpu", "lost", "least", "most", "nothing",
        ];
        let values = quantities.map(|name| reading.quantity(name).unwrap_or(-1.0));
        assert_eq!(values, [1.0, 2.0, 50.0, 0.5, 20.0, 1.0, 0.5, 1.5, -1.0]);
    }
}
