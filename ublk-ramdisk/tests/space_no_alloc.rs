// SPDX-License-Identifier: MIT OR Apache-2.0
//! J3: neither making memory, nor discarding it, nor looking for pages of zeros allocates anything,
//! from the arrival of a request to its end. One test only: the counting allocator sees the whole
//! process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

// Not all of it is used here.
#[allow(dead_code)]
#[path = "space/common.rs"]
mod common;

use common::{Bed, PAGE};
use ublk_ramdisk::mq::Op;
use ublk_ramdisk::ramdisk::space::SpaceOptions;

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

const PAGES: u64 = 128;
const EVERY: Duration = Duration::from_secs(8);

/// Allocations while this is done.
fn allocations(work: impl FnOnce()) -> usize {
    ALLOCATIONS.store(0, Ordering::SeqCst);
    WATCHED.store(true, Ordering::SeqCst);
    work();
    WATCHED.store(false, Ordering::SeqCst);
    ALLOCATIONS.load(Ordering::SeqCst)
}

/// Allocations of requests to each second page.
fn requests(bed: &mut Bed, op: Op, result: i32) -> usize {
    allocations(|| {
        for page in (0..PAGES).step_by(2) {
            bed.insert(0, 0, op, page, 1);
            bed.clock.settle();
            assert_eq!(bed.result(0, 0), Some(result), "{op:?}");
        }
    })
}

/// Allocations of a periodic pass. The test's clock has a few of its own each time that it moves.
fn pass(bed: &Bed) -> usize {
    allocations(|| {
        bed.clock.advance(EVERY);
        bed.clock.settle();
    })
}

/// Allocations of writes to absent pages, reads, discards, and a pass that gives pages back.
fn round(bed: &mut Bed) -> [usize; 5] {
    bed.client.byte.store(1, Ordering::SeqCst);
    let writes = requests(bed, Op::Write, PAGE as i32);
    let reads = requests(bed, Op::Read, PAGE as i32);
    let discards = requests(bed, Op::Discard, 0);
    assert_eq!(bed.ramdisk.store().allocated().unwrap(), 0);
    bed.client.byte.store(0, Ordering::SeqCst);
    let of_clock = pass(bed);
    let zeros = requests(bed, Op::Write, PAGE as i32);
    let before = bed.stats().zero;
    let reclaim = pass(bed);
    assert_eq!(bed.stats().zero - before, PAGES / 2 * PAGE);
    [writes + zeros, reads, discards, reclaim, of_clock]
}

#[test]
fn j03_nothing_allocates_where_memory_is_made_and_given_back() {
    let options = SpaceOptions {
        reclaim_every: Some(EVERY),
        ..SpaceOptions::default()
    };
    let mut bed = Bed::new(1, 8, PAGES, 0, options);
    // What is used once is set up in the first round.
    round(&mut bed);
    // A pool may still make one more worker in a round; one of several is quiet.
    let all = (0..8)
        .map(|_| round(&mut bed))
        .reduce(|least, now| std::array::from_fn(|n| usize::min(least[n], now[n])));
    let [requests @ .., reclaim, of_clock] = all.expect("rounds");
    assert_eq!(requests, [0; 3], "writes, reads, discards");
    // Less than one for each page that was given back.
    let per_page = reclaim.saturating_sub(of_clock) / (PAGES / 2) as usize;
    assert_eq!(
        per_page, 0,
        "{reclaim} allocations, {of_clock} without pages"
    );
    bed.finish();
}
