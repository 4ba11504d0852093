// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our queues, per CPU and unbound: with reused items, as the crate is meant to be used, and with `try_spawn`, which
//! makes an item of each closure. And what they took the place of.
//!
//! All settings are the defaults, but for max_active, which is at its maximum so that no case meets it, and for the
//! scope where a name says so.

use super::{Body, Contender};
use std::sync::Arc;
use workqueue::legacy::{self, Machine};
use workqueue::{
    impl_has_work, new_work, Attrs, Flags, OwnedQueue, QueueBuilder, Runtime, Scope, Work, WorkItem,
};

/// Reused items on a per-CPU queue.
pub const PERCPU: &str = "PERCPU";
/// Reused items on an unbound queue.
const UNBOUND: &str = "UNBOUND";
/// Reused items on an unbound queue whose pods are single CPUs.
const UNBOUND_BY_CPU: &str = "UNBOUND, scope cpu";
/// Closures on a per-CPU queue.
const PERCPU_SPAWN: &str = "PERCPU try_spawn";
/// Closures on an unbound queue.
const UNBOUND_SPAWN: &str = "UNBOUND try_spawn";
/// Reused items on a per-CPU queue, all of a producer in one call.
const PERCPU_ALL: &str = "PERCPU enqueue_all";

/// Ours, in the order of the tables.
pub const OURS: [&str; 6] = [
    PERCPU,
    UNBOUND,
    UNBOUND_BY_CPU,
    PERCPU_SPAWN,
    UNBOUND_SPAWN,
    PERCPU_ALL,
];

/// The workqueue of 2.6.35 and before: a thread per CPU and queue. It is neither ours nor a rival.
pub const LEGACY: &str = "legacy";

/// An item that is made once. Queueing it allocates nothing.
struct Item {
    work: Work<Item>,
    body: Body,
    number: usize,
}

impl_has_work! {
    impl HasWork<Self> for Item { self.work }
}

impl WorkItem for Item {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        (this.body)(this.number);
    }
}

/// Makes ours on one runtime.
pub fn all(runtime: &Runtime) -> Vec<Contender> {
    let built = |builder: QueueBuilder| {
        let queue = builder.max_active(2048).build();
        Arc::new(queue.expect("a queue can be made"))
    };
    let queue = |flags| built(runtime.queue("bench").flags(flags));
    let by_cpu = Attrs {
        scope: Some(Scope::Cpu),
        ..Attrs::new()
    };
    let by_cpu = built(runtime.queue("bench").flags(Flags::UNBOUND).attrs(by_cpu));
    let item = |body, number| {
        Arc::new(Item {
            work: new_work!("bench"),
            body,
            number,
        })
    };
    let reusing = |name, queue: Arc<OwnedQueue>| {
        Contender::reusing(name, item, move |items: &[Arc<Item>]| {
            for item in items {
                let queued = queue.enqueue(item.clone());
                assert!(queued.is_ok(), "the item has run");
            }
        })
    };
    let at_once = queue(Flags::PERCPU);
    let spawning = |name, flags| {
        let queue = queue(flags);
        Contender::spawning(name, move |body, n| {
            let spawned = queue.try_spawn(move || body(n));
            assert!(spawned.is_ok(), "the queue takes items");
        })
    };
    vec![
        reusing(PERCPU, queue(Flags::PERCPU)),
        reusing(UNBOUND, queue(Flags::UNBOUND)),
        reusing(UNBOUND_BY_CPU, by_cpu),
        spawning(PERCPU_SPAWN, Flags::PERCPU),
        spawning(UNBOUND_SPAWN, Flags::UNBOUND),
        Contender::reusing(PERCPU_ALL, item, move |items: &[Arc<Item>]| {
            assert_eq!(
                at_once.enqueue_all(items),
                items.len(),
                "the items have run"
            );
        }),
    ]
}

/// Makes a queue of the old design.
pub fn legacy() -> Contender {
    let queue = Machine::builder().build().create_workqueue("bench");
    let queue = Arc::new(queue.expect("threads can be made"));
    let item = |body: Body, number| legacy::Work::new("bench", move |_| body(number));
    Contender::reusing(LEGACY, item, move |items| {
        let mut queued = items.iter().map(|item| queue.queue_work(item));
        assert!(queued.all(|taken| taken), "the items have run");
    })
}
