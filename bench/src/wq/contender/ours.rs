// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our queues, per CPU and unbound: with reused items, as the crate is meant to be used, and with
//! `try_spawn`, which makes an item of each closure. All settings are the defaults, but for
//! max_active, which is at its maximum so that no case meets it.

use super::{closures, Body, Contender, Load};
use std::sync::Arc;
use workqueue::{impl_has_work, new_work, Flags, OwnedQueue, Queue, Runtime, Work, WorkItem};

/// The name in the tables.
pub const PERCPU: &str = "PERCPU";

/// The name in the tables.
pub const UNBOUND: &str = "UNBOUND";

/// The name in the tables.
pub const PERCPU_SPAWN: &str = "PERCPU try_spawn";

/// The name in the tables.
pub const UNBOUND_SPAWN: &str = "UNBOUND try_spawn";

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

/// See the module.
pub struct Ours {
    name: &'static str,
    spawn: bool,
    queue: OwnedQueue,
}

/// Ours on one runtime.
pub fn all(runtime: &Runtime) -> Vec<Box<dyn Contender>> {
    let ours = [
        (PERCPU, Flags::PERCPU, false),
        (UNBOUND, Flags::UNBOUND, false),
        (PERCPU_SPAWN, Flags::PERCPU, true),
        (UNBOUND_SPAWN, Flags::UNBOUND, true),
    ];
    let contender = |(name, flags, spawn)| {
        let queue = runtime.queue("bench").flags(flags).max_active(2048).build();
        Box::new(Ours {
            name,
            spawn,
            queue: queue.expect("a queue can be made"),
        }) as Box<dyn Contender>
    };
    ours.into_iter().map(contender).collect()
}

impl Contender for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    fn load(&self, items: usize, body: Body) -> Box<dyn Load> {
        let queue = self.queue.handle();
        if self.spawn {
            return closures(items, body, move |body, n| {
                let spawned = queue.try_spawn(move || body(n));
                assert!(spawned.is_ok(), "the queue takes items");
            });
        }
        let item = |number| {
            Arc::new(Item {
                work: new_work!("bench"),
                body,
                number,
            })
        };
        Box::new(Reused {
            queue,
            items: (0..items).map(item).collect(),
        })
    }
}

struct Reused {
    queue: Queue,
    items: Vec<Arc<Item>>,
}

impl Load for Reused {
    fn submit(&mut self) {
        for item in &self.items {
            let queued = self.queue.enqueue(item.clone());
            assert!(queued.is_ok(), "the item has run");
        }
    }
}
