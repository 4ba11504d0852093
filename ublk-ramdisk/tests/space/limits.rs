// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory limit, and what can be taken back (E2, E6, E18, E19, E21).

use super::common::*;
use std::sync::atomic::Ordering;
use std::time::Duration;
use ublk_ramdisk::mq::*;
use ublk_ramdisk::ramdisk::space::SpaceOptions;
use ublk_ramdisk::ramdisk::Mode;

#[test]
fn e02_e06_nothing_is_allocated_above_the_limit_and_writes_go_on_after_a_raise() {
    let mut bed = Bed::new(1, 8, 64, 4, SpaceOptions::default());
    bed.fill(4);
    bed.write(1, 10);
    bed.exhausted(1);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 4 * PAGE);
    bed.limit(5);
    assert_eq!(bed.end_of(0, 1), PAGE as i32);
    bed.until("enough", || bed.stats().mode == Mode::Enough);
    bed.finish();
}

#[test]
fn e06_a_limit_below_use_frees_nothing_and_refuses_writes_until_use_is_below_it() {
    let mut bed = Bed::new(1, 8, 64, 8, SpaceOptions::default());
    bed.fill(8);
    bed.limit(4);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 8 * PAGE);
    assert_eq!(
        bed.ended(1, Op::Write, 7, 1),
        PAGE as i32,
        "an overwrite (E9)"
    );
    bed.write(2, 20);
    bed.exhausted(1);
    assert_eq!(bed.ended(1, Op::Discard, 0, 4), 0);
    // Use equals the limit now: still too much for one more.
    bed.exhausted(1);
    assert_eq!(bed.ended(1, Op::Discard, 4, 1), 0);
    assert_eq!(bed.end_of(0, 2), PAGE as i32);
    bed.finish();
}

/// Lowering it gives nobody memory, so those that wait are not tried again and their time runs on.
#[test]
fn e06_only_a_higher_limit_restarts_the_no_space_timeout() {
    let mut bed = Bed::new(1, 8, 64, 8, SpaceOptions::default());
    bed.fill(8);
    bed.write(1, 20);
    bed.exhausted(1);
    bed.advance(50 * S);
    bed.limit(6);
    bed.limit(6);
    assert_eq!(bed.stats().no_space_in, Some(10 * S));
    bed.limit(7);
    bed.until("it is found to be exhausted again", || {
        bed.stats().no_space_in == Some(60 * S)
    });
    bed.limit(9);
    assert_eq!(bed.end_of(0, 1), PAGE as i32);
    bed.finish();
}

#[test]
fn e18_a_discard_ends_after_its_memory_has_been_freed() {
    let mut bed = Bed::new(1, 8, 64, 0, SpaceOptions::default());
    bed.fill(16);
    assert_eq!(bed.ended(0, Op::Discard, 4, 8), 0);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 8 * PAGE);
    bed.finish();
}

#[test]
fn e19_a_full_store_of_zeros_makes_room_by_itself() {
    let mut bed = Bed::new(1, 8, 64, 16, SpaceOptions::default());
    bed.client.byte.store(0, Ordering::SeqCst);
    bed.fill(15);
    bed.client.byte.store(1, Ordering::SeqCst);
    assert_eq!(bed.ended(0, Op::Write, 15, 1), PAGE as i32);
    for page in 16..31 {
        assert_eq!(bed.ended(0, Op::Write, page, 1), PAGE as i32, "{page}");
    }
    assert_eq!(bed.stats().zero, 15 * PAGE);
    bed.write(0, 40);
    bed.exhausted(1);
    assert_eq!(bed.ended(1, Op::Discard, 20, 1), 0);
    assert_eq!(bed.end_of(0, 0), PAGE as i32);
    bed.finish();
}

#[test]
fn e19_zeros_are_taken_back_periodically_with_reclaim_every() {
    let options = SpaceOptions {
        reclaim_every: Some(Duration::from_secs(10)),
        ..SpaceOptions::default()
    };
    let mut bed = Bed::new(1, 8, 64, 0, options);
    bed.client.byte.store(0, Ordering::SeqCst);
    bed.fill(20);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 20 * PAGE);
    bed.advance(10 * S);
    bed.until("the zeros are gone", || {
        bed.ramdisk.store().allocated().unwrap() == 0
    });
    bed.until("and counted", || bed.stats().zero == 20 * PAGE);
    bed.finish();
}

#[test]
fn e21_without_reclaim_zeros_stay() {
    let options = SpaceOptions {
        reclaim: false,
        ..SpaceOptions::default()
    };
    let mut bed = Bed::new(1, 8, 64, 4, options);
    bed.client.byte.store(0, Ordering::SeqCst);
    bed.fill(4);
    bed.write(0, 9);
    bed.exhausted(1);
    assert_eq!(bed.stats().zero, 0);
    bed.limit(5);
    assert_eq!(bed.end_of(0, 0), PAGE as i32);
    bed.finish();
}

/// A write that waits for memory beyond the new end of the disk ends, and no memory is made there
/// that nobody could free.
#[test]
fn h08_e06_writes_that_wait_beyond_the_end_of_a_smaller_disk_end() {
    let mut bed = Bed::new(2, 32, 32, 4, SpaceOptions::default());
    assert_eq!(bed.ended(0, Op::Write, 20, 4), 4 * PAGE as i32);
    // The older one is not beyond it, and goes on waiting.
    bed.write(2, 8);
    bed.write(1, 30);
    bed.exhausted(2);
    bed.ramdisk.shrink(16 * PAGE);
    assert_eq!(bed.end_of(0, 1), -libc::EIO);
    assert_eq!(
        bed.stats().parked,
        1,
        "the other one waits for what is freed"
    );
    let store = bed.ramdisk.store();
    assert!(store.free_tail(32 * PAGE));
    assert_eq!(bed.end_of(0, 2), PAGE as i32);
    assert_eq!(bed.stats().used, bed.stats().tables + PAGE);
    bed.finish();
}
