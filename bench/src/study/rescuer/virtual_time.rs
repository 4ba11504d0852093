// SPDX-License-Identifier: MIT OR Apache-2.0
//! An outage of worker creation, millisecond by millisecond.

use crate::study::job::Job;
use crate::study::outcome::{
    fill, quantile, show, sorted, Axis, Figure, Kind, Measure, Part, Plot, Row, Series, Span, Table,
};
use crate::study::stage::{machine, Stage};
use crate::study::StudyError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use workqueue::{blocking, is_rescuer, Flags, OwnedQueue, Queue, Runtime};

const MS: Duration = Duration::from_millis(1);
const OUTAGE_MS: u64 = 2500;
const SHOWN_MS: u64 = 3200;
const EVERY_MS: u64 = 7;
const NAMES: [&str; 2] = ["MEM_RECLAIM", "without"];

/// A runtime on the stage whose worker creation fails on request.
fn failing(stage: &Stage, cpus: usize, fails: &Arc<AtomicBool>) -> Result<Runtime, StudyError> {
    let fails = fails.clone();
    let builder = Runtime::builder()
        .topology(machine(cpus))
        .virtual_clock(stage.clock.clone())
        .on_create_worker(move |_| {
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

fn arrive(stage: &Stage, queue: &Queue, log: &Log) -> Result<(), StudyError> {
    let (own, log, arrived) = (stage.clone(), log.clone(), stage.now());
    let item = Job::new("item", move || {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push((arrived, own.now(), is_rescuer()));
    });
    let queued = queue.enqueue_on(0, item);
    queued.map_err(|e| StudyError::Refused(e.to_string()))
}

fn outage(measures: &mut Vec<Measure>) -> Result<Figure, StudyError> {
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
    let lost = 2 * arrived - logs.iter().map(Vec::len).sum::<usize>();
    measures.push(Measure::new("items lost", lost as f64, ""));
    let rescued = logs[0].iter().filter(|l| l.2).count() as f64 / logs[0].len() as f64;
    measures.push(Measure::new(
        "MEM_RECLAIM: share run by the rescuer",
        rescued,
        "",
    ));
    let mut table = Table::new(&[
        "queue",
        "first start, ms",
        "wait, median, ms",
        "longest, ms",
        "items",
    ]);
    let mut series = Vec::new();
    for (name, log) in NAMES.iter().zip(&logs) {
        let waits = sorted(&log.iter().map(|l| l.1 - l.0).collect::<Vec<_>>());
        let first = log.iter().map(|l| l.1).fold(f64::INFINITY, f64::min);
        let (median, longest) = (quantile(&waits, 0.5), quantile(&waits, 1.0));
        for (what, value) in [
            ("first start", first),
            ("median wait", median),
            ("longest wait", longest),
        ] {
            measures.push(Measure::new(format!("{name}: {what}"), value, "ms"));
        }
        let cells = [first, median, longest, log.len() as f64].map(show);
        table.row([(*name).to_owned()].into_iter().chain(cells));
        let mut points: Vec<_> = log.iter().map(|l| (l.0, l.1 - l.0)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        series.push(Series {
            name: match *name {
                "without" => "without MEM_RECLAIM".into(),
                name => format!("with {name}"),
            },
            points,
        });
    }
    Ok(Figure {
        id: "outage".into(),
        title: "With a rescuer an item waits at most 100 ms, without one until creation works again".into(),
        alt: "Wait of each item against its arrival during an outage of 2.5 s. With MEM_RECLAIM the waits form a saw of \
              100 ms; without it they fall in one line from 3000 to 500 ms."
            .into(),
        plot: Plot::Lines {
            x: Axis::linear("arrival, ms after creation began to fail"),
            y: Axis::log("wait until start, ms"),
            series,
            dots: true,
        },
        table,
    })
}

const SHARE: usize = 64;

fn turns(measures: &mut Vec<Measure>) -> Result<Figure, StudyError> {
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
            let queued = queue.enqueue_on(cpu, item);
            queued.map_err(|e| StudyError::Refused(e.to_string()))?;
        }
        Ok(())
    };
    share(0)?;
    let mut half_ms = 0;
    stage.tick(MS / 2, MS * 160, || {
        half_ms += 1;
        match half_ms {
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
    let mut turns: Vec<(usize, usize, f64, f64)> = Vec::new();
    for &(cpu, from, to) in log.iter() {
        match turns.last_mut().filter(|turn| turn.0 == cpu) {
            Some(turn) => (turn.1, turn.3) = (turn.1 + 1, to),
            None => turns.push((cpu, 1, from, to)),
        }
    }
    let mut table = Table::new(&["turn", "CPU", "items", "from, ms", "to, ms"]);
    let mut rows = [0, 1].map(|cpu| Row {
        name: format!("CPU {cpu}"),
        group: None,
        spans: Vec::new(),
    });
    for (n, &(cpu, items, from, to)) in turns.iter().enumerate() {
        let cells = [n + 1, cpu, items].map(|n| n.to_string());
        table.row(cells.into_iter().chain([from, to].map(show)));
        rows[cpu].spans.push(Span { from, to, kind: 0 });
    }
    // In its last turn the rescuer has no other CPU to serve.
    let contested = turns.len().saturating_sub(1);
    let longest = turns[..contested].iter().map(|t| t.1).max().unwrap_or(0);
    measures.push(Measure::new(
        "longest turn of the rescuer",
        longest as f64,
        "",
    ));
    let done = log.iter().map(|l| l.2).fold(0.0, f64::max);
    measures.push(Measure::new("both shares done", done, "ms"));
    Ok(Figure {
        id: "turns".into(),
        title: "One rescuer serves both CPUs in turns of 17 items".into(),
        alt: "Timeline of a rescuer that alternates between the items of two CPUs, 17 items of a millisecond at a time."
            .into(),
        plot: Plot::Timeline {
            x: Axis::linear("time since creation began to fail, ms"),
            kinds: vec!["the rescuer runs items of this CPU".into()],
            rows: rows.into(),
        },
        table,
    })
}

/// All of it.
pub fn part() -> Result<Part, StudyError> {
    let mut measures = Vec::new();
    let figures = vec![outage(&mut measures)?, turns(&mut measures)?];
    let finding = fill(
        "While no worker can be made, a queue with MEM_RECLAIM starts its first item after {MEM_RECLAIM: first start} ms and \
         any later one within {MEM_RECLAIM: longest wait} ms (median {MEM_RECLAIM: median wait} ms), because the rescuer is \
         called every 100 ms. Without it the first starts after {without: first start} ms.",
        &measures,
    );
    Ok(Part {
        kind: Kind::Deterministic,
        finding,
        measures,
        figures,
    })
}
