// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 12.8: recording into rings, and the trace file made of them.
//!
//! Recording is the process's, so the tests of this file take turns.

mod common;
use common::*;
use serde_json::Value as Json;
use std::sync::{Mutex, MutexGuard, PoisonError};
use workqueue::trace::{self, Phase, Value};
use workqueue::*;

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What has been recorded, as a trace file.
fn file() -> Json {
    let mut text = Vec::new();
    let written = trace::write_chrome(&mut text).unwrap();
    let file: Json = serde_json::from_slice(&text).unwrap();
    assert_eq!(events(&file).len(), written);
    file
}

/// The events of a trace file but for the names of threads.
fn events(file: &Json) -> Vec<Json> {
    let all = file["traceEvents"].as_array().unwrap();
    all.iter().filter(|e| e["ph"] != "M").cloned().collect()
}

/// The name of a thread.
fn thread(file: &Json, tid: &Json) -> String {
    let all = file["traceEvents"].as_array().unwrap();
    let mut names = all.iter().filter(|e| e["ph"] == "M" && e["tid"] == *tid);
    names.next().unwrap()["args"]["name"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn address(item: &Call) -> String {
    format!("{:#x}", std::ptr::from_ref(&item.work).addr())
}

#[test]
fn s12_08_nothing_is_recorded_while_it_is_off() {
    let _turn = turn();
    assert!(!trace::is_on());
    let rt = runtime(1);
    rt.system_percpu().enqueue(Call::noop()).unwrap();
    rt.system_percpu().flush().unwrap();
    trace::emit(Phase::Instant, "test", "unheard", &[]);
    assert_eq!(events(&file()), Vec::<Json>::new());
}

#[test]
fn s12_06_s12_08_runs_are_bars_with_their_events() {
    let _turn = turn();
    let rt = runtime(2);
    let q = rt.queue("traced").flags(PERCPU).build().unwrap();
    trace::start(10_000);
    let items: Vec<_> = (0..20).map(|_| Call::noop()).collect();
    for (n, item) in items.iter().enumerate() {
        match n {
            0 => q.enqueue_on(1, item.clone()).unwrap(),
            _ => q.enqueue(item.clone()).unwrap(),
        }
    }
    q.flush().unwrap();
    trace::stop();
    rt.system_percpu().enqueue(Call::noop()).unwrap();
    rt.system_percpu().flush().unwrap();
    let file = file();
    let all = events(&file);
    assert_eq!(
        all.len(),
        80,
        "four events for each item, and none after the end"
    );
    for (n, item) in items.iter().enumerate() {
        let work = address(item);
        let mine: Vec<_> = all
            .iter()
            .filter(|e| e["args"]["work"] == work.as_str())
            .collect();
        let phases: Vec<_> = mine.iter().map(|e| e["ph"].as_str().unwrap()).collect();
        assert_eq!(phases, ["i", "i", "B", "E"], "{mine:?}");
        let times: Vec<_> = mine.iter().map(|e| e["ts"].as_f64().unwrap()).collect();
        assert!(times.windows(2).all(|w| w[0] <= w[1]), "{times:?}");
        assert!(mine
            .iter()
            .all(|e| e["args"]["function"] == "call" && e["cat"] == "workqueue"));
        let queued = mine[0];
        assert_eq!(queued["name"], "workqueue_queue_work");
        assert_eq!(queued["args"]["workqueue"], "traced");
        assert_eq!(queued["args"]["req_cpu"], if n == 0 { 1 } else { -1 });
        assert!([0, 1].map(Json::from).contains(&queued["args"]["cpu"]));
        assert_eq!(mine[1]["name"], "workqueue_activate_work");
        assert_eq!(
            (&mine[2]["name"], &mine[3]["name"]),
            (&"call".into(), &"call".into())
        );
        assert_eq!(mine[2]["args"]["event"], "workqueue_execute_start");
        assert_eq!(mine[3]["args"]["event"], "workqueue_execute_end");
        assert_eq!(mine[2]["tid"], mine[3]["tid"]);
        let worker = thread(&file, &mine[2]["tid"]);
        assert!(worker.starts_with("kworker/"), "{worker}");
    }
    // Bars of a thread follow each other.
    let tids: std::collections::BTreeSet<_> = all.iter().map(|e| e["tid"].as_i64()).collect();
    for tid in tids {
        let of_thread = all
            .iter()
            .filter(|e| e["tid"].as_i64() == tid && e["ph"] != "i");
        let phases: String = of_thread.map(|e| e["ph"].as_str().unwrap()).collect();
        assert_eq!(phases, "BE".repeat(phases.len() / 2));
    }
}

#[test]
fn s12_08_a_program_adds_its_own_events() {
    let _turn = turn();
    trace::start(100);
    let args = [
        ("sector", Value::Int(-8)),
        ("text", Value::text("a \"quoted\"\n\\ text")),
        ("name", Value::Name("zwölf")),
        ("at", Value::Address(0xfee)),
    ];
    trace::emit(Phase::Begin, "disk", "read", &args);
    trace::emit(Phase::Instant, "disk", "tag", &[]);
    trace::emit(
        Phase::End,
        "disk",
        "read",
        &[("left over", Value::Int(1)); 9],
    );
    let other = std::thread::Builder::new().name("other".into());
    let ended = other.spawn(|| trace::emit(Phase::Instant, "disk", "elsewhere", &[]));
    ended.unwrap().join().unwrap();
    trace::stop();
    let file = file();
    let all = events(&file);
    let names: Vec<_> = all.iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["read", "tag", "read", "elsewhere"]);
    let expected = serde_json::json!({
        "sector": -8, "text": "a \"quoted\"\n\\ text", "name": "zwölf", "at": "0xfee"
    });
    assert_eq!(
        (&all[0]["args"], &all[0]["cat"]),
        (&expected, &"disk".into())
    );
    assert_eq!(all[1]["s"], "t");
    assert_eq!(all[0]["pid"], std::process::id());
    assert_eq!(thread(&file, &all[3]["tid"]), "other");
    // It is written once.
    assert_eq!(events(&self::file()), Vec::<Json>::new());
}

#[test]
fn s12_08_a_full_ring_keeps_the_newest() {
    let _turn = turn();
    trace::start(4);
    for n in 0..10 {
        trace::emit(Phase::Instant, "test", "n", &[("n", Value::Int(n))]);
    }
    trace::stop();
    let all = file();
    let kept: Vec<_> = events(&all)
        .iter()
        .map(|e| e["args"]["n"].as_i64().unwrap())
        .collect();
    assert_eq!(kept, [6, 7, 8, 9]);
    assert_eq!(all["otherData"]["lost_records"], 6);
    // A new recording begins with nothing.
    trace::start(4);
    trace::emit(Phase::Instant, "test", "old", &[]);
    trace::start(4);
    trace::emit(Phase::Instant, "test", "new", &[]);
    trace::stop();
    let names: Vec<_> = events(&file()).iter().map(|e| e["name"].clone()).collect();
    assert_eq!(names, ["new"]);
}

#[test]
fn s12_08_callback_and_records_get_the_same_events() {
    let _turn = turn();
    let heard = Log::new();
    let h = heard.clone();
    let rt = quiet()
        .topology(machine(1, 1))
        .trace_sink(move |e| h.add(e.name()))
        .start()
        .unwrap();
    let run = |rt: &Runtime| {
        rt.system_percpu().enqueue(Call::noop()).unwrap();
        rt.system_percpu().flush().unwrap();
    };
    run(&rt);
    trace::start(100);
    run(&rt);
    trace::stop();
    run(&rt);
    assert_eq!(heard.all().len(), 12);
    assert_eq!(events(&file()).len(), 4);
}

#[test]
fn s12_08_recording_goes_on_while_it_is_written() {
    let _turn = turn();
    let rt = runtime(4);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    trace::start(10_000);
    let writer = {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let s = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = 0;
            while !s.load(std::sync::atomic::Ordering::SeqCst) {
                seen += events(&file()).len();
            }
            seen
        });
        (stop, thread)
    };
    for n in 0..1000 {
        q.enqueue_on(n % 4, Call::noop()).unwrap();
    }
    q.flush().unwrap();
    writer.0.store(true, std::sync::atomic::Ordering::SeqCst);
    let seen = writer.1.join().unwrap();
    trace::stop();
    assert_eq!(seen + events(&file()).len(), 4000);
}

#[test]
fn s12_08_a_trace_file_is_written_for_the_viewer() {
    let _turn = turn();
    let path = std::env::temp_dir().join(format!("workqueue-trace-{}", std::process::id()));
    trace::start(10);
    trace::emit(Phase::Instant, "test", "saved", &[]);
    trace::stop();
    // Nothing is lost to a path that cannot be.
    assert!(trace::save_chrome("/nowhere/at/all").is_err());
    assert_eq!(trace::save_chrome(&path).unwrap(), 1);
    let file: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(events(&file)[0]["name"], "saved");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn s12_08_times_of_a_virtual_clock() {
    let _turn = turn();
    let clock = VirtualClock::new();
    clock.advance(std::time::Duration::from_micros(7));
    trace::start_on(10, Some(clock.clone())).unwrap();
    trace::emit(Phase::Begin, "test", "later", &[]);
    clock.advance(std::time::Duration::from_nanos(5));
    trace::emit(Phase::End, "test", "later", &[]);
    trace::stop();
    let times: Vec<_> = events(&file())
        .iter()
        .map(|e| e["ts"].to_string())
        .collect();
    assert_eq!(times, ["7.0", "7.005"]);
    trace::start(1);
    trace::stop();
    assert!(trace::now() > 1_000_000, "the machine's clock again");
}

#[test]
fn s12_08_a_program_writes_records_of_its_own_beside() {
    let _turn = turn();
    trace::start(10);
    trace::emit(Phase::Instant, "test", "ours", &[]);
    trace::stop();
    let recording = trace::drain();
    let mut writer = trace::ChromeWriter::new(Vec::new(), 3).unwrap();
    writer.recording(&recording).unwrap();
    let mut event = trace::ChromeEvent {
        time: 1500,
        phase: Phase::Begin,
        tid: 7,
        id: Some(0xab),
        category: "block",
        name: "WRITE 8 + 8",
        args: &[("tag", Value::Int(1))],
    };
    writer.event(&event).unwrap();
    event.phase = Phase::End;
    writer.event(&event).unwrap();
    let text = writer.finish().unwrap();
    let file: Json = serde_json::from_slice(&text).unwrap();
    let all = events(&file);
    assert_eq!(all.len(), 3);
    assert_eq!(file["otherData"]["lost_records"], 3);
    assert_eq!((&all[1]["ph"], &all[2]["ph"]), (&"b".into(), &"e".into()));
    assert_eq!(
        (&all[1]["id"], &all[1]["ts"]),
        (&"0xab".into(), &1.5.into())
    );
    assert_eq!(all[1]["args"]["tag"], 1);
}
