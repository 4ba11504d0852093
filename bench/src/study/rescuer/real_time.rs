// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the call for help to the first rescued run, on this machine's clock.
//!
//! Each trial has a runtime of its own whose worker creation fails from a moment on. The time is
//! counted from when the mayday timer is due, so that the 10 ms that it waits by rule are not part
//! of it.

use crate::stats::quantiles;
use crate::study::draft::{Draft, Drawn};
use crate::study::hogs::{self, Hogs};
use crate::study::job::Job;
use crate::study::outcome::{show, Kind, Part, Samples};
use crate::study::settings::{Settings, StudyError};
use crate::study::table::StudyFile;
use crate::table::Table;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc, OnceLock};
use std::time::{Duration, Instant};
use workqueue::{is_rescuer, CpuSet, Flags, Runtime, Topology};

/// The time from the first failed creation to the call for help.
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
        .threads_by(move |_| {
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
    queue.enqueue_on(cpu, item)?;
    let told = start.recv_timeout(HUNG);
    // Before an error is returned: the runtime ends only if it can make workers.
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

/// Makes the trials on the machine as it is, then beside CPU hogs. Fails if an item never starts,
/// or not in the rescuer.
pub fn part(settings: &Settings, file: &StudyFile) -> Result<Part, StudyError> {
    let mut draft = Draft::new(file, "real-time", Kind::Measured)?;
    let cpus = hogs::allowed();
    let cpus = cpus.possible().clone();
    // One CPU for all trials: what differs between trials is the moment alone.
    let cpu = cpus.lowest().unwrap_or(0);
    let (mut table, mut sets) = (Table::default(), Vec::new());
    for (name, key, beside) in [
        ("the machine as it is", "mayday to first run", 0),
        ("two CPU hogs per CPU", "mayday to first run, CPU hogs", 2),
    ] {
        let _hogs = Hogs::start(&cpus, beside)?;
        let trials = (0..settings.scaled(200, 20)).map(|_| trial(cpu));
        let values = trials.collect::<Result<Vec<_>, _>>()?;
        let found = quantiles(&values, [0.5, 0.9, 0.99, 1.0]);
        let count = values.len().to_string();
        table.row(name, found.map(show).into_iter().chain([count]));
        draft.measure(format!("{key}, median"), found[0], "ms");
        draft.measure(format!("{key}, longest"), found[3], "ms");
        sets.push(Samples {
            name: name.into(),
            values,
        });
    }
    draft.figure("mayday", Drawn::Percentiles(sets), table)?;
    Ok(draft.part())
}
