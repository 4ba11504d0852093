// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver of the RAM disk with a switch in front: a script can have it refuse everything, and a
//! call can be made to cost time. Every other call goes straight on.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use workqueue::{impl_has_work, new_work, VirtualClock, Work, WorkItem};

use super::script::BusyFor;
use crate::mq::{
    Answer, Budget, Busy, Deferred, Hctx, Issued, Kblockd, Offer, Operations, Request, RequestRef,
    Run, Source, Status, TimeoutAnswer,
};

/// Time that runs of kblockd have used, paid for by an item behind them. Not within the run: a
/// worker that sleeps there is inside the driver, and whoever waits for those inside would wait for
/// a clock that only moves when nobody waits.
pub(super) struct Costs {
    work: Work<Costs>,
    /// Of one call.
    cost: Duration,
    owed: AtomicU64,
    clock: Arc<VirtualClock>,
    /// The thread that moves the clock, which cannot pay.
    conductor: ThreadId,
    /// Where it is paid; none before the beginning and after the end.
    kblockd: Mutex<Option<Kblockd>>,
}

impl_has_work! {
    impl HasWork<Self> for Costs { self.work }
}

impl WorkItem for Costs {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        // Not declared as a wait: the worker is busy.
        this.clock
            .sleep(Duration::from_nanos(this.owed.swap(0, Relaxed)));
    }
}

impl Costs {
    pub(super) fn new(cost: Duration, clock: Arc<VirtualClock>) -> Arc<Self> {
        Arc::new(Self {
            work: new_work!("call cost"),
            cost,
            owed: AtomicU64::new(0),
            clock,
            conductor: std::thread::current().id(),
            kblockd: Mutex::new(None),
        })
    }

    /// Where costs are paid from now on.
    pub(super) fn charge_to(&self, kblockd: Option<Kblockd>) {
        *self.kblockd.lock().unwrap_or_else(PoisonError::into_inner) = kblockd;
    }

    fn charge(self: &Arc<Self>) {
        if std::thread::current().id() == self.conductor {
            return;
        }
        self.owed.fetch_add(self.cost.as_nanos() as u64, Relaxed);
        let kblockd = self.kblockd.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kblockd) = &*kblockd {
            let _pending = kblockd.queue().enqueue(self.clone());
        }
    }
}

/// See the module. A call that is added to [`Operations`] has to be passed on here too.
pub(super) struct SimDriver {
    inner: Arc<dyn Operations>,
    busy: AtomicU8,
    costs: Option<Arc<Costs>>,
}

impl fmt::Debug for SimDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDriver")
            .field("busy", &self.busy)
            .finish_non_exhaustive()
    }
}

impl SimDriver {
    pub(super) fn new(inner: Arc<dyn Operations>, costs: Option<Arc<Costs>>) -> Self {
        Self {
            inner,
            busy: AtomicU8::new(BusyFor::Nobody as u8),
            costs,
        }
    }

    pub(super) fn set_busy(&self, busy: BusyFor) {
        self.busy.store(busy as u8, Relaxed);
    }

    /// The answer to everything, if there is one at present.
    fn refusal(&self) -> Option<Busy> {
        let busy = self.busy.load(Relaxed);
        if busy == BusyFor::Resource as u8 {
            Some(Busy::Resource)
        } else if busy == BusyFor::DevResource as u8 {
            Some(Busy::DevResource)
        } else {
            None
        }
    }
}

impl Operations for SimDriver {
    fn queue_rq<'q>(&self, hctx: Hctx<'_>, rq: Issued<'q>, last: bool) -> Answer<'q> {
        if let Some(costs) = &self.costs {
            costs.charge();
        }
        match self.refusal() {
            None => self.inner.queue_rq(hctx, rq, last),
            Some(kind) => {
                // The token is the driver's once it has been entered.
                if let Some(budget) = self.inner.budget() {
                    budget.put(hctx, hctx.take_token(rq.request().tag()));
                }
                rq.busy_for(kind, Source::Driver)
            }
        }
    }

    fn commit_rqs(&self, hctx: Hctx<'_>) {
        self.inner.commit_rqs(hctx);
    }

    fn deferred(&self, hctx: Hctx<'_>, request: &Request, deferred: Deferred) {
        self.inner.deferred(hctx, request, deferred);
    }

    fn overtakes(&self, hctx: Hctx<'_>, request: &Request) -> bool {
        self.inner.overtakes(hctx, request)
    }

    fn complete(&self, hctx: Hctx<'_>, request: &Request) {
        self.inner.complete(hctx, request);
    }

    fn runs(&self, request: &Request, each: &mut dyn FnMut(Run)) {
        self.inner.runs(request, each);
    }

    fn budget(&self) -> Option<&dyn Budget> {
        self.inner.budget()
    }

    fn has_waker(&self, hctx: u16) -> bool {
        // The end of `busy dev` runs the queues.
        self.refusal() == Some(Busy::DevResource) || self.inner.has_waker(hctx)
    }

    fn timeout(&self, hctx: Hctx<'_>, expired: &RequestRef) -> TimeoutAnswer {
        self.inner.timeout(hctx, expired)
    }

    fn init_hctx(&self, hctx: u16) -> Result<(), Status> {
        self.inner.init_hctx(hctx)
    }

    fn exit_hctx(&self, hctx: u16) {
        self.inner.exit_hctx(hctx);
    }

    fn takes_lists(&self) -> bool {
        self.inner.takes_lists()
    }

    fn queue_rqs(&self, hctx: Hctx<'_>, list: &mut dyn Offer) {
        if self.refusal().is_none() {
            self.inner.queue_rqs(hctx, list);
        }
    }

    fn show_request(&self, request: &Request, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.show_request(request, out)
    }
}
