// SPDX-License-Identifier: MIT OR Apache-2.0
//! WRITE_ZEROES that keeps its memory: a lot of it is cleared on the store workqueue, a piece at a
//! time, and not within queue_rq (H4, J3).

use super::common::*;
use std::sync::atomic::Ordering;
use ublk_ramdisk::mq::*;
use ublk_ramdisk::ramdisk::space::SpaceOptions;

const KEEP: Op = Op::WriteZeroes { unmap: false };
/// Pages of a MiB.
const MIB: u64 = (1 << 20) / PAGE;

/// All of a disk is there, filled with 0xa5.
fn full(pages: u64) -> Bed {
    let options = SpaceOptions {
        reclaim: false,
        ..SpaceOptions::default()
    };
    let mut bed = Bed::new(1, 8, pages, 0, options);
    let store = bed.ramdisk.store();
    store.preallocate().expect("memory");
    bed.insert(0, 0, Op::Write, 0, pages);
    bed.clock.settle();
    assert_eq!(bed.result(0, 0), Some((pages * PAGE) as i32));
    bed
}

/// The byte at the beginning and at the end of each of these pages.
#[track_caller]
fn holds(bed: &Bed, pages: std::ops::Range<u64>, byte: u8) {
    let store = bed.ramdisk.store();
    for page in pages {
        let range = page * PAGE..(page + 1) * PAGE;
        let at = store.pin_for_write(range.clone()).expect("it was kept");
        for offset in [0, PAGE as usize - 1] {
            // SAFETY: the page is present and pinned, and nobody writes to it.
            let found = unsafe { at.as_ptr().add(offset).read_volatile() };
            assert_eq!(found, byte, "page {page}, byte {offset}");
        }
        store.unpin(range);
    }
}

#[test]
fn h04_much_memory_is_not_cleared_within_queue_rq() {
    let mut bed = full(16 * MIB);
    let held = bed.ramdisk.store().allocated().unwrap();
    bed.insert(0, 1, KEEP, MIB, 9 * MIB);
    assert_eq!(bed.result(0, 1), None, "nobody else has had a turn");
    holds(&bed, MIB..10 * MIB, 0xa5);
    bed.clock.settle();
    assert_eq!(bed.result(0, 1), Some(0));
    holds(&bed, 0..MIB, 0xa5);
    holds(&bed, MIB..10 * MIB, 0);
    holds(&bed, 10 * MIB..16 * MIB, 0xa5);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), held);
    // What takes no time is done where it comes.
    bed.insert(0, 2, KEEP, 0, 16);
    assert_eq!(bed.result(0, 2), Some(0));
    holds(&bed, 0..16, 0);
    bed.finish();
}

/// A long one does not keep a short one waiting until it is done, nor a discard.
#[test]
fn h04_memory_is_cleared_a_piece_at_a_time() {
    let mut bed = full(64 * MIB);
    bed.ramdisk
        .store()
        .discard(63 * MIB * PAGE..64 * MIB * PAGE);
    bed.insert(0, 1, KEEP, 0, 40 * MIB);
    bed.insert(0, 2, KEEP, 50 * MIB, MIB);
    bed.insert(0, 3, Op::Write, 63 * MIB, 1);
    bed.insert(0, 4, Op::Discard, 60 * MIB, MIB);
    bed.clock.settle();
    // How the workqueue and kblockd take turns with a write is not the store's to say.
    let mut ends = bed.client.ends.lock().unwrap().clone();
    ends.retain(|end| *end != (0, 3, PAGE as i32));
    assert_eq!(ends, [(0, 4, 0), (0, 2, 0), (0, 1, 0)]);
    holds(&bed, 0..40 * MIB, 0);
    holds(&bed, 50 * MIB..51 * MIB, 0);
    holds(&bed, 40 * MIB..50 * MIB, 0xa5);
    bed.finish();
}

/// The memory of one that is being cleared is in use: it is neither given back nor found to be
/// zeros before it is done (G9).
#[test]
fn g09_memory_that_is_being_cleared_is_pinned() {
    let mut bed = full(8 * MIB);
    bed.insert(0, 1, KEEP, 0, 8 * MIB);
    let store = bed.ramdisk.store();
    store.discard(0..MIB * PAGE);
    assert_eq!(
        store.allocated().unwrap(),
        8 * MIB * PAGE,
        "cleared in place"
    );
    bed.clock.settle();
    assert_eq!(bed.result(0, 1), Some(0));
    bed.ramdisk.store().discard(0..MIB * PAGE);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 7 * MIB * PAGE);
    bed.finish();
}

/// Memory that is not there is made first, and waited for as for a WRITE.
#[test]
fn h04_write_zeroes_with_nounmap_makes_absent_pages() {
    let mut bed = Bed::new(1, 8, 4 * MIB, MIB, SpaceOptions::default());
    bed.client.byte.store(0x11, Ordering::SeqCst);
    bed.fill(8);
    assert_eq!(bed.ended(1, KEEP, 0, MIB), 0);
    holds(&bed, 0..MIB, 0);
    assert_eq!(bed.stats().used - bed.stats().tables, MIB * PAGE);
    bed.finish();
}
