// SPDX-License-Identifier: MIT OR Apache-2.0
//! An item that calls a closure.

use std::sync::Arc;
use workqueue::{impl_has_work, Work, WorkItem};

/// What an item does.
pub type Body = Box<dyn Fn() + Send + Sync>;

/// See the module.
pub struct Job {
    work: Work<Job>,
    body: Body,
}

impl_has_work! {
    impl HasWork<Self> for Job { self.work }
}

impl WorkItem for Job {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        (this.body)();
    }
}

impl Job {
    /// An item under this name in traces and dumps.
    pub fn new(name: &'static str, body: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            work: Work::new(name),
            body: Box::new(body),
        })
    }
}
