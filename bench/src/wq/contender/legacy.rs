// SPDX-License-Identifier: MIT OR Apache-2.0
//! The workqueue of 2.6.35 and before: a thread per CPU and queue. Neither ours nor a rival, but
//! what ours took the place of.

use super::{Body, Contender, Load};
use std::sync::Arc;
use workqueue::legacy::{Machine, Work, Workqueue};

/// The name in the tables.
pub const NAME: &str = "legacy";

/// See the module.
pub struct Legacy(Arc<Workqueue>);

impl Default for Legacy {
    fn default() -> Self {
        let queue = Machine::builder().build().create_workqueue("bench");
        Self(Arc::new(queue.expect("threads can be made")))
    }
}

impl Contender for Legacy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn load(&self, items: usize, body: Body) -> Box<dyn Load> {
        let item = |number| Work::new("bench", move |_| body(number));
        Box::new(Reused {
            queue: self.0.clone(),
            items: (0..items).map(item).collect(),
        })
    }
}

struct Reused {
    queue: Arc<Workqueue>,
    items: Vec<Arc<Work>>,
}

impl Load for Reused {
    fn submit(&mut self) {
        for item in &self.items {
            assert!(self.queue.queue_work(item), "the item has run");
        }
    }
}
