// SPDX-License-Identifier: MIT OR Apache-2.0
//! K3: the events of a request's way through the mirror, and the files made of them.
//!
//! Recording is the process's, so the tests of this file take turns.

#[path = "common/chrome_format.rs"]
mod chrome_format;
#[allow(dead_code, reason = "shared with the tests of the mirror")]
#[path = "mq/common.rs"]
mod common;

use chrome_format::{check, File};
use common::*;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use ublk_ramdisk::mq::*;
use ublk_ramdisk::trace::{self, Kind, Options, Recording, Trace};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn on_clock_of(bed: &Bed) -> Recording {
    let clock = Some(bed.clock.clone());
    trace::start(Options {
        clock,
        ..Options::default()
    })
    .expect("nobody else records")
}

/// The kinds of the events about one tag.
fn story(trace: &Trace, tag: u16) -> Vec<Kind> {
    let of_tag = trace.events().filter(|event| event.tag() == Some(tag));
    of_tag.map(|event| event.kind).collect()
}

fn text(trace: &Trace) -> String {
    let mut text = Vec::new();
    trace.write_text(&mut text).expect("memory");
    String::from_utf8(text).expect("text")
}

/// Writes the trace file, and checks it whole.
fn chrome(trace: &Trace) -> File {
    let mut text = Vec::new();
    trace.write_chrome(&mut text).expect("memory");
    check(&text)
}

/// Three refusals, each from another source, then served by a worker of kblockd.
fn refused_three_times() -> (Trace, Bed) {
    let mut bed = Bed::new(1, 8);
    bed.driver.reply(&[
        BusyFor(Busy::Resource, Source::Memory),
        BusyFor(Busy::Resource, Source::Psi),
        RESOURCE,
    ]);
    let recording = on_clock_of(&bed);
    bed.clock.advance(MS);
    bed.insert(0, write(3));
    bed.settle();
    while bed.wire.count() == 0 {
        bed.clock.advance(HOUR);
        bed.settle();
    }
    let mut trace = recording.finish();
    trace.name_device(bed.queue.label(), (259, 7), "ublkb7");
    (trace, bed)
}

#[test]
fn k03_one_request_can_be_followed_from_arrival_through_busy_to_its_end() {
    let _turn = turn();
    let (trace, bed) = refused_three_times();
    use Kind::*;
    let try_in_vain = [Issue, Requeue, Refuse, Park, Unpark];
    let told = [
        &[IoStart][..],
        &try_in_vain,
        &try_in_vain,
        &try_in_vain,
        &[Issue, Complete, IoDone],
    ]
    .concat();
    assert_eq!(story(&trace, 3), told);
    let sources: Vec<_> = trace.events().filter_map(|event| event.source).collect();
    assert_eq!(sources, [Source::Memory, Source::Psi, Source::Driver]);
    let runs = trace.events().filter(|event| event.kind == Run);
    let delays: Vec<_> = runs.map(|event| event.value).collect();
    assert!(delays.contains(&(HOUR.as_nanos() as i64)), "{delays:?}");
    assert_eq!(trace.lost(), 0);
    let times: Vec<_> = trace.events().map(|event| event.time).collect();
    assert!(times.windows(2).all(|two| two[0] <= two[1]));
    assert_eq!(times[0], MS.as_nanos() as u64, "the virtual clock's");
    bed.finish();
}

#[test]
fn k03_lines_have_the_columns_of_blkparse() {
    let _turn = turn();
    let (trace, bed) = refused_three_times();
    let text = text(&trace);
    let first = text.lines().nth(1).expect("a line");
    let words: Vec<_> = first.split_whitespace().collect();
    let (head, tail) = (&words[..1], &words[3..]);
    assert_eq!(head, ["259,7"], "{first}");
    assert_eq!(
        (tail[0], &tail[2..7]),
        ("0.001000000", &["Q", "W", "24", "+", "8"][..])
    );
    let acts: BTreeSet<_> = text
        .lines()
        .filter_map(|l| l.split_whitespace().nth(5))
        .collect();
    for act in [
        "Q", "D", "R", "C", "X", "run", "refuse", "park", "unpark", "wq",
    ] {
        assert!(acts.contains(act), "{act} is missing in\n{text}");
    }
    assert!(
        text.contains("refuse   W    24 + 8 ") && text.contains("RESOURCE memory"),
        "{text}"
    );
    assert!(
        text.contains("function=run_work"),
        "the workqueue's events\n{text}"
    );
    bed.finish();
}

#[test]
fn k03_the_file_has_a_line_per_request_and_marks_on_the_threads() {
    let _turn = turn();
    let (trace, bed) = refused_three_times();
    let File {
        events, threads, ..
    } = chrome(&trace);
    let text = |event: &Json, key: &str| event[key].as_str().expect("a text").to_owned();
    let requests: Vec<_> = events.iter().filter(|e| e["cat"] == "request").collect();
    let ids: BTreeSet<_> = requests.iter().map(|e| text(e, "id")).collect();
    assert_eq!(ids.len(), 1, "there was one request");
    let bars = requests.iter().filter(|e| e["ph"] == "b");
    let names: Vec<_> = bars.map(|e| text(e, "name")).collect();
    let refused = ["in flight", "parked"];
    let served = ["in flight"];
    let expected = [&["ublkb7 write"][..], &refused, &refused, &refused, &served];
    assert_eq!(names, expected.concat());
    let counters = events.iter().filter(|e| e["ph"] == "C");
    let last: Vec<_> = counters.map(|e| (text(e, "name"), &e["args"])).collect();
    assert_eq!(last.len(), 2 * (3 * 2 + 1), "each bar begins and ends");
    assert_eq!(last[0].0, "ublkb7 requests");
    // What kblockd did stands on its worker's line, within the bar of the work item.
    let thread = |event: &Json| &threads[&event["tid"].as_i64().expect("a thread")][..];
    let is_run = |e: &&Json| e["name"] == "run_work" && e["ph"] == "B";
    let run = events.iter().find(is_run).expect("a bar of kblockd");
    assert!(thread(run).starts_with("kworker/"), "{threads:?}");
    let is_issue = |e: &&Json| e["name"] == "block_rq_issue" && e["ph"] == "i";
    let by: BTreeSet<_> = events.iter().filter(is_issue).map(thread).collect();
    assert!(
        by.len() > 1,
        "the first try is the inserting thread's: {by:?}"
    );
    let mark = events
        .iter()
        .find(|e| e["name"] == "block_rq_issue")
        .expect("a mark");
    let args = &mark["args"];
    assert_eq!(
        (&args["dev"], &args["rwbs"]),
        (&"259,7".into(), &"W".into())
    );
    assert_eq!(
        (&args["sector"], &args["nr_sector"]),
        (&24.into(), &8.into())
    );
    bed.finish();
}

#[test]
fn k03_batches_flushes_errors_and_requeues_have_their_events() {
    let _turn = turn();
    let mut bed = Bed::new(1, 8);
    let recording = on_clock_of(&bed);
    bed.driver.reply(&[
        OK,
        Reply::Error(Status::IoErr),
        Again(ublk_ramdisk::mq::Requeue {
            kick: Some(std::time::Duration::ZERO),
            prepared: false,
        }),
    ]);
    bed.insert_batch(0, &[write(0), read(1), write(2)]);
    bed.settle();
    bed.queue.quiesce();
    bed.insert(0, request(4, Op::Flush));
    bed.insert(0, request(5, Op::Discard));
    bed.queue.unquiesce();
    bed.settle();
    let trace = recording.finish();
    use Kind::{Complete, Error, Insert, IoDone, IoStart, Issue, Plug, Requeue, Unplug};
    let kinds: Vec<_> = trace.events().map(|event| event.kind).collect();
    assert_eq!(kinds[..5], [Plug, IoStart, IoStart, IoStart, Unplug]);
    assert_eq!(trace.events().nth(4).expect("unplug").value, 3);
    assert_eq!(story(&trace, 1), [IoStart, Issue, Complete, Error, IoDone]);
    let error = trace
        .events()
        .find(|event| event.kind == Error)
        .expect("one");
    assert_eq!(error.value, -i64::from(libc::EIO));
    assert_eq!(
        story(&trace, 2),
        [IoStart, Issue, Requeue, Issue, Complete, IoDone]
    );
    assert_eq!(story(&trace, 4), [IoStart, Insert, Issue, Complete, IoDone]);
    let ops: Vec<_> = [4, 5]
        .map(|tag| {
            trace
                .events()
                .find(|e| e.tag() == Some(tag))
                .expect("one")
                .rwbs()
        })
        .into();
    assert_eq!(ops, ["F", "D"]);
    chrome(&trace);
    bed.finish();
}

#[test]
fn k03_waiting_for_a_slot_is_seen() {
    let _turn = turn();
    let set = TagSet {
        rerun_delay: HOUR,
        ..TagSet::new(1, 8)
    };
    let driver = Driver {
        slots: Some(DeviceSlots::new(1, 1)),
        ..Driver::new()
    };
    driver.always(Hold);
    let mut bed = Bed::with(set, driver);
    let recording = on_clock_of(&bed);
    bed.insert(0, write(0));
    bed.insert_batch(0, &[write(1), write(2)]);
    bed.settle();
    bed.driver.always(OK);
    bed.complete(0);
    bed.settle();
    until("all have ended", || bed.wire.count() == 3);
    bed.settle();
    let trace = recording.finish();
    let waits = trace.events().filter(|event| event.kind == Kind::TagWait);
    let waits: Vec<_> = waits.collect();
    assert!(!waits.is_empty());
    assert!(waits
        .iter()
        .all(|event| event.source == Some(Source::Slots)));
    let (parked, unparked) = [Kind::Park, Kind::Unpark]
        .map(|kind| trace.events().filter(|event| event.kind == kind).count())
        .into();
    assert_eq!(parked, unparked);
    let counted = bed.queue.counters(0);
    assert_eq!(
        (parked as u64, unparked as u64),
        (counted.parked, counted.unparked)
    );
    chrome(&trace);
    bed.finish();
}

#[test]
fn k03_an_end_that_runs_the_queue_is_seen() {
    let _turn = turn();
    let mut bed = Bed::new(1, 8);
    let recording = on_clock_of(&bed);
    bed.driver.reply(&[Hold, DEV_RESOURCE, DEV_RESOURCE]);
    bed.insert(0, write(0));
    bed.insert(0, write(1));
    bed.settle();
    bed.complete(0);
    bed.settle();
    let trace = recording.finish();
    let kinds: Vec<_> = trace.events().map(|event| event.kind).collect();
    let at = |kind| kinds.iter().position(|k| *k == kind).expect("it is there");
    let ended = at(Kind::IoDone);
    assert_eq!(
        kinds[ended..][..3],
        [Kind::IoDone, Kind::Restart, Kind::Run]
    );
    assert_eq!(
        story(&trace, 1).last(),
        Some(&Kind::IoDone),
        "it had waited"
    );
    bed.finish();
}

#[test]
fn k03_what_was_overwritten_is_counted_and_the_rest_is_a_whole_file() {
    let _turn = turn();
    let mut bed = Bed::new(1, 8);
    let recording = trace::start(Options {
        records: 10,
        clock: None,
    })
    .expect("nobody records");
    for _ in 0..100 {
        bed.insert(0, write(0));
    }
    let trace = recording.finish();
    assert_eq!(trace.events().count(), 10);
    assert_eq!(trace.lost(), 390, "four events each");
    chrome(&trace);
    assert!(text(&trace).ends_with("# 10 events, 390 lost\n"));
    bed.finish();
}

#[test]
fn k03_nothing_is_kept_of_a_recording_that_is_given_up() {
    let _turn = turn();
    let mut bed = Bed::new(1, 8);
    drop(on_clock_of(&bed));
    bed.insert(0, write(0));
    let recording = on_clock_of(&bed);
    assert!(trace::start(Options::default()).is_err(), "one at a time");
    let trace = recording.finish();
    assert!(trace.is_empty(), "{:?}", trace.events().collect::<Vec<_>>());
    bed.finish();
}
