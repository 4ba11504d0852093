// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the store tells whoever records: memory given back, and the way from BUSY to NOSPC (K3).
//!
//! One test only: the number of threads in a recording is limited, and the disks of other tests have
//! threads of their own.

// Not all of it is used here.
#[allow(dead_code)]
#[path = "space/common.rs"]
mod common;

use common::*;
use std::sync::atomic::Ordering;
use ublk_ramdisk::mq::*;
use ublk_ramdisk::ramdisk::space::SpaceOptions;
use ublk_ramdisk::ramdisk::Mode;
use ublk_ramdisk::trace::{self, Kind, Options};

#[test]
fn k03_reclaim_and_the_modes_of_memory_are_traced() {
    let recording = trace::start(Options::default()).expect("no other recording");
    let mut bed = Bed::new(1, 8, 64, 8, SpaceOptions::default());
    bed.client.byte.store(0, Ordering::SeqCst);
    bed.fill(3);
    bed.client.byte.store(1, Ordering::SeqCst);
    // Pages of zeros are found when memory is short.
    for page in 3..9 {
        assert_eq!(bed.ended(0, Op::Write, page, 1), PAGE as i32);
    }
    assert_eq!(bed.ended(0, Op::Discard, 3, 2), 0);
    assert_eq!(bed.ended(0, Op::Discard, 40, 2), 0, "nothing to give back");
    for page in 20..24 {
        assert_eq!(bed.ended(0, Op::Write, page, 1), PAGE as i32);
    }
    bed.write(1, 30);
    bed.exhausted(1);
    bed.advance(60 * S);
    assert_eq!(bed.end_of(0, 1), NOSPC);
    assert_eq!(bed.ended(0, Op::Discard, 5, 1), 0);
    bed.until("enough", || bed.stats().mode == Mode::Enough);
    let (label, zero) = (bed.mirror.queue().label(), bed.stats().zero);
    let trace = recording.finish();
    let told = trace.events().filter(|event| event.device == label);
    let told = told.filter(|event| matches!(event.kind, Kind::Reclaim | Kind::Pressure));
    let told: Vec<_> = told.map(|event| event.detail()).collect();
    assert_eq!(zero, 3 * PAGE);
    let expected = [
        "zeros 12288",
        "discarded 8192",
        "memory began",
        "memory enospc",
        "discarded 4096",
        "memory ceased",
    ];
    // The end of a shortage is told before or after the discard that ends it.
    let mut sorted = told.clone();
    sorted[4..].sort();
    assert_eq!(sorted, expected, "{told:?}");
    // A page more with each write, and what is given back: three of zeros, two discarded, one discarded.
    let used = trace.events();
    let used = used.filter(|event| event.device == label && event.kind == Kind::Memory);
    let used: Vec<_> = used.map(|event| event.value).collect();
    let moved: Vec<_> = used.windows(2).map(|two| two[1] - two[0]).collect();
    let pages: Vec<_> = moved.iter().map(|bytes| bytes / PAGE as i64).collect();
    let expected = [&[1; 7][..], &[-3, 1, -2], &[1; 4], &[-1]].concat();
    assert_eq!(pages, expected, "{used:?}");
    assert_eq!(used.last().copied(), i64::try_from(bed.stats().used).ok());
    bed.finish();
}
