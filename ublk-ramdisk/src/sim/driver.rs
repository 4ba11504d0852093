// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver of the RAM disk behind a switch: a script can have every request refused, and a call of
//! queue_rq can cost time. All other calls are passed on.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::Arc;

use super::script::Refusal;
use super::worker_load::CallCost;
use crate::mq::{
    Answer, Budget, Busy, Deferred, Hctx, Issued, Operations, Request, RequestRef, Run, Source,
    Status, TimeoutAnswer,
};

/// See the module. A method that is added to [`Operations`] has to be passed on here too.
pub(super) struct SimDriver {
    inner: Arc<dyn Operations>,
    /// A [`Refusal`].
    refusal: AtomicU8,
    call_cost: Option<Arc<CallCost>>,
}

impl fmt::Debug for SimDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDriver")
            .field("refusal", &self.refusal)
            .finish_non_exhaustive()
    }
}

impl SimDriver {
    pub(super) fn new(inner: Arc<dyn Operations>, call_cost: Option<Arc<CallCost>>) -> Self {
        Self {
            inner,
            refusal: AtomicU8::new(Refusal::Off as u8),
            call_cost,
        }
    }

    /// Has all requests refused like this from now on.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.refusal.store(refusal as u8, Relaxed);
    }

    fn refusal(&self) -> Option<Busy> {
        match self.refusal.load(Relaxed) {
            n if n == Refusal::Resource as u8 => Some(Busy::Resource),
            n if n == Refusal::DevResource as u8 => Some(Busy::DevResource),
            _ => None,
        }
    }
}

impl Operations for SimDriver {
    fn queue_rq<'q>(&self, hctx: Hctx<'_>, rq: Issued<'q>, last: bool) -> Answer<'q> {
        if let Some(cost) = &self.call_cost {
            cost.charge();
        }
        match self.refusal() {
            None => self.inner.queue_rq(hctx, rq, last),
            Some(kind) => {
                // The budget token is the driver's from the call on.
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
        // The end of `busy dev` runs the queues, as has been promised.
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
}
