// SPDX-License-Identifier: MIT OR Apache-2.0
//! A batch that is shown to its driver as a whole, for drivers that take several requests at once.
//!
//! [`super::insert`] offers; what the driver leaves goes through [`super::dispatch`] one by one.
//! Kernel counterpart: `__blk_mq_flush_list`, which calls `queue_rqs`.

use super::call::{Call, Started};
use super::custody::{Accepted, Issued};
use super::hctx::HwQueue;
use super::issue::Issue;
use super::operations::Offer;
use super::queue::Queue;
use super::slot::RqList;

impl Queue {
    /// Offers a batch to a driver that takes several at once. Answers how many have ended.
    /// # Context: inside an issue section of `hctx`.
    pub(super) fn offer_all(&self, hctx: &HwQueue, list: &mut RqList, call: &mut Call<'_>) -> u32 {
        let mut batch = Batch {
            queue: self,
            hctx,
            list,
            call,
            ended: 0,
        };
        self.inner.driver.queue_rqs(self.view(hctx), &mut batch);
        batch.ended
    }
}

/// A batch on offer.
struct Batch<'a, 'h> {
    queue: &'a Queue,
    hctx: &'a HwQueue,
    list: &'a mut RqList,
    call: &'a mut Call<'h>,
    ended: u32,
}

impl Offer for Batch<'_, '_> {
    fn each(
        &mut self,
        take: &mut dyn for<'q> FnMut(Issued<'q>) -> Result<Accepted<'q>, Issued<'q>>,
    ) {
        let slots = &self.queue.inner.slots;
        let mut left = RqList::new();
        while let Some(rq) = self.list.pop_front(slots) {
            let (queue, hctx) = (self.queue, self.hctx);
            let slot = queue.slot(rq);
            let Some(generation) = queue.start(hctx, rq, slot) else {
                continue;
            };
            let started = Started {
                rq,
                slot,
                generation,
                request: &queue.request_of(hctx, rq),
            };
            let token = queue.in_flight(rq, generation);
            match take(Issued::new(queue, token, started.request, 0)) {
                Ok(accepted) => {
                    let issue = queue.accepted(hctx, started, accepted, self.call);
                    self.ended += u32::from(matches!(issue, Issue::Ended { .. }));
                }
                Err(_) => {
                    if slot.state.take_back(generation) {
                        left.push_back(slots, rq);
                    } else {
                        hctx.counters.accepted.add(1);
                    }
                }
            }
        }
        *self.list = left;
    }
}
