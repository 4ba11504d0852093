// SPDX-License-Identifier: MIT OR Apache-2.0
//! A trace file as a viewer reads it: its rules (Chrome's trace event format) checked event by event,
//! and the flows of requests.

#![allow(dead_code)] // Each test program uses a part of it.

use serde_json::Value as Json;
use std::collections::BTreeMap;

/// A stop of a request on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// s, t or f.
    pub phase: char,
    /// Nanoseconds.
    pub time: u64,
    pub thread: String,
    /// The bars that are open on the thread, the outermost first.
    pub bars: Vec<String>,
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct File {
    pub events: Vec<Json>,
    /// Names by number.
    pub threads: BTreeMap<i64, String>,
    /// By id, in order.
    pub flows: BTreeMap<String, Vec<Step>>,
    /// The values of the counter of memory.
    pub memory: Vec<u64>,
}

fn text<'j>(event: &'j Json, key: &str) -> &'j str {
    let found = event[key].as_str();
    found.unwrap_or_else(|| panic!("no text {key} in {event}"))
}

/// "12.345" microseconds, exactly.
fn nanos(event: &Json) -> u64 {
    let micros = event["ts"].as_f64().unwrap_or_else(|| panic!("{event}"));
    assert!(micros >= 0.0, "{event}");
    (micros * 1000.0).round() as u64
}

/// Reads a file and checks it whole.
pub fn check(bytes: &[u8]) -> File {
    let whole: Json = serde_json::from_slice(bytes).expect("JSON");
    let events = whole["traceEvents"].as_array().expect("events").clone();
    let mut threads: BTreeMap<i64, String> = BTreeMap::new();
    let mut bars: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    let mut lines: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut flows: BTreeMap<String, Vec<Step>> = BTreeMap::new();
    let mut memory = Vec::new();
    let mut counters: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    let mut last = 0;
    for event in &events {
        let (phase, name) = (text(event, "ph"), text(event, "name").to_owned());
        assert!(event["pid"].is_u64(), "{event}");
        if phase == "M" && name == "process_name" {
            assert_eq!(text(&event["args"], "name"), "ublk-ramdisk");
            continue;
        }
        let tid = event["tid"].as_i64().expect("a thread");
        if phase == "M" {
            assert_eq!(name, "thread_name");
            threads.insert(tid, text(&event["args"], "name").to_owned());
            continue;
        }
        assert!(
            threads.contains_key(&tid),
            "named before it is used: {event}"
        );
        let time = nanos(event);
        assert!(time >= last, "not in the order of time: {event}");
        last = time;
        let bars = bars.entry(tid).or_default();
        let line = || (text(event, "cat").to_owned(), text(event, "id").to_owned());
        match phase {
            "B" => bars.push(name),
            "E" => assert_eq!(bars.pop(), Some(name), "{event}"),
            "i" => assert_eq!(text(event, "s"), "t"),
            "b" => lines.entry(line()).or_default().push(name),
            "e" => {
                let ended = lines.entry(line()).or_default().pop();
                assert_eq!(ended, Some(name), "{event}");
            }
            "n" => assert!(lines.get(&line()).is_some_and(|open| !open.is_empty())),
            "s" | "t" | "f" => {
                assert_eq!((&name[..], text(event, "cat")), ("request", "flow"));
                assert!(!bars.is_empty(), "an arrow to nowhere: {event}");
                let flow = flows.entry(text(event, "id").to_owned()).or_default();
                assert_eq!(phase == "s", flow.is_empty(), "{event}");
                let ended = flow.last().is_some_and(|step| step.phase == 'f');
                assert!(!ended, "{event}");
                if phase == "f" {
                    assert_eq!(text(event, "bp"), "e");
                }
                flow.push(Step {
                    phase: phase.chars().next().expect("one"),
                    time,
                    thread: threads[&tid].clone(),
                    bars: bars.clone(),
                });
            }
            "C" if name.ends_with(" memory") => {
                memory.push(event["args"]["bytes"].as_u64().expect("bytes"));
            }
            "C" => {
                let of = |key: &str| event["args"][key].as_u64().expect("never below zero");
                let now = ["in flight", "parked"].map(of);
                let before = counters.insert(name, now).unwrap_or_default();
                let moved = now[0].abs_diff(before[0]) + now[1].abs_diff(before[1]);
                assert_eq!(moved, 1, "{event}");
            }
            other => panic!("{other}: {event}"),
        }
    }
    assert!(bars.values().all(Vec::is_empty), "left open: {bars:?}");
    assert!(lines.values().all(Vec::is_empty), "left open: {lines:?}");
    assert!(counters.values().all(|n| *n == [0, 0]), "{counters:?}");
    for flow in flows.values() {
        assert_eq!(flow.last().map(|step| step.phase), Some('f'), "{flow:?}");
    }
    File {
        events,
        threads,
        flows,
        memory,
    }
}
