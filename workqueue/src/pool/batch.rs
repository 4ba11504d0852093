// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a worker keeps from one item of a batch to the next: the pwq, and the CPU time not counted
//! yet.
//!
//! Used by [`super::worker`] and [`super::rescuer`]. Reading a thread's CPU clock is a system call,
//! dearer than most items are. So it is read when the coarse clock has moved on since the item
//! before, when the next item is another queue's, before somebody is told that an item has ended,
//! and at the end of the batch; each time all that was used since the last reading goes to the
//! pwq whose items ran meanwhile.

use super::{Pool, PoolState};
use crate::pwq::Pwq;
use crate::runtime::RuntimeInner;
use crate::sys::cpu;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(crate) struct Batch {
    /// That of the item before, kept because the next one's is mostly the same.
    pwq: Option<Arc<Pwq>>,
    /// The number of the pwq that the time since the last count belongs to.
    owed_to: Option<u32>,
    meter: CpuMeter,
}

impl Batch {
    pub(super) fn start(pool: &Pool) -> Self {
        Self {
            pwq: None,
            owed_to: None,
            meter: CpuMeter::start(&pool.rt),
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

    /// An item has ended, a barrier's time being nobody's.
    /// # Context: no lock of the crate held.
    pub(super) fn item_ended(&mut self, rt: &RuntimeInner, number: u32, barrier: bool) {
        self.meter.item_ended(rt);
        self.owed_to = (!barrier).then_some(number);
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

    fn item_ended(&mut self, rt: &RuntimeInner) {
        self.fresh = false;
        let now = rt.clock.coarse();
        // A tick has passed: a long item, or the end of many short ones.
        if std::mem::replace(&mut self.now, now) != now {
            self.read();
        }
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
