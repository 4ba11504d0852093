// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wake-up latency: from the submission of one item, with all threads asleep, to its start.

use super::contender::{Body, Contender};
use super::countdown::Countdown;
use super::quantiles::Times;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Submissions in a sample.
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
            started.store(since(origin), Ordering::Relaxed);
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

fn since(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Probe {
    /// One sample: p50 and p99 in microseconds.
    pub fn sample(&self, contender: &dyn Contender) -> [f64; 2] {
        let mut load = contender.load(1, self.body);
        let mut latencies = Times::default();
        for _ in 0..TIMES {
            thread::sleep(PAUSE);
            self.done.expect(1);
            let submitted = since(self.origin);
            load.submit();
            self.done.wait();
            let started = self.started.load(Ordering::Relaxed);
            // Both from one clock, so a start before its submission is a fault of this program.
            let latency = started.checked_sub(submitted);
            latencies.add(latency.expect("an item starts after it was submitted"));
        }
        latencies.p50_p99(Duration::from_micros(1))
    }
}
