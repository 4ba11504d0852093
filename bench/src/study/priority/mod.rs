// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study e: from queueing to start, with and without HIGHPRI, bound and unbound, on an idle machine
//! and beside CPU hogs.
//!
//! Queues and CPUs are probed in turns, one item at a time with a pause between, so that an item
//! never waits for another one of the study.

pub mod device;

use crate::stats::quantiles;
use crate::study::draft::{Draft, Drawn};
use crate::study::hogs::{self, Hogs};
use crate::study::job::Job;
use crate::study::outcome::{show, Kind, Part, Samples};
use crate::study::settings::{Settings, StudyError};
use crate::study::table::StudyFile;
use crate::table::Table;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use workqueue::{CpuSet, Flags, OwnedQueue, Runtime};

/// The queues, in measures.
const NAMES: [&str; 4] = ["bound", "bound HIGHPRI", "unbound", "unbound HIGHPRI"];
/// Before each probe, so that the pool is idle.
const PAUSE: Duration = Duration::from_millis(2);
/// Threads per CPU that use it up.
/// A worker beside them that has nice 0 gets a fifth of its CPU. Nice -20 (HIGHPRI) weighs 86 times as much.
const HOGS: usize = 4;

/// Milliseconds from the call to the item's first statement.
fn probe(queue: &OwnedQueue, cpu: usize) -> Result<f64, StudyError> {
    let (started, start) = mpsc::channel();
    let item = Job::new("probe", move || {
        // The receiver waits for it.
        let _received = started.send(Instant::now());
    });
    // Before the call: what queueing itself takes is a part of the latency.
    let called = Instant::now();
    queue.enqueue_on(cpu, item)?;
    let at = start
        .recv()
        .map_err(|e| StudyError::Refused(e.to_string()))?;
    Ok(at.duration_since(called).as_secs_f64() * 1e3)
}

/// Probes all queues in turns beside this many hogs per CPU.
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
            // Another queue begins each round, so none is always probed after the same one.
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

/// Runs the part that is measured with threads, unless only virtual time is asked for.
pub fn run(settings: &Settings, file: &StudyFile) -> Result<Vec<Part>, StudyError> {
    match settings.measure {
        true => Ok(vec![measured(settings, file)?]),
        false => Ok(Vec::new()),
    }
}

/// Both settings, with what HIGHPRI gains.
fn measured(settings: &Settings, file: &StudyFile) -> Result<Part, StudyError> {
    let mut draft = Draft::new(file, "real-time", Kind::Measured)?;
    let topology = hogs::allowed();
    for (key, beside) in [("idle", 0), ("hogs", HOGS)] {
        let sets = setting(topology.possible(), beside, settings.scaled(400, 40))?;
        let found = sets.iter();
        let found = found.map(|set| quantiles(&set.values, [0.5, 0.9, 0.99, 1.0]));
        let found: Vec<[f64; 4]> = found.collect();
        let mut table = Table::default();
        for (name, found) in NAMES.iter().zip(&found) {
            table.row(*name, found.map(show));
            draft.measure(format!("{key}: {name}, median"), found[0], "ms");
            draft.measure(format!("{key}: {name}, p99"), found[2], "ms");
        }
        // Places in NAMES, and which of the four quantiles.
        let ratio = |a: usize, b: usize, q: usize| found[a][q] / found[b][q];
        for (name, value) in [
            ("HIGHPRI gain, bound, median", ratio(0, 1, 0)),
            ("HIGHPRI gain, bound, p99", ratio(0, 1, 2)),
            ("unbound over bound, normal, median", ratio(2, 0, 0)),
        ] {
            draft.measure(format!("{key}: {name}"), value, "");
        }
        draft.figure(key, Drawn::Percentiles(sets), table)?;
    }
    Ok(draft.part())
}
