// SPDX-License-Identifier: MIT OR Apache-2.0
//! What needs no memory passes what waits for some, and a few tags stay free for it (E9 to E11).

use super::common::*;
use ublk_ramdisk::mq::*;
use ublk_ramdisk::ramdisk::space::SpaceOptions;
use ublk_ramdisk::ramdisk::{Mode, NoSpaceTimeout};

/// With any number of refused writes on the dispatch list, without one tick of the clock.
#[test]
fn e09_e10_exempt_requests_are_served_while_writes_wait() {
    for queues in [1, 2] {
        let options = SpaceOptions {
            reclaim: false, // or the zeros below would be taken back
            ..SpaceOptions::default()
        };
        let mut bed = Bed::new(queues, 32, 256, 4, options);
        bed.fill(4);
        for parked in 1..=20 {
            bed.write(parked, 50 + u64::from(parked));
            let (first, second) = (24, 25);
            assert_eq!(bed.ended(first, Op::Read, 0, 8), 8 * PAGE as i32);
            assert_eq!(bed.ended(second, Op::Flush, 0, 0), 0);
            assert_eq!(bed.ended(first, Op::Write, 2, 2), 2 * PAGE as i32);
            assert_eq!(bed.ended(second, Op::Discard, 100, 50), 0);
            let free = Op::WriteZeroes { unmap: true };
            assert_eq!(bed.ended(first, free, 100, 50), 0);
            let keep = Op::WriteZeroes { unmap: false };
            assert_eq!(bed.ended(second, keep, 1, 2), 0);
        }
        bed.exhausted(20);
        assert_eq!(bed.ended(24, Op::Discard, 0, 1), 0);
        assert_eq!(bed.end_of(0, 1), PAGE as i32, "the oldest gets the page");
        bed.limit(256);
        for parked in 2..=20 {
            assert_eq!(bed.end_of(0, parked), PAGE as i32);
        }
        bed.finish();
    }
}

/// Exempt requests that wait in a software queue behind a busy hardware queue.
#[test]
fn e10_exempt_requests_pass_when_they_arrive_together_with_what_waits() {
    let mut bed = Bed::new(1, 32, 256, 4, SpaceOptions::default());
    bed.fill(4);
    bed.mirror.queue().quiesce();
    for tag in 0..10 {
        bed.write(tag, 50 + u64::from(tag));
        bed.insert(0, 10 + tag, Op::Read, u64::from(tag), 1);
    }
    bed.mirror.queue().unquiesce();
    for tag in 10..20 {
        assert_eq!(bed.end_of(0, tag), PAGE as i32);
    }
    bed.exhausted(10);
    bed.limit(256);
    for tag in 0..10 {
        assert_eq!(bed.end_of(0, tag), PAGE as i32);
    }
    bed.finish();
}

#[test]
fn e11_tags_stay_free_while_the_store_is_exhausted() {
    let options = SpaceOptions {
        no_space_timeout: NoSpaceTimeout::Never,
        ..SpaceOptions::default()
    };
    let mut bed = Bed::new(1, 16, 256, 4, options);
    bed.fill(4);
    // 16 less an eighth.
    for tag in 0..14 {
        bed.write(tag, 50 + u64::from(tag));
    }
    bed.exhausted(14);
    assert_eq!(bed.ended(14, Op::Write, 90, 1), NOSPC, "the newest");
    assert_eq!(bed.stats().above_cap, 1);
    assert_eq!(bed.ended(15, Op::Discard, 0, 4), 0);
    for tag in 0..4 {
        assert_eq!(bed.end_of(0, tag), PAGE as i32);
    }
    bed.exhausted(10);
    assert_eq!(bed.stats().above_cap, 1, "a shortage alone ends nothing");
    bed.limit(256);
    for tag in 4..14 {
        assert_eq!(bed.end_of(0, tag), PAGE as i32);
    }
    bed.finish();
}

/// More wait than may when it is found out that nothing can be freed.
#[test]
fn e11_the_newest_above_the_cap_end_when_the_store_is_found_to_be_exhausted() {
    let mut bed = Bed::new(1, 16, 256, 4, SpaceOptions::default());
    bed.fill(4);
    bed.mirror.queue().quiesce();
    for tag in 0..16 {
        bed.write(tag, 50 + u64::from(tag));
    }
    bed.mirror.queue().unquiesce();
    assert_eq!(bed.end_of(0, 14), NOSPC);
    assert_eq!(bed.end_of(0, 15), NOSPC);
    bed.exhausted(14);
    assert_eq!(bed.stats().mode, Mode::Exhausted);
    assert_eq!(bed.stats().above_cap, 2);
    bed.limit(256);
    for tag in 0..14 {
        assert_eq!(bed.end_of(0, tag), PAGE as i32);
    }
    bed.finish();
}
