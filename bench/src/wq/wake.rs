// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wake-up latency: from the submission of one item, with all threads asleep, to its start.
//!
//! A pause before each submission is longer than any contender looks out for work before it sleeps.
//! Without it some would be measured awake and some asleep.

use super::contender::{Body, Contender};
use super::countdown::Countdown;
use super::nanoseconds_since;
use crate::stats::quantiles;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Submissions in a sample.
/// Four of them are above the 99th percentile. A sample takes a good 0.2 s.
const TIMES: usize = 400;

/// The pause before each: longer than any contender looks out for work
/// before it sleeps.
const PAUSE: Duration = Duration::from_micros(500);

/// The item and its clock, made once.
pub struct Probe {
    origin: Instant,
    started: &'static AtomicU64,
    done: &'static Countdown,
    body: Body,
}

impl Default for Probe {
    fn default() -> Self {
        let origin = Instant::now();
        let started: &'static AtomicU64 = Box::leak(Box::default());
        let done: &'static Countdown = Box::leak(Box::default());
        let body = Box::leak(Box::new(move |_| {
            started.store(nanoseconds_since(origin), Ordering::Relaxed);
            done.one();
        }));
        Self {
            origin,
            started,
            done,
            body,
        }
    }
}

impl Probe {
    /// One sample: p50 and p99 in microseconds.
    pub fn sample(&self, contender: &Contender) -> [f64; 2] {
        let mut load = contender.load(1, self.body);
        let latency = |_| {
            thread::sleep(PAUSE);
            self.done.expect(1);
            let submitted = nanoseconds_since(self.origin);
            load();
            self.done.wait();
            let started = self.started.load(Ordering::Relaxed);
            // Both from one clock, so a start before its submission is a fault of this program.
            let latency = started.checked_sub(submitted);
            latency.expect("an item starts after it was submitted") as f64 / 1e3
        };
        let latencies: Vec<f64> = (0..TIMES).map(latency).collect();
        quantiles(&latencies, [0.5, 0.99])
    }
}
