// SPDX-License-Identifier: MIT OR Apache-2.0
//! E20 and J3: neither compressing chunks, nor reading and writing compressed ones, nor discarding
//! them allocates anything, from the arrival of a request to its end. One test only: the counting
//! allocator sees the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

// Not all of it is used here.
#[allow(dead_code)]
#[path = "space/common.rs"]
mod common;

use common::{Bed, PAGE};
use ublk_ramdisk::mq::{Op, Run};
use ublk_ramdisk::ramdisk::space::SpaceOptions;
use ublk_ramdisk::ramdisk::store::Readable;

static WATCHED: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

impl Counting {
    fn count() {
        if WATCHED.load(Ordering::Relaxed) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(p, layout, size) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Pages of a chunk.
const CHUNK: u64 = 16;
const CHUNKS: u64 = 128;
const IDLE: Duration = Duration::from_secs(8);

/// Allocations while this is done.
fn allocations(work: impl FnOnce()) -> usize {
    ALLOCATIONS.store(0, Ordering::SeqCst);
    WATCHED.store(true, Ordering::SeqCst);
    work();
    WATCHED.store(false, Ordering::SeqCst);
    ALLOCATIONS.load(Ordering::SeqCst)
}

/// Where a page of a chunk lies, another in each.
fn page(chunk: u64) -> u64 {
    chunk * CHUNK + chunk % CHUNK
}

/// Allocations of requests to a page of each chunk, all of which are compressed.
fn requests(bed: &mut Bed, op: Op, result: i32) -> usize {
    allocations(|| {
        for chunk in 0..CHUNKS {
            bed.insert(0, 0, op, page(chunk), 1);
            bed.clock.settle();
            assert_eq!(bed.result(0, 0), Some(result), "{op:?}");
        }
    })
}

/// The same of what a transport does with a READ: the client of the tests has no memory to read to.
fn reads(bed: &Bed) -> usize {
    let store = bed.ramdisk.store();
    allocations(|| {
        for chunk in 0..CHUNKS {
            let range = page(chunk) * PAGE..(page(chunk) + 1) * PAGE;
            assert!(matches!(store.pin_for_read(range.clone()), Readable::Mixed));
            let mut bytes = 0;
            store.runs(range.clone(), &mut |run| match run {
                Run::Memory(_, len) => bytes += len as u64,
                Run::Zeros(_) => unreachable!("something has been written there"),
            });
            store.unpin(range);
            assert_eq!(bytes, PAGE);
        }
    })
}

/// Allocations while everything that has not been used for long is compressed. The test's clock
/// has some of its own, a few each time that it moves.
fn passes(bed: &Bed) -> usize {
    allocations(|| {
        for _ in 0..8 {
            bed.clock.advance(IDLE / 4);
            bed.clock.settle();
        }
    })
}

/// Allocations of reads, discards and writes, and of passes that compress the chunks again and that
/// find nothing to compress.
fn round(bed: &mut Bed) -> [usize; 5] {
    let before = bed.stats();
    let reads = reads(bed) + requests(bed, Op::Read, PAGE as i32);
    let discards = requests(bed, Op::Discard, 0);
    let writes = requests(bed, Op::Write, PAGE as i32);
    assert_eq!(bed.stats().expansions - before.expansions, CHUNKS);
    let compressing = passes(bed);
    assert_eq!(bed.stats().compressions - before.compressions, CHUNKS);
    [reads, discards, writes, compressing, passes(bed)]
}

#[test]
fn e20_nothing_allocates_where_chunks_are_compressed() {
    let options = SpaceOptions {
        compress_after: Some(IDLE),
        reclaim_every: Some(IDLE),
        ..SpaceOptions::default()
    };
    let mut bed = Bed::new(1, 8, CHUNKS * CHUNK, 0, options);
    bed.insert(0, 0, Op::Write, 0, CHUNKS * CHUNK);
    bed.clock.settle();
    assert!(bed.result(0, 0).is_some());
    // What is used once is set up in the first round, when the chunks become compressed.
    passes(&bed);
    round(&mut bed);
    // A pool may still make one more worker in a round; one of several is quiet.
    let all = (0..8)
        .map(|_| round(&mut bed))
        .reduce(|least, now| std::array::from_fn(|n| usize::min(least[n], now[n])));
    let [requests @ .., compressing, of_clock] = all.expect("rounds");
    assert_eq!(requests, [0; 3], "reads, discards, writes");
    let per_chunk = compressing.saturating_sub(of_clock) / CHUNKS as usize;
    assert_eq!(
        per_chunk, 0,
        "{compressing} allocations, {of_clock} without chunks"
    );
    bed.finish();
}
