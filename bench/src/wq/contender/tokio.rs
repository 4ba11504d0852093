// SPDX-License-Identifier: MIT OR Apache-2.0
//! tokio: `spawn` of a task that never waits, and `spawn_blocking`; producers are outside of the
//! runtime.

use super::{closures, Body, Contender, Load};
use tokio::runtime::{Builder, Runtime};

/// The name in the tables.
pub const SPAWN: &str = "tokio::spawn";

/// The name in the tables.
pub const BLOCKING: &str = "tokio::spawn_blocking";

/// See the module. A runtime for each way.
pub struct Tokio {
    name: &'static str,
    runtime: Runtime,
}

impl Tokio {
    /// Makes a runtime that runs tasks, or blocking closures, on this number of threads.
    pub fn new(threads: usize, name: &'static str) -> Self {
        let workers = if name == SPAWN { threads } else { 1 };
        let runtime = Builder::new_multi_thread()
            .worker_threads(workers)
            .max_blocking_threads(threads)
            .build();
        Self {
            name,
            runtime: runtime.expect("a few threads can be made"),
        }
    }
}

impl Contender for Tokio {
    fn name(&self) -> &'static str {
        self.name
    }

    fn load(&self, items: usize, body: Body) -> Box<dyn Load> {
        let handle = self.runtime.handle().clone();
        if self.name == SPAWN {
            closures(items, body, move |body, n| {
                handle.spawn(async move { body(n) });
            })
        } else {
            closures(items, body, move |body, n| {
                handle.spawn_blocking(move || body(n));
            })
        }
    }
}
