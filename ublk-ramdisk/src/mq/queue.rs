// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device's request queue: how it is made, held still and taken down. What else it does is in the
//! files that [`super`] lists.
//!
//! Two ways to hold it still, both of which nest: after quiesce no queue_rq runs, after freeze there
//! is no request at all (C25, C26). Kernel counterparts: `struct request_queue`,
//! `blk_mq_init_allocated_queue`, `blk_mq_quiesce_queue`, `blk_mq_freeze_queue`.

use super::counters::{HctxCounters, Sampling};
use super::hctx::HwQueue;
use super::hctx_state::{Bit, FROZEN, QUIESCED, STOPPED};
use super::kblockd::{Kblockd, Works};
use super::operations::{FrontEnd, Hctx, Operations};
use super::request::Request;
use super::request_state::Generation;
use super::slot::{RequeueLists, Rq, Slot, Slots};
use super::sync::{Mutex, Waiters};
use super::tag_set::{TagSet, TagSetError};
use super::timeout;
use super::tokens::InFlight;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use workqueue::CpuSet;

/// What all threads of a device share. Letters as in `HwQueue`; R: the requeue lists' lock, P: the
/// pause lock.
pub(super) struct Inner {
    pub(super) set: TagSet,                   // I
    pub(super) timeout_period: (u64, u32),    // I: see timeout.rs
    pub(super) driver: Arc<dyn Operations>,   // I
    pub(super) has_budget: AtomicBool,        // A: are shares taken?
    pub(super) front_end: Arc<dyn FrontEnd>,  // I
    pub(super) slots: Slots,                  // see slot.rs
    pub(super) hctxs: Box<[HwQueue]>,         // I
    pub(super) works: Works,                  // I
    pub(super) requeue: Mutex<RequeueLists>,  // R
    pub(super) depths: Mutex<FreezeDepths>,   // P
    pub(super) changed: Waiters,              // for quiesce and freeze
    pub(super) online: Mutex<CpuSet>,         // the CPUs in use
    pub(super) sampling: Sampling,            // A: whose times are taken
    pub(super) label: u32,                    // I: tells it from other devices in a trace
    pub(super) submitters: Box<[AtomicBool]>, // A: by hctx and ctx, has it an owner?
}

/// How many quiesces and freezes have not been undone.
#[derive(Debug, Default)]
pub(super) struct FreezeDepths {
    pub(super) quiesce: u32,
    pub(super) freeze: u32,
}

/// A handle to a device's request queue: for its front end, its driver and its control. Cheap to
/// clone.
#[derive(Clone)]
pub struct Queue {
    pub(super) inner: Arc<Inner>,
}

/// A [`Queue`] that does not keep the device's queue alive, to be held by the driver itself.
#[derive(Clone)]
pub struct WeakQueue(Weak<Inner>);

impl fmt::Debug for WeakQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakQueue")
    }
}

impl WeakQueue {
    /// Returns the queue, if it has not been taken down.
    pub fn upgrade(&self) -> Option<Queue> {
        self.0.upgrade().map(|inner| Queue { inner })
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("set", &self.inner.set)
            .finish_non_exhaustive()
    }
}

impl Queue {
    /// Returns one of its hardware queues, as the driver sees it.
    pub fn hw_queue(&self, hctx: u16) -> Hctx<'_> {
        self.view(self.hctx(hctx))
    }

    /// Returns a handle that does not keep the queue alive.
    pub fn downgrade(&self) -> WeakQueue {
        WeakQueue(Arc::downgrade(&self.inner))
    }

    #[inline]
    pub(super) fn has_budget(&self) -> bool {
        self.inner.has_budget.load(Ordering::Relaxed)
    }

    /// Switches the driver's budget on or off for later requests. A driver that has a budget begins
    /// with it on. Requests under way keep what they have; those that wait for a share are run.
    pub fn use_budget(&self, on: bool) {
        let on = on && self.inner.driver.budget().is_some();
        self.inner.has_budget.store(on, Ordering::Relaxed);
        self.run_hw_queues(true);
    }

    /// The shape it was made with.
    pub fn tag_set(&self) -> &TagSet {
        &self.inner.set
    }

    pub(super) fn hctxs(&self) -> &[HwQueue] {
        &self.inner.hctxs
    }

    #[inline]
    pub(super) fn hctx(&self, index: u16) -> &HwQueue {
        &self.inner.hctxs[usize::from(index)]
    }

    #[inline]
    pub(super) fn slot(&self, rq: Rq) -> &Slot {
        self.inner.slots.get(rq)
    }

    #[inline]
    pub(super) fn rq(&self, hctx: u16, tag: u16) -> Rq {
        let depth = self.inner.set.queue_depth;
        assert!(tag < depth, "tag {tag} of a queue of depth {depth}");
        Rq(u32::from(hctx) * u32::from(depth) + u32::from(tag))
    }

    /// Returns the request in a slot that the caller owns.
    #[inline]
    pub(super) fn request_of(&self, hctx: &HwQueue, rq: Rq) -> Request {
        self.slot(rq).request(self.tag_of(hctx, rq))
    }

    #[inline]
    pub(super) fn tag_of(&self, hctx: &HwQueue, rq: Rq) -> u16 {
        (rq.0 - u32::from(hctx.index) * u32::from(self.inner.set.queue_depth)) as u16
    }

    pub(super) fn hctx_of(&self, rq: Rq) -> &HwQueue {
        self.hctx((rq.0 / u32::from(self.inner.set.queue_depth)) as u16)
    }

    #[inline]
    pub(super) fn view(&self, hctx: &HwQueue) -> Hctx<'_> {
        Hctx {
            queue: self,
            index: hctx.index,
        }
    }

    /// Returns what a hardware queue has done so far.
    pub fn counters(&self, hctx: u16) -> HctxCounters {
        self.hctx(hctx).counters()
    }

    /// Makes the token of a request.
    #[inline]
    pub(super) fn in_flight(&self, rq: Rq, generation: Generation) -> InFlight {
        InFlight {
            rq,
            generation,
            #[cfg(debug_assertions)]
            device: self.identity(),
        }
    }

    /// Debug builds: panics if the token is another device's.
    #[inline]
    pub(super) fn assert_own(&self, _token: &InFlight) {
        #[cfg(debug_assertions)]
        // guard: a11_device
        assert_eq!(_token.device, self.identity(), "a token of another device");
    }

    #[cfg(debug_assertions)]
    fn identity(&self) -> super::tokens::Device {
        super::tokens::Device(Arc::as_ptr(&self.inner) as usize)
    }
}

/// How many devices this process has made.
static LABELS: AtomicU32 = AtomicU32::new(0);

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
        let submitters = usize::from(set.nr_hw_queues) * usize::from(set.nr_ctxs);
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
            submitters: (0..submitters).map(|_| AtomicBool::new(false)).collect(),
            sampling: Sampling::default(),
            timeout_period: timeout::timeout_period(set.timeout),
            label: LABELS.fetch_add(1, Ordering::Relaxed),
            set,
            has_budget: AtomicBool::new(driver.budget().is_some()),
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

/// A freeze that could not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hctx {hctx} has requests waiting and may not run: a freeze would wait for ever; unquiesce or start it first")]
pub struct WouldDeadlock {
    /// The hardware queue.
    pub hctx: u16,
}

impl Queue {
    fn set_all(&self, bit: Bit) {
        for hctx in self.hctxs() {
            hctx.state.set(bit);
        }
    }

    fn clear_all(&self, bit: Bit) {
        for hctx in self.hctxs() {
            hctx.state.clear(bit);
        }
    }

    /// Returns when every queue_rq in progress has returned; from then until it is undone as often,
    /// none is called. Completions go on. Not to be called from queue_rq.
    pub fn quiesce(&self) {
        {
            let mut depths = self.inner.depths.lock();
            depths.quiesce += 1;
            if depths.quiesce == 1 {
                self.set_all(QUIESCED);
            }
        }
        let silent = || self.hctxs().iter().all(|hctx| hctx.state.issuing() == 0);
        // guard: c25_wait
        self.inner.changed.wait_until(silent);
    }

    /// Undoes one [`Queue::quiesce`]; the last one runs every hardware queue.
    pub fn unquiesce(&self) {
        {
            let mut depths = self.inner.depths.lock();
            assert!(depths.quiesce > 0, "a queue that is not quiesced");
            depths.quiesce -= 1;
            if depths.quiesce > 0 {
                return;
            }
            self.clear_all(QUIESCED);
        }
        self.run_hw_queues(true);
    }

    /// Admits no arrival any more, and returns when every request has ended, also those that wait on
    /// any list. Arrivals wait until the last [`Queue::unfreeze`]. Fails if a request waits on a queue
    /// that may not run.
    pub fn freeze(&self) -> Result<(), WouldDeadlock> {
        {
            let mut depths = self.inner.depths.lock();
            if let Some(hctx) = self.find_stuck(depths.quiesce > 0) {
                return Err(WouldDeadlock { hctx });
            }
            depths.freeze += 1;
            if depths.freeze == 1 {
                self.set_all(FROZEN);
            }
        }
        // No arrival will run what is listed any more (W20).
        // guard: w20_run
        self.kick_requeue_list();
        self.run_hw_queues(false);
        let empty = || self.hctxs().iter().all(|hctx| hctx.state.usage() == 0);
        self.inner.changed.wait_until(empty);
        Ok(())
    }

    /// Returns a queue whose requests wait and may not run: a freeze would never end.
    fn find_stuck(&self, quiesced: bool) -> Option<u16> {
        let requeued = self.inner.requeue.lock().len() > 0;
        let stuck = self.hctxs().iter().find(|hctx| {
            let waiting = hctx.has_pending() || (requeued && hctx.state.usage() > 0);
            waiting && (quiesced || hctx.state.has(STOPPED))
        });
        stuck.map(|hctx| hctx.index)
    }

    /// Undoes one [`Queue::freeze`]; the last one admits the arrivals that have waited.
    pub fn unfreeze(&self) {
        {
            let mut depths = self.inner.depths.lock();
            assert!(depths.freeze > 0, "a queue that is not frozen");
            depths.freeze -= 1;
            if depths.freeze > 0 {
                return;
            }
            self.clear_all(FROZEN);
        }
        for hctx in self.hctxs() {
            self.admit_thawed(hctx);
        }
    }
}
