// SPDX-License-Identifier: MIT OR Apache-2.0
//! What takes the time of workers on the virtual clock: the cost of kblockd's calls of queue_rq, and
//! hogs, which keep the normal-priority pool of CPU 0 busy for kblockd to compete with.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use workqueue::{
    impl_has_work, new_work, Flags, OwnedQueue, Queue, Runtime, VirtualClock, Work, WorkItem,
};

use crate::error::Failure;
use crate::mq::Kblockd;
use crate::sys::lock::Lock;

/// The cost of calls, paid by a work item behind the run that made them.
///
/// The run itself must not sleep: it is inside the driver then, and the thread that moves the clock
/// may wait for all runs to leave the driver.
pub(super) struct CallCost {
    work: Work<CallCost>,
    per_call: Duration,
    /// Nanoseconds not paid yet.
    owed: AtomicU64,
    clock: Arc<VirtualClock>,
    /// The thread that moves the clock. Its calls cost nothing.
    conductor: ThreadId,
    /// Where it is paid; none before the beginning and after the end.
    kblockd: Lock<Option<Kblockd>>,
}

impl_has_work! {
    impl HasWork<Self> for CallCost { self.work }
}

impl WorkItem for CallCost {
    type Pointer = Arc<Self>;

    /// Sleeps for all that is owed, on a worker of kblockd.
    fn run(this: Arc<Self>) {
        // Not declared as a wait: the worker counts as busy.
        this.clock
            .sleep(Duration::from_nanos(this.owed.swap(0, Relaxed)));
    }
}

impl CallCost {
    /// To be made by the thread that moves the clock.
    pub(super) fn new(per_call: Duration, clock: Arc<VirtualClock>) -> Arc<Self> {
        Arc::new(Self {
            work: new_work!("call cost"),
            per_call,
            owed: AtomicU64::new(0),
            clock,
            conductor: std::thread::current().id(),
            kblockd: Lock::new(None),
        })
    }

    /// Has calls paid here from now on; with none, they cost nothing.
    pub(super) fn charge_to(&self, kblockd: Option<Kblockd>) {
        *self.kblockd.lock() = kblockd;
    }

    /// Charges one call.
    pub(super) fn charge(self: &Arc<Self>) {
        if std::thread::current().id() == self.conductor {
            return;
        }
        self.owed
            .fetch_add(self.per_call.as_nanos() as u64, Relaxed);
        let kblockd = self.kblockd.lock();
        if let Some(kblockd) = &*kblockd {
            // Already pending: then its run pays for this call, too.
            let _pending = kblockd.queue().enqueue(self.clone());
        }
    }
}

struct Hog {
    work: Work<Hog>,
    time: Duration,
    clock: Arc<VirtualClock>,
    stop: Arc<AtomicBool>,
    /// Where it queues itself again. Refused once the queue is being destroyed.
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
        // Not declared as a wait: the worker counts as busy.
        this.clock.sleep(this.time);
        this.queue_again();
    }
}

impl Hog {
    fn queue_again(self: Arc<Self>) {
        let _refused_at_the_end = self.queue.clone().enqueue_on(0, self);
    }
}

/// All hogs, until dropped.
pub(super) struct Hogs {
    stop: Arc<AtomicBool>,
    /// Dropped with the hogs: waits for those that run.
    _queue: OwnedQueue,
}

impl Hogs {
    /// Starts `count` hogs, each of which sleeps for `time` again and again.
    pub(super) fn start(
        runtime: &Runtime,
        clock: &Arc<VirtualClock>,
        (count, time): (u16, Duration),
    ) -> Result<Self, Failure> {
        // Per CPU and of normal priority. By default kblockd is HIGHPRI (D1) and has other workers.
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

    /// Has each of them end after its present sleep.
    pub(super) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }
}
