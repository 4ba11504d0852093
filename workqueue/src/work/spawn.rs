// SPDX-License-Identifier: MIT OR Apache-2.0
//! A closure as an item of its own.
//!
//! Counterpart: `Queue::try_spawn` of the kernel's Rust bindings.

use super::pointer::WorkItem;
use super::Work;
use crate::enqueue;
use crate::error::EnqueueError;
use crate::impl_has_work;
use crate::wq::Queue;
use std::pin::Pin;

struct ClosureWork<F: FnOnce() + Send + 'static> {
    work: Work<Self>,
    f: F,
}

// The closure is not pinned by the box: it is moved out before it is called.
impl<F: FnOnce() + Send + 'static> Unpin for ClosureWork<F> {}

impl_has_work! {
    impl{F: FnOnce() + Send + 'static} HasWork<Self> for ClosureWork<F> { self.work }
}

impl<F: FnOnce() + Send + 'static> WorkItem for ClosureWork<F> {
    type Pointer = Pin<Box<Self>>;

    fn run(this: Pin<Box<Self>>) {
        (Pin::into_inner(this).f)();
    }
}

/// Runs `f` once on `queue`, for a CPU if one is given; it comes back if it is refused.
pub(crate) fn try_spawn<F>(queue: &Queue, cpu: Option<usize>, f: F) -> Result<(), EnqueueError<F>>
where
    F: FnOnce() + Send + 'static,
{
    let item = Box::pin(ClosureWork {
        work: Work::new(""),
        f,
    });
    enqueue::enqueue(&queue.inner, cpu, item).map_err(|e| e.map(|item| Pin::into_inner(item).f))
}
