// SPDX-License-Identifier: MIT OR Apache-2.0
//! The workers of one pool: who exists, who is idle since when, who runs what.
//!
//! Part of what the pool's lock guards. Kernel counterparts: `idle_list`, `busy_hash` and
//! `worker_ida`. Slots are numbers; a worker keeps its slot for life. Nothing here allocates once a
//! worker has joined: room is made in [`Workers::reserve`].

use super::worker_state::{Current, Wake, WorkerFlags, WorkerState, WorkerThread};
use crate::sys::sync::Parker;
use crate::work::Identity;
use std::sync::Arc;

const BUCKETS: usize = 64;

/// All workers of a pool.
#[derive(Debug)]
pub(crate) struct Workers {
    slots: Vec<Option<WorkerState>>,
    /// Slots of idle workers; the last became idle last.
    idle: Vec<usize>,
    /// The number of idle workers that have been called.
    nr_called: usize,
    busy: [Option<usize>; BUCKETS],
    /// Workers that count for the pool's size: no rescuers, and none that was told to leave.
    len: usize,
    /// Numbers of threads that are being made.
    reserved_ids: Vec<usize>,
    /// The number of rescuers that may come to help.
    rescuers: usize,
    /// Threads that have ended and wait to be joined.
    exited: Vec<Arc<WorkerThread>>,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            idle: Vec::new(),
            nr_called: 0,
            busy: [None; BUCKETS],
            len: 0,
            reserved_ids: Vec::new(),
            rescuers: 0,
            exited: Vec::new(),
        }
    }
}

fn bucket(item: Identity) -> usize {
    // Items are at least 8 bytes apart; fold some higher bits in, as allocators like strides.
    (item.address >> 4 ^ item.address >> 10) % BUCKETS
}

impl Workers {
    /// How many workers the pool has, the manager included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn nr_idle(&self) -> usize {
        self.idle.len()
    }

    pub(crate) fn get(&self, slot: usize) -> &WorkerState {
        self.slots[slot]
            .as_ref()
            .expect("a worker keeps its slot for life")
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> &mut WorkerState {
        self.slots[slot]
            .as_mut()
            .expect("a worker keeps its slot for life")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &WorkerState)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(n, w)| Some((n, w.as_ref()?)))
    }

    pub(crate) fn slots(&self) -> std::ops::Range<usize> {
        0..self.slots.len()
    }

    pub(crate) fn is_present(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(Option::is_some)
    }

    /// The lowest free number for a thread's name. It is taken until `join` or `cancel_id`.
    pub(crate) fn reserve_id(&mut self) -> usize {
        let taken = |id: usize| {
            self.reserved_ids.contains(&id) || self.slots.iter().flatten().any(|w| w.id == Some(id))
        };
        let id = (0..)
            .find(|&id| !taken(id))
            .expect("there are more numbers than threads");
        self.reserved_ids.push(id);
        self.reserve(self.rescuers);
        id
    }

    pub(crate) fn cancel_id(&mut self, id: usize) {
        self.reserved_ids.retain(|&r| r != id);
    }

    /// Makes room for all workers, those being made and `rescuers` rescuers.
    fn reserve(&mut self, rescuers: usize) {
        let present = self.slots.iter().flatten().count();
        let wanted = present + self.reserved_ids.len() + rescuers;
        self.slots.reserve(wanted.saturating_sub(self.slots.len()));
        self.idle.reserve(wanted.saturating_sub(self.idle.len()));
        self.exited
            .reserve(wanted.saturating_sub(self.exited.len()));
    }

    /// Counts a queue with a rescuer that has a pwq here, or has it no longer; returns their
    /// number.
    pub(crate) fn expect_rescuer(&mut self, come: bool) -> usize {
        self.rescuers = if come {
            self.rescuers + 1
        } else {
            self.rescuers - 1
        };
        self.reserve(self.rescuers);
        self.rescuers
    }

    /// A thread joins; its slot comes back.
    pub(crate) fn join(&mut self, worker: WorkerState) -> usize {
        if let Some(id) = worker.id {
            self.cancel_id(id);
            self.len += 1;
        }
        let slot = self
            .slots
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(Some(worker));
        } else {
            self.slots[slot] = Some(worker);
        }
        slot
    }

    /// A thread leaves. Called by that thread.
    pub(crate) fn leave(&mut self, slot: usize) -> WorkerState {
        let worker = self.slots[slot].take().expect("a worker leaves once");
        debug_assert!(worker.current.is_none() && worker.scheduled.is_empty());
        if worker.id.is_some() {
            if !worker.flags.intersects(WorkerFlags::DIE) {
                self.len -= 1;
            }
            self.exited.push(worker.thread.clone());
        }
        worker
    }

    /// Threads that have left since the last call.
    pub(crate) fn take_exited(&mut self) -> Vec<Arc<WorkerThread>> {
        std::mem::take(&mut self.exited)
    }

    pub(crate) fn enter_idle(&mut self, slot: usize, now: u64) {
        let worker = self.get_mut(slot);
        debug_assert!(!worker.flags.intersects(WorkerFlags::IDLE) && worker.current.is_none());
        worker.flags |= WorkerFlags::IDLE;
        worker.idle_since = now;
        self.idle.push(slot);
    }

    pub(crate) fn leave_idle(&mut self, slot: usize) {
        let worker = self.get_mut(slot);
        if worker.flags.intersects(WorkerFlags::IDLE) {
            worker.flags &= !WorkerFlags::IDLE;
            self.set_called(slot, false);
            let at = self
                .idle
                .iter()
                .rposition(|&s| s == slot)
                .expect("an idle worker is listed");
            self.idle.remove(at);
        }
    }

    /// Calls the worker that became idle last.
    pub(crate) fn call_last_idle(&mut self) -> Wake {
        let Some(&slot) = self.idle.last() else {
            return Wake::Nobody;
        };
        let worker = self.get(slot);
        if worker.called {
            return Wake::AlreadyCalled;
        }
        let parker = worker.parker.clone();
        self.set_called(slot, true);
        Wake::Call(parker)
    }

    /// An idle worker has been called, or it has come.
    pub(crate) fn set_called(&mut self, slot: usize, called: bool) {
        let before = std::mem::replace(&mut self.get_mut(slot).called, called);
        self.nr_called = self.nr_called + usize::from(called) - usize::from(before);
    }

    /// True if an idle worker could be called.
    pub(crate) fn awaits_call(&self) -> bool {
        self.idle.last().is_some_and(|&slot| !self.get(slot).called)
    }

    /// How many idle workers have been called and have not taken the pool's lock yet.
    pub(crate) fn nr_called(&self) -> usize {
        self.nr_called
    }

    /// The worker that has been idle longest.
    pub(crate) fn first_idle(&self) -> Option<usize> {
        self.idle.first().copied()
    }

    pub(crate) fn idle_slots(&self) -> &[usize] {
        &self.idle
    }

    /// Tells an idle worker to leave. It does not count any more. The caller wakes it.
    pub(crate) fn set_dying(&mut self, slot: usize) -> Arc<Parker> {
        self.leave_idle(slot);
        self.len -= 1;
        let worker = self.get_mut(slot);
        worker.flags |= WorkerFlags::DIE;
        worker.parker.clone()
    }

    /// How many have been told to leave and have not left yet.
    pub(crate) fn nr_dying(&self) -> usize {
        self.slots
            .iter()
            .flatten()
            .filter(|w| w.flags.intersects(WorkerFlags::DIE))
            .count()
    }

    /// A worker begins a run.
    pub(crate) fn set_current(&mut self, slot: usize, current: Current) {
        let worker = self.get_mut(slot);
        worker.current = Some(current);
        worker.runs += 1;
        self.list_busy(slot);
    }

    pub(crate) fn clear_current(&mut self, slot: usize) {
        self.unlist_busy(slot);
        self.get_mut(slot).current = None;
    }

    /// Lists a worker again whose item was replaced since.
    pub(crate) fn relist_busy(&mut self, slot: usize) {
        self.unlist_busy(slot);
        self.list_busy(slot);
    }

    fn list_busy(&mut self, slot: usize) {
        let current = self.get(slot).current.as_ref();
        let head = bucket(current.expect("a busy worker runs an item").item);
        let next = self.busy[head].replace(slot);
        let worker = self.get_mut(slot);
        (worker.busy_in, worker.busy_next) = (head, next);
    }

    fn unlist_busy(&mut self, slot: usize) {
        let worker = self.get_mut(slot);
        let (head, next) = (worker.busy_in, worker.busy_next.take());
        if self.busy[head] == Some(slot) {
            self.busy[head] = next;
            return;
        }
        let mut at = self.busy[head];
        while let Some(other) = at {
            let other = self.get_mut(other);
            if other.busy_next == Some(slot) {
                other.busy_next = next;
                return;
            }
            at = other.busy_next;
        }
        unreachable!("a busy worker is in its bucket");
    }

    /// The worker that runs this very item.
    #[inline]
    pub(crate) fn runner_of(&self, who: Identity) -> Option<usize> {
        let mut at = self.busy[bucket(who)];
        while let Some(slot) = at {
            let worker = self.get(slot);
            if worker.current.as_ref().is_some_and(|c| c.item == who) {
                break;
            }
            at = worker.busy_next;
        }
        at
    }

    pub(crate) fn executing(&self, who: Identity) -> Option<(usize, Current)> {
        let slot = self.runner_of(who)?;
        Some((slot, self.get(slot).current?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: usize) -> WorkerState {
        let thread = Arc::new(WorkerThread {
            tid: 0,
            handle: Arc::default(),
        });
        WorkerState::new(Some(id), WorkerFlags::PREP, Arc::new(Parker::new()), thread)
    }

    fn current(address: usize) -> Current {
        Current {
            item: Identity {
                address,
                instance: 1,
            },
            function: "f",
            pwq: 0,
            color: 0,
            since: 0,
            cpu_start: None,
        }
    }

    #[test]
    fn s01_04_lowest_free_number_is_reused() {
        let mut ws = Workers::default();
        let slots: Vec<_> = (0..3)
            .map(|n| {
                assert_eq!(ws.reserve_id(), n);
                ws.join(worker(n))
            })
            .collect();
        ws.leave(slots[1]);
        assert_eq!(ws.reserve_id(), 1);
        assert_eq!(ws.reserve_id(), 3);
    }

    #[test]
    fn busy_workers_are_found_by_item_within_one_bucket() {
        let mut ws = Workers::default();
        let slots: Vec<_> = (0..4).map(|n| ws.join(worker(n))).collect();
        let same_bucket = |n: usize| 0x10000 * (n + 1) * BUCKETS;
        for (n, &slot) in slots.iter().enumerate() {
            ws.set_current(slot, current(same_bucket(n)));
        }
        ws.clear_current(slots[2]);
        ws.clear_current(slots[0]);
        let find = |ws: &Workers, n| {
            ws.executing(Identity {
                address: same_bucket(n),
                instance: 1,
            })
            .map(|f| f.0)
        };
        assert_eq!(find(&ws, 0), None);
        assert_eq!(find(&ws, 1), Some(slots[1]));
        assert_eq!(find(&ws, 2), None);
        assert_eq!(find(&ws, 3), Some(slots[3]));
        assert!(ws
            .executing(Identity {
                address: same_bucket(1),
                instance: 2
            })
            .is_none());
    }

    #[test]
    fn idle_list_is_last_in_first_out() {
        let mut ws = Workers::default();
        let slots: Vec<_> = (0..3).map(|n| ws.join(worker(n))).collect();
        slots.iter().for_each(|&s| ws.enter_idle(s, 0));
        assert_eq!(ws.first_idle(), Some(slots[0]));
        ws.leave_idle(slots[1]);
        assert_eq!(ws.nr_idle(), 2);
        let is = |wake: Wake, ws: &Workers, slot: usize| matches!(wake, Wake::Call(p) if Arc::ptr_eq(&p, &ws.get(slot).parker));
        let wake = ws.call_last_idle();
        assert!(is(wake, &ws, slots[2]));
        ws.leave_idle(slots[2]);
        let wake = ws.call_last_idle();
        assert!(is(wake, &ws, slots[0]));
    }

    #[test]
    fn a_worker_that_is_on_its_way_is_not_called_again() {
        let mut ws = Workers::default();
        assert!(!ws.call_last_idle().will_come());
        let slot = ws.join(worker(0));
        ws.enter_idle(slot, 0);
        assert!(matches!(ws.call_last_idle(), Wake::Call(_)));
        let again = ws.call_last_idle();
        assert!(again.will_come() && again.needs_no_call());
        assert_eq!(ws.nr_called(), 1);
        ws.leave_idle(slot);
        assert_eq!(ws.nr_called(), 0);
        ws.enter_idle(slot, 0);
        assert!(matches!(ws.call_last_idle(), Wake::Call(_)));
    }
}
