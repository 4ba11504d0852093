// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a worker keeps from one item of a batch to the next: the pwq, and the CPU time not counted
//! yet.
//!
//! Used by [`super::worker`] and [`super::rescuer`]. Reading a thread's CPU clock is a system call,
//! dearer than most items are. So it is read when the coarse clock has moved on since the item
//! before, when the next item is another queue's, before somebody is told that an item has ended,
//! and at the end of the batch; each time all that was used since the last reading goes to the
//! pwq whose items ran meanwhile.

use super::hog::HogWatch;
use super::{Pool, PoolKind, PoolState};
use crate::pwq::Pwq;
use crate::runtime::RuntimeInner;
use crate::sys::cpu;
use std::sync::Arc;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(crate) struct Batch {
    /// That of the item before, kept because the next one's is mostly the same.
    pwq: Option<Arc<Pwq>>,
    /// The number of the pwq that the time since the last count belongs to.
    owed_to: Option<u32>,
    meter: CpuMeter,
    hogs: HogWatch,
}

impl Batch {
    pub(super) fn start(pool: &Pool) -> Self {
        Self {
            pwq: None,
            owed_to: None,
            meter: CpuMeter::start(&pool.rt),
            // Only there is a run in the way of others.
            hogs: HogWatch::start(&pool.rt, matches!(pool.kind, PoolKind::PerCpu { .. })),
        }
    }

    /// The next item is one of this pwq's.
    /// # Context: the pool's lock held.
    pub(super) fn turn_to(&mut self, st: &mut PoolState, number: u32, barrier: bool) -> Arc<Pwq> {
        let next = &st.pwqs.get(number).pwq;
        let same = self.pwq.take_if(|pwq| Arc::ptr_eq(pwq, next));
        if let (Some(pwq), false) = (same, barrier) {
            return pwq;
        }
        let next = next.clone();
        // Also before a barrier: whoever waits for it finds the time of his item counted.
        self.bill(st);
        next
    }

    /// When the next item begins, as of the last tick.
    pub(super) fn now(&self) -> u64 {
        self.meter.now
    }

    /// The thread's CPU time at which the next item begins, if it was read just then.
    pub(super) fn cpu_start(&self) -> Option<u64> {
        self.meter.last.filter(|_| self.meter.fresh)
    }

    /// An item has ended, a barrier's time being nobody's. Did it use the CPU for too long?
    /// # Context: no lock of the crate held.
    #[must_use]
    pub(super) fn item_ended(&mut self, rt: &RuntimeInner, number: u32, barrier: bool) -> bool {
        self.owed_to = (!barrier).then_some(number);
        self.meter
            .item_ended(rt)
            .is_some_and(|used| self.hogs.is_hog(used))
    }

    /// The next item may well be one of the same pwq.
    pub(super) fn keep(&mut self, pwq: Arc<Pwq>) {
        self.pwq = Some(pwq);
    }

    /// Counts the time not counted yet. To be called before the pwq it belongs to can go: that is,
    /// before the lock is let go, unless the same pwq has the next item.
    /// # Context: the pool's lock held.
    pub(super) fn bill(&mut self, st: &mut PoolState) {
        let used = self.meter.lap();
        if let Some(number) = self.owed_to.take() {
            st.pwqs.get_mut(number).stats.cpu_time_ns += used;
        }
    }
}

/// The thread's CPU clock, read no more often than needed.
#[derive(Debug)]
struct CpuMeter {
    /// The last reading; None if nobody wants to know.
    last: Option<u64>,
    /// Was that at the end of the last item?
    fresh: bool,
    /// Used up to that reading, and not counted yet.
    used: u64,
    /// The coarse clock at the end of the last item.
    now: u64,
}

impl CpuMeter {
    fn start(rt: &RuntimeInner) -> Self {
        Self {
            last: rt.config.cpu_accounting.then(cpu::thread_cpu_ns),
            fresh: true,
            used: 0,
            now: rt.clock.coarse(),
        }
    }

    /// What the item used, at least, if a tick has passed: a long item, or the end of many short
    /// ones.
    fn item_ended(&mut self, rt: &RuntimeInner) -> Option<Duration> {
        let exact = std::mem::take(&mut self.fresh);
        let now = rt.clock.coarse();
        let passed = now.saturating_sub(std::mem::replace(&mut self.now, now));
        if passed == 0 {
            return None;
        }
        let before = self.used;
        self.read();
        let used = self.used - before;
        // With short items between the reading before and this one's beginning, no more than the
        // time that it took is surely its own.
        Some(Duration::from_nanos(if exact {
            used
        } else {
            used.min(passed)
        }))
    }

    fn read(&mut self) {
        if let Some(last) = self.last.as_mut().filter(|_| !self.fresh) {
            let now = cpu::thread_cpu_ns();
            self.used += now.saturating_sub(std::mem::replace(last, now));
        }
        self.fresh = true;
    }

    /// What was used since the last call.
    fn lap(&mut self) -> u64 {
        self.read();
        std::mem::take(&mut self.used)
    }
}
