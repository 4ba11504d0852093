// SPDX-License-Identifier: MIT OR Apache-2.0
//! The software queues of one hardware queue: requests received but not yet dispatched, a FIFO per
//! lane by which they came.
//!
//! Insertion hands in, a run of the hctx takes out. Kernel counterparts: `struct blk_mq_ctx`,
//! `hctx->ctx_map`. Unlike the kernel's they belong to one hctx from the start; which CPUs they
//! stand for is the transport's affair.
//!
//! A bit of the map is set and cleared only under the lock of its ctx, and is set at every unlock
//! if and only if the list is not empty (A4). So a run that finds the bit clear misses at most a
//! request whose insertion has not returned, and the inserter runs the queue afterwards.

use super::slot::{Rq, RqList, Slots};
use super::sync::{AtomicU64, Mutex, Ordering};

/// At most so many per hctx: the map is one word.
pub(super) const MAX_CTXS: u16 = 64;

/// All software queues of a hardware queue.
#[derive(Debug)]
pub(super) struct Ctxs {
    lists: Box<[Mutex<RqList>]>,
    map: AtomicU64, // A: each bit written under the lock of its list
}

impl Ctxs {
    pub(super) fn new(count: u16) -> Self {
        Self {
            lists: (0..count).map(|_| Mutex::new(RqList::new())).collect(),
            map: AtomicU64::new(0),
        }
    }

    pub(super) fn map(&self) -> u64 {
        self.map.load(Ordering::Acquire)
    }

    /// Is there anything to dispatch?
    pub(super) fn any(&self) -> bool {
        self.map() != 0
    }

    /// Changes a list and brings its bit up to date, under its lock.
    fn with<R>(&self, ctx: u16, change: impl FnOnce(&mut RqList) -> R) -> R {
        let mut list = self.lists[usize::from(ctx)].lock();
        let was_empty = list.is_empty();
        let result = change(&mut list);
        // guard: w10_bit
        if list.is_empty() != was_empty {
            // Release pairs with the Acquire in `map`.
            if was_empty {
                self.map.fetch_or(1 << ctx, Ordering::Release);
            } else {
                self.map.fetch_and(!(1 << ctx), Ordering::Release);
            }
        }
        result
    }

    pub(super) fn push_back(&self, slots: &Slots, ctx: u16, rq: Rq) {
        self.with(ctx, |list| list.push_back(slots, rq));
    }

    pub(super) fn push_front(&self, slots: &Slots, ctx: u16, rq: Rq) {
        self.with(ctx, |list| list.push_front(slots, rq));
    }

    /// Takes out all of one ctx.
    pub(super) fn take(&self, ctx: u16) -> RqList {
        self.with(ctx, RqList::take)
    }

    /// Takes out all requests in ctx order, each ctx in its own order (C7).
    pub(super) fn take_all(&self, slots: &Slots) -> RqList {
        let mut all = RqList::new();
        let mut map = self.map();
        while map != 0 {
            let ctx = map.trailing_zeros() as u16;
            map &= map - 1;
            all.append(slots, &mut self.take(ctx));
        }
        all
    }

    /// Takes the first request of the first ctx that has one, looking round from `from` (C6). Says
    /// which ctx is next.
    pub(super) fn take_one(&self, slots: &Slots, from: u16) -> Option<(Rq, u16)> {
        let count = self.lists.len() as u16;
        for ctx in (from..count).chain(0..from) {
            if self.map() & (1 << ctx) == 0 {
                continue;
            }
            if let Some(rq) = self.with(ctx, |list| list.pop_front(slots)) {
                return Some((rq, (ctx + 1) % count));
            }
        }
        None
    }

    /// What waits in one of them, for figures: at most `room` requests.
    pub(super) fn list(&self, slots: &Slots, ctx: u16, room: usize) -> Vec<Rq> {
        let mut list = Vec::with_capacity(room);
        self.lists[usize::from(ctx)]
            .lock()
            .list_into(slots, &mut list);
        list
    }

    /// How many wait in each, for figures.
    pub(super) fn lens(&self) -> Vec<u32> {
        self.lists.iter().map(|list| list.lock().len()).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn take(ctxs: &Ctxs, slots: &Slots, from: u16) -> Option<(u32, u16)> {
        ctxs.take_one(slots, from).map(|(rq, next)| (rq.0, next))
    }

    #[test]
    fn a4_the_bit_is_set_if_and_only_if_the_list_is_not_empty() {
        let (slots, ctxs) = (Slots::new(8), Ctxs::new(3));
        assert!(!ctxs.any());
        ctxs.push_back(&slots, 1, Rq(0));
        ctxs.push_front(&slots, 1, Rq(1));
        ctxs.push_back(&slots, 2, Rq(2));
        assert_eq!(ctxs.map(), 0b110);
        assert_eq!(take(&ctxs, &slots, 0), Some((1, 2)));
        assert_eq!(ctxs.map(), 0b110);
        assert_eq!(take(&ctxs, &slots, 0), Some((0, 2)));
        assert_eq!(ctxs.map(), 0b100);
        assert_eq!(ctxs.take(2).len(), 1);
        assert_eq!(ctxs.map(), 0);
        assert!(ctxs.take(2).is_empty() && take(&ctxs, &slots, 1).is_none());
    }

    #[test]
    fn c06_one_at_a_time_goes_round_and_c07_all_go_in_ctx_order() {
        let (slots, ctxs) = (Slots::new(8), Ctxs::new(3));
        for (rq, ctx) in [(0, 2), (1, 0), (2, 2), (3, 0), (4, 1)] {
            ctxs.push_back(&slots, ctx, Rq(rq));
        }
        let mut from = 1;
        let mut order = Vec::new();
        while let Some((rq, next)) = take(&ctxs, &slots, from) {
            order.push(rq);
            from = next;
        }
        assert_eq!(order, [4, 0, 1, 2, 3]);
        for (rq, ctx) in [(0, 2), (1, 0), (2, 2), (3, 0), (4, 1)] {
            ctxs.push_back(&slots, ctx, Rq(rq));
        }
        let all: Vec<_> = ctxs.take_all(&slots).iter(&slots).map(|r| r.0).collect();
        assert_eq!(all, [1, 3, 4, 0, 2]);
    }
}
