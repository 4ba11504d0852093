// SPDX-License-Identifier: MIT OR Apache-2.0
//! A write makes its memory itself while there is plenty; otherwise memory is made outside queue_rq,
//! and the request is run again when it is there (E8, W14).

use super::common::*;
use ublk_ramdisk::mq::*;
use ublk_ramdisk::ramdisk::space::SpaceOptions;
use workqueue::VirtualClock;

#[test]
fn e08_a_write_to_absent_pages_is_refused_and_served_when_they_are_made() {
    let mut bed = Bed::new(1, 8, 64, 0, SpaceOptions::default());
    assert_eq!(bed.ended(0, Op::Write, 3, 4), 4 * PAGE as i32);
    let counted = bed.mirror.counters(0);
    assert!(counted.refused_by.memory > 0);
    assert_eq!(counted.refused_by.total(), counted.refused_by.memory);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 4 * PAGE);
    let refused = counted.refused_by.memory;
    assert_eq!(bed.ended(1, Op::Write, 4, 2), 2 * PAGE as i32);
    let again = bed.mirror.counters(0).refused_by.memory;
    assert_eq!(again, refused, "pages that are there are written at once");
    assert_eq!(bed.ended(2, Op::Read, 0, 64), 64 * PAGE as i32);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 4 * PAGE);
    bed.finish();
}

/// The machine keeps a twentieth of its memory, its reserve, and twice 64 MiB: 196.2 MiB of 1 GiB.
const PLENTY_KIB: u64 = 200_909;

#[test]
fn e08_a_write_makes_its_memory_itself_while_there_is_plenty() {
    let machine = Machine::new("plenty");
    machine.has(PLENTY_KIB);
    let disk = |options| {
        let disk = Bed::ramdisk(64, options);
        disk.watch_memory(machine.headroom());
        disk
    };
    // The pages of zeros below are to stay.
    let keep_zeros = SpaceOptions {
        reclaim: false,
        ..SpaceOptions::default()
    };
    let mut bed = Bed::of(disk(keep_zeros), VirtualClock::in_turns(), (2, 8), 8);
    let refused = |bed: &Bed| bed.mirror.counters(0).refused_by.memory;
    assert_eq!(bed.ended(0, Op::Write, 0, 4), 4 * PAGE as i32);
    let keep = Op::WriteZeroes { unmap: false };
    assert_eq!(bed.ended(0, keep, 2, 4), 0);
    assert_eq!(refused(&bed), 0);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 6 * PAGE);
    // Behind its limit it waits, as ever, and what needs memory behind it waits as well.
    bed.write(1, 10);
    bed.write(2, 11);
    bed.write(3, 12);
    bed.exhausted(1);
    assert!(refused(&bed) > 0);
    bed.limit(64);
    for tag in 1..=3 {
        assert_eq!(bed.end_of(0, tag), PAGE as i32);
    }
    let before = refused(&bed);
    machine.has(PLENTY_KIB - 1);
    bed.advance(S);
    assert_eq!(bed.ended(0, Op::Write, 20, 1), PAGE as i32);
    assert!(refused(&bed) > before, "there is not plenty any more");
    bed.finish();

    machine.has(PLENTY_KIB);
    let busy = SpaceOptions {
        at_once: false,
        ..SpaceOptions::default()
    };
    let mut bed = Bed::of(disk(busy), VirtualClock::in_turns(), (1, 8), 0);
    assert_eq!(bed.ended(0, Op::Write, 0, 4), 4 * PAGE as i32);
    assert!(refused(&bed) > 0, "--first-write busy");
    bed.finish();
}

#[test]
fn e08_write_zeroes_that_keep_memory_make_it() {
    let mut bed = Bed::new(1, 8, 64, 0, SpaceOptions::default());
    let keep = Op::WriteZeroes { unmap: false };
    assert_eq!(bed.ended(0, keep, 8, 16), 0);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 16 * PAGE);
    let free = Op::WriteZeroes { unmap: true };
    assert_eq!(bed.ended(0, free, 8, 4), 0);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 12 * PAGE);
    bed.finish();
}

/// With the net off a wake-up that is missed is missed for ever.
#[test]
fn w14_no_wake_up_is_missed_on_many_queues_at_once() {
    const QUEUES: u16 = 8;
    const DEPTH: u16 = 16;
    const ROUNDS: u64 = 100;
    let mut bed = Bed::at_once(QUEUES, DEPTH, 4096, 0);
    for round in 0..ROUNDS {
        for queue in 0..QUEUES {
            for tag in 0..DEPTH {
                let page = (u64::from(queue) * 16 + u64::from(tag)) * 32 + round % 32;
                bed.insert(queue, tag, Op::Write, page, 1);
            }
        }
        for queue in 0..QUEUES {
            for tag in 0..DEPTH {
                assert_eq!(bed.end_of(queue, tag), PAGE as i32, "round {round}");
            }
        }
        if round % 32 == 31 {
            assert_eq!(bed.ended(0, Op::Discard, 0, 4096), 0);
        }
    }
    assert!(bed.stats().populated > 0);
    bed.finish();
}

/// Whatever happened to the requests, use is what it was (E7).
#[test]
fn e07_random_writes_and_discards_leak_nothing() {
    const TAGS: u16 = 32;
    let mut bed = Bed::at_once(1, TAGS, 256, 64);
    let mut random = 7_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
        (random >> 33) % below
    };
    for _ in 0..2000 {
        for tag in 0..TAGS / 2 {
            let (page, pages) = (next(240), 1 + next(15));
            bed.insert(0, tag, Op::Write, page, pages);
        }
        // Those that help: as in a file system, discards come while writes wait.
        let mut tag = TAGS / 2;
        let begun = std::time::Instant::now();
        while (0..TAGS / 2).any(|tag| bed.mirror.queue().get(0, tag).is_some())
            || bed.client.ends.lock().unwrap().len() < usize::from(TAGS / 2)
        {
            assert_eq!(bed.ended(tag, Op::Discard, next(200), 56), 0);
            tag = TAGS / 2 + (tag + 1) % (TAGS / 2);
            let stats = bed.stats();
            assert!(begun.elapsed() < HUNG, "a write never ended: {stats:?}");
        }
        for tag in 0..TAGS / 2 {
            let result = bed.end_of(0, tag);
            assert!(result > 0 || result == NOSPC, "{result}");
        }
    }
    assert_eq!(bed.ended(0, Op::Discard, 0, 256), 0);
    let stats = bed.stats();
    assert_eq!(stats.used, stats.tables);
    bed.finish();
}
