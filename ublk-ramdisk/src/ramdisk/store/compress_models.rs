// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving of compressing a chunk with what clients do to it, on the store itself, with
//! chunks of two pages (E20, E21).
//!
//! Loom sees the words of pages and chunks, not the bytes of the mapping: that nobody touches those
//! at a wrong moment is seen by what is read.

use std::time::Duration;

use loom::sync::Arc;

use super::compress::Cold;
use super::{Readable, Store};
use crate::mq::Run;
use crate::ramdisk::chunks::{BYTES, PAGE};

const CHUNK: u64 = BYTES as u64;
const SMALL: u64 = PAGE as u64;
const NOW: Cold = Cold {
    now: Duration::ZERO,
    idle: Duration::ZERO,
};

/// The way to compressed memory and back has many steps, so loom changes threads twice at most
/// without being made to.
fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.max_branches = 10_000;
    model.preemption_bound = Some(2);
    model.check(run);
}

/// A chunk whose bytes are all 7.
fn store() -> Arc<Store> {
    let store = Store::anonymous(CHUNK, false).expect("a memfd");
    store
        .enable_compression()
        .expect("a memfd can be compressed");
    write(&store, 0..CHUNK, 7);
    Arc::new(store)
}

fn compress(store: &Store) -> bool {
    store.compress_cold(0..CHUNK, &NOW) > 0
}

fn write(store: &Store, range: std::ops::Range<u64>, byte: u8) {
    store.populate(range.clone()).expect("memory");
    let to = store.pinned(&range);
    // SAFETY: the range is present and pinned.
    unsafe {
        to.as_ptr()
            .write_bytes(byte, (range.end - range.start) as usize)
    };
    store.unpin(range);
}

/// The byte that a page holds everywhere.
fn read(store: &Store, page: u64) -> u8 {
    let range = page * SMALL..(page + 1) * SMALL;
    let (mut found, len) = (Vec::new(), PAGE);
    let mut put = |run| match run {
        Run::Memory(from, len) => {
            // SAFETY: the run is there for the length of the call, and loom runs one thread at a time.
            let bytes = unsafe { std::slice::from_raw_parts(from.as_ptr(), len) };
            found.extend_from_slice(bytes);
        }
        Run::Zeros(len) => found.resize(found.len() + len, 0),
    };
    match store.pin_for_read(range.clone()) {
        Readable::Memory(from) => put(Run::Memory(from, len)),
        Readable::Hole => put(Run::Zeros(len)),
        Readable::Mixed => store.runs(range.clone(), &mut put),
    }
    store.unpin(range);
    assert_eq!(found.len(), PAGE);
    assert!(found.iter().all(|byte| *byte == found[0]), "of two minds");
    found[0]
}

/// The account is what the file holds, and everything can be given back.
fn at_rest(store: &Store) {
    let pages = || store.used() - store.table_bytes();
    assert_eq!(pages(), store.allocated().unwrap());
    store.discard(0..CHUNK);
    assert_eq!((pages(), store.allocated().unwrap()), (0, 0));
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

#[test]
fn loom_e21_a_write_beside_compressing_is_kept() {
    model(|| {
        let store = store();
        let other = store.clone();
        let writer = loom::thread::spawn(move || write(&other, SMALL..CHUNK, 9));
        compress(&store);
        writer.join().unwrap();
        assert_eq!([0, 1].map(|page| read(&store, page)), [7, 9]);
        at_rest(&store);
    });
}

#[test]
fn loom_e21_a_discard_beside_compressing_is_done() {
    model(|| {
        let store = store();
        let other = store.clone();
        let discard = loom::thread::spawn(move || other.discard(0..SMALL));
        compress(&store);
        discard.join().unwrap();
        assert_eq!([0, 1].map(|page| read(&store, page)), [0, 7]);
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
        write(&store, SMALL..CHUNK, 9);
        assert_eq!(reader.join().unwrap(), 7);
        assert_eq!([0, 1].map(|page| read(&store, page)), [7, 9]);
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
        write(&store, SMALL..CHUNK, 9);
        discard.join().unwrap();
        assert_eq!([0, 1].map(|page| read(&store, page)), [0, 9]);
        at_rest(&store);
    });
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
