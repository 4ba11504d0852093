// SPDX-License-Identifier: MIT OR Apache-2.0
//! What follows from the rules alone, on one CPU in virtual time: today's workqueue beside that of
//! 2.6.35.
//!
//! Items spend virtual time on a [`Stage`]. Today's workers take turns on it. The old design has
//! one thread per queue and CPU, so its items simply follow each other.

use crate::study::draft::{Draft, Drawn};
use crate::study::job::Body;
use crate::study::outcome::{add_point, show, Kind, Part, Row, Span};
use crate::study::settings::StudyError;
use crate::study::stage::{machine, Stage};
use crate::study::table::StudyFile;
use crate::table::Table;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use workqueue::legacy::{self, Machine};
use workqueue::{blocking, Flags, Runtime};

const MS: Duration = Duration::from_millis(1);
/// What the items of the kernel's documentation burn at a time.
const STEP: Duration = Duration::from_millis(5);
/// Those items.
const NAMES: [&str; 3] = ["w0", "w1", "w2"];
/// Kinds of a timeline's spans.
const BUSY: usize = 0;
const ASLEEP: usize = 1;

/// The queue that takes the items.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Design {
    /// A per-CPU queue of today with this max_active (0: the default).
    Today(usize),
    /// The same, all items but the first on a second queue with the flag CPU_INTENSIVE.
    Intensive,
    /// A queue of 2.6.35.
    Old,
}

/// How a course ended.
struct Course {
    /// Milliseconds until nothing moved any more.
    ms: f64,
    /// Threads that could run items, at the end.
    workers: usize,
}

/// Threads of this process.
fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// What an item does on the stage.
type Act = Box<dyn Fn(&Stage) + Send + Sync>;

/// Hands all items over at moment 0, and moves the clock until all have ended.
fn play(design: Design, acts: Vec<Act>) -> Result<Course, StudyError> {
    let (all, ended) = (acts.len(), Arc::new(AtomicUsize::new(0)));
    let bodies = |stage: &Stage| {
        let (stage, ended) = (stage.clone(), ended.clone());
        acts.into_iter().map(move |act| -> Body {
            let (stage, ended) = (stage.clone(), ended.clone());
            Box::new(move || {
                act(&stage);
                ended.fetch_add(1, Ordering::SeqCst);
            })
        })
    };
    if design == Design::Old {
        // Its one thread does all of it.
        let stage = Stage::alone();
        let queue = Machine::builder()
            .topology(machine(1))
            .build()
            .create_workqueue("old")?;
        for body in bodies(&stage) {
            queue.queue_work(&legacy::Work::new("item", move |_| body()));
        }
        queue.flush_workqueue()?;
        queue.destroy_workqueue()?;
        return Ok(Course {
            ms: stage.now(),
            workers: 1,
        });
    }
    let stage = Stage::in_turns();
    let runtime = Runtime::builder()
        .topology(machine(1))
        .virtual_clock(stage.clock.clone())
        .build_early();
    let limit = if let Design::Today(limit) = design {
        limit
    } else {
        0
    };
    let queue = runtime
        .queue("today")
        .flags(Flags::PERCPU)
        .max_active(limit);
    let queue = queue.build()?;
    let other = runtime
        .queue("other")
        .flags(Flags::PERCPU | Flags::CPU_INTENSIVE);
    let other = other.build()?;
    for (n, body) in bodies(&stage).enumerate() {
        let apart = n > 0 && design == Design::Intensive;
        if apart { &other } else { &queue }.try_spawn(body)?;
    }
    // Nothing runs before this.
    runtime.start()?;
    stage.play(|| ended.load(Ordering::SeqCst) == all);
    let pools = runtime.snapshot().map_or_else(Vec::new, |s| s.pools);
    // Of the normal pool of CPU 0; the items are not of high priority.
    let own = pools.iter().filter(|p| p.cpu == Some(0) && p.nice == 0);
    let course = Course {
        ms: stage.now(),
        workers: own.map(|p| p.workers).sum(),
    };
    runtime.shutdown()?;
    Ok(course)
}

/// The three items of the kernel's documentation: w0 burns 5 ms, sleeps 10, burns 5; w1 and w2 burn 5 and sleep 10.
fn three_items(design: Design) -> Result<Vec<Row>, StudyError> {
    let spans: Spans = Arc::new(Mutex::new(vec![Vec::new(); 3]));
    let act = |n: usize| -> Act {
        let spans = spans.clone();
        Box::new(move |stage| {
            timed(stage, &spans, n, BUSY, || stage.spend(STEP));
            timed(stage, &spans, n, ASLEEP, || {
                blocking(|| stage.spend(STEP * 2))
            });
            if n == 0 {
                timed(stage, &spans, n, BUSY, || stage.spend(STEP));
            }
        })
    };
    play(design, (0..3).map(act).collect())?;
    Ok(rows(&NAMES, &spans))
}

/// What each item did when.
type Spans = Arc<Mutex<Vec<Vec<Span>>>>;

/// Does something and notes when.
fn timed(stage: &Stage, spans: &Spans, item: usize, kind: usize, work: impl FnOnce()) {
    let from = stage.now();
    work();
    let to = stage.now();
    spans.lock().unwrap_or_else(PoisonError::into_inner)[item].push(Span { from, to, kind });
}

/// A row of a timeline for each item.
fn rows(names: &[&str], spans: &Spans) -> Vec<Row> {
    let spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = names.iter().zip(spans.iter()).map(|(name, spans)| Row {
        name: (*name).into(),
        group: None,
        spans: spans.clone(),
    });
    rows.collect()
}

/// The kernel documentation's three items under four queues.
fn starts(draft: &mut Draft) -> Result<(), StudyError> {
    let (mut table, mut all) = (Table::default(), Vec::new());
    for (name, design) in [
        ("today", Design::Today(0)),
        ("today, max_active 2", Design::Today(2)),
        ("today, w1 and w2 CPU_INTENSIVE", Design::Intensive),
        ("2.6.35", Design::Old),
    ] {
        let mut rows = three_items(design)?;
        let start = |row: &Row| row.spans.first().map_or(f64::NAN, |s| s.from);
        for row in &rows[1..] {
            draft.measure(format!("{name}: {} starts", row.name), start(row), "ms");
        }
        let ends = rows.iter().flat_map(|r| &r.spans).map(|s| s.to);
        let end = ends.fold(0.0, f64::max);
        table.row(name, rows.iter().map(start).chain([end]).map(show));
        rows[0].group = Some(name.into());
        all.append(&mut rows);
    }
    draft.figure("starts", Drawn::Timeline(all), table)
}

/// Items of a batch.
const ITEMS: usize = 200;
/// In milliseconds. Each is made a quarter shorter, so that no item wakes at the moment another one ends.
const SLEEPS: [u64; 7] = [0, 1, 2, 5, 10, 20, 50];

/// Every tenth of 200 items sleeps after its millisecond of work.
fn one_in_ten(design: Design, sleep: u64) -> Result<Course, StudyError> {
    let act = |n: usize| -> Act {
        Box::new(move |stage| {
            stage.spend(MS);
            if n.is_multiple_of(10) && sleep > 0 {
                blocking(|| stage.spend(MS * sleep as u32 - MS / 4));
            }
        })
    };
    play(design, (0..ITEMS).map(act).collect())
}

/// Items per second against the length of the sleep.
fn throughput(draft: &mut Draft) -> Result<(), StudyError> {
    let (mut table, mut series) = (Table::default(), Vec::new());
    for sleep in SLEEPS {
        let slept = (sleep as f64 - 0.25).max(0.0);
        let today = one_in_ten(Design::Today(0), sleep)?;
        let old = one_in_ten(Design::Old, sleep)?;
        let rates = [&today, &old].map(|c| ITEMS as f64 / c.ms * 1e3);
        for (name, rate) in ["today", "2.6.35"].into_iter().zip(rates) {
            add_point(&mut series, name, (slept, rate));
        }
        let (ratio, workers) = (rates[0] / rates[1], today.workers as f64);
        draft.measure(format!("throughput ratio, sleep {sleep} ms"), ratio, "");
        draft.measure(format!("workers, sleep {sleep} ms"), workers, "");
        table.row(show(slept), [rates[0], rates[1], ratio, workers].map(show));
    }
    draft.figure("throughput", Drawn::Curves(series), table)
}

/// Of the machine on which threads are counted.
const CPUS: usize = 4;
/// Numbers of queues on it.
/// Evenly spread on a logarithmic axis.
const QUEUES: [usize; 5] = [1, 3, 10, 30, 100];

/// Threads of a runtime of today with idle queues.
fn at_rest(queues: usize, flags: Flags) -> Result<usize, StudyError> {
    let before = threads();
    let stage = Stage::in_turns();
    let runtime = Runtime::builder()
        .topology(machine(CPUS))
        .virtual_clock(stage.clock.clone())
        .start()?;
    let made = (0..queues).map(|n| runtime.queue(&format!("q{n}")).flags(flags).build());
    let made = made.collect::<Result<Vec<_>, _>>()?;
    // Threads that are made on demand exist when all threads wait.
    stage.clock.settle();
    let count = threads() - before;
    drop(made);
    runtime.shutdown()?;
    Ok(count)
}

/// Threads of the old design with idle queues.
fn of_old(queues: usize) -> Result<usize, StudyError> {
    let before = threads();
    let machine = Machine::builder().topology(machine(CPUS)).build();
    let made = (0..queues).map(|n| machine.create_workqueue(&format!("q{n}")));
    let made = made.collect::<Result<Vec<_>, _>>()?;
    let count = threads() - before;
    made.into_iter()
        .try_for_each(|queue| queue.destroy_workqueue())?;
    Ok(count)
}

/// Threads at rest against the number of queues.
fn thread_counts(draft: &mut Draft) -> Result<(), StudyError> {
    let (mut table, mut series) = (Table::default(), Vec::new());
    for queues in QUEUES {
        let found = [
            ("today", at_rest(queues, Flags::PERCPU)?),
            (
                "today, MEM_RECLAIM",
                at_rest(queues, Flags::PERCPU | Flags::MEM_RECLAIM)?,
            ),
            ("2.6.35", of_old(queues)?),
        ];
        for (name, count) in found {
            let count = count as f64;
            add_point(&mut series, name, (queues as f64, count));
            draft.measure(format!("threads of {queues} queues, {name}"), count, "");
        }
        let cells = found.map(|(_, count)| count.to_string());
        table.row(queues.to_string(), cells);
    }
    draft.figure("threads", Drawn::Curves(series), table)
}

/// How long the first item waits before it gives up, in milliseconds: only that ends the deadlock.
const SHOWN: f64 = 20.0;

/// Two items of one queue and CPU, the first waits until the second has run: what each did until the first gave up.
fn first_waits_for_second(design: Design) -> Result<Vec<Row>, StudyError> {
    let spans: Spans = Arc::new(Mutex::new(vec![Vec::new(); 2]));
    let open = Arc::new(AtomicBool::new(false));
    let act = |n: usize| -> Act {
        let (spans, open) = (spans.clone(), open.clone());
        Box::new(move |stage| {
            timed(stage, &spans, n, BUSY, || stage.spend(STEP));
            // Looks every 10 us of virtual time, and gives up after SHOWN.
            let waits = || !open.load(Ordering::SeqCst) && stage.now() < SHOWN;
            let look = || {
                while waits() {
                    stage.spend(MS / 100);
                }
            };
            match n {
                0 => timed(stage, &spans, n, ASLEEP, || blocking(look)),
                _ => open.store(true, Ordering::SeqCst),
            }
        })
    };
    play(design, vec![act(0), act(1)])?;
    let mut rows = rows(&["first", "second"], &spans);
    // What came after the first gave up is not shown.
    rows[1].spans.retain(|span| span.from < SHOWN);
    Ok(rows)
}

/// A deadlock of the old design that today's does not have.
fn deadlock(draft: &mut Draft) -> Result<(), StudyError> {
    let (mut table, mut all) = (Table::default(), Vec::new());
    for (name, design) in [("today", Design::Today(0)), ("2.6.35", Design::Old)] {
        let mut rows = first_waits_for_second(design)?;
        let runs = !rows[1].spans.is_empty();
        let measure = format!("{name}: second item runs");
        draft.measure(measure, f64::from(u8::from(runs)), "");
        let never = || "never".to_owned();
        let second = rows[1].spans.first().map(|s| show(s.from));
        // The first item ends by itself only if the second one has run.
        let end = rows[0].spans.last().filter(|_| runs).map(|s| show(s.to));
        let cells = [second, end].map(|cell| cell.unwrap_or_else(never));
        table.row(name, ["from 5 on".to_owned()].into_iter().chain(cells));
        rows[0].group = Some(name.into());
        all.append(&mut rows);
    }
    draft.figure("deadlock", Drawn::Timeline(all), table)
}

/// Makes the four figures, each with its measures. Fails if a runtime cannot be started.
pub fn part(file: &StudyFile) -> Result<Part, StudyError> {
    let mut draft = Draft::new(file, "virtual-time", Kind::Deterministic)?;
    starts(&mut draft)?;
    throughput(&mut draft)?;
    thread_counts(&mut draft)?;
    deadlock(&mut draft)?;
    Ok(draft.part())
}
