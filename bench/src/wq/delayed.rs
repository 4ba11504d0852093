// SPDX-License-Identifier: MIT OR Apache-2.0
//! Delayed work: what arming a timer costs, and how late it fires. Ours alone, as no rival has
//! timers.
//!
//! An item notes when it starts. How late that is depends on the machine first, so a control is
//! measured in the same run: a thread that does nothing but sleep until the same times.

use super::nanoseconds_since;
use crate::stats::quantiles;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use workqueue::{
    impl_has_delayed_work, new_delayed_work, DelayedWork, Flags, Queue, Runtime, WorkItem,
};

/// What one sample found.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Nanoseconds to arm a timer, on average.
    pub arm_ns: f64,
    /// Items that started before their time.
    pub early: f64,
    /// Milliseconds from the time that an item was due to its start.
    pub late_ms: [f64; 2],
}

/// When timers are due: `timers` of them, each at `after` plus its place in `within`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many.
    pub timers: u64,
    /// The first is due after this.
    pub after: Duration,
    /// All are due within this from then on.
    pub within: Duration,
}

impl Shape {
    /// A million at once; they come due in no order, far more than one in a millisecond.
    pub fn million() -> Self {
        Self {
            timers: 1_000_000,
            after: Duration::from_secs(4),
            within: Duration::from_secs(8),
        }
    }

    /// One every other millisecond, so that each finds an idle machine.
    pub fn sparse() -> Self {
        Self {
            timers: 1000,
            after: Duration::from_millis(20),
            within: Duration::from_secs(2),
        }
    }

    /// The delay of the nth timer, as a share of `within` that jumps about.
    fn delay(&self, n: u64) -> Duration {
        // A step that has no factor in common with the number visits each place once.
        let place = (n * 617_587) % self.timers;
        self.after + Duration::from_nanos(self.within.as_nanos() as u64 / self.timers * place)
    }
}

/// The start of an item that has not run.
const NOT_YET: u64 = u64::MAX;

/// An item that notes when it was armed and when it ran, in nanoseconds since `origin`.
struct Later {
    work: DelayedWork<Later>,
    origin: Instant,
    armed: OnceLock<u64>,
    ran: AtomicU64,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Later { self.work }
}

impl WorkItem for Later {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.ran
            .store(nanoseconds_since(this.origin), Ordering::Release);
    }
}

/// One sample. It waits until the last timer is due, which takes as long as the shape says.
pub fn sample(runtime: &Runtime, shape: Shape) -> Outcome {
    let queue = runtime.queue("delayed").flags(Flags::PERCPU).build();
    let queue = queue.expect("a queue can be made");
    let origin = Instant::now();
    let item = |_| {
        Arc::new(Later {
            work: new_delayed_work!("later"),
            origin,
            armed: OnceLock::new(),
            ran: AtomicU64::new(NOT_YET),
        })
    };
    let items: Vec<Arc<Later>> = (0..shape.timers).map(item).collect();
    let arm_ns = arm(&queue, shape, &items);
    // Asleep, not looking: a busy thread would take a CPU from the timers and the workers.
    thread::sleep(shape.after + shape.within);
    let mut early = 0;
    let mut late = Vec::new();
    for (n, item) in (0..).zip(&items) {
        while item.ran.load(Ordering::Acquire) == NOT_YET {
            thread::sleep(Duration::from_millis(1));
        }
        let delay = shape.delay(n).as_nanos() as u64;
        let armed = *item.armed.get().expect("armed before");
        let ran = item.ran.load(Ordering::Relaxed);
        // The time before the arming is a lower limit, so a start before it is certainly early.
        match ran.checked_sub(armed + delay) {
            Some(ns) => late.push(ns as f64 / 1e6),
            None => early += 1,
        }
    }
    Outcome {
        arm_ns,
        early: f64::from(early),
        late_ms: quantiles(&late, [0.5, 0.99]),
    }
}

/// The control: how late is a thread that does nothing but sleep until the same times, one after
/// the other? What a timer is late beyond that is its own. Milliseconds.
pub fn control(shape: Shape) -> [f64; 2] {
    let mut dues: Vec<Duration> = (0..shape.timers).map(|n| shape.delay(n)).collect();
    // One thread can only sleep for one after the other.
    dues.sort();
    let origin = Instant::now();
    let late = dues.into_iter().map(|due| {
        thread::sleep(due.saturating_sub(origin.elapsed()));
        origin.elapsed().saturating_sub(due).as_secs_f64() * 1e3
    });
    quantiles(&late.collect::<Vec<_>>(), [0.5, 0.99])
}

/// Arms all; what reading the clock for each costs is measured and taken off.
fn arm(queue: &Queue, shape: Shape, items: &[Arc<Later>]) -> f64 {
    let begun = Instant::now();
    for (n, item) in (0..).zip(items) {
        let _first = item.armed.set(nanoseconds_since(item.origin));
        let armed = queue.enqueue_delayed(shape.delay(n), item.clone());
        assert!(armed.is_ok(), "the queue takes items");
    }
    let all = begun.elapsed();
    let begun = Instant::now();
    for item in items {
        std::hint::black_box(nanoseconds_since(item.origin));
    }
    let clocks = begun.elapsed();
    all.saturating_sub(clocks).as_nanos() as f64 / items.len() as f64
}
