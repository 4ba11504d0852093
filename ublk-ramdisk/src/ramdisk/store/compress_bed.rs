// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests and the models of compressed chunks share: a client of the store.

use std::ops::Range;
use std::time::Duration;

use super::compress::Cold;
use super::{Readable, Store};
use crate::mq::Run;
use crate::ramdisk::chunks::{BYTES, PAGE};

pub(super) const CHUNK: u64 = BYTES as u64;
pub(super) const SMALL: u64 = PAGE as u64;
/// Whatever nobody uses is cold.
pub(super) const NOW: Cold = Cold {
    now: Duration::ZERO,
    idle: Duration::ZERO,
};

/// So many chunks, none of them there.
pub(super) fn store(chunks: u64) -> Store {
    let store = Store::anonymous(chunks * CHUNK, false).expect("a memfd");
    store
        .enable_compression()
        .expect("a memfd can be compressed");
    store
}

pub(super) fn write(store: &Store, at: u64, bytes: &[u8]) {
    let range = at..at + bytes.len() as u64;
    store.populate(range.clone()).expect("memory");
    let to = store.pinned(&range);
    // SAFETY: the range is present and pinned.
    unsafe { libc::memcpy(to.as_ptr().cast(), bytes.as_ptr().cast(), bytes.len()) };
    store.unpin(range);
}

pub(super) fn read(store: &Store, range: Range<u64>) -> Vec<u8> {
    let len = (range.end - range.start) as usize;
    let mut found = Vec::with_capacity(len);
    let mut put = |run| match run {
        Run::Memory(from, len) => {
            // SAFETY: the run is there for the length of the call; nobody writes to it meanwhile:
            // the tests have no such writer, and loom runs one thread at a time.
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
    assert_eq!(found.len(), len);
    found
}

/// The account is what the file holds.
#[track_caller]
pub(super) fn balanced(store: &Store) {
    let pages = store.used() - store.table_bytes();
    assert_eq!(pages, store.allocated().unwrap(), "by st_blocks (E18)");
}
