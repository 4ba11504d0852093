// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work items of another queue that keep the normal-priority pool of CPU 0 busy: what kblockd has to
//! compete with, or not (HIGHPRI, unbound).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

use workqueue::{
    impl_has_work, new_work, Flags, OwnedQueue, Queue, Runtime, VirtualClock, Work, WorkItem,
};

use crate::error::Failure;

struct Hog {
    work: Work<Hog>,
    time: Duration,
    clock: Arc<VirtualClock>,
    stop: Arc<AtomicBool>,
    queue: Queue,
}

impl_has_work! {
    impl HasWork<Self> for Hog { self.work }
}

impl WorkItem for Hog {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if this.stop.load(Relaxed) {
            return;
        }
        // Not declared as a wait: the worker is busy.
        this.clock.sleep(this.time);
        this.queue_again();
    }
}

impl Hog {
    fn queue_again(self: Arc<Self>) {
        let _refused_at_the_end = self.queue.clone().enqueue_on(0, self);
    }
}

/// All of them, until dropped.
pub(super) struct Hogs {
    stop: Arc<AtomicBool>,
    _queue: OwnedQueue,
}

impl Hogs {
    pub(super) fn start(
        runtime: &Runtime,
        clock: &Arc<VirtualClock>,
        (count, time): (u16, Duration),
    ) -> Result<Self, Failure> {
        let queue = runtime.queue("hogs").flags(Flags::PERCPU).build();
        let queue = queue.map_err(|e| Failure::environment(format!("hogs cannot be made: {e}")))?;
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..count {
            let hog = Arc::new(Hog {
                work: new_work!("hog"),
                time,
                clock: clock.clone(),
                stop: stop.clone(),
                queue: queue.handle(),
            });
            hog.queue_again();
        }
        Ok(Self {
            stop,
            _queue: queue,
        })
    }

    /// None begins again.
    pub(super) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }
}
