// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving of compressing a chunk with what clients do to it, on the store itself, with
//! chunks of two pages (E20, E21).
//!
//! Loom sees the words of pages and chunks, not the bytes of the mapping: that nobody touches those
//! at a wrong moment is seen by what is read.

use loom::sync::Arc;

use super::compress_bed::{self as bed, CHUNK, NOW, SMALL};
use super::Store;
use crate::ramdisk::chunks::BYTES;

/// The way to compressed memory and back has many steps, so loom changes threads twice at most
/// without being made to.
fn model(run: impl Fn() + Sync + Send + 'static) {
    bounded(2, run);
}

fn bounded(changes: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.max_branches = 10_000;
    model.preemption_bound = Some(changes);
    model.check(run);
}

/// A chunk whose bytes are all 7.
fn store() -> Arc<Store> {
    let store = bed::store(1);
    bed::write(&store, 0, &[7; BYTES]);
    Arc::new(store)
}

fn compress(store: &Store) -> bool {
    store.compress_cold(0..CHUNK, &NOW) > 0
}

/// Writes a 9 to each byte of a range.
fn write(store: &Store, range: std::ops::Range<u64>) {
    bed::write(
        store,
        range.start,
        &[9; BYTES][range.start as usize..range.end as usize],
    );
}

/// The byte that a page holds everywhere.
fn read(store: &Store, page: u64) -> u8 {
    let found = bed::read(store, page * SMALL..(page + 1) * SMALL);
    assert!(found.iter().all(|byte| *byte == found[0]), "of two minds");
    found[0]
}

fn read_both(store: &Store) -> [u8; 2] {
    [0, 1].map(|page| read(store, page))
}

/// The account is what the file holds, and everything can be given back.
fn at_rest(store: &Store) {
    bed::balanced(store);
    store.discard(0..CHUNK);
    assert_eq!(store.used(), store.table_bytes());
    bed::balanced(store);
    let stats = store.compression_stats();
    assert_eq!((stats.taken, stats.stand_for), (0, 0));
    // Nothing is claimed or locked.
    assert_eq!(store.states.try_claim(0..2), Some(0));
    drop(store.compression.get().unwrap().chunks.alone(0));
}

#[test]
fn loom_e21_a_read_beside_compressing_sees_the_same() {
    model(|| {
        let store = store();
        let other = store.clone();
        let reader = loom::thread::spawn(move || read(&other, 1));
        compress(&store);
        assert_eq!(reader.join().unwrap(), 7);
        at_rest(&store);
    });
}

/// The first page of a chunk becomes compressed before the last one does.
#[test]
fn loom_e21_a_write_beside_compressing_is_kept() {
    for (range, holds) in [(0..SMALL, [9, 7]), (SMALL..CHUNK, [7, 9])] {
        model(move || {
            let store = store();
            let (other, range) = (store.clone(), range.clone());
            let writer = loom::thread::spawn(move || write(&other, range));
            compress(&store);
            writer.join().unwrap();
            assert_eq!(read_both(&store), holds);
            at_rest(&store);
        });
    }
}

#[test]
fn loom_e21_a_discard_beside_compressing_is_done() {
    for (range, holds) in [(0..SMALL, [0, 7]), (0..CHUNK, [0, 0])] {
        model(move || {
            let store = store();
            let (other, range) = (store.clone(), range.clone());
            let discard = loom::thread::spawn(move || other.discard(range));
            compress(&store);
            discard.join().unwrap();
            assert_eq!(read_both(&store), holds);
            at_rest(&store);
        });
    }
}

#[test]
fn loom_e21_a_discard_of_sectors_beside_compressing_is_done() {
    model(|| {
        let store = store();
        let other = store.clone();
        let discard = loom::thread::spawn(move || other.discard(512..1024));
        compress(&store);
        discard.join().unwrap();
        let found = bed::read(&store, 0..CHUNK);
        assert_eq!(found[512..1024], [0; 512]);
        assert!(found[..512]
            .iter()
            .chain(&found[1024..])
            .all(|byte| *byte == 7));
        at_rest(&store);
    });
}

#[test]
fn loom_e20_a_read_beside_the_first_write_sees_the_same() {
    model(|| {
        let store = store();
        assert!(compress(&store));
        let other = store.clone();
        let reader = loom::thread::spawn(move || read(&other, 0));
        write(&store, SMALL..CHUNK);
        assert_eq!(reader.join().unwrap(), 7);
        assert_eq!(read_both(&store), [7, 9]);
        at_rest(&store);
    });
}

#[test]
fn loom_e20_a_discard_beside_the_first_write_takes_what_it_names() {
    model(|| {
        let store = store();
        assert!(compress(&store));
        let other = store.clone();
        let discard = loom::thread::spawn(move || other.discard(0..SMALL));
        write(&store, SMALL..CHUNK);
        discard.join().unwrap();
        assert_eq!(read_both(&store), [0, 9]);
        at_rest(&store);
    });
}

/// What was made to expand the chunk is not needed any more, or more is. One change of threads is
/// enough for that, and two take a minute.
#[test]
fn loom_e20_a_discard_of_all_beside_the_first_write_leaks_nothing() {
    for range in [0..SMALL, 0..CHUNK] {
        bounded(1, move || {
            let store = store();
            assert!(compress(&store));
            let (other, all) = (store.clone(), range.end == CHUNK);
            let discard = loom::thread::spawn(move || other.discard(0..CHUNK));
            write(&store, range.clone());
            discard.join().unwrap();
            // Which of the two comes last is open, page by page.
            let found = read_both(&store);
            assert!([0, 9].contains(&found[0]) && (found[1] == 0 || all && found[1] == 9));
            at_rest(&store);
        });
    }
}

#[test]
fn loom_e20_a_read_beside_a_discard_sees_the_old_bytes_or_zeros() {
    model(|| {
        let store = store();
        assert!(compress(&store));
        let other = store.clone();
        let reader = loom::thread::spawn(move || read(&other, 0));
        store.discard(0..CHUNK);
        assert!([0, 7].contains(&reader.join().unwrap()));
        at_rest(&store);
    });
}
