// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the call for help to the first rescued run, on this machine's clock.

use crate::study::hogs::{self, Hogs};
use crate::study::job::Job;
use crate::study::outcome::{
    quantile, show, sorted, Axis, Figure, Kind, Measure, Part, Plot, Samples, Table,
};
use crate::study::{Settings, StudyError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc, OnceLock};
use std::time::{Duration, Instant};
use workqueue::{is_rescuer, CpuSet, Flags, Runtime, Topology};

const INITIAL: Duration = Duration::from_millis(10);
/// How long an item may take before the study gives up. Nothing is timed by it.
const HUNG: Duration = Duration::from_secs(60);

/// Milliseconds from the moment the mayday timer was due to the rescued item's start.
fn trial(cpu: usize) -> Result<f64, StudyError> {
    let fails = Arc::new(AtomicBool::new(false));
    let armed: Arc<OnceLock<Instant>> = Arc::default();
    let (hook_fails, hook_armed) = (fails.clone(), armed.clone());
    let runtime = Runtime::builder()
        .topology(Topology::detect(&CpuSet::single(cpu)))
        .mayday_initial(INITIAL)
        // So that the end of a trial does not take a second.
        .create_cooldown(INITIAL * 5)
        .on_create_worker(move |_| {
            if !hook_fails.load(Ordering::SeqCst) {
                return Ok(());
            }
            // The first attempt: the timer was armed just now.
            hook_armed.get_or_init(Instant::now);
            Err(libc::EAGAIN)
        })
        .start()?;
    let flags = Flags::PERCPU | Flags::MEM_RECLAIM;
    let queue = runtime.queue("reclaim").flags(flags).build()?;
    fails.store(true, Ordering::SeqCst);
    let (started, start) = mpsc::channel();
    let item = Job::new("item", move || {
        // The receiver waits for it.
        let _received = started.send((Instant::now(), is_rescuer()));
    });
    queue
        .enqueue_on(cpu, item)
        .map_err(|e| StudyError::Refused(e.to_string()))?;
    let told = start.recv_timeout(HUNG);
    fails.store(false, Ordering::SeqCst);
    let (at, rescued) = told.map_err(|_| StudyError::Refused("the item never started".into()))?;
    let due = armed.get().map(|armed| *armed + INITIAL);
    queue.destroy()?;
    runtime.shutdown()?;
    match due {
        Some(due) if rescued => Ok(at.saturating_duration_since(due).as_secs_f64() * 1e3),
        _ => Err(StudyError::Refused(
            "the item did not start in the rescuer".into(),
        )),
    }
}

/// All of it.
pub fn part(settings: &Settings) -> Result<Part, StudyError> {
    let cpus = hogs::allowed();
    let cpus = cpus.possible().clone();
    let cpu = cpus.lowest().unwrap_or(0);
    let mut table = Table::new(&[
        "beside it",
        "median, ms",
        "90 %, ms",
        "99 %, ms",
        "longest, ms",
        "trials",
    ]);
    let (mut sets, mut measures) = (Vec::new(), Vec::new());
    for (name, key, beside) in [
        ("the machine as it is", "mayday to first run", 0),
        ("two CPU hogs per CPU", "mayday to first run, CPU hogs", 2),
    ] {
        let _hogs = Hogs::start(&cpus, beside)?;
        let trials = (0..settings.scaled(200, 20)).map(|_| trial(cpu));
        let values = trials.collect::<Result<Vec<_>, _>>()?;
        let order = sorted(&values);
        let found = [0.5, 0.9, 0.99, 1.0].map(|q| quantile(&order, q));
        let cells = found
            .map(show)
            .into_iter()
            .chain([values.len().to_string()]);
        table.row([name.to_owned()].into_iter().chain(cells));
        measures.push(Measure::new(format!("{key}, median"), found[0], "ms"));
        measures.push(Measure::new(format!("{key}, longest"), found[3], "ms"));
        sets.push(Samples {
            name: name.into(),
            values,
        });
    }
    let finding = format!(
        "From the call for help to the first rescued run it takes {} ms (median), with two CPU hogs per CPU {} ms; the \
         longest were {} and {} ms.",
        show(measures[0].value),
        show(measures[2].value),
        show(measures[1].value),
        show(measures[3].value),
    );
    let figure = Figure {
        id: "mayday".into(),
        title: "From the call for help to the first rescued run".into(),
        alt: "Time from the moment the mayday timer is due to the start of the rescued item, by percentile, with and \
              without CPU-bound threads beside it."
            .into(),
        plot: Plot::Percentiles {
            value: Axis::log("from mayday to run, ms"),
            sets,
        },
        table,
    };
    Ok(Part {
        kind: Kind::Measured,
        finding,
        measures,
        figures: vec![figure],
    })
}
