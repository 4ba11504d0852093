// SPDX-License-Identifier: MIT OR Apache-2.0
//! One hardware queue: its dispatch list, its software queues, and on which CPU it is run next.
//!
//! [`super::insert`] fills it, [`super::dispatch`] empties it, [`super::run`] decides when. Kernel
//! counterpart: `struct blk_mq_hw_ctx`.

use super::counters::Latencies;
use super::counters::{Counters, HctxCounters, SubmitterCounters};
use super::hctx_state::HctxState;
use super::slot::{Rq, RqList, Slots};
use super::sync::{AtomicU32, AtomicU64, Mutex, Ordering};
use super::tag_set::TagSet;
use std::sync::atomic::{AtomicU32 as PlainU32, Ordering::Relaxed};
use workqueue::CpuSet;

/// Runs in a row on one CPU before the next one is chosen (`BLK_MQ_CPU_WORK_BATCH`).
const CPU_BATCH: u32 = 8;

/// What a hardware queue is made of. Letters: I fixed at creation, A atomic, D under the dispatch
/// list's lock, F under the lock of those who wait for a thaw, C under the CPU choice's lock. No
/// two of these locks are held together, and none across a call of the driver or the front end.
///
/// Aligned to 128 bytes, as processors fetch cache lines in pairs (J15).
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct HwQueue {
    pub(super) index: u16,                     // I
    pub(super) state: HctxState,               // A
    dispatch: Mutex<RqList>,                   // D
    dispatch_len: AtomicU32,                   // A: written under D
    pub(super) ctxs: Ctxs,                     // see Ctxs
    busy: PlainU32, // A: a moving average, exact when one thread dispatches
    from: PlainU32, // A: the ctx served next
    pub(super) frozen_arrivals: Mutex<RqList>, // F: arrived while frozen
    pub(super) cpus: CpuSet, // I: empty for any
    next_cpu: Mutex<NextCpu>, // C
    pub(super) counters: Counters, // A
    pub(super) latency: Latencies, // A
    submitters: Box<[SubmitterCounters]>, // A: by ctx, written by the owner of its submitter
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
            frozen_arrivals: Mutex::new(RqList::new()),
            cpus: cpus.unwrap_or_default(),
            next_cpu: Mutex::new(NextCpu::default()),
            counters: Counters::default(),
            latency: Latencies::default(),
            submitters: (0..set.nr_ctxs)
                .map(|_| SubmitterCounters::default())
                .collect(),
        }
    }

    /// The numbers of the submitter of `ctx`. Written by its owner alone.
    #[inline]
    pub(super) fn submitter(&self, ctx: u16) -> &SubmitterCounters {
        &self.submitters[usize::from(ctx)]
    }

    pub(super) fn counters(&self) -> HctxCounters {
        self.counters.snapshot(&self.submitters)
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

    /// Puts a list before the first request of the dispatch list.
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

    /// True if the dispatch list is not empty; read without the lock.
    pub(super) fn has_dispatch(&self) -> bool {
        self.dispatch_len.load(Ordering::Acquire) != 0
    }

    /// True if a run would find a request (C21).
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

/// The software queues of one hardware queue: for each submitter a FIFO of requests that were
/// received but not yet dispatched. Kernel counterparts: `struct blk_mq_ctx`, `hctx->ctx_map`. Unlike
/// the kernel's they belong to one hctx from the start.
///
/// A bit of the map is set and cleared only under the lock of its ctx, and is set at every unlock
/// if and only if the list is not empty (A4). So a run that finds the bit clear misses at most a
/// request whose insertion has not returned, and the inserter runs the queue afterwards.
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

    /// True if a software queue has a request.
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

    /// Takes the first request of the first ctx that has one, round robin from `from` on (C6). Also
    /// returns the ctx that is next.
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

    /// Returns what waits in one of them, for figures: at most `room` requests.
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
    use super::super::slot::Slot;
    use super::*;
    use std::collections::BTreeSet;

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

    /// Numbers of the pairs of cache lines that a value is on.
    fn lines<T>(value: &T) -> impl Iterator<Item = usize> {
        let from = std::ptr::from_ref(value) as usize;
        from / 128..=(from + size_of::<T>() - 1) / 128
    }

    #[test]
    fn j15_no_two_hardware_queues_write_to_one_cache_line() {
        let set = TagSet {
            nr_ctxs: 3,
            ..TagSet::new(4, 8)
        };
        let queues: Vec<_> = (0..4).map(|index| HwQueue::new(index, &set)).collect();
        let mut seen = BTreeSet::new();
        for queue in &queues {
            let of_threads = queue.submitters.iter().flat_map(lines);
            for line in lines(queue).chain(of_threads) {
                assert!(seen.insert(line), "queue {}", queue.index);
            }
        }
        assert_eq!(align_of::<Slot>(), 64, "each request has a line of its own");
    }
}
