// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 13: the design of 2.6.35 and before, with its limits.

#[path = "../common/mod.rs"]
mod common;

mod comparison;

mod keventd;

mod lists;

mod waiting;

use common::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;
use workqueue::legacy::{Era, Event, Machine, MachineBuilder, Work, Workqueue};
use workqueue::*;

const MS: Duration = Duration::from_millis(1);

/// An [`Event`] that can be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Creation(String, Option<usize>),
    Insertion(String, &'static str),
    Execution(String, &'static str),
    Destruction(String),
}

fn seen(event: &Event<'_>) -> Seen {
    match *event {
        Event::Creation { thread, cpu, .. } => Seen::Creation(thread.into(), cpu),
        Event::Insertion { thread, work } => Seen::Insertion(thread.into(), work),
        Event::Execution { thread, work } => Seen::Execution(thread.into(), work),
        Event::Destruction { thread } => Seen::Destruction(thread.into()),
    }
}

fn on(cpus: usize) -> MachineBuilder {
    Machine::builder().topology(machine(cpus, 1))
}

fn watched(cpus: usize) -> (Machine, Log<Seen>) {
    let events = Log::new();
    let sink = events.clone();
    let m = on(cpus).trace_sink(move |e| sink.add(seen(e))).build();
    (m, events)
}

/// A line of this thread's status.
fn own_status(key: &str) -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

/// A field of this thread's stat, counted from 1 as in proc(5); 3 or more.
fn own_stat(field: usize) -> String {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let rest = &stat[stat.rfind(')').unwrap() + 2..];
    rest.split_whitespace().nth(field - 3).unwrap().to_owned()
}

/// Runs `look` as an item of the queue and gives its result.
fn ask<R: Send + 'static>(q: &Workqueue, look: impl Fn() -> R + Send + Sync + 'static) -> R {
    let answer = Arc::new(Mutex::new(None));
    let a = answer.clone();
    let item = Work::new("ask", move |_| *a.lock().unwrap() = Some(look()));
    assert!(q.queue_work(&item));
    item.flush_work().unwrap();
    let result = answer.lock().unwrap().take();
    result.unwrap()
}

/// Keeps what the crate warns about in this process.
struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl log::Log for Warnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() == log::Level::Warn {
            self.0.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Begins to keep warnings, unless that is done already.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&WARNINGS).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
}

/// The warnings so far that have `what` in them.
fn warnings(what: &str) -> Vec<String> {
    let all = WARNINGS.0.lock().unwrap();
    all.iter().filter(|w| w.contains(what)).cloned().collect()
}
