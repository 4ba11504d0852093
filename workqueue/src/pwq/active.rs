// SPDX-License-Identifier: MIT OR Apache-2.0
//! max_active: which items may be on a worklist, and who is let in when one has left.
//!
//! [`crate::enqueue`] asks for a slot; [`super::retire`] gives one back. A per-CPU queue counts in
//! each pwq; an unbound one shares a [`Budget`] per NUMA node. Kernel counterparts:
//! `pwq_tryinc_nr_active`, `node_activate_pending_pwq`.

use super::budget::{Budget, Turn};
use super::{Pwq, PwqState};
use crate::observe::trace::TraceEvent;
use crate::pool::{PoolState, Wake};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// A pwq in the line for a slot of its node.
#[derive(Clone, Debug)]
pub(crate) struct InLine(Arc<Pwq>);

impl PartialEq for InLine {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl InLine {
    pub(crate) fn new(pwq: &Arc<Pwq>) -> Self {
        Self(pwq.clone())
    }
}

/// The slots of one queue on one node, or on all nodes together for pools that span them.
pub(crate) type NodeActive = Budget<InLine>;

impl PwqState {
    /// Asked for each item that wants onto the worklist: is there a slot? Takes it if so.
    /// # Context: the pool's lock held.
    pub(crate) fn take_slot(&mut self) -> bool {
        if self.plugged {
            return false;
        }
        let free = match &self.pwq.node {
            // guard: s08_01_slot_per_item
            None => self.nr_active < self.pwq.queue.max_active.load(Ordering::Relaxed),
            Some(node) => node.take_or_wait(|| InLine::new(&self.pwq)),
        };
        if free {
            self.nr_active += 1;
        }
        free
    }
}

impl PoolState {
    /// Moves the oldest inactive item of a pwq, and its barriers, to the worklist. The slot has
    /// been taken; the caller owes a kick.
    pub(crate) fn activate_first(&mut self, number: u32) {
        let p = self.pwqs.get_mut(number);
        let pwq = p.pwq.clone();
        let mut item = p
            .inactive
            .pop_front()
            .expect("a slot is taken only for an item that waits");
        let mut linked = item.snapshot().linked();
        item.state.activate();
        pwq.queue.rt.trace(|| TraceEvent::Activate {
            work: item.identity().address,
            function: item.function(),
        });
        loop {
            self.add_active(item, || pwq.queue.rt.clock.coarse());
            if !linked {
                return;
            }
            item = self
                .pwqs
                .get_mut(number)
                .inactive
                .pop_front()
                .expect("LINKED promises a successor");
            linked = item.snapshot().linked();
        }
    }

    /// Lets in as many inactive items of a per-CPU pwq as there are slots.
    pub(crate) fn fill(&mut self, number: u32) {
        loop {
            let p = self.pwqs.get_mut(number);
            if p.inactive.is_empty() || !p.take_slot() {
                return;
            }
            self.activate_first(number);
        }
    }
}

/// Serves the line of a node until there is no slot or nobody waits: one item each, in turn.
/// # Context: no pool lock held.
pub(crate) fn serve(node: &NodeActive) {
    while let Some(head) = node.head() {
        let pool = head.0.pool.clone();
        let mut st = pool.lock();
        let wake = match node.turn(&head) {
            Turn::Full => return,
            Turn::Moved => Wake::NOBODY,
            Turn::Slot => {
                let number = head.0.number;
                let p = st.pwqs.get_mut(number);
                if p.inactive.is_empty() || p.plugged {
                    // Cancelled meanwhile. The loop serves the next in line with the slot.
                    let _the_loop_serves = node.give_back();
                    Wake::NOBODY
                } else {
                    p.nr_active += 1;
                    st.activate_first(number);
                    if !st.pwqs.get(number).inactive.is_empty() {
                        node.wait_again(&head);
                    }
                    st.kick()
                }
            }
        };
        drop(st);
        wake.go();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::wq::topology::{CpuPlace, Topology};
    use crate::{Flags, Runtime};
    use std::sync::mpsc;

    #[test]
    fn s08_02_a_free_slot_is_not_taken_past_those_who_wait() {
        let place = CpuPlace {
            cpu: 0,
            core: 0,
            cache: 0,
            node: 0,
        };
        let rt = Runtime::builder().topology(Topology::simulated(vec![place]));
        let rt = rt.start().expect("threads can be made");
        let q = rt.queue("q").flags(Flags::UNBOUND).max_active(1);
        let q = q.build().unwrap();
        let (door, opened) = mpsc::channel::<()>();
        q.try_spawn(move || opened.recv().unwrap())
            .map_err(|e| e.reason())
            .unwrap();
        let (log, order) = mpsc::channel();
        let give = |n: usize| {
            let log = log.clone();
            q.try_spawn(move || log.send(n).unwrap())
                .map_err(|e| e.reason())
                .unwrap();
        };
        give(1);
        // Taking the pool's lock counts in what lies in its inbox.
        let waiting = || -> usize {
            let of = |pwq: &std::sync::Arc<crate::pwq::Pwq>| {
                let st = pwq.pool.lock();
                st.pwqs.get(pwq.number).inactive.iter().count()
            };
            q.inner.pwqs().iter().map(of).sum()
        };
        assert_eq!(waiting(), 1);
        // The moment between a slot that is free and the service of those who wait for one.
        q.inner.nodes.iter().for_each(|node| node.set_max(2));
        give(2);
        assert_eq!(waiting(), 2, "the second has overtaken the first");
        q.inner.nodes.iter().for_each(|node| node.set_max(1));
        door.send(()).unwrap();
        q.flush().unwrap();
        assert_eq!([order.recv(), order.recv()], [Ok(1), Ok(2)]);
    }
}
