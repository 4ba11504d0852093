// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device's mirror of blk-mq with what runs it: a workqueue runtime of the server's own, kblockd
//! on it, and the request queue between the ublk queues and the driver.
//!
//! Made after ADD_DEV has said how many queues there are (A2), and in the process that serves:
//! threads do not survive a fork. Taken down when the queues' threads have ended, the request queue
//! first, whose work is waited for (D9).

use std::sync::Arc;

use workqueue::Runtime;

use crate::error::Failure;
use crate::mq::{HctxCounters, Kblockd, Lane, Operations, RequestQueue, TagSet, Transport};

/// The stack of each thread, as small as a queue thread's: the callbacks copy and call the system.
const STACK: usize = 256 << 10;

/// Fields are dropped in this order.
pub(super) struct Mirror {
    queue: RequestQueue,
    _kblockd: Kblockd,
    _runtime: Runtime,
}

impl Mirror {
    /// Starts everything. Nothing is left behind by a failure.
    pub(super) fn start(
        set: TagSet,
        driver: Arc<dyn Operations>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, Failure> {
        // Runs of a hardware queue seldom sleep: the sampler is enough to notice one that does.
        let runtime = Runtime::builder().stack_size(STACK).idle_sentinel(false);
        let runtime = runtime
            .start()
            .map_err(|e| Failure::environment(format!("the workqueue cannot start: {e}")))?;
        let kblockd = Kblockd::new(&runtime)
            .map_err(|e| Failure::environment(format!("kblockd cannot be made: {e}")))?;
        let queue = RequestQueue::new(set, driver, transport, &kblockd)
            .map_err(|e| Failure::runtime(format!("the request queue cannot be made: {e}")))?;
        Ok(Self {
            queue,
            _kblockd: kblockd,
            _runtime: runtime,
        })
    }

    /// The way in for the thread of a queue, which has only one.
    pub(super) fn lane(&self, queue: u16) -> Lane {
        let lane = self.queue.lane(queue, 0);
        lane.expect("each queue's thread is made once")
    }

    /// What a hardware queue has done.
    pub(super) fn counters(&self, queue: u16) -> HctxCounters {
        self.queue.counters(queue)
    }
}
