// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules of the kernels 3.x (M1 to M3).

use crate::common::*;
use ublk_ramdisk::mq::*;

fn old() -> Bed {
    let set = TagSet {
        rules: Rules::Linux3,
        rerun_delay: HOUR,
        ..TagSet::new(1, 8)
    };
    Bed::with(set, Driver::new())
}

#[test]
fn m1_a_run_pulls_everything_the_dispatch_list_first() {
    let mut bed = old();
    bed.queue.quiesce();
    bed.insert(0, write(1));
    bed.insert(0, write(2));
    bed.insert_passthrough(0, write(3), false);
    bed.queue.unquiesce();
    until("all have ended", || bed.wire.count() == 3);
    let calls = bed.driver.take_calls();
    assert_eq!(calls[..3], [q(3, false), q(1, false), q(2, true)]);
    bed.finish();
}

#[test]
fn m2_what_is_refused_is_the_first_to_be_tried_again_and_m3_at_once() {
    let mut bed = old();
    bed.driver
        .reply(&[OK, RESOURCE, DEV_RESOURCE, RESOURCE, OK]);
    quiesced(&mut bed, &[1, 2, 3]);
    bed.queue.unquiesce();
    // The clock stands still: no run has waited for it.
    until("all have ended", || bed.wire.count() == 3);
    assert_eq!(bed.driver.tags(), [1, 2, 2, 2, 2, 3]);
    let counters = bed.queue.counters(0);
    assert_eq!((counters.run_delayed, counters.restarted), (0, 0));
    assert_eq!(bed.queue.snapshot(0).dispatch_busy, 0);
    bed.finish();
}

#[test]
fn m3_an_arrival_is_listed_and_run_on_the_spot_if_somebody_waits() {
    let mut bed = old();
    bed.insert(0, read(1));
    assert_eq!(bed.wire.tags(), [1]);
    let counters = bed.queue.counters(0);
    assert_eq!((counters.queued, counters.run_sync), (1, 1));
    bed.insert(0, write(2));
    until("it has ended", || bed.wire.count() == 2);
    assert_eq!(bed.queue.counters(0).run_async, 1);
    bed.insert_batch(0, &[write(3), write(4)]);
    until("both have ended", || bed.wire.count() == 4);
    bed.finish();
}
