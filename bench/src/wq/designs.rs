// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our workqueue beside the design of 2.6.35: threads, and when items start.
//!
//! The three items are those of the kernel's documentation: on one CPU, w0 burns 5 ms of it, sleeps
//! 10 and burns 5; w1 and w2 burn 5 and sleep 10. To the millisecond, on a virtual clock, they are
//! in the crate's tests; here they are timed for real.

use crate::study::job::Job;
use std::fs;
use std::hint;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use workqueue::legacy::{self, Machine};
use workqueue::{blocking, Flags, Runtime};

const STEP: Duration = Duration::from_millis(5);
const NAMES: [&str; 3] = ["w0", "w1", "w2"];

/// Queues in the count of threads.
pub const QUEUES: usize = 10;

fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.flatten().count())
}

/// Threads of a runtime of its own and [`QUEUES`] per-CPU queues, with nothing to do.
pub fn threads_of_ours() -> f64 {
    let before = threads();
    let runtime = Runtime::builder().start().expect("threads can be made");
    let queue = |_| {
        let queue = runtime.queue("bench").flags(Flags::PERCPU).build();
        queue.expect("a queue can be made")
    };
    let queues: Vec<_> = (0..QUEUES).map(queue).collect();
    let made = threads().saturating_sub(before);
    drop(queues);
    made as f64
}

/// Threads of as many queues of the old design.
pub fn threads_of_legacy() -> f64 {
    let before = threads();
    let machine = Machine::builder().build();
    let queue = |_| {
        let queue = machine.create_workqueue("bench");
        queue.expect("threads can be made")
    };
    let queues: Vec<_> = (0..QUEUES).map(queue).collect();
    let made = threads().saturating_sub(before);
    drop(queues);
    made as f64
}

/// When each item began.
type Starts = Arc<Mutex<[Option<Instant>; 3]>>;

fn burn(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        hint::spin_loop();
    }
}

fn body(starts: &Starts, n: usize) {
    starts.lock().expect("no panic under this lock")[n] = Some(Instant::now());
    burn(STEP);
    blocking(|| thread::sleep(STEP * 2));
    if n == 0 {
        burn(STEP);
    }
}

/// Milliseconds from the start of w0 to those of w1 and w2.
fn after_the_first(starts: &Starts) -> [f64; 2] {
    let starts = starts.lock().expect("no panic under this lock");
    let [w0, w1, w2] = starts.map(|start| start.expect("all have run"));
    [w1, w2].map(|start| start.duration_since(w0).as_secs_f64() * 1e3)
}

/// The three items on one of our per-CPU queues.
pub fn starts_of_ours(runtime: &Runtime) -> [f64; 2] {
    let queue = runtime.queue("bench").flags(Flags::PERCPU).build();
    let queue = queue.expect("a queue can be made");
    let cpu = runtime.online_cpus().lowest().unwrap_or(0);
    let starts = Starts::default();
    for (number, name) in NAMES.into_iter().enumerate() {
        let own = starts.clone();
        let item = Job::new(name, move || body(&own, number));
        let queued = queue.enqueue_on(cpu, item);
        assert!(queued.is_ok(), "the queue takes items");
    }
    queue.flush().expect("not called from a run");
    after_the_first(&starts)
}

/// The same on a queue of the old design.
pub fn starts_of_legacy() -> [f64; 2] {
    let machine = Machine::builder().build();
    let queue = machine.create_workqueue("bench");
    let queue = queue.expect("threads can be made");
    let cpu = machine.online_cpus().lowest().unwrap_or(0);
    let starts = Starts::default();
    for (number, name) in NAMES.into_iter().enumerate() {
        let own = starts.clone();
        let item = legacy::Work::new(name, move |_| body(&own, number));
        let queued = queue.queue_work_on(cpu, &item);
        assert_eq!(queued, Ok(true), "the queue takes items");
    }
    queue.flush_workqueue().expect("not called from a run");
    after_the_first(&starts)
}
