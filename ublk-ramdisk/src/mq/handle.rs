// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device's request queue from outside: its owner, references to its requests, and what it looks
//! like at one moment. Kernel counterparts: `blk_mq_init_allocated_queue`, `blk_mq_tag_to_rq`.

use super::hctx::HwQueue;
use super::hctx_state::{FROZEN, INACTIVE, QUIESCED, RESTART, STOPPED};
use super::kblockd::{Kblockd, Works};
use super::latency::Sampling;
use super::operations::{FrontEnd, Operations};
use super::queue::{FreezeDepths, Inner, Queue};
use super::request_state::Put;
use super::slot::{RequeueLists, Rq, Slots};
use super::sync::{Mutex, Waiters};
use super::tag_set::{TagSet, TagSetError};
use super::timeout;
use super::tokens::InFlight;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

/// How many devices this process has made.
static LABELS: AtomicU32 = AtomicU32::new(0);

impl Queue {
    /// Looks up a request that a driver or front end has (A11). It is not ended, and its tag not
    /// used again, as long as the reference is kept. One that is only just being issued is not
    /// found.
    pub fn get(&self, hctx: u16, tag: u16) -> Option<RequestRef> {
        if hctx >= self.inner.set.nr_hw_queues || tag >= self.inner.set.queue_depth {
            return None;
        }
        self.get_rq(self.rq(hctx, tag))
    }

    pub(super) fn get_rq(&self, rq: Rq) -> Option<RequestRef> {
        let generation = self.slot(rq).state.get()?;
        Some(RequestRef {
            queue: self.clone(),
            in_flight: self.in_flight(rq, generation),
        })
    }

    /// What a hardware queue looks like now.
    pub fn snapshot(&self, hctx: u16) -> HctxSnapshot {
        let (queue, slots) = (self.hctx(hctx), &self.inner.slots);
        let tags = |list: Vec<Rq>| list.iter().map(|&rq| self.tag_of(queue, rq)).collect();
        let slot = |tag| self.slot(self.rq(hctx, tag));
        let in_flight =
            || (0..self.inner.set.queue_depth).filter(|&tag| slot(tag).state.is_in_flight());
        let holds = |&tag: &u16| slot(tag).token() != 0;
        // Both go on while they are read, and more may be tried again than were refused then.
        let unparked = queue.counters.unparked.get();
        let parked = queue.counters.parked.get().saturating_sub(unparked);
        HctxSnapshot {
            stopped: queue.state.has(STOPPED),
            restart: queue.state.has(RESTART),
            inactive: queue.state.has(INACTIVE),
            quiesced: queue.state.has(QUIESCED),
            frozen: queue.state.has(FROZEN),
            dispatch: tags(queue.dispatch_list(slots, self.inner.set.queue_depth.into())),
            ctx_map: queue.ctxs.map(),
            ctx_lens: queue.ctxs.lens(),
            busy: in_flight().collect(),
            usage: queue.state.usage(),
            dispatch_busy: queue.dispatch_busy(),
            run_pending: self.inner.works.run_is_pending(hctx),
            parked,
            slots_held: in_flight().filter(holds).count() as u64,
            slot_awaited: self
                .inner
                .driver
                .budget()
                .is_some_and(|budget| budget.is_awaited_by(hctx)),
        }
    }

    /// What is wrong with the figures of a device at rest, if anything: every arrival has ended
    /// once, every refusal was tried again, nothing is parked or in use (K5).
    pub fn fault_at_rest(&self) -> Option<String> {
        for hctx in 0..self.inner.set.nr_hw_queues {
            let now = self.snapshot(hctx);
            if now.usage != 0
                || !now.dispatch.is_empty()
                || now.ctx_map != 0
                || !now.busy.is_empty()
            {
                return Some(format!("hctx {hctx} is not at rest: {now:?}"));
            }
            if let Some(fault) = self.counters(hctx).fault_at_rest() {
                return Some(format!("hctx {hctx}: {fault}"));
            }
        }
        let parked = self.inner.requeue.lock().len();
        (parked != 0).then(|| format!("{parked} requests on the requeue lists"))
    }
}

/// A hardware queue at one moment, under the names of the kernel's debugfs.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct HctxSnapshot {
    /// Runs are dropped.
    pub stopped: bool,
    /// The next end runs the queue.
    pub restart: bool,
    /// None of its CPUs is online.
    pub inactive: bool,
    /// Nothing is issued.
    pub quiesced: bool,
    /// Nothing is taken in.
    pub frozen: bool,
    /// Tags on the dispatch list, in order.
    pub dispatch: Vec<u16>,
    /// Which software queues have requests.
    pub ctx_map: u64,
    /// How many each has.
    pub ctx_lens: Vec<u32>,
    /// Tags that the driver or the front end has.
    pub busy: Vec<u16>,
    /// Requests taken in and not ended.
    pub usage: u64,
    /// How busy the driver has lately been, 0 to 9.
    pub dispatch_busy: u32,
    /// True if a run is queued, now or for later.
    pub run_pending: bool,
    /// Requests that were refused and wait for their next try.
    pub parked: u64,
    /// Requests that hold a slot, which is a share of the driver's budget (E1).
    pub slots_held: u64,
    /// True if it waits to be run when a slot comes back.
    pub slot_awaited: bool,
}

/// A reference to a request in flight; see [`Queue::get`].
#[derive(Debug)]
pub struct RequestRef {
    queue: Queue,
    pub(super) in_flight: InFlight,
}

impl RequestRef {
    /// Its hardware queue.
    pub fn hctx(&self) -> u16 {
        self.queue.hctx_of(self.in_flight.rq).index
    }

    /// What is asked for.
    pub fn request(&self) -> super::Request {
        let rq = self.in_flight.rq;
        let tag = self.queue.tag_of(self.queue.hctx_of(rq), rq);
        self.queue.slot(rq).request(tag)
    }

    /// Completes it with an error, unless somebody else is quicker. True if it was this call.
    pub fn complete(&self, status: super::Status) -> bool {
        let InFlight { rq, generation, .. } = self.in_flight;
        let token = self.queue.in_flight(rq, generation);
        self.queue.complete_remote(token, Err(status))
    }
}

impl Drop for RequestRef {
    fn drop(&mut self) {
        if self.queue.slot(self.in_flight.rq).state.put() == Put::End {
            self.queue.end_published(self.in_flight.rq);
        }
    }
}

impl fmt::Display for RequestRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = self.request();
        write!(
            f,
            "hctx {} tag {} {:?} ",
            self.hctx(),
            request.tag(),
            request.op()
        )?;
        self.queue.inner.driver.show_request(&request, f)
    }
}

/// The owner of a device's request queue. Dropping it takes the queue down: its work is cancelled
/// and waited for, then the driver's hardware queues end (D9). Freeze it first if requests may be
/// in flight; must not be dropped by a run of kblockd.
#[derive(Debug)]
pub struct RequestQueue {
    queue: Queue,
}

impl RequestQueue {
    /// Makes the queues of a device. Nothing is left behind by a failure.
    pub fn new(
        set: TagSet,
        driver: Arc<dyn Operations>,
        front_end: Arc<dyn FrontEnd>,
        kblockd: &Kblockd,
    ) -> Result<Self, TagSetError> {
        set.check()?;
        for hctx in 0..set.nr_hw_queues {
            if let Err(status) = driver.init_hctx(hctx) {
                (0..hctx).rev().for_each(|made| driver.exit_hctx(made));
                return Err(TagSetError::Init { hctx, status });
            }
        }
        let requests = usize::from(set.nr_hw_queues) * usize::from(set.queue_depth);
        let lanes = usize::from(set.nr_hw_queues) * usize::from(set.nr_ctxs);
        let inner = Arc::new_cyclic(|weak| Inner {
            slots: Slots::new(requests),
            hctxs: (0..set.nr_hw_queues)
                .map(|n| HwQueue::new(n, &set))
                .collect(),
            works: Works::new(kblockd, weak, set.nr_hw_queues),
            requeue: Mutex::new(RequeueLists::new()),
            depths: Mutex::new(FreezeDepths::default()),
            changed: Waiters::new(),
            online: Mutex::new(kblockd.online_cpus()),
            submitters: (0..lanes).map(|_| AtomicBool::new(false)).collect(),
            sampling: Sampling::default(),
            timeout_period: timeout::timeout_period(set.timeout),
            label: LABELS.fetch_add(1, Ordering::Relaxed),
            set,
            has_budget: AtomicBool::new(driver.budget().is_some()),
            takes_lists: driver.budget().is_none() && driver.takes_lists(),
            driver,
            front_end,
        });
        Ok(Self {
            queue: Queue { inner },
        })
    }

    /// A handle that does not own the queue.
    pub fn handle(&self) -> Queue {
        self.queue.clone()
    }
}

impl Deref for RequestQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        &self.queue
    }
}

impl Drop for RequestQueue {
    fn drop(&mut self) {
        let inner = &self.queue.inner;
        inner.works.disable();
        (0..inner.set.nr_hw_queues).for_each(|hctx| inner.driver.exit_hctx(hctx));
    }
}
