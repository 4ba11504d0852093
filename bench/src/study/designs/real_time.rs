// SPDX-License-Identifier: MIT OR Apache-2.0
//! The throughput with one item of ten asleep, on this machine's clock: today's queues with the
//! sleep declared and with the sleep found out by the sampler, and the old design.
//!
//! All share one CPU. A round gives each queue the same batch, so that a busy moment of the machine
//! meets all of them.

use crate::stats::quantiles;
use crate::study::draft::{Draft, Drawn};
use crate::study::job::{Body, Job};
use crate::study::outcome::{show, Kind, Part, Samples};
use crate::study::settings::{Settings, StudyError};
use crate::study::table::StudyFile;
use crate::table::Table;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use workqueue::legacy::{self, Machine};
use workqueue::{blocking, CpuSet, Flags, Queue, Runtime, Topology};

/// What each item uses of the CPU.
/// A queue that waits for each sleep takes 250 us per item (50 and a tenth of the sleep), others about 50.
const BURN: Duration = Duration::from_micros(50);
/// What one item in ten sleeps.
const SLEEP: Duration = Duration::from_millis(2);
/// Items of a batch.
/// Long enough that the beginning and the end of a batch do not count.
const ITEMS: usize = 200;
/// The queues, in the order of a round.
const NAMES: [&str; 4] = [
    "today, sleep declared",
    "today, sleep found out",
    "today, unbound, declared",
    "2.6.35",
];

/// Uses the CPU.
fn burn() {
    let end = Instant::now() + BURN;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Queues a batch through `queue` and gives the microseconds per item.
fn round(
    declared: bool,
    queue: &dyn Fn(Body) -> Result<(), StudyError>,
) -> Result<f64, StudyError> {
    let (done, all_done) = mpsc::channel();
    // With the queueing: the old design's thread runs items meanwhile, as workers do.
    let began = Instant::now();
    for n in 0..ITEMS {
        let done = done.clone();
        queue(Box::new(move || {
            burn();
            if n.is_multiple_of(10) {
                if declared {
                    blocking(|| std::thread::sleep(SLEEP));
                } else {
                    std::thread::sleep(SLEEP);
                }
            }
            // The receiver waits for all of them.
            let _received = done.send(());
        }))?;
    }
    drop(done);
    all_done.iter().for_each(drop);
    Ok(began.elapsed().as_secs_f64() * 1e6 / ITEMS as f64)
}

/// Measures all queues, a round at a time; the first round warms up. Fails if a queue cannot be
/// made or does not take an item.
pub fn part(settings: &Settings, file: &StudyFile) -> Result<Part, StudyError> {
    let runtime = Runtime::builder().start()?;
    let cpu = runtime.online_cpus().lowest().unwrap_or(0);
    let percpu = runtime.queue("percpu").flags(Flags::PERCPU).build()?;
    let unbound = runtime.queue("unbound").flags(Flags::UNBOUND).build()?;
    let old = Machine::builder().topology(Topology::detect(&CpuSet::single(cpu)));
    let old = old.build().create_workqueue("old")?;
    let today = |queue: &Queue, body: Body| Ok(queue.enqueue_on(cpu, Job::new("item", body))?);
    let before = |body: Body| {
        let queued = old.queue_work_on(cpu, &legacy::Work::new("item", move |_| body()));
        queued
            .map(drop)
            .map_err(|e| StudyError::Refused(e.to_string()))
    };
    let mut samples = NAMES.map(|name| Samples {
        name: name.into(),
        values: Vec::new(),
    });
    for n in 0..=settings.scaled(15, 3) {
        // Each batch has ended before the next one begins, so they do not compete for the CPU.
        let took = [
            round(true, &|f| today(&percpu, f))?,
            round(false, &|f| today(&percpu, f))?,
            round(true, &|f| today(&unbound, f))?,
            round(true, &before)?,
        ];
        // The first round warms up.
        for (set, took) in samples.iter_mut().zip(took).filter(|_| n > 0) {
            set.values.push(took);
        }
    }
    old.destroy_workqueue()?;
    let mut draft = Draft::new(file, "real-time", Kind::Measured)?;
    describe(&mut draft, samples.into())?;
    Ok(draft.part())
}

/// Compares all with the last one, which is the old design.
fn describe(draft: &mut Draft, samples: Vec<Samples>) -> Result<(), StudyError> {
    let mut table = Table::default();
    // Median, fastest, slowest.
    let found = |set: &Samples| quantiles(&set.values, [0.5, 0.0, 1.0]);
    let old = samples.last().map_or(f64::NAN, |set| found(set)[0]);
    for set in &samples {
        let [median, fastest, slowest] = found(set);
        let (name, share) = (&set.name, median / old);
        table.row(name, [median, fastest, slowest, share].map(show));
        draft.measure(format!("time per item, {name}"), median, "us");
        draft.measure(format!("share of 2.6.35's time, {name}"), share, "");
    }
    draft.figure("real", Drawn::Percentiles(samples), table)
}
