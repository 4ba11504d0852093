// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buffers to compress and expand chunks in, made beforehand: neither a READ of a compressed chunk
//! nor making memory by compressing takes any (E20).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use lz4_flex::block::{
    compress_into_with_table, decompress_into, get_maximum_output_size, CompressTable,
};

use crate::ramdisk::chunks::BYTES;

/// The most that a chunk can become when it is compressed.
const MOST: usize = get_maximum_output_size(BYTES);

/// What one thread works in.
pub(super) struct Scratch {
    /// A chunk as clients see it.
    pub(super) raw: Box<[u8]>,
    /// A chunk as it is stored.
    pub(super) packed: Box<[u8]>,
    table: CompressTable,
}

impl Scratch {
    fn new() -> Self {
        // What is zero may be paid for when it is first used.
        let paid = |len| vec![1; len].into_boxed_slice();
        Self {
            raw: paid(BYTES),
            packed: paid(MOST),
            table: CompressTable::large(),
        }
    }

    /// Compresses `raw` into `packed`. Answers the bytes.
    pub(super) fn pack(&mut self) -> usize {
        compress_into_with_table(&self.raw, &mut self.packed, &mut self.table)
            .expect("the buffer is as long as the library asks for")
    }

    /// Expands so many bytes of `packed` into `raw`. False if they are no chunk.
    pub(super) fn unpack(&mut self, len: usize) -> bool {
        decompress_into(&self.packed[..len], &mut self.raw).is_ok_and(|bytes| bytes == BYTES)
    }
}

/// As many as threads are likely to want at once; others wait.
pub(super) struct Pool {
    all: Box<[Mutex<Scratch>]>,
    next: AtomicUsize,
}

impl Pool {
    pub(super) fn new() -> Self {
        // Each CPU's, and one for the work that compresses.
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            all: (0..=cpus).map(|_| Mutex::new(Scratch::new())).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// One of them. To be taken before the lock of a chunk, so that whoever has such a lock can go
    /// on.
    pub(super) fn take(&self) -> MutexGuard<'_, Scratch> {
        // What was left in the buffers does not matter, not even by a panic.
        let free = self.all.iter().find_map(|one| match one.try_lock() {
            Ok(free) => Some(free),
            Err(TryLockError::Poisoned(left)) => Some(left.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        });
        if let Some(free) = free {
            return free;
        }
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.all.len();
        self.all[next]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
