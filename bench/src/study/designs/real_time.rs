// SPDX-License-Identifier: MIT OR Apache-2.0
//! The throughput with one item of ten asleep, on this machine's clock, with the sleep declared and with the sleep found
//! out by the sampler.

use crate::study::job::{Body, Job};
use crate::study::outcome::{
    quantile, show, sorted, Axis, Figure, Kind, Measure, Part, Plot, Samples, Table,
};
use crate::study::{Settings, StudyError};
use std::fmt::Display;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use workqueue::legacy::{self, Machine};
use workqueue::{blocking, CpuSet, Flags, Queue, Runtime, Topology};

const BURN: Duration = Duration::from_micros(50);
const SLEEP: Duration = Duration::from_millis(2);
const ITEMS: usize = 200;
const NAMES: [&str; 4] = [
    "today, sleep declared",
    "today, sleep found out",
    "today, unbound, declared",
    "2.6.35",
];

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

/// The contenders in turn, a round at a time.
pub fn part(settings: &Settings) -> Result<Part, StudyError> {
    let runtime = Runtime::builder().start()?;
    let cpu = runtime.online_cpus().lowest().unwrap_or(0);
    let percpu = runtime.queue("percpu").flags(Flags::PERCPU).build()?;
    let unbound = runtime.queue("unbound").flags(Flags::UNBOUND).build()?;
    let old = Machine::builder().topology(Topology::detect(&CpuSet::single(cpu)));
    let old = old.build().create_workqueue("old")?;
    let refused = |e: &dyn Display| StudyError::Refused(e.to_string());
    let today = |queue: &Queue, body: Body| {
        let queued = queue.enqueue_on(cpu, Job::new("item", body));
        queued.map_err(|e| refused(&e))
    };
    let before = |body: Body| {
        let queued = old.queue_work_on(cpu, &legacy::Work::new("item", move |_| body()));
        queued.map(drop).map_err(|e| refused(&e))
    };
    let mut samples = NAMES.map(|name| Samples {
        name: name.into(),
        values: Vec::new(),
    });
    for n in 0..=settings.scaled(15, 3) {
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
    Ok(describe(samples.into()))
}

fn describe(samples: Vec<Samples>) -> Part {
    let mut table = Table::new(&[
        "queue",
        "median, µs per item",
        "fastest",
        "slowest",
        "of 2.6.35's",
    ]);
    let median = |set: &Samples| quantile(&sorted(&set.values), 0.5);
    let old = samples.last().map_or(f64::NAN, median);
    let mut measures = Vec::new();
    for set in &samples {
        let order = sorted(&set.values);
        let share = median(set) / old;
        table.row(
            [set.name.clone()]
                .into_iter()
                .chain([median(set), order[0], order[order.len() - 1], share].map(show)),
        );
        measures.push(Measure::new(
            format!("time per item, {}", set.name),
            median(set),
            "us",
        ));
        measures.push(Measure::new(
            format!("share of 2.6.35's time, {}", set.name),
            share,
            "",
        ));
    }
    let finding = format!(
        "On this machine an item of 50 µs, one in ten of which sleeps 2 ms, takes {} µs on one CPU with the sleep \
         declared, {} µs with the sleep found out, {} µs in the old design.",
        show(median(&samples[0])),
        show(median(&samples[1])),
        show(old),
    );
    let figure = Figure {
        id: "real".into(),
        title: "The same on this machine's clock: the rules hold if the sleep is declared, and if it is found out".into(),
        alt: "Time per item by percentile of the rounds, for today's queues and the one of 2.6.35.".into(),
        plot: Plot::Percentiles {
            value: Axis::log("time per item, µs"),
            sets: samples,
        },
        table,
    };
    Part {
        kind: Kind::Measured,
        finding,
        measures,
        figures: vec![figure],
    }
}
