// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study e: from queueing to start, with and without HIGHPRI, bound and unbound, beside CPU hogs.

pub mod device;

use crate::study::hogs::{self, Hogs};
use crate::study::job::Job;
use crate::study::outcome::{
    fill, quantile, show, sorted, Axis, Figure, Kind, Measure, Part, Plot, Samples, Table,
};
use crate::study::{Settings, StudyError};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use workqueue::{CpuSet, Flags, OwnedQueue, Runtime};

const NAMES: [&str; 4] = ["bound", "bound HIGHPRI", "unbound", "unbound HIGHPRI"];
const PAUSE: Duration = Duration::from_millis(2);
const HOGS: usize = 4;

/// Milliseconds from the call to the item's first statement.
fn probe(queue: &OwnedQueue, cpu: usize) -> Result<f64, StudyError> {
    let (started, start) = mpsc::channel();
    let item = Job::new("probe", move || {
        // The receiver waits for it.
        let _received = started.send(Instant::now());
    });
    let called = Instant::now();
    queue
        .enqueue_on(cpu, item)
        .map_err(|e| StudyError::Refused(e.to_string()))?;
    let at = start
        .recv()
        .map_err(|e| StudyError::Refused(e.to_string()))?;
    Ok(at.duration_since(called).as_secs_f64() * 1e3)
}

fn setting(cpus: &CpuSet, hogs: usize, rounds: usize) -> Result<Vec<Samples>, StudyError> {
    let _hogs = Hogs::start(cpus, hogs)?;
    let runtime = Runtime::builder().start()?;
    let flags = [
        Flags::PERCPU,
        Flags::PERCPU | Flags::HIGHPRI,
        Flags::UNBOUND,
        Flags::UNBOUND | Flags::HIGHPRI,
    ];
    let queues = flags.map(|flags| runtime.queue("probe").flags(flags).build());
    let queues = queues.into_iter().collect::<Result<Vec<_>, _>>()?;
    let all: Vec<usize> = cpus.iter().collect();
    let mut sets: Vec<Samples> = NAMES
        .iter()
        .map(|name| Samples {
            name: format!("{name} queue"),
            values: Vec::with_capacity(rounds),
        })
        .collect();
    // The first rounds warm up.
    for round in 0..rounds + 5 {
        for n in 0..queues.len() {
            let n = (n + round) % queues.len();
            std::thread::sleep(PAUSE);
            let took = probe(&queues[n], all[round % all.len()])?;
            if round >= 5 {
                sets[n].values.push(took);
            }
        }
    }
    Ok(sets)
}

/// Runs what is measured.
pub fn run(settings: &Settings) -> Result<Vec<Part>, StudyError> {
    match settings.measure {
        true => Ok(vec![measured(settings)?]),
        false => Ok(Vec::new()),
    }
}

fn measured(settings: &Settings) -> Result<Part, StudyError> {
    let topology = hogs::allowed();
    let cpus = topology.possible();
    let mut measures: Vec<Measure> = Vec::new();
    let mut figures = Vec::new();
    for (key, beside, id, title) in [
        (
            "idle",
            0,
            "idle",
            "On an idle machine neither priority nor binding matters",
        ),
        (
            "hogs",
            HOGS,
            "hogs",
            "Beside four CPU hogs per CPU: from queueing to start",
        ),
    ] {
        let sets = setting(cpus, beside, settings.scaled(400, 40))?;
        let mut table = Table::new(&["queue", "median, ms", "90 %, ms", "99 %, ms", "longest, ms"]);
        let found: Vec<[f64; 4]> = sets
            .iter()
            .map(|set| {
                let order = sorted(&set.values);
                [0.5, 0.9, 0.99, 1.0].map(|q| quantile(&order, q))
            })
            .collect();
        for (name, found) in NAMES.iter().zip(&found) {
            table.row([(*name).to_owned()].into_iter().chain(found.map(show)));
            measures.push(Measure::new(
                format!("{key}: {name}, median"),
                found[0],
                "ms",
            ));
            measures.push(Measure::new(format!("{key}: {name}, p99"), found[2], "ms"));
        }
        let ratio = |a: usize, b: usize, q: usize| found[a][q] / found[b][q];
        for (name, value) in [
            ("HIGHPRI gain, bound, median", ratio(0, 1, 0)),
            ("HIGHPRI gain, bound, p99", ratio(0, 1, 2)),
            ("unbound over bound, normal, median", ratio(2, 0, 0)),
        ] {
            measures.push(Measure::new(format!("{key}: {name}"), value, ""));
        }
        figures.push(Figure {
            id: id.into(),
            title: title.into(),
            alt: format!("Time from queueing to start by percentile for four kinds of queue, {beside} CPU hogs per CPU."),
            plot: Plot::Percentiles {
                value: Axis::log("from queueing to start, ms"),
                sets,
            },
            table,
        });
    }
    let finding = fill(
        "Beside 4 CPU hogs per CPU an item of a bound queue starts after {hogs: bound, median} ms (median; 99 %: \
         {hogs: bound, p99} ms), with HIGHPRI after {hogs: bound HIGHPRI, median} ms ({hogs: bound HIGHPRI, p99} ms).",
        &measures,
    );
    Ok(Part {
        kind: Kind::Measured,
        finding,
        measures,
        figures,
    })
}
