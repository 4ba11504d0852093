// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the store promises of compressed chunks, step by step, and against a model.

use std::time::Duration;

use super::compress::{first_pages, Cold};
use super::compress_bed::{balanced, read, store, write, CHUNK, NOW, SMALL};
use super::{Shortage, Store};
use crate::ramdisk::chunks::{self, Pack, BYTES, PAGE, PAGES};

const ALL: std::ops::Range<u64> = 0..u64::MAX;

/// Bytes that become about a quarter.
fn text(at: u64, len: u64, salt: u64) -> Vec<u8> {
    let byte = |at: u64| match at % 8 {
        0 => {
            ((at / 8)
                .wrapping_add(salt)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                >> 56) as u8
        }
        _ => salt as u8,
    };
    (at..at + len).map(byte).collect()
}

/// Bytes that do not become less.
fn noise(len: u64, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn e20_a_cold_chunk_takes_less_and_reads_as_before() {
    let store = store(4);
    let bytes = text(0, 3 * CHUNK, 1);
    write(&store, 0, &bytes);
    assert_eq!(store.allocated().unwrap(), 3 * CHUNK);
    let freed = store.compress_cold(ALL, &NOW);
    assert!(freed >= CHUNK, "{freed}");
    assert_eq!(
        store.allocated().unwrap(),
        3 * CHUNK - freed,
        "by st_blocks (E18)"
    );
    balanced(&store);
    let stats = store.compression_stats();
    assert_eq!((stats.compressed, stats.stand_for), (3, 3 * CHUNK));
    assert_eq!(stats.taken, 3 * CHUNK - freed);
    // Whole chunks, parts of them, and across their ends; all without a page more.
    for range in [0..3 * CHUNK, 512..1024, CHUNK - 512..2 * CHUNK + 4096] {
        let expected = &bytes[range.start as usize..range.end as usize];
        assert!(read(&store, range.clone()) == expected, "{range:?}");
    }
    assert_eq!(
        read(&store, 3 * CHUNK - 512..4 * CHUNK)[512..],
        vec![0; BYTES]
    );
    assert_eq!(store.allocated().unwrap(), 3 * CHUNK - freed);
    assert_eq!(store.compress_cold(ALL, &NOW), 0, "it is not done twice");
    assert!(
        store.pin_for_write(0..512).is_none(),
        "E9: a write needs memory"
    );
}

#[test]
fn e20_the_first_write_expands_the_chunk_and_no_other() {
    let store = store(3);
    let mut bytes = text(0, 3 * CHUNK, 2);
    write(&store, 0, &bytes);
    let freed = store.compress_cold(ALL, &NOW);
    write(&store, CHUNK + 5 * SMALL + 512, &[7; 512]);
    bytes[BYTES + 5 * PAGE + 512..][..512].fill(7);
    assert_eq!(store.allocated().unwrap(), 3 * CHUNK - freed / 3 * 2);
    balanced(&store);
    assert_eq!(store.compression_stats().expanded, 1);
    assert!(read(&store, 0..3 * CHUNK) == bytes);
    assert!(
        store.pin_for_write(CHUNK..2 * CHUNK).is_some(),
        "all of it is there"
    );
    store.unpin(CHUNK..2 * CHUNK);
    store.discard(0..3 * CHUNK);
    assert_eq!(store.allocated().unwrap(), 0);
    assert_eq!(store.used(), store.table_bytes());
    let stats = store.compression_stats();
    assert_eq!((stats.taken, stats.stand_for), (0, 0));
}

#[test]
fn e20_incompressible_chunks_stay_and_are_not_tried_again() {
    let store = store(2);
    let bytes = noise(CHUNK, 3);
    write(&store, 0, &bytes);
    // One page of sixteen would be saved, and one is needed for what LZ4 adds.
    let mut nearly = noise(CHUNK, 4);
    nearly[..100].fill(0);
    write(&store, CHUNK, &nearly);
    assert_eq!(store.compress_cold(ALL, &NOW), 0);
    assert_eq!(store.allocated().unwrap(), 2 * CHUNK);
    let look = store.states.look(chunks::pages(0)).unwrap();
    let all = store.compression.get().unwrap();
    assert!(!all.chunks.rests(0, look, 0, 0), "until it is used");
    assert!(read(&store, 0..CHUNK) == bytes);
    let used = store.states.look(chunks::pages(0)).unwrap();
    assert!(all.chunks.rests(0, used, 0, 0));
}

#[test]
fn e20_holes_of_a_chunk_stay_holes() {
    let store = store(1);
    let bytes = text(0, SMALL, 5);
    for page in [3, 4, 9] {
        write(&store, page * SMALL, &bytes);
    }
    assert_eq!(store.compress_cold(ALL, &NOW), 2 * SMALL);
    assert_eq!(store.allocated().unwrap(), SMALL);
    write(&store, 9 * SMALL, &bytes[..512]);
    assert_eq!(
        store.allocated().unwrap(),
        3 * SMALL,
        "no more than there was"
    );
    let mut expected = vec![0; BYTES];
    for page in [3, 4, 9] {
        expected[page * PAGE..][..PAGE].copy_from_slice(&bytes);
    }
    assert!(read(&store, 0..CHUNK) == expected);
    // A write into a hole of a compressed chunk makes that page too.
    store.compress_cold(ALL, &NOW);
    assert_eq!(store.allocated().unwrap(), SMALL);
    write(&store, 0, &bytes[..512]);
    expected[..512].copy_from_slice(&bytes[..512]);
    assert_eq!(store.allocated().unwrap(), 4 * SMALL);
    balanced(&store);
    assert!(read(&store, 0..CHUNK) == expected);
}

#[test]
fn e20_a_part_of_a_compressed_chunk_is_discarded_without_memory() {
    let store = store(2);
    let mut bytes = text(0, CHUNK, 6);
    bytes[..12 * PAGE].copy_from_slice(&noise(12 * SMALL, 6));
    write(&store, 0, &bytes);
    assert!(store.compress_cold(ALL, &NOW) > 0);
    let before = store.allocated().unwrap();
    store.set_memory_limit(store.used());
    // A sector and a half of the pages: what they held is forgotten, what is left takes less.
    store.discard(512..1024);
    store.discard(4 * SMALL - 512..12 * SMALL + 512);
    bytes[512..1024].fill(0);
    bytes[4 * PAGE - 512..12 * PAGE + 512].fill(0);
    assert!(read(&store, 0..CHUNK) == bytes);
    let after = store.allocated().unwrap();
    assert!(before - after >= 8 * SMALL, "{before} {after}");
    balanced(&store);
    store.set_memory_limit(0);
    // Expanded, the discarded pages are not made again.
    write(&store, 0, &bytes[..512]);
    assert_eq!(store.allocated().unwrap(), 8 * SMALL);
    assert!(read(&store, 0..CHUNK) == bytes);
    balanced(&store);
    assert_eq!(store.compression_stats().taken, 0);
}

#[test]
fn e20_what_is_left_of_a_chunk_may_be_less_than_its_copy_takes() {
    let store = store(1);
    let mut bytes = text(0, CHUNK, 13);
    bytes[..PAGE].copy_from_slice(&noise(SMALL, 13));
    write(&store, 0, &bytes);
    assert!(store.compress_cold(ALL, &NOW) > 0);
    store.discard(SMALL..CHUNK);
    assert_eq!(store.allocated().unwrap(), 2 * SMALL, "LZ4 adds some bytes");
    balanced(&store);
    write(&store, 0, &bytes[..512]);
    assert_eq!(store.allocated().unwrap(), SMALL);
    balanced(&store);
    bytes[PAGE..].fill(0);
    assert!(read(&store, 0..CHUNK) == bytes);
}

#[test]
fn e20_output_is_written_where_it_is_so_a_full_store_can_be_compressed() {
    let store = store(4);
    let bytes = text(0, 4 * CHUNK, 7);
    write(&store, 0, &bytes);
    store.set_memory_limit(store.used());
    let freed = store.compress_cold(ALL, &NOW);
    assert!(freed > 2 * CHUNK);
    // Two can be expanded in what that freed, and with a smaller limit none.
    write(&store, 0, &bytes[..512]);
    write(&store, CHUNK, &bytes[BYTES..BYTES + 512]);
    store.set_memory_limit(store.used() + SMALL);
    let (used, result) = (store.used(), store.populate(2 * CHUNK..2 * CHUNK + 512));
    assert!(matches!(result, Err(Shortage::Budget)));
    // All of a request or none of it (E7): that one of its chunks could be expanded is not enough.
    assert!(store.populate(2 * CHUNK - 512..3 * CHUNK).is_err());
    store.set_memory_limit(used + CHUNK);
    assert!(store.populate(2 * CHUNK..4 * CHUNK).is_err());
    assert_eq!(store.used(), used);
    balanced(&store);
    assert_eq!(store.compression_stats().expanded, 2);
    assert!(read(&store, 0..4 * CHUNK) == bytes);
}

#[test]
fn e21_a_pinned_chunk_is_not_compressed_and_a_used_one_is_not_cold() {
    let store = store(2);
    write(&store, 0, &text(0, 2 * CHUNK, 8));
    let page = CHUNK + 3 * SMALL..CHUNK + 3 * SMALL + 512;
    assert!(store.pin_for_write(page.clone()).is_some());
    store.compress_cold(ALL, &NOW);
    assert_eq!(store.compression_stats().compressed, 1);
    store.unpin(page.clone());
    let at = |millis| Cold {
        now: Duration::from_millis(millis),
        idle: Duration::from_millis(1000),
    };
    store.look_for_cold(ALL, &at(0));
    assert_eq!(store.compress_cold(ALL, &at(999)), 0);
    let _ = read(&store, page);
    assert_eq!(store.compress_cold(ALL, &at(1000)), 0, "it was read");
    assert_eq!(store.compress_cold(ALL, &at(1999)), 0);
    assert!(store.compress_cold(ALL, &at(2000)) > 0);
}

/// Between the copy and the swap the chunk is anybody's.
#[test]
fn e21_what_is_written_while_a_chunk_is_compressed_is_kept() {
    let store = store(1);
    let mut bytes = text(0, CHUNK, 9);
    write(&store, 0, &bytes);
    let all = store.compression.get().unwrap();
    let scratch = &mut *all.pool.take();
    // As many uses as the word can count are none.
    let uses: u64 = 16;
    let present = store.copy_chunk(0, scratch).expect("nobody uses it");
    let len = scratch.pack();
    for n in 0..uses {
        write(&store, 5 * SMALL, &[n as u8; 512]);
    }
    bytes[5 * PAGE..][..512].fill(uses as u8 - 1);
    assert_eq!(store.swap_chunk(all, 0, present, scratch, len), 0);
    assert!(read(&store, 0..CHUNK) == bytes);
    let present = store.copy_chunk(0, scratch).expect("nobody uses it");
    store.discard(0..SMALL);
    bytes[..PAGE].fill(0);
    let len = scratch.pack();
    assert_eq!(
        store.swap_chunk(all, 0, present, scratch, len),
        0,
        "a page is gone"
    );
    let present = store.copy_chunk(0, scratch).expect("nobody uses it");
    let len = scratch.pack();
    write(&store, 0, &[3; 512]);
    bytes[..512].fill(3);
    assert_eq!(
        store.swap_chunk(all, 0, present, scratch, len),
        0,
        "a page has come"
    );
    assert!(read(&store, 0..CHUNK) == bytes);
    let present = store.copy_chunk(0, scratch).expect("nobody uses it");
    let len = scratch.pack();
    assert!(store.swap_chunk(all, 0, present, scratch, len) > 0);
    assert!(read(&store, 0..CHUNK) == bytes);
    balanced(&store);
}

/// Memory that fails is nobody's data, and keeps nobody from his.
#[test]
fn e20_a_damaged_copy_is_never_read_as_data() {
    let store = store(2);
    let bytes = text(0, 2 * CHUNK, 12);
    write(&store, 0, &bytes);
    assert!(store.compress_cold(ALL, &NOW) > 0);
    let chunks = &store.compression.get().unwrap().chunks;
    let pack = chunks.pack(0);
    // One is no LZ4 at all; the other is, of fewer bytes than a chunk has.
    let short = lz4_flex::block::compress(&bytes[..512]);
    for (damaged, len) in [(&[0xff; PAGE][..], pack.len), (&short, short.len() as u16)] {
        store.store_pages(0, first_pages(pack.pages, 1), damaged);
        chunks.set_pack(0, Pack { len, ..pack });
        // More often than there are buffers.
        for _ in 0..2 + std::thread::available_parallelism().map_or(1, usize::from) {
            let read = std::panic::AssertUnwindSafe(|| read(&store, 0..512));
            assert!(std::panic::catch_unwind(read).is_err());
        }
        assert!(read(&store, CHUNK..2 * CHUNK) == bytes[BYTES..]);
    }
}

#[test]
fn e20_a_compressed_tail_is_cut_off() {
    let store = store(4);
    let bytes = text(0, 4 * CHUNK, 10);
    write(&store, 0, &bytes);
    store.compress_cold(ALL, &NOW);
    let size = CHUNK + 3 * SMALL;
    store.shrink(size);
    assert!(store.free_tail(4 * CHUNK));
    assert!(read(&store, 0..size) == bytes[..size as usize]);
    store.grow(4 * CHUNK).unwrap();
    let mut expected = bytes;
    expected[size as usize..].fill(0);
    assert!(read(&store, 0..4 * CHUNK) == expected);
}

#[test]
fn i2_what_outlives_the_process_or_has_huge_pages_is_not_compressed() {
    let path = std::env::temp_dir().join(format!("ublk-e20-{}", std::process::id()));
    let path = std::path::Path::new("/dev/shm").join(path.file_name().unwrap());
    match Store::in_file(&path, 2 * CHUNK, false) {
        Ok(store) => {
            let refused = store.enable_compression();
            std::fs::remove_file(&path).unwrap();
            assert!(refused.unwrap_err().to_string().contains("backing file"));
        }
        Err(error) => println!("SKIP the half about a file: {error}"),
    }
}

/// Random operations against a model, single-threaded: whatever is compressed in between, and
/// however full the store is, a read returns what was written.
#[test]
fn e21_compressing_never_changes_what_is_read() {
    const CHUNKS: u64 = 6;
    let store = store(CHUNKS);
    let mut model = vec![0_u8; CHUNKS as usize * BYTES];
    let mut state = 11_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    let sectors = CHUNKS * CHUNK / 512;
    for round in 0..3000 {
        let first = random(sectors);
        let count = 1 + random((sectors - first).min(3 * CHUNK / 512));
        let (at, len) = (first * 512, count * 512);
        let range = at as usize..(at + len) as usize;
        match random(8) {
            0 | 1 => {
                let bytes = match random(3) {
                    0 => noise(len, round),
                    _ => text(at, len, round),
                };
                write(&store, at, &bytes);
                model[range].copy_from_slice(&bytes);
            }
            2 | 3 => {
                store.discard(at..at + len);
                model[range].fill(0);
            }
            4 => drop(store.reclaim_zeros(ALL)),
            5 => drop(store.compress_cold(at..at + len, &NOW)),
            _ => assert!(read(&store, at..at + len) == model[range], "round {round}"),
        }
        balanced(&store);
    }
    assert!(read(&store, 0..CHUNKS * CHUNK) == model);
    let stats = store.compression_stats();
    assert!(stats.compressed > 100 && stats.expanded > 50, "{stats:?}");
    store.discard(0..CHUNKS * CHUNK);
    assert_eq!(store.used(), store.table_bytes());
    assert_eq!(PAGES * PAGE, BYTES);
}

/// The same with threads: readers, writers and discards of parts of their own, of chunks that they
/// share, while everything that nobody uses at the moment is compressed.
#[test]
fn e21_compressing_beside_requests_never_changes_what_is_read() {
    use std::sync::atomic::{AtomicBool, Ordering};
    const THREADS: u64 = 3;
    const ROUNDS: u64 = 400;
    const SPAN: u64 = 2 * CHUNK;
    let store = store(SPAN * THREADS / CHUNK);
    let over = AtomicBool::new(false);
    // Only one thread makes memory at a time, as in a server.
    let allocator = std::sync::Mutex::new(());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (store, allocator) = (&store, &allocator);
                scope.spawn(move || {
                    // Every third page is this thread's.
                    let mine = |page: u64| (page * THREADS + thread) * SMALL;
                    let pages = SPAN / SMALL;
                    let mut model = vec![vec![0_u8; PAGE]; pages as usize];
                    let mut state = thread + 1;
                    let mut random = |below: u64| {
                        state = state
                            .wrapping_mul(6364136223846793005)
                            .wrapping_add(1442695040888963407);
                        (state >> 33) % below
                    };
                    for round in 0..ROUNDS {
                        let page = random(pages);
                        let held = &mut model[page as usize];
                        let at = mine(page);
                        match random(4) {
                            0 => {
                                let bytes = text(at, SMALL, round);
                                let _alone = allocator.lock().unwrap();
                                write(store, at, &bytes);
                                *held = bytes;
                            }
                            1 => {
                                store.discard(at + 512..at + SMALL);
                                held[512..].fill(0);
                            }
                            2 => {
                                store.discard(at..at + SMALL);
                                held.fill(0);
                            }
                            _ => assert!(
                                read(store, at..at + SMALL) == *held,
                                "round {round} of {thread}"
                            ),
                        }
                    }
                    for page in 0..pages {
                        let at = mine(page);
                        assert!(read(store, at..at + SMALL) == model[page as usize]);
                    }
                })
            })
            .collect();
        let (store, over) = (&store, &over);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                store.reclaim_zeros(ALL);
                store.compress_cold(ALL, &NOW);
            }
        });
        let failed = workers.into_iter().filter_map(|worker| worker.join().err());
        let failed: Vec<_> = failed.collect();
        over.store(true, Ordering::Relaxed);
        assert!(failed.is_empty(), "{} failed", failed.len());
    });
    balanced(&store);
    assert!(store.compression_stats().compressed > 0);
    store.discard(0..store.size());
    assert_eq!(store.used(), store.table_bytes());
    let stats = store.compression_stats();
    assert_eq!((stats.taken, stats.stand_for), (0, 0));
}
