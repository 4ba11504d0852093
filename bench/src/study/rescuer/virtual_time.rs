// SPDX-License-Identifier: MIT OR Apache-2.0
//! An outage of worker creation, millisecond by millisecond, on the virtual clock: how long items
//! wait with and without a rescuer, and how one rescuer shares its time between two CPUs.

use crate::stats::quantiles;
use crate::study::draft::{Draft, Drawn};
use crate::study::job::Job;
use crate::study::outcome::{show, Kind, Part, Row, Series, Span};
use crate::study::settings::StudyError;
use crate::study::stage::{machine, Stage};
use crate::study::table::StudyFile;
use crate::table::Table;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use workqueue::{blocking, is_rescuer, Flags, OwnedQueue, Queue, Runtime};

const MS: Duration = Duration::from_millis(1);
/// How long no worker can be made.
/// A manager tries again after each second (CREATE_COOLDOWN), so it finds the end of the outage at 3000 ms.
const OUTAGE_MS: u64 = 2500;
/// How long the clock goes on.
/// Past that try, so that the items that have waited for it are in the picture.
const SHOWN_MS: u64 = 3200;
/// The time from one item to the next: no divisor of the rescuer's 100 ms, so that items arrive at
/// all its phases.
const EVERY_MS: u64 = 7;
/// The queues, in measures and in the picture.
const NAMES: [&str; 2] = ["MEM_RECLAIM", "without"];
const CURVES: [&str; 2] = ["with MEM_RECLAIM", "without MEM_RECLAIM"];

/// A runtime on the stage whose worker creation fails on request.
fn failing(stage: &Stage, cpus: usize, fails: &Arc<AtomicBool>) -> Result<Runtime, StudyError> {
    let fails = fails.clone();
    let builder = Runtime::builder()
        .topology(machine(cpus))
        .virtual_clock(stage.clock.clone())
        .threads_by(move |_| {
            if fails.load(Ordering::SeqCst) {
                Err(libc::EAGAIN)
            } else {
                Ok(())
            }
        });
    Ok(builder.start()?)
}

/// When an item arrived and started, and if it ran in the rescuer.
type Log = Arc<Mutex<Vec<(f64, f64, bool)>>>;

/// Queues an item that notes when it starts, and in which kind of worker.
fn arrive(stage: &Stage, queue: &Queue, log: &Log) -> Result<(), StudyError> {
    let (own, log, arrived) = (stage.clone(), log.clone(), stage.now());
    let item = Job::new("item", move || {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push((arrived, own.now(), is_rescuer()));
    });
    Ok(queue.enqueue_on(0, item)?)
}

/// An outage of 2.5 s, in which both queues get an item every few milliseconds.
fn outage(draft: &mut Draft) -> Result<(), StudyError> {
    let (stage, fails) = (Stage::in_turns(), Arc::new(AtomicBool::new(false)));
    let runtime = failing(&stage, 1, &fails)?;
    let queue = |name, flags| runtime.queue(name).flags(Flags::PERCPU | flags).build();
    let queues: [OwnedQueue; 2] = [
        queue("reclaim", Flags::MEM_RECLAIM)?,
        queue("plain", Flags::empty())?,
    ];
    let logs: [Log; 2] = Default::default();
    stage.clock.settle();
    fails.store(true, Ordering::SeqCst);
    let mut arrived = 0usize;
    let mut both = || {
        arrived += 1;
        let mut both = queues.iter().zip(&logs);
        both.try_for_each(|(queue, log)| arrive(&stage, queue, log))
    };
    // The first items call for a worker, so the mayday timer of the pool is armed at moment 0.
    both()?;
    let mut ms = 0;
    stage.tick(MS, MS * SHOWN_MS as u32, || {
        ms += 1;
        if ms == OUTAGE_MS {
            fails.store(false, Ordering::SeqCst);
        }
        match ms < OUTAGE_MS && ms.is_multiple_of(EVERY_MS) {
            true => both(),
            false => Ok(()),
        }
    })?;
    for queue in queues {
        queue.destroy()?;
    }
    runtime.shutdown()?;
    let logs = logs.map(|log| log.lock().unwrap_or_else(PoisonError::into_inner).clone());
    // Every item that arrived must have noted its start.
    let lost = 2 * arrived - logs.iter().map(Vec::len).sum::<usize>();
    draft.measure("items lost", lost as f64, "");
    let rescued = logs[0].iter().filter(|l| l.2).count() as f64 / logs[0].len() as f64;
    draft.measure("MEM_RECLAIM: share run by the rescuer", rescued, "");
    let (mut table, mut series) = (Table::default(), Vec::new());
    for ((name, curve), log) in NAMES.into_iter().zip(CURVES).zip(&logs) {
        let waits: Vec<f64> = log.iter().map(|l| l.1 - l.0).collect();
        let first = log.iter().map(|l| l.1).fold(f64::INFINITY, f64::min);
        let [median, longest] = quantiles(&waits, [0.5, 1.0]);
        draft.measure(format!("{name}: first start"), first, "ms");
        draft.measure(format!("{name}: median wait"), median, "ms");
        draft.measure(format!("{name}: longest wait"), longest, "ms");
        table.row(name, [first, median, longest, log.len() as f64].map(show));
        let mut points: Vec<_> = log.iter().map(|l| (l.0, l.1 - l.0)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        series.push(Series {
            name: curve.into(),
            points,
        });
    }
    draft.figure("outage", Drawn::Dots(series), table)
}

/// Items for each of two CPUs.
/// Milliseconds of work, too: more than the rescuer does for one CPU while another one waits.
const SHARE: usize = 64;

/// Two CPUs whose items only the rescuer can run.
fn turns(draft: &mut Draft) -> Result<(), StudyError> {
    let (stage, fails) = (Stage::in_turns(), Arc::new(AtomicBool::new(false)));
    let runtime = failing(&stage, 2, &fails)?;
    let flags = Flags::PERCPU | Flags::MEM_RECLAIM;
    let queue = runtime.queue("reclaim").flags(flags).build()?;
    let log: Arc<Mutex<Vec<(usize, f64, f64)>>> = Arc::default();
    stage.clock.settle();
    fails.store(true, Ordering::SeqCst);
    let share = |cpu: usize| -> Result<(), StudyError> {
        for _ in 0..SHARE {
            let (own, log) = (stage.clone(), log.clone());
            let item = Job::new("item", move || {
                let from = own.now();
                // The rescuer does not count, whatever it declares.
                blocking(|| own.spend(MS));
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.push((cpu, from, own.now()));
            });
            queue.enqueue_on(cpu, item)?;
        }
        Ok(())
    };
    share(0)?;
    let mut half_ms = 0;
    stage.tick(MS / 2, MS * 160, || {
        half_ms += 1;
        match half_ms {
            // 1.5 ms later than those of CPU 0, which therefore calls for the rescuer first.
            3 => share(1),
            _ => Ok(()),
        }
    })?;
    fails.store(false, Ordering::SeqCst);
    // Managers sleep out their second before they look again.
    stage.tick(MS * 100, MS * 1500, || Ok::<(), StudyError>(()))?;
    queue.destroy()?;
    runtime.shutdown()?;
    let log = log.lock().unwrap_or_else(PoisonError::into_inner);
    // CPU, items, beginning and end: a turn lasts as long as the rescuer stays on one CPU.
    let mut turns: Vec<(usize, usize, f64, f64)> = Vec::new();
    for &(cpu, from, to) in log.iter() {
        match turns.last_mut().filter(|turn| turn.0 == cpu) {
            Some(turn) => (turn.1, turn.3) = (turn.1 + 1, to),
            None => turns.push((cpu, 1, from, to)),
        }
    }
    let mut table = Table::default();
    let mut rows = [0, 1].map(|cpu| Row {
        name: format!("CPU {cpu}"),
        group: None,
        spans: Vec::new(),
    });
    for (n, &(cpu, items, from, to)) in turns.iter().enumerate() {
        let cells = [cpu, items].map(|n| n.to_string());
        let cells = cells.into_iter().chain([from, to].map(show));
        table.row((n + 1).to_string(), cells);
        rows[cpu].spans.push(Span { from, to, kind: 0 });
    }
    // In its last turn the rescuer has no other CPU to serve.
    let contested = turns.len().saturating_sub(1);
    let longest = turns[..contested].iter().map(|t| t.1).max().unwrap_or(0);
    draft.measure("longest turn of the rescuer", longest as f64, "");
    let done = log.iter().map(|l| l.2).fold(0.0, f64::max);
    draft.measure("both shares done", done, "ms");
    draft.figure("turns", Drawn::Timeline(rows.into()), table)
}

/// Makes both figures, each with its measures. Fails if a runtime cannot be started.
pub fn part(file: &StudyFile) -> Result<Part, StudyError> {
    let mut draft = Draft::new(file, "virtual-time", Kind::Deterministic)?;
    outage(&mut draft)?;
    turns(&mut draft)?;
    Ok(draft.part())
}
