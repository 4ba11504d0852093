// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cold chunks are compressed when memory is short, read as they are, and expanded by the first
//! write (E9, E18, E20, E21), with workqueues that have their turn when the test settles the clock.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::common::*;
use ublk_ramdisk::mq::*;
use ublk_ramdisk::ramdisk::space::SpaceOptions;
use ublk_ramdisk::ramdisk::{Mode, Patience};
use workqueue::VirtualClock;

const CHUNK: u64 = 16;
const IDLE: Duration = Duration::from_secs(8);

fn compressing(pages: u64, limit: u64, options: SpaceOptions) -> Bed {
    Bed::new(1, 8, pages, limit, options)
}

fn options() -> SpaceOptions {
    SpaceOptions {
        compress_after: Some(IDLE),
        ..SpaceOptions::default()
    }
}

/// Writes a chunk of one byte, which becomes a page.
#[track_caller]
fn write(bed: &mut Bed, tag: u16, page: u64, pages: u64, byte: u8) {
    bed.client.byte.store(byte, Ordering::SeqCst);
    bed.insert(0, tag, Op::Write, page, pages);
    bed.clock.settle();
}

/// The result of a request after everybody had his turn.
#[track_caller]
fn ended(bed: &mut Bed, tag: u16, op: Op, page: u64, pages: u64) -> i32 {
    bed.insert(0, tag, op, page, pages);
    bed.clock.settle();
    bed.result(0, tag).expect("it has ended")
}

/// What a request for these pages would be given.
fn read(bed: &Bed, page: u64, pages: u64) -> Vec<u8> {
    let (store, mut found) = (bed.ramdisk.store(), Vec::new());
    let range = page * PAGE..(page + pages) * PAGE;
    let _what = store.pin_for_read(range.clone());
    store.runs(range.clone(), &mut |run| match run {
        Run::Memory(from, len) => {
            // SAFETY: the run is there for the length of the call, and nobody writes to it.
            let bytes = unsafe { std::slice::from_raw_parts(from.as_ptr(), len) };
            found.extend_from_slice(bytes);
        }
        Run::Zeros(len) => found.resize(found.len() + len, 0),
    });
    store.unpin(range);
    found
}

#[track_caller]
fn holds(bed: &Bed, page: u64, pages: u64, byte: u8) {
    assert!(read(bed, page, pages) == vec![byte; (pages * PAGE) as usize]);
}

#[test]
fn e20_cold_chunks_are_compressed_when_memory_is_short() {
    let mut bed = compressing(8 * CHUNK, 4 * CHUNK, options());
    for chunk in 0..4 {
        write(&mut bed, 0, chunk * CHUNK, CHUNK, 1 + chunk as u8);
        assert_eq!(bed.result(0, 0), Some((CHUNK * PAGE) as i32));
    }
    write(&mut bed, 1, 4 * CHUNK, CHUNK, 5);
    // All of it has just been used: the store is exhausted, for now.
    assert_eq!(
        (bed.stats().mode, bed.result(0, 1)),
        (Mode::Exhausted, None)
    );
    assert_eq!(bed.stats().compressed, 0);
    // One of the four goes on being used.
    for _ in 0..4 {
        bed.clock.advance(IDLE / 4);
        assert_eq!(ended(&mut bed, 2, Op::Read, 2 * CHUNK + 3, 1), PAGE as i32);
        bed.clock.settle();
    }
    bed.clock.advance(IDLE / 4);
    bed.clock.settle();
    assert_eq!(bed.result(0, 1), Some((CHUNK * PAGE) as i32));
    let stats = bed.stats();
    assert_eq!(stats.mode, Mode::Enough);
    assert_eq!(
        (stats.compressed, stats.uncompressed),
        (3 * PAGE, 3 * CHUNK * PAGE)
    );
    assert_eq!(
        bed.ramdisk.store().allocated().unwrap(),
        (2 * CHUNK + 3) * PAGE
    );
    for chunk in 0..5 {
        holds(&bed, chunk * CHUNK, CHUNK, 1 + chunk as u8);
    }
    assert_eq!(
        ended(&mut bed, 0, Op::Read, 0, 5 * CHUNK),
        (5 * CHUNK * PAGE) as i32
    );
    assert_eq!(
        bed.stats().compressed,
        3 * PAGE,
        "reads leave them as they are"
    );
    bed.finish();
}

#[test]
fn e20_a_write_to_a_compressed_chunk_waits_for_memory_and_others_do_not() {
    let options = SpaceOptions {
        patience: Patience::Forever,
        ..options()
    };
    let mut bed = compressing(8 * CHUNK, 2 * CHUNK, options);
    write(&mut bed, 0, 0, CHUNK, 1);
    write(&mut bed, 0, CHUNK, CHUNK, 2);
    bed.clock.advance(IDLE / 4);
    write(&mut bed, 1, 2 * CHUNK, CHUNK, 3);
    for _ in 0..5 {
        bed.clock.advance(IDLE / 4);
        bed.clock.settle();
    }
    assert_eq!(bed.stats().compressed, 2 * PAGE);
    // One is taken up by what has just been written; a second needs what is not there.
    let free = 2 * CHUNK - (CHUNK + 2);
    write(&mut bed, 2, 4 * CHUNK, free, 4);
    let _ = bed.client.ends.lock().unwrap().drain(..);
    write(&mut bed, 3, 5, 1, 9);
    assert_eq!(bed.result(0, 3), None);
    assert_eq!((bed.stats().parked, bed.stats().mode), (1, Mode::Exhausted));
    holds(&bed, 0, CHUNK, 1);
    assert_eq!(
        ended(&mut bed, 4, Op::Read, 0, 2 * CHUNK),
        (2 * CHUNK * PAGE) as i32
    );
    write(&mut bed, 5, 2 * CHUNK, 1, 8);
    assert_eq!(bed.result(0, 5), Some(PAGE as i32), "E9: its page is there");
    // A discard of a compressed chunk is exempt, too, and makes room of a page.
    assert_eq!(ended(&mut bed, 6, Op::Discard, CHUNK, CHUNK), 0);
    bed.clock.settle();
    assert_eq!((bed.result(0, 3), bed.stats().compressed), (None, PAGE));
    bed.client.byte.store(9, Ordering::SeqCst);
    assert_eq!(ended(&mut bed, 7, Op::Discard, 4 * CHUNK, free), 0);
    assert_eq!(bed.result(0, 3), Some(PAGE as i32));
    assert_eq!((bed.stats().compressed, bed.stats().expansions), (0, 1));
    holds(&bed, 0, 5, 1);
    holds(&bed, 5, 1, 9);
    holds(&bed, 6, CHUNK - 6, 1);
    bed.finish();
}

#[test]
fn e20_everything_cold_is_compressed_now_and_then_if_asked_for() {
    let options = SpaceOptions {
        reclaim_every: Some(IDLE),
        ..options()
    };
    let mut bed = compressing(8 * CHUNK, 0, options);
    write(&mut bed, 0, 3, 5 * CHUNK, 7);
    for _ in 0..8 {
        bed.clock.advance(IDLE / 4);
        bed.clock.settle();
    }
    let stats = bed.stats();
    assert_eq!(
        (stats.compressions, stats.uncompressed),
        (6, 5 * CHUNK * PAGE)
    );
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 6 * PAGE, "E18");
    assert_eq!(ended(&mut bed, 1, Op::Discard, 0, 8 * CHUNK), 0);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 0, "E18");
    assert_eq!(bed.stats().used, bed.stats().tables, "E7");
    bed.finish();
}

#[test]
fn e20_compression_begins_on_a_live_disk() {
    let mut bed = Bed::new(1, 8, 4 * CHUNK, 2 * CHUNK, SpaceOptions::default());
    write(&mut bed, 0, 0, 2 * CHUNK, 1);
    write(&mut bed, 1, 2 * CHUNK, CHUNK, 2);
    assert_eq!(
        (bed.stats().mode, bed.result(0, 1)),
        (Mode::Exhausted, None)
    );
    bed.ramdisk.store().enable_compression().unwrap();
    bed.limit(2 * CHUNK);
    bed.ramdisk.set_reclaim(true, Some(IDLE));
    bed.clock.settle();
    for _ in 0..4 {
        bed.clock.advance(IDLE / 4);
        bed.clock.settle();
    }
    assert_eq!(bed.result(0, 1), Some((CHUNK * PAGE) as i32));
    holds(&bed, 0, 2 * CHUNK, 1);
    bed.ramdisk.set_reclaim(false, None);
    bed.clock.advance(10 * IDLE);
    bed.clock.settle();
    assert_eq!(bed.stats().compressions, 2, "and ends");
    bed.finish();
}

/// With real threads, three times as much as there may be, and everything compressed at once that
/// nobody uses: whatever is read is what was written, and nothing leaks (E7).
#[test]
fn e21_written_and_discarded_at_random_on_a_disk_that_is_compressed_all_the_time() {
    const CHUNKS: u64 = 12;
    let options = SpaceOptions {
        compress_after: Some(Duration::ZERO),
        ..SpaceOptions::default()
    };
    let (clock, most) = (VirtualClock::new(), CHUNKS * CHUNK / 3);
    let mut bed = Bed::on(clock, (1, 8), CHUNKS * CHUNK, most, options);
    let mut model = vec![0_u8; (CHUNKS * CHUNK) as usize];
    let mut state = 5_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    for round in 0..600_u64 {
        let page = random(CHUNKS * CHUNK);
        let pages = 1 + random((CHUNKS * CHUNK - page).min(20));
        let held = &mut model[page as usize..(page + pages) as usize];
        let byte = 1 + (round % 250) as u8;
        match random(4) {
            0 => {
                assert_eq!(bed.ended(0, Op::Discard, page, pages), 0);
                held.fill(0);
            }
            1 => {
                let read = read(&bed, page, pages);
                let right = read.chunks(PAGE as usize).zip(&*held);
                for (page, byte) in right {
                    assert!(page.iter().all(|found| found == byte), "round {round}");
                }
            }
            _ => {
                bed.client.byte.store(byte, Ordering::SeqCst);
                let end = bed.ended(0, Op::Write, page, pages);
                assert_eq!(end, (pages * PAGE) as i32, "round {round}");
                held.fill(byte);
            }
        }
    }
    assert!(bed.stats().compressions > 0 && bed.stats().expansions > 0);
    assert_eq!(bed.ended(0, Op::Discard, 0, CHUNKS * CHUNK), 0);
    bed.until("everything has come back", || {
        let now = bed.stats();
        (now.used - now.tables, now.compressed, now.uncompressed) == (0, 0, 0)
    });
    bed.finish();
}
