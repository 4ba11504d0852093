// SPDX-License-Identifier: MIT OR Apache-2.0
//! From BUSY to NOSPC and back (E22 to E24).

use super::common::*;
use std::sync::atomic::Ordering;
use std::time::Duration;
use ublk_ramdisk::mq::*;
use ublk_ramdisk::ramdisk::space::SpaceOptions;
use ublk_ramdisk::ramdisk::{Mode, NoSpaceTimeout};
use workqueue::VirtualClock;

#[test]
fn e22_e23_waiting_writes_end_with_nospc_after_the_timeout_and_writes_work_again_with_space() {
    let mut bed = Bed::new(1, 32, 256, 4, SpaceOptions::default());
    bed.fill(4);
    for tag in 0..10 {
        bed.write(tag, 50 + u64::from(tag));
    }
    bed.exhausted(10);
    assert_eq!(bed.stats().no_space_in, Some(60 * S));
    bed.advance(59 * S);
    assert_eq!(bed.stats().no_space_in, Some(S));
    assert_eq!(bed.stats().parked, 10, "not one is early");
    bed.advance(S);
    for tag in 0..10 {
        assert_eq!(bed.end_of(0, tag), NOSPC);
    }
    assert_eq!((bed.stats().mode, bed.stats().no_space), (Mode::Error, 10));
    assert_eq!(
        bed.ended(0, Op::Write, 70, 1),
        NOSPC,
        "and at once from now on"
    );
    // E23: what needs no memory works.
    assert_eq!(bed.ended(1, Op::Read, 0, 8), 8 * PAGE as i32);
    assert_eq!(bed.ended(2, Op::Write, 1, 1), PAGE as i32);
    assert_eq!(bed.ended(3, Op::Flush, 0, 0), 0);
    assert_eq!(bed.ended(4, Op::Discard, 0, 1), 0);
    bed.until("enough", || bed.stats().mode == Mode::Enough);
    assert_eq!(bed.ended(5, Op::Write, 70, 1), PAGE as i32);
    bed.write(6, 71);
    bed.exhausted(1);
    assert_eq!(bed.stats().no_space_in, Some(60 * S), "queueing is back");
    bed.limit(5);
    assert_eq!(bed.end_of(0, 6), PAGE as i32);
    bed.finish();
}

#[test]
fn e22_time_in_which_the_process_does_not_run_is_no_part_of_the_timeout() {
    let mut bed = Bed::new(1, 32, 256, 4, SpaceOptions::default());
    bed.fill(4);
    bed.write(0, 50);
    bed.exhausted(1);
    bed.advance(20 * S);
    bed.clock.advance_stopped(3600 * S);
    bed.clock.settle();
    assert_eq!(bed.stats().no_space_in, Some(40 * S));
    bed.advance(39 * S);
    assert_eq!(bed.stats().parked, 1);
    bed.advance(S);
    assert_eq!(bed.end_of(0, 0), NOSPC);
    bed.finish();
}

#[test]
fn e22_a_freed_page_restarts_the_timeout() {
    let mut bed = Bed::new(1, 32, 256, 4, SpaceOptions::default());
    bed.fill(4);
    bed.write(0, 50);
    bed.write(1, 51);
    bed.exhausted(2);
    bed.advance(50 * S);
    assert_eq!(bed.ended(9, Op::Discard, 0, 1), 0);
    assert_eq!(bed.end_of(0, 0), PAGE as i32);
    bed.exhausted(1);
    assert_eq!(bed.stats().no_space_in, Some(60 * S));
    bed.advance(60 * S);
    assert_eq!(bed.end_of(0, 1), NOSPC);
    bed.finish();
}

#[test]
fn e22_error_if_no_space_does_not_wait() {
    let options = SpaceOptions {
        no_space_timeout: NoSpaceTimeout::After(Duration::ZERO),
        ..SpaceOptions::default()
    };
    let mut bed = Bed::new(1, 32, 256, 4, options);
    bed.fill(4);
    assert_eq!(bed.ended(0, Op::Write, 50, 1), NOSPC);
    assert_eq!(bed.stats().mode, Mode::Error);
    assert_eq!(bed.ended(0, Op::Discard, 0, 1), 0);
    bed.until("enough", || bed.stats().mode == Mode::Enough);
    assert_eq!(bed.ended(0, Op::Write, 50, 1), PAGE as i32);
    bed.finish();
}

#[test]
fn e22_without_a_timeout_writes_wait_until_the_disk_is_stopped() {
    let options = SpaceOptions {
        no_space_timeout: NoSpaceTimeout::Never,
        ..SpaceOptions::default()
    };
    let mut bed = Bed::new(1, 32, 256, 4, options);
    bed.fill(4);
    bed.write(0, 50);
    bed.exhausted(1);
    assert_eq!(bed.stats().no_space_in, None);
    bed.advance(100_000 * S);
    bed.exhausted(1);
    // What a stop does: nothing may keep the kernel from taking its requests back.
    bed.ramdisk
        .set_no_space_timeout(NoSpaceTimeout::After(Duration::ZERO));
    assert_eq!(bed.end_of(0, 0), NOSPC);
    bed.finish();
}

/// A removal of the disk, which waits for the writes, ends them within a second.
#[test]
fn e22_writes_that_wait_for_memory_end_when_the_disk_is_removed() {
    for timeout in [NoSpaceTimeout::Never, NoSpaceTimeout::After(60 * S)] {
        let options = SpaceOptions {
            no_space_timeout: timeout,
            ..SpaceOptions::default()
        };
        let (mut bed, removed) = Bed::removable(1, 32, 256, 4, options);
        bed.fill(4);
        bed.write(0, 50);
        bed.exhausted(1);
        bed.advance(30 * S);
        bed.write(1, 51);
        bed.exhausted(2);
        removed.store(true, Ordering::SeqCst);
        bed.advance(S);
        assert_eq!([0, 1].map(|tag| bed.end_of(0, tag)), [NOSPC; 2]);
        assert_eq!(
            bed.ended(2, Op::Write, 52, 1),
            NOSPC,
            "and so does the next"
        );
        bed.finish();
    }
}

/// `set --no-space-timeout` while writes wait.
#[test]
fn e22_a_changed_timeout_applies_to_waiting_writes() {
    let mut bed = Bed::new(1, 32, 256, 4, SpaceOptions::default());
    bed.fill(4);
    bed.write(0, 50);
    bed.exhausted(1);
    bed.advance(20 * S);
    bed.ramdisk.set_no_space_timeout(NoSpaceTimeout::Never);
    bed.advance(1000 * S);
    assert_eq!((bed.stats().parked, bed.stats().no_space_in), (1, None));
    bed.ramdisk
        .set_no_space_timeout(NoSpaceTimeout::After(1030 * S));
    assert_eq!(bed.stats().no_space_in, Some(10 * S));
    bed.advance(9 * S);
    assert_eq!(bed.stats().parked, 1);
    bed.advance(S);
    assert_eq!(bed.end_of(0, 0), NOSPC);
    // And where writes end with NOSPC they wait again.
    bed.ramdisk
        .set_no_space_timeout(NoSpaceTimeout::After(5 * S));
    bed.write(1, 51);
    bed.exhausted(1);
    bed.advance(10 * S);
    assert_eq!(bed.end_of(0, 1), NOSPC);
    // Longer ago than it may last: at once.
    bed.ramdisk.set_no_space_timeout(NoSpaceTimeout::Never);
    bed.write(2, 52);
    bed.exhausted(1);
    bed.advance(10 * S);
    bed.ramdisk
        .set_no_space_timeout(NoSpaceTimeout::After(5 * S));
    assert_eq!(bed.end_of(0, 2), NOSPC);
    bed.finish();
}

/// With a full store that stays full, however writes arrive (E24).
#[test]
fn e24_nothing_waits_longer_than_the_timeout() {
    let mut bed = Bed::new(1, 32, 256, 4, SpaceOptions::default());
    bed.fill(4);
    bed.write(0, 50);
    bed.exhausted(1);
    for second in 1..=60_u16 {
        if second % 6 == 0 && second < 60 {
            bed.write(second / 6, 50 + u64::from(second));
        }
        bed.advance(S);
    }
    for tag in 0..=9 {
        assert_eq!(bed.end_of(0, tag), NOSPC);
    }
    bed.finish();
}

/// The disk is not the one that hangs in the kernel: what the machine has to keep is not asked for.
#[test]
fn e27_a_machine_with_no_memory_to_spare_is_a_store_with_none() {
    let machine = Machine::new("reserve");
    // Above the reserve of 17 MiB.
    let spare = |kib: u64| machine.has(17 * 1024 + kib);
    spare(1024);
    let disk = Bed::ramdisk(256, SpaceOptions::default());
    disk.watch_memory(machine.headroom());
    let mut bed = Bed::of(disk, VirtualClock::in_turns(), (1, 32), 0);
    bed.fill(4);
    let shown = (bed.stats().available, bed.stats().reserve);
    assert_eq!(shown, (Some(1 << 20), 17 << 20));
    spare(3);
    bed.advance(S);
    bed.write(0, 50);
    bed.exhausted(1);
    assert_eq!(bed.stats().no_space_in, Some(60 * S), "E22");
    assert_eq!(bed.ended(1, Op::Write, 1, 1), PAGE as i32, "E23");
    spare(4);
    bed.advance(Duration::from_millis(100));
    assert_eq!(bed.end_of(0, 0), PAGE as i32, "one page, no more");
    spare(0);
    bed.write(0, 51);
    bed.exhausted(1);
    bed.advance(60 * S);
    assert_eq!(bed.end_of(0, 0), NOSPC);
    spare(1024);
    bed.advance(S);
    bed.until("enough", || bed.stats().mode == Mode::Enough);
    assert_eq!(bed.ended(0, Op::Write, 51, 1), PAGE as i32);
    bed.finish();
}
