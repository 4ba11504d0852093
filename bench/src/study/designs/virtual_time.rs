// SPDX-License-Identifier: MIT OR Apache-2.0
//! What follows from the rules alone: one CPU, virtual time.

use crate::study::job::Body;
use crate::study::outcome::{
    fill, show, Axis, Figure, Kind, Measure, Part, Plot, Row, Series, Span, Table,
};
use crate::study::stage::{machine, Stage};
use crate::study::StudyError;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use workqueue::legacy::{self, Machine};
use workqueue::{blocking, Flags, Runtime};

const MS: Duration = Duration::from_millis(1);
const STEP: Duration = Duration::from_millis(5);
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
        let taken = if apart { &other } else { &queue }.try_spawn(body);
        taken.map_err(|e| StudyError::Refused(e.to_string()))?;
    }
    // Nothing runs before this.
    runtime.start()?;
    stage.play(|| ended.load(Ordering::SeqCst) == all);
    let pools = runtime.snapshot().map_or_else(Vec::new, |s| s.pools);
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

fn rows(names: &[&str], spans: &Spans) -> Vec<Row> {
    let spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = names.iter().zip(spans.iter()).map(|(name, spans)| Row {
        name: (*name).into(),
        group: None,
        spans: spans.clone(),
    });
    rows.collect()
}

fn starts(measures: &mut Vec<Measure>) -> Result<Figure, StudyError> {
    let mut table = Table::new(&[
        "queue",
        "w0 starts, ms",
        "w1 starts, ms",
        "w2 starts, ms",
        "all done, ms",
    ]);
    let mut all = Vec::new();
    for (name, design) in [
        ("today", Design::Today(0)),
        ("today, max_active 2", Design::Today(2)),
        ("today, w1 and w2 CPU_INTENSIVE", Design::Intensive),
        ("2.6.35", Design::Old),
    ] {
        let mut rows = three_items(design)?;
        let start = |row: &Row| row.spans.first().map_or(f64::NAN, |s| s.from);
        for row in &rows[1..] {
            measures.push(Measure::new(
                format!("{}: {} starts", name, row.name),
                start(row),
                "ms",
            ));
        }
        let end = rows
            .iter()
            .flat_map(|r| &r.spans)
            .map(|s| s.to)
            .fold(0.0, f64::max);
        let cells = rows.iter().map(start).chain([end]).map(show);
        table.row([name.to_owned()].into_iter().chain(cells));
        rows[0].group = Some(name.into());
        all.append(&mut rows);
    }
    Ok(Figure {
        id: "starts".into(),
        title: "A sleeping item lets the next one start; in the old design it holds up the queue".into(),
        alt: "Timelines of three items on one CPU under four queues. Today w1 starts at 5 and w2 at 10 ms; in the \
              design of 2.6.35 they start at 20 and 35 ms."
            .into(),
        plot: Plot::Timeline {
            x: Axis::linear("time, ms"),
            kinds: vec!["uses the CPU".into(), "sleeps".into()],
            rows: all,
        },
        table,
    })
}

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

fn throughput(measures: &mut Vec<Measure>) -> Result<Figure, StudyError> {
    let mut table = Table::new(&[
        "sleep of 1 item in 10, ms",
        "today, items/s",
        "2.6.35, items/s",
        "ratio",
        "today's workers",
    ]);
    let names = ["today", "2.6.35"];
    let mut series = names.map(|name| Series {
        name: name.into(),
        points: Vec::new(),
    });
    for sleep in SLEEPS {
        let today = one_in_ten(Design::Today(0), sleep)?;
        let old = one_in_ten(Design::Old, sleep)?;
        let rates = [&today, &old].map(|c| ITEMS as f64 / c.ms * 1e3);
        for (series, rate) in series.iter_mut().zip(rates) {
            series.points.push(((sleep as f64 - 0.25).max(0.0), rate));
        }
        let ratio = rates[0] / rates[1];
        measures.push(Measure::new(
            format!("throughput ratio, sleep {sleep} ms"),
            ratio,
            "",
        ));
        measures.push(Measure::new(
            format!("workers, sleep {sleep} ms"),
            today.workers as f64,
            "",
        ));
        let workers = today.workers.to_string();
        table.row([
            show((sleep as f64 - 0.25).max(0.0)),
            show(rates[0]),
            show(rates[1]),
            show(ratio),
            workers,
        ]);
    }
    Ok(Figure {
        id: "throughput".into(),
        title: "When one item in ten sleeps, the old design's throughput falls with the sleep".into(),
        alt: "Items per second against the length of the sleep, one CPU, 1 ms of work per item. Today's design stays \
              near 1000 until the last sleep outlasts the work; that of 2.6.35 falls to 167."
            .into(),
        plot: Plot::Lines {
            x: Axis::linear("sleep of every tenth item, ms"),
            y: Axis::linear("items per second"),
            series: series.into(),
            dots: false,
        },
        table,
    })
}

const CPUS: usize = 4;
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

fn thread_counts(measures: &mut Vec<Measure>) -> Result<Figure, StudyError> {
    let mut series = ["today", "today, MEM_RECLAIM", "2.6.35"].map(|name| Series {
        name: name.into(),
        points: Vec::new(),
    });
    let mut table = Table::new(&["queues", "today", "today, MEM_RECLAIM", "2.6.35"]);
    for queues in QUEUES {
        let found = [
            at_rest(queues, Flags::PERCPU)?,
            at_rest(queues, Flags::PERCPU | Flags::MEM_RECLAIM)?,
            of_old(queues)?,
        ];
        for (series, count) in series.iter_mut().zip(found) {
            series.points.push((queues as f64, count as f64));
            let name = format!("threads of {queues} queues, {}", series.name);
            measures.push(Measure::new(name, count as f64, ""));
        }
        let cells = [queues].into_iter().chain(found);
        table.row(cells.map(|n| n.to_string()));
    }
    Ok(Figure {
        id: "threads".into(),
        title: "Queues cost no threads today; each cost one per CPU".into(),
        alt: "Threads at rest against the number of queues on a machine of four CPUs. Today the number is constant, \
              with MEM_RECLAIM it rises by one per queue, in 2.6.35 by four per queue, to 400 for 100 queues."
            .into(),
        plot: Plot::Lines {
            x: Axis::log("queues"),
            y: Axis::log("threads"),
            series: series.into(),
            dots: false,
        },
        table,
    })
}

/// How long the first item waits before it gives up, in milliseconds: only that ends the deadlock.
const SHOWN: f64 = 20.0;

/// Two items of one queue and CPU, the first waits until the second has run: what each did until the first gave up.
fn first_waits_for_second(design: Design) -> Result<Vec<Vec<Span>>, StudyError> {
    let spans: Spans = Arc::new(Mutex::new(vec![Vec::new(); 2]));
    let open = Arc::new(AtomicBool::new(false));
    let act = |n: usize| -> Act {
        let (spans, open) = (spans.clone(), open.clone());
        Box::new(move |stage| {
            timed(stage, &spans, n, BUSY, || stage.spend(STEP));
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
    let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // What came after the first gave up is not shown.
    spans[1].retain(|span| span.from < SHOWN);
    Ok(spans)
}

fn deadlock(measures: &mut Vec<Measure>) -> Result<Figure, StudyError> {
    let mut table = Table::new(&[
        "queue",
        "first waits, ms",
        "second starts, ms",
        "first ends, ms",
    ]);
    let mut rows = Vec::new();
    for (name, design) in [("today", Design::Today(0)), ("2.6.35", Design::Old)] {
        let spans = first_waits_for_second(design)?;
        let runs = !spans[1].is_empty();
        measures.push(Measure::new(
            format!("{name}: second item runs"),
            f64::from(u8::from(runs)),
            "",
        ));
        let never = || "never".to_owned();
        let second = spans[1].first().map_or_else(never, |s| show(s.from));
        let end = if runs {
            spans[0].last().map_or_else(never, |s| show(s.to))
        } else {
            never()
        };
        table.row([name.to_owned(), "from 5 on".to_owned(), second, end]);
        for (n, spans) in spans.into_iter().enumerate() {
            rows.push(Row {
                name: ["first", "second"][n].into(),
                group: (n == 0).then(|| name.to_owned()),
                spans,
            });
        }
    }
    Ok(Figure {
        id: "deadlock".into(),
        title: "The first item waits for the second: in the old design for ever".into(),
        alt: "Timelines of two items of one queue and CPU. Today the second one starts when the first begins to wait, at \
              5 ms, and both end at 10 ms. In the design of 2.6.35 the first waits without end and the second never \
              starts."
            .into(),
        plot: Plot::Timeline {
            x: Axis::linear("time, ms"),
            kinds: vec!["uses the CPU".into(), "waits".into()],
            rows,
        },
        table,
    })
}

/// All of it.
pub fn part() -> Result<Part, StudyError> {
    let mut measures = Vec::new();
    let m = &mut measures;
    let figures = vec![starts(m)?, throughput(m)?, thread_counts(m)?, deadlock(m)?];
    let finding = fill(
        "With one item in ten asleep for 50 ms, today's workqueue does {throughput ratio, sleep 50 ms} times the work of \
         2.6.35's on one CPU; 100 queues on 4 CPUs need {threads of 100 queues, today} threads instead of \
         {threads of 100 queues, 2.6.35}.",
        &measures,
    );
    Ok(Part {
        kind: Kind::Deterministic,
        finding,
        measures,
        figures,
    })
}
