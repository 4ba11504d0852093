// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device's request queue as its users hold it: made here, seen and taken down here. What it does
//! is in the files that [`super`] lists. Kernel counterpart: `struct request_queue`.

use super::counters::HctxCounters;
use super::hctx::HwQueue;
use super::kblockd::Works;
use super::latency::Sampling;
use super::operations::{FrontEnd, Hctx, Operations};
use super::request::Request;
use super::request_state::Generation;
use super::slot::RequeueLists;
use super::slot::{Rq, Slot, Slots};
use super::sync::{Mutex, Waiters};
use super::tag_set::TagSet;
use super::tokens::InFlight;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use workqueue::CpuSet;

/// What all threads of a device share. Letters as in `HwQueue`; R: the requeue lists' lock, P: the
/// pause lock.
pub(super) struct Inner {
    pub(super) set: TagSet,                   // I
    pub(super) timeout_period: (u64, u32),    // I: see timeout.rs
    pub(super) driver: Arc<dyn Operations>,   // I
    pub(super) has_budget: AtomicBool,        // A: are shares taken?
    pub(super) takes_lists: bool,             // I: the driver has queue_rqs, and no budget
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

/// How often quiesce and freeze have been asked for and not undone.
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

/// A [`Queue`] that does not keep the device's queue from ending: for what the driver itself holds.
#[derive(Clone)]
pub struct WeakQueue(Weak<Inner>);

impl fmt::Debug for WeakQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakQueue")
    }
}

impl WeakQueue {
    /// The queue, if it has not ended.
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
    /// One of its hardware queues, as its driver sees it.
    pub fn hw_queue(&self, hctx: u16) -> Hctx<'_> {
        self.view(self.hctx(hctx))
    }

    /// A handle that does not keep the queue from ending.
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

    /// What is asked for by a request that is the caller's.
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

    /// What a hardware queue has done.
    pub fn counters(&self, hctx: u16) -> HctxCounters {
        self.hctx(hctx).counters()
    }

    /// The token of a request that somebody gets.
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
