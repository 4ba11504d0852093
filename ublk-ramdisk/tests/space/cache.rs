// SPDX-License-Identifier: MIT OR Apache-2.0
//! A volatile cache on the way of requests: what is kept is memory like any other, FUA and FLUSH flush,
//! and a disk without power ends everything.

use std::sync::atomic::Ordering;

use ublk_ramdisk::mq::Op;
use ublk_ramdisk::ramdisk::space::SpaceOptions;
use ublk_ramdisk::ramdisk::store::{Keep, PowerCut, Readable};
use ublk_ramdisk::ramdisk::Mode;
use workqueue::VirtualClock;

use crate::common::*;

const EIO: i32 = -libc::EIO;

fn bed(queues: u16) -> Bed {
    let ramdisk = Bed::ramdisk(64, SpaceOptions::default());
    let store = ramdisk.store();
    store.keep_flushed(None, false).expect("an undo area");
    Bed::of(ramdisk, VirtualClock::in_turns(), (queues, 8), 0)
}

/// First bytes of the first pages.
fn found<const N: usize>(bed: &Bed) -> [u8; N] {
    let store = bed.ramdisk.store();
    std::array::from_fn(|page| {
        let range = page as u64 * PAGE..page as u64 * PAGE + 1;
        let byte = match store.pin_for_read(range.clone()) {
            // SAFETY: the page is present and pinned.
            Readable::Memory(from) => unsafe { from.read_volatile() },
            _ => 0,
        };
        store.unpin(range);
        byte
    })
}

fn write(bed: &mut Bed, page: u64, byte: u8, is_fua: bool) {
    bed.client.byte.store(byte, Ordering::SeqCst);
    bed.insert_with(0, 0, Op::Write, page, 1, is_fua);
    assert_eq!(bed.end_of(0, 0), PAGE as i32);
}

fn cut(bed: &Bed) {
    let (keep, seed, piece) = (Keep::None, 0, 4096);
    let store = bed.ramdisk.store();
    assert!(store.switch_off(&PowerCut { keep, seed, piece }));
    bed.mirror.queue().run_hw_queues(true);
    bed.until("nothing is in use", || {
        bed.ramdisk.lose_unflushed().is_some()
    });
}

#[test]
fn h13_a_flush_and_a_write_with_fua_are_not_lost() {
    let mut bed = bed(1);
    (0..4).for_each(|page| write(&mut bed, page, 1, false));
    assert_eq!(bed.ended(0, Op::Flush, 0, 0), 0);
    (0..3).for_each(|page| write(&mut bed, page, 2, false));
    write(&mut bed, 1, 3, true);
    write(&mut bed, 2, 4, false);
    write(&mut bed, 5, 5, true);
    assert_eq!(bed.ended(0, Op::WriteZeroes { unmap: false }, 3, 1), 0);
    assert_eq!(bed.ended(0, Op::Discard, 2, 1), 0);
    assert_eq!(bed.stats().unflushed, Some(3));
    cut(&bed);
    assert!(bed.ramdisk.store().switch_on());
    assert_eq!(found(&bed), [1, 3, 0, 1, 0, 5]);
    bed.finish();
}

/// An overwrite waits as a first write does, and a FLUSH makes room, also when writes fail already.
#[test]
fn h14_a_flush_makes_room_for_a_write_that_waits() {
    let mut bed = bed(1);
    (0..4).for_each(|page| write(&mut bed, page, 1, false));
    assert_eq!(bed.ended(0, Op::Flush, 0, 0), 0);
    bed.limit(5);
    write(&mut bed, 0, 2, false);
    bed.write(1, 1);
    bed.exhausted(1);
    assert_eq!(bed.ended(2, Op::Read, 1, 1), PAGE as i32, "past it (E10)");
    write(&mut bed, 0, 3, false);
    assert_eq!(bed.ended(2, Op::Flush, 0, 0), 0);
    assert_eq!(bed.end_of(0, 1), PAGE as i32);
    bed.write(1, 2);
    bed.exhausted(1);
    bed.advance(120 * S);
    assert_eq!(bed.end_of(0, 1), NOSPC);
    assert_eq!(bed.ended(2, Op::Flush, 0, 0), 0);
    bed.until("there is room", || bed.stats().mode == Mode::Enough);
    write(&mut bed, 3, 4, false);
    assert_eq!(found(&bed), [3, 3, 1, 4]);
    bed.finish();
}

/// Also requests that wait for memory, whose entries and pins go.
#[test]
fn h15_a_disk_without_power_ends_what_waits() {
    let mut bed = bed(2);
    (0..4).for_each(|page| write(&mut bed, page, 1, false));
    assert_eq!(bed.ended(0, Op::Flush, 0, 0), 0);
    write(&mut bed, 0, 2, false);
    bed.limit(5);
    bed.write(1, 1);
    bed.insert(1, 1, Op::Write, 9, 2);
    bed.exhausted(2);
    cut(&bed);
    assert_eq!([bed.end_of(0, 1), bed.end_of(1, 1)], [EIO; 2]);
    let ops = [Op::Read, Op::Write, Op::Flush, Op::Discard];
    let zeroes = [true, false].map(|unmap| Op::WriteZeroes { unmap });
    for op in ops.into_iter().chain(zeroes) {
        let pages = u64::from(op != Op::Flush);
        assert_eq!(bed.ended(3, op, 1, pages), EIO, "{op:?}");
    }
    assert!(bed.ramdisk.store().switch_on());
    bed.limit(64);
    write(&mut bed, 9, 7, false);
    assert_eq!(found(&bed), [1, 1, 1, 1]);
    bed.finish();
}
