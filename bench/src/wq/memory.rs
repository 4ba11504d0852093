// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes: of an idle queue, of a queued item, of the work fields.
//!
//! They are what the C library's own count of allocated memory rises by, over a thousand queues or
//! items, so that what is allocated once for all of them hardly shows.

use crate::study::job::Job;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use workqueue::{DelayedWork, Flags, OwnedQueue, Runtime, Work};

/// How many queues or items are counted together.
const MANY: usize = 1000;

/// What it comes to.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// Allocated for an idle per-CPU queue.
    pub percpu_queue: f64,
    /// Allocated for an idle unbound queue.
    pub unbound_queue: f64,
    /// Allocated for an item by queueing it.
    pub queued_item: f64,
    /// The size of `Work`.
    pub work: f64,
    /// The size of `DelayedWork`.
    pub delayed_work: f64,
}

/// Bytes that are allocated now, in small and in large pieces.
fn allocated() -> f64 {
    // SAFETY: takes nothing and returns plain numbers.
    let info = unsafe { libc::mallinfo2() };
    // In the heap of the C library, and in maps of their own.
    (info.uordblks + info.hblkhd) as f64
}

/// Counts. Other threads should be at rest. Of queues and items the figure is a mean over a
/// thousand.
pub fn measure(runtime: &Runtime) -> Bytes {
    let queue = |flags| {
        let before = allocated();
        let queues: Vec<OwnedQueue> = (0..MANY)
            .map(|_| {
                let queue = runtime.queue("idle").flags(flags).build();
                queue.expect("a queue can be made")
            })
            .collect();
        let bytes = (allocated() - before) / MANY as f64;
        drop(queues);
        bytes
    };
    Bytes {
        percpu_queue: queue(Flags::PERCPU),
        unbound_queue: queue(Flags::UNBOUND),
        queued_item: queued_item(runtime),
        work: size_of::<Work<()>>() as f64,
        delayed_work: size_of::<DelayedWork<()>>() as f64,
    }
}

/// Bytes that queueing one item takes. The items are made before.
fn queued_item(runtime: &Runtime) -> f64 {
    let queue = runtime.queue("full").flags(Flags::PERCPU).max_active(1);
    let queue = queue.build().expect("a queue can be made");
    let open = Arc::new(AtomicBool::new(false));
    // Runs until the gate is open, so that those behind it stay queued.
    let item = |_| {
        let open = open.clone();
        Job::new("waiting", move || {
            while !open.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(1));
            }
        })
    };
    let items: Vec<_> = (0..MANY).map(item).collect();
    let cpu = runtime.online_cpus().lowest().expect("there is a CPU");
    let first = queue.enqueue_on(cpu, items[0].clone());
    assert!(first.is_ok(), "the queue takes items");
    // Its start may make a worker.
    thread::sleep(Duration::from_millis(50));
    let before = allocated();
    for item in &items[1..] {
        let queued = queue.enqueue_on(cpu, item.clone());
        assert!(queued.is_ok(), "the queue takes items");
    }
    let bytes = (allocated() - before) / (MANY - 1) as f64;
    open.store(true, Ordering::Release);
    bytes
}
