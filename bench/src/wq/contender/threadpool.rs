// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `threadpool` crate.

use super::{closures, Body, Contender, Load};
use std::sync::Mutex;
use threadpool::ThreadPool;

/// The name in the tables.
pub const NAME: &str = "threadpool";

/// See the module.
pub struct Pool(Mutex<ThreadPool>); // its handle may be sent, not shared

impl Pool {
    /// Makes the pool.
    pub fn new(threads: usize) -> Self {
        Self(Mutex::new(ThreadPool::new(threads)))
    }
}

impl Contender for Pool {
    fn name(&self) -> &'static str {
        NAME
    }

    fn load(&self, items: usize, body: Body) -> Box<dyn Load> {
        let pool = self.0.lock().expect("no panic under this lock").clone();
        closures(items, body, move |body, n| pool.execute(move || body(n)))
    }
}
