// SPDX-License-Identifier: MIT OR Apache-2.0
//! The limits of a queue: max_active and min_active as set by callers, frozen, and split between
//! NUMA nodes. Kernel counterparts: `workqueue_set_max_active`, `wq_adjust_max_active`,
//! `wq_update_node_max_active`, `freeze_workqueues_begin` and its siblings.

use super::attrs::Flags;
use super::builder::checked_max_active;
use super::queue::{QueueInner, DESTROYED};
use crate::error::AttrError;
use crate::pwq;
use crate::runtime::Runtime;
use std::sync::atomic::Ordering;

impl QueueInner {
    pub(crate) fn set_max_active(&self, max_active: usize) -> Result<(), AttrError> {
        if self.ordered || self.flags.contains(Flags::BH) {
            return Err(AttrError::NotAdjustable);
        }
        let wanted = checked_max_active(&self.name, max_active);
        self.change_limits(|max, min| {
            *max = wanted;
            if self.is_unbound() {
                *min = (*min).min(*max);
            }
        })
    }

    pub(crate) fn set_min_active(&self, min_active: usize) -> Result<(), AttrError> {
        if self.ordered || !self.is_unbound() {
            return Err(AttrError::NotAdjustable);
        }
        self.change_limits(|max, min| *min = min_active.min(*max))
    }

    fn change_limits(&self, change: impl FnOnce(&mut usize, &mut usize)) -> Result<(), AttrError> {
        if self.env.is_in_forked_child() || self.is_mode(DESTROYED) {
            return Err(AttrError::Destroyed);
        }
        let _attrs = self.dir.attrs_lock.lock();
        {
            let state = &mut *self.state.lock();
            change(&mut state.saved_max, &mut state.saved_min);
        }
        self.adjust_limits();
        Ok(())
    }

    /// Applies the limits and activates the items that they allow.
    /// # Context: `attrs_lock` held, no other.
    pub(crate) fn adjust_limits(&self) {
        let frozen =
            self.flags.contains(Flags::FREEZABLE) && self.dir.frozen.load(Ordering::Relaxed);
        let (max, min) = {
            let state = self.state.lock();
            // guard: s11_06_frozen_limits
            if frozen {
                (0, 0)
            } else {
                (state.saved_max, state.saved_min)
            }
        };
        // Items enqueued before belong to the former limits; taking a pool's lock counts in those
        // of its inbox.
        self.pwqs().iter().for_each(|pwq| drop(pwq.pool.lock()));
        // Relaxed: the pool lock taken below, or by the next enqueue, orders it.
        self.max_active.store(max, Ordering::Relaxed);
        if self.is_unbound() {
            self.split_between_nodes(max, min);
            self.nodes
                .iter()
                .for_each(|node| pwq::activate_waiting(node));
            return;
        }
        // The pwqs of a per-CPU queue stay until it is destroyed, which needs `attrs_lock`.
        for pwq in self.pwqs() {
            let mut st = pwq.pool.lock();
            st.activate_inactive(pwq.number);
            let wake = st.kick();
            drop(st);
            wake.perform();
        }
    }

    /// Each node gets its share of the limit, by its share of the CPUs, but at least the minimum.
    /// Pools that span nodes get the whole limit.
    fn split_between_nodes(&self, max: usize, min: usize) {
        let env = &self.env;
        let (online, topology) = (env.online_cpus(), env.topology());
        let attrs = self.state.lock().attrs.clone();
        let allowed = attrs.effective_mask(&env.unbound_cpus()).and(&online);
        let total = allowed.len();
        let (spanning, nodes) = self
            .nodes
            .split_last()
            .expect("an unbound queue has budgets");
        for (number, node) in nodes.iter().enumerate() {
            let own = topology.node_cpus(number).and(&allowed).len();
            let part = if total == 0 {
                0
            } else {
                (max * own).div_ceil(total)
            };
            node.set_max(part.clamp(min, max));
        }
        spanning.set_max(max);
    }

    pub(crate) fn congested(&self, cpu: Option<usize>) -> bool {
        if self.env.is_in_forked_child() {
            return false;
        }
        let cpu = cpu.unwrap_or_else(|| self.env.this_cpu());
        if !self.has_cpu(cpu) {
            return false;
        }
        let slot = self.slot(cpu);
        let Some(pwq) = slot.as_ref() else {
            return false;
        };
        let st = pwq.pool.lock();
        let congested = !st.pwqs.get(pwq.number).inactive.is_empty();
        drop(st);
        congested
    }
}

impl Runtime {
    /// Activates no further item of FREEZABLE queues; running ones go on. Does nothing in the child
    /// of a fork.
    pub fn freeze_begin(&self) {
        if self.inner.env.is_in_forked_child() {
            return;
        }
        if self.inner.frozen.load(Ordering::Relaxed) {
            log::warn!("workqueue: freeze_begin while the queues are frozen already");
        }
        self.set_frozen(true);
    }

    /// True if a FREEZABLE queue still runs items from before the freeze; false in the child of a
    /// fork.
    pub fn freeze_busy(&self) -> bool {
        if self.inner.env.is_in_forked_child() {
            return false;
        }
        if !self.inner.frozen.load(Ordering::Relaxed) {
            log::warn!("workqueue: freeze_busy outside a freeze");
        }
        let freezable = |q: &&std::sync::Arc<QueueInner>| q.flags.contains(Flags::FREEZABLE);
        self.inner.queues().iter().filter(freezable).any(|q| {
            q.state.lock().pwqs.iter().any(|pwq| {
                let st = pwq.pool.lock();
                st.pwqs.get(pwq.number).nr_active > 0
            })
        })
    }

    /// Ends a freeze: items held back by it become active in their order.
    pub fn thaw(&self) {
        let frozen = self.inner.frozen.load(Ordering::Relaxed);
        if frozen && !self.inner.env.is_in_forked_child() {
            self.set_frozen(false);
        }
    }

    fn set_frozen(&self, frozen: bool) {
        let _attrs = self.inner.attrs_lock.lock();
        self.inner.frozen.store(frozen, Ordering::Relaxed);
        for queue in self.inner.queues() {
            if queue.flags.contains(Flags::FREEZABLE) {
                queue.adjust_limits();
            }
        }
    }
}
