// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an operation costs beside how many queues and timers there are. A cost that grows with them
//! shows as a column that is not flat.

use crate::study::job::Job;
use std::sync::Arc;
use std::time::{Duration, Instant};
use workqueue::{
    impl_has_delayed_work, new_delayed_work, DelayedWork, Flags, OwnedQueue, Runtime, WorkItem,
};

/// How many operations a figure is the mean of.
const MEASURED: usize = 1000;
/// The numbers of queues and timers.
const QUEUES: [usize; 3] = [2000, 20_000, 100_000];
const TIMERS: [usize; 4] = [2000, 20_000, 100_000, 1_000_000];

/// A timer that never goes off.
struct Later {
    work: DelayedWork<Later>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Later { self.work }
}

impl WorkItem for Later {
    type Pointer = Arc<Self>;

    fn run(_: Arc<Self>) {}
}

/// Nanoseconds of one of `times` calls.
fn each(times: usize, mut call: impl FnMut(usize)) -> f64 {
    let begun = Instant::now();
    (0..times).for_each(&mut call);
    begun.elapsed().as_nanos() as f64 / times as f64
}

/// Measures all, and tells each figure: what was done, beside how many, and nanoseconds.
pub fn measure(runtime: &Runtime, mut found: impl FnMut(&str, usize, f64)) {
    for count in QUEUES {
        let mut queues: Vec<OwnedQueue> = Vec::with_capacity(count);
        let mut make = |_| {
            let queue = runtime.queue("one of many").flags(Flags::PERCPU).build();
            queues.push(queue.expect("a queue can be made"));
        };
        (0..count - MEASURED).for_each(&mut make);
        found("make a queue", count, each(MEASURED, make));
        let job = Job::new("an item", || {});
        let run = each(MEASURED, |n| {
            let queued = queues[n * (count / MEASURED)].enqueue(job.clone());
            assert!(queued.is_ok(), "the item has run");
            let ended = queues[n * (count / MEASURED)].flush();
            assert!(ended.is_ok(), "nothing else waits for it");
        });
        found("run an item and flush", count, run);
        found(
            "destroy a queue",
            count,
            each(MEASURED, |n| {
                drop(queues.swap_remove(n * 617_587 % queues.len()));
            }),
        );
    }
    let queue = runtime.queue("timers").flags(Flags::PERCPU).build();
    let queue = queue.expect("a queue can be made");
    for count in TIMERS {
        let item = |_| {
            Arc::new(Later {
                work: new_delayed_work!("later"),
            })
        };
        let items: Vec<Arc<Later>> = (0..count).map(item).collect();
        // In no order, hours ahead.
        let delay = |n: usize| {
            Duration::from_secs(3600) + Duration::from_micros((n * 617_587 % count) as u64)
        };
        let arm = |n: usize| {
            let armed = queue.enqueue_delayed(delay(n), items[n].clone());
            assert!(armed.is_ok(), "the queue takes items");
        };
        (MEASURED..count).for_each(arm);
        found("arm a timer", count, each(MEASURED, arm));
        let cancel = |n: usize| assert!(items[n].work.cancel().is_some(), "it has not gone off");
        found("cancel a timer", count, each(MEASURED, cancel));
        (MEASURED..count).for_each(cancel);
    }
}
