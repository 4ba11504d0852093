// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hardware queue run by the rules of the kernels 3.x (M1 to M3), for those who compare: chosen by
//! [`super::TagSet::rules`].
//!
//! Every run pulls everything, the dispatch list in front of the software queues; what is left goes
//! back to the head of the dispatch list, and the queue is run again at once, whatever the reason.
//! There is no RESTART, no delay, no account of how busy the driver is, and no direct issue: an
//! arrival is listed and the queue run, on the spot if somebody waits for it. All else is as in
//! [`super::dispatch`]. Not modelled: a queued run that is queued again keeps its place (M4).

use super::call::Call;
use super::hctx::HwQueue;
use super::queue::Queue;

/// By whose rules a hardware queue is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rules {
    /// Those of 7.2: C1 to C20.
    #[default]
    Linux7,
    /// Those of the first multi-queue kernels: M1 to M3.
    Linux3,
}

impl Queue {
    /// Is it run by the old rules?
    #[inline]
    pub(super) fn is_old(&self) -> bool {
        self.inner.set.rules == Rules::Linux3
    }

    /// One run.
    /// # Context: inside an issue section of `hctx`.
    pub(super) fn old_pass(&self, hctx: &HwQueue, accepted: &mut u32, call: &mut Call<'_>) {
        let slots = &self.inner.slots;
        let mut list = hctx.take_dispatch();
        list.append(slots, &mut hctx.ctxs.take_all(slots));
        if list.is_empty() {
            return;
        }
        let done = self.issue_list(hctx, &mut list, false, call);
        *accepted += done.accepted;
        if done.ended > 0 {
            call.write_down(hctx);
            self.departed(hctx, hctx.state.leave(done.ended));
        }
        if done.refused.is_some() {
            hctx.dispatch_prepend(slots, list);
            self.run_hw_queue(hctx.index, true);
        }
    }
}
