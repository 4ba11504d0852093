// SPDX-License-Identifier: MIT OR Apache-2.0
//! Models of the hazards of the specification (W1 to W12, W17 to W20; W13 stands in
//! `ublk/mailbox.rs`), run by loom over all their interleavings on the code that ships. kblockd is
//! played by a model thread, and its delays last for ever: a request that only the 3 ms delay would
//! run again counts as lost.
//!
//! `scripts/mutate` takes out the guards one by one and sees the models fail.

mod hazards;

mod words;

use crate::mq::kblockd::Kblockd;
use crate::mq::shared_limit::DeviceSlots;
use crate::mq::sync::{AtomicU32, Mutex, Ordering};
use crate::mq::*;
use std::sync::Arc;

/// A driver that keeps requests while it has places, and otherwise answers BUSY.
pub(super) struct Places {
    free: AtomicU32,
    kind: Busy,
    pub(super) slots: Option<DeviceSlots>,
    held: Mutex<Vec<InFlight>>,
    /// Are requests kept, or ended at once?
    pub(super) holds: bool,
    /// Is a queue that is refused stopped? The thread that gives a place starts it (W6).
    pub(super) stops: bool,
    /// Does the driver promise that an end or a waker will run the queue (B3)? Without, debug
    /// builds take a DEV_RESOURCE that meets the last end for RESOURCE (B4).
    pub(super) promises: bool,
}

impl Places {
    pub(super) fn new(free: u32, kind: Busy) -> Self {
        Self {
            free: AtomicU32::new(free),
            kind,
            slots: None,
            held: Mutex::new(Vec::new()),
            holds: true,
            stops: false,
            promises: true,
        }
    }

    pub(super) fn with_slots(slots: u32, queues: u16) -> Self {
        Self {
            slots: Some(DeviceSlots::new(slots, queues)),
            ..Self::new(u32::MAX, Busy::Resource)
        }
    }

    /// As [`Places::new`]; requests end in queue_rq.
    pub(super) fn ending(free: u32) -> Self {
        Self {
            holds: false,
            ..Self::new(free, Busy::Resource)
        }
    }

    fn take(&self) -> bool {
        // Only ever raised by ends and lowered here; the models have few of either.
        self.free
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok()
    }

    pub(super) fn give(&self) {
        self.free.fetch_add(1, Ordering::Release);
    }

    pub(super) fn pop(&self) -> Option<InFlight> {
        self.held.lock().pop()
    }
}

impl Operations for Places {
    fn queue_rq<'q>(&self, hctx: Hctx<'_>, rq: Issued<'q>, _: bool) -> Answer<'q> {
        if !self.take() {
            if self.stops {
                hctx.queue().stop_hw_queue(hctx.index());
                // W6: places may have been given between the check and the stop.
                if self.free.load(Ordering::Acquire) > 0 {
                    hctx.queue().start_stopped_hw_queues(true);
                }
            }
            return rq.busy(self.kind);
        }
        if !self.holds {
            self.give();
            if let Some(slots) = &self.slots {
                slots.release(hctx);
            }
            return Answer::Ok(rq.end(Ok(())));
        }
        let (token, accepted) = rq.hold();
        self.held.lock().push(token);
        Answer::Ok(accepted)
    }

    fn complete(&self, hctx: Hctx<'_>, _: &Request) {
        self.give();
        if let Some(slots) = &self.slots {
            slots.release(hctx);
        }
    }

    fn has_waker(&self, _: u16) -> bool {
        self.promises
    }

    fn budget(&self) -> Option<&dyn Budget> {
        self.slots.as_ref().map(|slots| slots as &dyn Budget)
    }
}

/// Counts ends.
#[derive(Default)]
pub(super) struct Ends(pub(super) std::sync::atomic::AtomicUsize);

impl FrontEnd for Ends {
    fn transfer<'m>(&self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        transfer.done(Ok(0))
    }

    fn end(&self, _: u16, _: &Request, _: i32) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The device. Cheap to clone.
#[derive(Clone)]
pub(super) struct Bed {
    pub(super) queue: Queue,
    pub(super) driver: Arc<Places>,
    pub(super) ends: Arc<Ends>,
    _owner: Arc<RequestQueue>,
}

impl Bed {
    pub(super) fn new(queues: u16, ctxs: u16, driver: Places) -> Self {
        let set = TagSet {
            nr_ctxs: ctxs,
            ..TagSet::new(queues, 4)
        };
        let (driver, ends) = (Arc::new(driver), Arc::new(Ends::default()));
        let owner = RequestQueue::new(set, driver.clone(), ends.clone(), &Kblockd).unwrap();
        Self {
            queue: owner.handle(),
            driver,
            ends,
            _owner: Arc::new(owner),
        }
    }

    pub(super) fn insert(&self, hctx: u16, ctx: u16, tag: u16, op: Op) {
        let request = Request::from_parts(tag, op, 0, 0, false);
        let mut submitter = self.queue.submitter(hctx, ctx).unwrap();
        submitter.insert(&request, &mut ViaFrontEnd::new(&*self.ends, hctx));
    }

    /// Completes one request that the driver has; false if it has none.
    pub(super) fn complete_one(&self) -> bool {
        let token = self.driver.pop();
        token.is_some_and(|token| self.queue.complete_remote(token, Ok(0)))
    }

    /// Runs `there` on another thread beside `here`, and waits for it.
    pub(super) fn beside(&self, there: fn(&Bed), here: fn(&Bed)) {
        let other = self.clone();
        let thread = loom::thread::spawn(move || there(&other));
        here(self);
        thread.join().unwrap();
    }

    /// The threads are done: runs what is queued and completes what is accepted, until nothing is
    /// left to do. `expected` requests must have ended then.
    pub(super) fn finish(&self, expected: usize) {
        self.queue.run_queued();
        while self.complete_one() {
            self.queue.run_queued();
        }
        let ended = self.ends.0.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(
            ended,
            expected,
            "a request waits for ever: {:?}",
            self.queue.snapshot(0)
        );
        assert_eq!(self.queue.fault_at_rest(), None);
    }

    /// As `finish`, where a refused request may wait for the 3 ms delay: then a run must be pending.
    pub(super) fn caught_or_issued(&self, expected: usize) {
        self.queue.run_queued();
        let now = self.queue.snapshot(0);
        let waiting = !now.dispatch.is_empty() || now.ctx_map != 0;
        assert!(
            !waiting || now.run_pending,
            "neither issued nor timed: {now:?}"
        );
        self.queue.fire_delayed();
        self.finish(expected);
    }

    /// As `finish`, after `issued` requests must have reached the driver without another completion.
    pub(super) fn finish_issued(&self, issued: usize, expected: usize) {
        self.queue.run_queued();
        let busy = |hctx| self.queue.snapshot(hctx).busy.len();
        let with_driver: usize = (0..self.queue.tag_set().nr_hw_queues).map(busy).sum();
        assert_eq!(with_driver, issued, "a request waits for ever");
        self.finish(expected);
    }
}

/// Explores all interleavings of `model`, which is given a fresh bed each time.
pub(super) fn explore(make: impl Fn() -> Bed + Send + Sync + 'static, model: fn(Bed)) {
    loom::model(move || model(make()));
}

/// As [`explore`], with at most two preemptions: for models of many steps.
pub(super) fn explore_narrowly(make: impl Fn() -> Bed + Send + Sync + 'static, model: fn(Bed)) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || model(make()));
}
