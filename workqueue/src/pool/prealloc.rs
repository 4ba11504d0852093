// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory of a pool's next worker, allocated before it is needed.
//!
//! A worker is made when a pool has none left, perhaps because memory is short; then nothing should
//! be allocated. [`super::worker`] takes the block, puts it back if no thread could be made for it,
//! and has a new one made after a success. What the standard library allocates for a thread stays
//! outside. Kernel counterpart: `alloc_worker`, without that care.

use super::worker_state::{WorkerFlags, WorkerState, WorkerThread};
use crate::sys::sync::{Completion, Mutex, Parker};
use std::sync::Arc;
use std::thread::JoinHandle;

/// A worker without its thread.
#[derive(Debug)]
pub(super) struct ControlBlock {
    pub(super) parker: Arc<Parker>,
    pub(super) handle: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// The thread has come, or has left again.
    pub(super) ready: Completion,
    /// Here until the thread has joined the pool.
    worker: Mutex<Option<WorkerState>>,
}

impl ControlBlock {
    fn new() -> Arc<Self> {
        let (parker, handle) = (Arc::new(Parker::new()), Arc::default());
        let thread = Arc::new(WorkerThread {
            tid: 0,
            handle: Arc::clone(&handle),
        });
        let worker = WorkerState::new(None, WorkerFlags::PREP, parker.clone(), thread);
        Arc::new(Self {
            parker,
            handle,
            ready: Completion::new(),
            worker: Mutex::new(Some(worker)),
        })
    }

    /// The thread has come: this is its worker.
    pub(super) fn occupy(&self, id: usize, tid: i32) -> WorkerState {
        let mut worker = self.worker.lock().take().expect("one thread per block");
        worker.id = Some(id);
        Arc::get_mut(&mut worker.thread)
            .expect("the pool does not know it yet")
            .tid = tid;
        worker
    }

    /// True if no thread has joined the pool.
    pub(super) fn is_vacant(&self) -> bool {
        self.worker.lock().is_some()
    }
}

/// The block of a pool's next worker.
#[derive(Debug)]
pub(super) struct Prealloc(Mutex<Option<Arc<ControlBlock>>>);

impl Prealloc {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(ControlBlock::new())))
    }

    /// The block. A second one is allocated now, if several workers are made at a time.
    pub(super) fn take(&self) -> Arc<ControlBlock> {
        let spare = self.0.lock().take();
        spare.unwrap_or_else(ControlBlock::new)
    }

    /// Keeps the block for the next attempt, as no thread was made.
    pub(super) fn put_back(&self, block: Arc<ControlBlock>) {
        *self.0.lock() = Some(block);
    }

    /// Allocates the block of the next worker after one was used.
    pub(super) fn refill(&self) {
        let next = ControlBlock::new();
        self.0.lock().get_or_insert(next);
    }

    #[cfg(test)]
    fn peek(&self) -> Option<Arc<ControlBlock>> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::worker::create_worker;
    use crate::env::topology::Topology;
    use crate::Runtime;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::Arc;

    #[test]
    fn s07_17_the_next_workers_block_is_there_before_it_is_needed() {
        let fails = Arc::new(AtomicBool::new(false));
        let f = fails.clone();
        let mut builder = Runtime::builder().topology(Topology::one_cpu());
        let hook = move |_: &crate::CreateAttempt| match f.load(Ordering::SeqCst) {
            true => Err(libc::EAGAIN),
            false => Ok(()),
        };
        builder.set_create_hook(Box::new(hook));
        let rt = builder.build_early();
        let pool = rt.inner.pools_of(0).expect("it has its pools").normal;
        let first = pool.prealloc.peek().expect("before the first worker");
        rt.start().expect("threads can be made");
        assert!(!first.is_vacant());
        let second = pool.prealloc.peek().expect("after a success");
        assert!(!Arc::ptr_eq(&first, &second));
        // A failure uses nothing up: the next attempt allocates no other.
        fails.store(true, Ordering::SeqCst);
        for attempt in 1..4 {
            assert!(create_worker(&pool, attempt).is_err());
            let kept = pool.prealloc.peek().expect("after a failure");
            assert!(Arc::ptr_eq(&kept, &second) && kept.is_vacant());
        }
        fails.store(false, Ordering::SeqCst);
        create_worker(&pool, 1).expect("threads can be made");
        assert!(!second.is_vacant());
        assert!(pool.prealloc.peek().is_some_and(|next| next.is_vacant()));
    }
}
