// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rayon::spawn`, on a pool of the wanted size.

use super::{closures, Body, Contender, Load};
use std::sync::Arc;

/// The name in the tables.
pub const NAME: &str = "rayon::spawn";

/// See the module.
pub struct Rayon(Arc<rayon::ThreadPool>);

impl Rayon {
    /// Makes the pool.
    pub fn new(threads: usize) -> Self {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        Self(Arc::new(pool.expect("a few threads can be made")))
    }
}

impl Contender for Rayon {
    fn name(&self) -> &'static str {
        NAME
    }

    fn load(&self, items: usize, body: Body) -> Box<dyn Load> {
        let pool = self.0.clone();
        closures(items, body, move |body, n| pool.spawn(move || body(n)))
    }
}
