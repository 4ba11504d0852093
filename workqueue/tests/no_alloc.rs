// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 7.14 and the crate's promise: no allocation between enqueue and run, nor from the call
//! for help to the rescued run.
//!
//! One test only: the counting allocator sees the whole process.

mod common;
use common::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use workqueue::*;

static WATCHED: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if WATCHED.load(Ordering::Relaxed) && !EXEMPT.with(Cell::get) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    /// The test's own thread allocates as it likes.
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
}

fn allocations_of(body: impl FnOnce()) -> usize {
    ALLOCATIONS.store(0, Ordering::SeqCst);
    WATCHED.store(true, Ordering::SeqCst);
    body();
    WATCHED.store(false, Ordering::SeqCst);
    ALLOCATIONS.load(Ordering::SeqCst)
}

/// Enqueues all items and waits until they have run, without a flush, which would allocate.
fn run_all(q: &Queue, items: &[Arc<Call>], rounds: usize) {
    let before = items[0].runs();
    for round in 1..=rounds {
        items
            .iter()
            .enumerate()
            .for_each(|(n, i)| q.enqueue_on(n % 2, i.clone()).unwrap());
        until("all have run", || {
            items
                .iter()
                .all(|i| i.runs() == before + round && !i.work.busy().running)
        });
    }
}

fn from_enqueue_to_run() {
    // On a slow machine a look at the CPUs or the pools would fall into each of the tries below.
    let builder = quiet().topology(machine(2, 1));
    let builder = builder.cpu_poll(Duration::ZERO);
    let rt = builder.watchdog_thresh(Duration::ZERO).start().unwrap();
    let items: Vec<_> = (0..50).map(|_| Call::noop()).collect();
    for flags in [PERCPU, UNBOUND] {
        let q = rt.queue("q").flags(flags).max_active(4).build().unwrap();
        // Warm up: workers are made, and what they use once is set up.
        run_all(&q, &items, 50);
        // An unbound pool may still make one more worker in a round; one of several tries is quiet.
        let least = (0..10)
            .map(|_| allocations_of(|| run_all(&q, &items, 20)))
            .min();
        assert_eq!(least, Some(0), "{flags:?}");
    }
}

fn from_mayday_to_rescue() {
    let (fails, refused) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (f, r) = (fails.clone(), refused.clone());
    let clock = VirtualClock::new();
    let rt = quiet()
        .topology(machine(1, 1))
        .virtual_clock(clock.clone())
        .threads_by(move |_| {
            r.fetch_add(usize::from(f.load(Ordering::SeqCst)), Ordering::SeqCst);
            if f.load(Ordering::SeqCst) {
                Err(11)
            } else {
                Ok(())
            }
        })
        .start()
        .unwrap();
    let q = rt
        .queue("r")
        .flags(PERCPU | Flags::MEM_RECLAIM)
        .build()
        .unwrap();
    fails.store(true, Ordering::SeqCst);
    let item = Call::noop();
    // The manager stays in its loop for the first item of each round; the clock stands still, so
    // the call for help goes out when the clock is moved on and not before.
    let quiet = (1..=10).map(|round| {
        q.enqueue(item.clone()).unwrap();
        until("creation has failed", || {
            refused.load(Ordering::SeqCst) >= 1
        });
        EXEMPT.with(|e| e.set(true));
        let count = allocations_of(|| {
            until("the item is rescued", || {
                clock.advance(Duration::from_millis(10));
                item.runs() == round
            });
        });
        EXEMPT.with(|e| e.set(false));
        until("the rescuer has left", || rt.dump_all().is_empty());
        count
    });
    // In the first round the failure itself is reported, once.
    assert_eq!(quiet.min(), Some(0));
    assert_eq!(q.stats().rescued, 10);
    fails.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_secs(10));
}

#[test]
fn s07_14_no_allocation_from_enqueue_to_run_nor_from_mayday_to_rescue() {
    from_enqueue_to_run();
    from_mayday_to_rescue();
}
