// SPDX-License-Identifier: MIT OR Apache-2.0
//! K1, K2: the mirror's state under the names of the kernel's debugfs.

use super::common::*;
use std::collections::BTreeMap;
use std::time::Duration;
use ublk_ramdisk::mq::debugfs::{CTX_FILE, HCTX_FILES, QUEUE_FILES};
use ublk_ramdisk::mq::*;

fn files(bed: &Bed) -> BTreeMap<String, String> {
    let files = bed.queue.debugfs().into_iter();
    files.map(|file| (file.path, file.text)).collect()
}

#[test]
fn k01_k02_the_tree_has_every_file_of_every_queue() {
    let set = TagSet {
        nr_ctxs: 2,
        reserved_tags: 3,
        ..TagSet::new(3, 8)
    };
    let bed = Bed::with(set, Driver::new());
    let files = files(&bed);
    let mut expected: Vec<String> = QUEUE_FILES.iter().map(|n| (*n).to_owned()).collect();
    for hctx in 0..3 {
        expected.extend(HCTX_FILES.iter().map(|n| format!("hctx{hctx}/{n}")));
        let of_ctx = |ctx| format!("hctx{hctx}/ctx{ctx}/{}", CTX_FILE);
        expected.extend((0..2).map(of_ctx));
    }
    expected.sort();
    assert_eq!(files.keys().cloned().collect::<Vec<_>>(), expected);
    assert!(files.values().all(|t| t.is_empty() || t.ends_with('\n')));
    assert_eq!(files["hctx2/tags_bitmap"], "00000000: 00\n");
    assert_eq!(
        files["hctx2/tags"],
        "nr_tags=8\nnr_reserved_tags=3\nbusy=0\n"
    );
    assert_eq!(
        (&files["state"][..], &files["hctx0/state"][..]),
        ("\n", "\n")
    );
    bed.finish();
}

#[test]
fn a05_a06_k02_requests_stand_in_the_file_of_where_they_are() {
    let mut bed = Bed::new(1, 8);
    // One held by the driver, one refused, one behind it, one given back.
    bed.driver.reply(&[
        Hold,
        Again(Requeue {
            kick: None,
            prepared: false,
        }),
        RESOURCE,
        RESOURCE,
        RESOURCE,
    ]);
    bed.insert(0, write(0));
    bed.insert(0, read(1));
    bed.insert(0, write(2));
    bed.settle();
    bed.insert(0, write(3));
    bed.settle();
    bed.queue.quiesce();
    let files = files(&bed);
    let has = |file: &str, part: &str| assert!(files[file].contains(part), "{file}: {files:#?}");
    has("hctx0/busy", ".op=WRITE");
    has(
        "hctx0/busy",
        ".state=in_flight, .hctx=0, .tag=0, .sector=0, .nr_sectors=8}",
    );
    has(
        "requeue_list",
        "{.op=READ, .cmd_flags=, .rq_flags=, .state=idle, .hctx=0, .tag=1,",
    );
    has(
        "hctx0/dispatch",
        ".rq_flags=PARKED, .state=idle, .hctx=0, .tag=2, .sector=16,",
    );
    has("hctx0/ctx0/default_rq_list", ".tag=3,");
    has("hctx0/ctx_map", "00000000: 01\n");
    has("hctx0/tags", "nr_tags=8\nnr_reserved_tags=0\nbusy=1\n");
    has("hctx0/tags_bitmap", "00000000: 01\n");
    has("hctx0/active", "4\n");
    has("hctx0/state", "SCHED_RESTART\n");
    has("state", "QUIESCED\n");
    has("hctx0/type", "default\n");
    assert_ne!(files["hctx0/dispatch_busy"], "0\n");
    assert_eq!(bed.queue.snapshot(0).parked, 1);
    bed.queue.unquiesce();
    bed.finish();
}

/// The figures that K2 adds to the kernel's: each is told by its file as the counters have it.
#[test]
fn k02_what_a_hardware_queue_has_done_is_in_its_files() {
    let mut bed = Bed::new(1, 32);
    let source = [
        Source::Slots,
        Source::Memory,
        Source::Psi,
        Source::Bandwidth,
        Source::Injection,
    ];
    let replies: Vec<_> = source.map(|s| BusyFor(Busy::Resource, s)).into();
    bed.driver.reply(&replies);
    bed.insert(0, read(0));
    for _ in 0..source.len() {
        bed.settle();
        bed.queue.run_hw_queue(0, true);
    }
    bed.settle();
    bed.driver.reply(&[Again(Requeue {
        kick: Some(Duration::ZERO),
        prepared: false,
    })]);
    bed.insert(0, read(1));
    bed.settle();
    bed.driver.reply(&[RESOURCE, RESOURCE]);
    bed.insert(0, read(2));
    bed.settle();
    let (now, files) = (bed.queue.counters(0), files(&bed));
    let has = |file: &str, line: String| {
        let text = &files[&format!("hctx0/{file}")];
        assert!(text.lines().any(|l| l == line), "{line} in {file}: {text}");
    };
    has("run", format!("sync={}", now.run_sync));
    has("run", format!("async={}", now.run_async));
    has("run", format!("delayed={}", now.run_delayed));
    assert!(now.run_async > 0 && now.run_delayed > 0, "{now:?}");
    has("queued", now.queued.to_string());
    has("accepted", now.accepted.to_string());
    for one in source {
        assert!(now.refused_by.of(one) > 0, "{one:?}: {now:?}");
        let line = format!("{}={}", one.name(), now.refused_by.of(one));
        has("refused", line);
    }
    has("requeued", "1".to_owned());
    has("restarted", now.restarted.to_string());
    has("dispatched", format!("0\t{}", now.dispatched[0]));
    has("dispatched", format!("1\t{}", now.dispatched[1]));
    assert!(now.dispatched[0] > 0 && now.dispatched[1] > 0, "{now:?}");
    has("parked", "now=1".to_owned());
    has("parked", format!("total={}", now.parked));
    has("timeouts", now.timeouts.to_string());
    has("lost_races", now.lost_races.to_string());
    bed.queue.run_hw_queue(0, true);
    bed.finish();
}

#[test]
fn k02_the_time_from_arrival_to_end_is_recorded_by_operation() {
    let mut bed = Bed::new(1, 32);
    bed.queue.time_one_of(1);
    bed.driver.always(Hold);
    bed.clock.advance(MS);
    bed.insert(0, write(0));
    bed.insert(0, read(1));
    bed.clock.advance(2 * MS);
    bed.complete(1);
    bed.clock.advance(3 * MS);
    bed.complete(0);
    let took = bed.queue.latency(0);
    let near = |found: Option<u64>, millis: u64| {
        let (found, exact) = (found.expect("it was timed"), millis * 1_000_000);
        assert!(found >= exact && found <= exact + exact / 16, "{found}");
    };
    near(took.read.permille(500), 2);
    near(took.write.max(), 5);
    assert_eq!((took.read.count(), took.flush.count()), (1, 0));
    assert_eq!(took.write.mean(), 5_000_000);
    assert_eq!(took.total().count(), 2);
    bed.finish();
}

#[test]
fn k02_one_of_so_many_is_timed_alone_or_in_a_batch() {
    let timed = |of: u32| {
        let mut bed = Bed::new(1, 32);
        bed.clock.advance(MS);
        bed.queue.time_one_of(of);
        let batch: Vec<_> = (0..24).map(read).collect();
        for _ in 0..4 {
            bed.insert_batch(0, &batch);
            (0..24).for_each(|tag| bed.insert(0, read(tag)));
        }
        let count = bed.queue.latency(0).read.count();
        bed.finish();
        count
    };
    let all = 4 * 48;
    assert_eq!(
        [timed(1), timed(4), timed(16), timed(0)],
        [all, all / 4, all / 16, 0]
    );
    assert_eq!(timed(9), timed(16), "raised to a power of two");
}
