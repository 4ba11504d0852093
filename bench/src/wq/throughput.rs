// SPDX-License-Identifier: MIT OR Apache-2.0
//! Enqueue to completed: the time per item when producers submit bursts and wait for each.
//!
//! Producers are threads of no contender. Each reads the clock at its begin and at its end. A sample
//! is the wall time from the first begin to the last end, divided by the items. A burst is many items, so that the cost of waking
//! the producer at its end is spread over them.

use super::contender::{Body, Contender};
use super::countdown::Countdown;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// The shape of a sample.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Threads that submit.
    pub producers: usize,
    /// Items that each has out at once.
    pub burst: usize,
    /// How many bursts each submits.
    pub bursts: usize,
    /// One item in this number sleeps.
    pub sleeper: Option<(usize, Duration)>,
}

impl Shape {
    /// Items that do nothing, 2000 of them out at once.
    pub fn trivial(producers: usize) -> Self {
        Self {
            producers,
            burst: 2000 / producers,
            bursts: 50,
            sleeper: None,
        }
    }

    /// One item in ten sleeps for 2 ms without declaring it.
    pub fn blocked() -> Self {
        Self {
            producers: 1,
            burst: 200,
            bursts: 5,
            sleeper: Some((10, Duration::from_millis(2))),
        }
    }
}

/// What each producer has, made once: bodies are borrowed for ever.
pub struct Bodies(Vec<(&'static Countdown, Body)>);

impl Bodies {
    /// The items of this shape.
    pub fn new(shape: Shape) -> Self {
        let body = |_| {
            let done: &'static Countdown = Box::leak(Box::default());
            let body: Body = match shape.sleeper {
                None => Box::leak(Box::new(move |_| done.one())),
                Some((every, time)) => Box::leak(Box::new(move |n: usize| {
                    if n.is_multiple_of(every) {
                        thread::sleep(time);
                    }
                    done.one();
                })),
            };
            (done, body)
        };
        Self((0..shape.producers).map(body).collect())
    }

    /// One sample: nanoseconds per item. All producers begin together, when the last of them is
    /// there.
    pub fn sample(&self, shape: Shape, contender: &Contender) -> f64 {
        let begin = Barrier::new(shape.producers);
        let times = thread::scope(|scope| {
            let produce = |(done, body): &(&'static Countdown, Body)| {
                let (done, mut load) = (*done, contender.load(shape.burst, *body));
                let begin = &begin;
                scope.spawn(move || {
                    begin.wait();
                    let begun = Instant::now();
                    for _ in 0..shape.bursts {
                        // The count is set before the first item is submitted, or an early item would be missed.
                        done.expect(shape.burst);
                        load();
                        done.wait();
                    }
                    (begun, Instant::now())
                })
            };
            let producers: Vec<_> = self.0.iter().map(produce).collect();
            let times = producers.into_iter().map(|producer| producer.join());
            times
                .map(|times| times.expect("a producer does not panic"))
                .collect::<Vec<_>>()
        });
        let begun = times
            .iter()
            .map(|times| times.0)
            .min()
            .expect("there is a producer");
        let ended = times.iter().map(|times| times.1).max().unwrap_or(begun);
        let items = shape.producers * shape.burst * shape.bursts;
        (ended - begun).as_nanos() as f64 / items as f64
    }
}
