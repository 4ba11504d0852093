// SPDX-License-Identifier: MIT OR Apache-2.0
//! One hardware queue: its dispatch list, its software queues, and on which CPU it is run next.
//!
//! [`super::insert`] fills it, [`super::dispatch`] empties it, [`super::run`] decides when. Kernel
//! counterpart: `struct blk_mq_hw_ctx`.

use super::counters::{Counters, HctxCounters, LaneCounters};
use super::ctx::Ctxs;
use super::hctx_state::HctxState;
use super::latency::Latencies;
use super::slot::{Rq, RqList, Slots};
use super::sync::{AtomicU32, Mutex, Ordering};
use super::tag_set::TagSet;
use std::sync::atomic::{AtomicU32 as PlainU32, Ordering::Relaxed};
use workqueue::CpuSet;

/// How many times a CPU is chosen before it is the next one's turn (`BLK_MQ_CPU_WORK_BATCH`).
const CPU_BATCH: u32 = 8;

/// What a hardware queue is made of. Letters: I fixed at creation, A atomic, D under the dispatch
/// list's lock, F under the lock of those who wait for a thaw, C under the CPU choice's lock. No two
/// of these locks are held together, and none across a call of the driver or the transport.
#[derive(Debug)]
pub(super) struct HwQueue {
    pub(super) index: u16,             // I
    pub(super) state: HctxState,       // A
    dispatch: Mutex<RqList>,           // D
    dispatch_len: AtomicU32,           // A: written under D
    pub(super) ctxs: Ctxs,             // see ctx.rs
    busy: PlainU32,                    // A: a moving average, exact when one thread dispatches
    from: PlainU32,                    // A: the ctx served next
    pub(super) fetched: Mutex<RqList>, // F: arrived while frozen
    pub(super) cpus: CpuSet,           // I: empty for any
    next_cpu: Mutex<NextCpu>,          // C
    pub(super) counters: Counters,     // A
    pub(super) latency: Latencies,     // A
    lanes: Box<[LaneCounters]>,        // A: by ctx, written by the owner of its lane
}

impl HwQueue {
    pub(super) fn new(index: u16, set: &TagSet) -> Self {
        let cpus = set.cpus.get(usize::from(index)).cloned();
        Self {
            index,
            state: HctxState::new(),
            dispatch: Mutex::new(RqList::new()),
            dispatch_len: AtomicU32::new(0),
            ctxs: Ctxs::new(set.nr_ctxs),
            busy: PlainU32::new(0),
            from: PlainU32::new(0),
            fetched: Mutex::new(RqList::new()),
            cpus: cpus.unwrap_or_default(),
            next_cpu: Mutex::new(NextCpu::default()),
            counters: Counters::default(),
            latency: Latencies::default(),
            lanes: (0..set.nr_ctxs).map(|_| LaneCounters::default()).collect(),
        }
    }

    /// The numbers of the lane of `ctx`. Written by its owner alone.
    #[inline]
    pub(super) fn lane(&self, ctx: u16) -> &LaneCounters {
        &self.lanes[usize::from(ctx)]
    }

    pub(super) fn counters(&self) -> HctxCounters {
        self.counters.snapshot(&self.lanes)
    }

    /// Changes the dispatch list.
    fn with_dispatch<R>(&self, change: impl FnOnce(&mut RqList) -> R) -> R {
        let mut list = self.dispatch.lock();
        let result = change(&mut list);
        // Release pairs with the Acquire in `has_dispatch`.
        self.dispatch_len.store(list.len(), Ordering::Release);
        result
    }

    pub(super) fn dispatch_tail(&self, slots: &Slots, rq: Rq) {
        self.with_dispatch(|list| list.push_back(slots, rq));
    }

    pub(super) fn dispatch_head(&self, slots: &Slots, rq: Rq) {
        self.with_dispatch(|list| list.push_front(slots, rq));
    }

    pub(super) fn dispatch_append(&self, slots: &Slots, list: &mut RqList) {
        self.with_dispatch(|dispatch| dispatch.append(slots, list));
    }

    /// Puts a list in front of the dispatch list.
    pub(super) fn dispatch_prepend(&self, slots: &Slots, mut list: RqList) {
        self.with_dispatch(|dispatch| {
            list.append(slots, dispatch);
            *dispatch = list;
        });
    }

    pub(super) fn take_dispatch(&self) -> RqList {
        if !self.has_dispatch() {
            return RqList::new();
        }
        self.with_dispatch(RqList::take)
    }

    /// Asked without the lock: is there something on the dispatch list?
    pub(super) fn has_dispatch(&self) -> bool {
        self.dispatch_len.load(Ordering::Acquire) != 0
    }

    /// Asked by a run: is there anything to do (C21)?
    pub(super) fn has_pending(&self) -> bool {
        self.has_dispatch() || self.ctxs.any()
    }

    /// What is on the dispatch list in order, for figures: at most `room` requests. Nothing is
    /// allocated while the lock is held (D6).
    pub(super) fn dispatch_list(&self, slots: &Slots, room: usize) -> Vec<Rq> {
        let mut list = Vec::with_capacity(room);
        self.dispatch.lock().list_into(slots, &mut list);
        list
    }

    /// How busy the driver has lately said it is: 0 to 9.
    #[inline]
    pub(super) fn dispatch_busy(&self) -> u32 {
        self.busy.load(Relaxed)
    }

    /// One list or one direct issue has been dispatched (C19, C20).
    #[inline]
    pub(super) fn update_busy(&self, busy: bool) {
        let old = self.busy.load(Relaxed);
        if old != 0 || busy {
            self.busy
                .store((7 * old + 16 * u32::from(busy)) / 8, Relaxed);
        }
    }

    /// The ctx that is served next (C6).
    pub(super) fn dispatch_from(&self) -> u16 {
        self.from.load(Relaxed) as u16
    }

    pub(super) fn set_dispatch_from(&self, ctx: u16) {
        self.from.store(u32::from(ctx), Relaxed);
    }

    /// The CPU the next run is queued on; None for any (C23).
    pub(super) fn choose_cpu(&self, online: &Mutex<CpuSet>) -> Option<usize> {
        if self.cpus.is_empty() {
            return None;
        }
        self.next_cpu.lock().choose(&self.cpus, &online.lock())
    }
}

/// Round robin over a queue's online CPUs, some queueings on each.
#[derive(Debug, Default)]
struct NextCpu {
    cpu: Option<usize>,
    left: u32,
}

impl NextCpu {
    fn choose(&mut self, cpus: &CpuSet, online: &CpuSet) -> Option<usize> {
        let usable = |cpu: &usize| cpus.contains(*cpu) && online.contains(*cpu);
        let first = || cpus.iter().find(usable);
        let Some(now) = self.cpu.or_else(|| {
            // The first CPU has had one of its turns when the queue was made.
            self.left = CPU_BATCH - 1;
            first()
        }) else {
            return None; // and choose again next time
        };
        let spent = self.left == 0;
        self.cpu = if !spent && usable(&now) {
            Some(now)
        } else {
            self.left = CPU_BATCH;
            cpus.iter()
                .find(|cpu| *cpu > now && usable(cpu))
                .or_else(first)
        };
        self.left = self.left.saturating_sub(1);
        self.cpu
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn c19_busy_rises_and_falls_as_the_formula_says() {
        let hctx = HwQueue::new(0, &TagSet::new(1, 1));
        hctx.update_busy(false);
        assert_eq!(hctx.dispatch_busy(), 0);
        let seen = |busy| {
            hctx.update_busy(busy);
            hctx.dispatch_busy()
        };
        let up: Vec<_> = (0..10).map(|_| seen(true)).collect();
        assert_eq!(up, [2, 3, 4, 5, 6, 7, 8, 9, 9, 9]);
        let down: Vec<_> = (0..9).map(|_| seen(false)).collect();
        assert_eq!(down, [7, 6, 5, 4, 3, 2, 1, 0, 0]);
    }

    #[test]
    fn c23_a_cpu_has_eight_turns_the_first_one_seven() {
        let (mut next, cpus) = (NextCpu::default(), [1, 4, 6].into_iter().collect());
        let online = CpuSet::first(8);
        let turns: Vec<_> = (0..7 + 8 + 8 + 8)
            .map(|_| next.choose(&cpus, &online).unwrap())
            .collect();
        let expected = [[1; 7].as_slice(), &[4; 8], &[6; 8], &[1; 8]].concat();
        assert_eq!(turns, expected);
    }

    #[test]
    fn c23_offline_cpus_are_skipped_and_none_online_means_any() {
        let (mut next, cpus) = (NextCpu::default(), [1, 4].into_iter().collect());
        assert_eq!(next.choose(&cpus, &CpuSet::single(4)), Some(4));
        assert_eq!(next.choose(&cpus, &CpuSet::single(1)), Some(1));
        assert_eq!(next.choose(&cpus, &CpuSet::single(0)), None);
        assert_eq!(next.choose(&cpus, &CpuSet::single(4)), Some(4));
    }
}
