// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a claimed item to a worklist: picks the CPU, the pwq and the pool.
//!
//! Callers of [`crate::Queue`], expired timers and flushes of delayed items hand in;
//! [`crate::pool`] takes over. Here lives the first half of "never two runs of one item at once":
//! an item that runs for this queue goes to the pool it runs on. The other half is in
//! [`crate::pool::worker`]. Kernel counterpart: `__queue_work`.

use crate::error::{EnqueueError, Refusal};
use crate::observe::trace::TraceEvent;
use crate::pool::{context, registry, Pool, PoolGuard};
use crate::pwq::Pwq;
use crate::runtime::RuntimeInner;
use crate::work::offer::offer;
use crate::work::pointer::RawWorkItem;
use crate::work::raw::Item;
use crate::wq::{QueueInner, DESTROYED, DESTROYING, DRAINING};
use std::sync::Arc;

/// Claims and enqueues a caller's item.
pub(crate) fn enqueue<W, const ID: u64>(
    queue: &Arc<QueueInner>,
    cpu: Option<usize>,
    work: W,
) -> Result<(), EnqueueError<W>>
where
    W: RawWorkItem<ID>,
{
    if let Err(refusal) = check(queue, cpu) {
        return Err(EnqueueError::new(refusal, work));
    }
    offer(work, |item| place(queue, cpu, None, item))
}

/// Asked before an item is claimed: can this queue take an item for this CPU at all?
pub(crate) fn check(queue: &QueueInner, cpu: Option<usize>) -> Result<(), Refusal> {
    if queue.rt.is_in_forked_child() {
        return Err(Refusal::Destroyed);
    }
    match cpu {
        Some(cpu) if !queue.has_cpu(cpu) => Err(Refusal::InvalidCpu),
        _ => Ok(()),
    }
}

/// Puts a claimed item where it belongs: on the requested CPU, or else near `here`, which stands
/// for the caller's CPU if not given. The caller has asked `check`.
/// # Context: no lock of the crate held.
pub(crate) fn place(
    queue: &Arc<QueueInner>,
    requested: Option<usize>,
    here: Option<usize>,
    item: Item,
) -> Result<(), (Refusal, Item)> {
    let cpu =
        requested.unwrap_or_else(|| pick_cpu(queue, here.unwrap_or_else(|| queue.rt.this_cpu())));
    let slot = queue.slot(cpu);
    let Some(pwq) = slot.as_ref() else {
        return Err((Refusal::Destroyed, item));
    };
    // If the item runs for this queue elsewhere, it must go there, or it could run twice at once.
    // An ordered queue has one pwq in charge, and keeps its order by that.
    let last = item
        .snapshot()
        .pool()
        .filter(|&id| id != pwq.pool.id && !queue.ordered);
    if let Some(pool) = last.and_then(registry::lookup) {
        let st = pool.lock();
        if let Some((_, current)) = st.executing(item.identity()) {
            let running_for = st.pwqs.get(current.pwq).pwq.clone();
            if Arc::ptr_eq(&running_for.queue, queue) {
                return insert(&pool, st, &running_for, requested, item);
            }
        }
    }
    insert(&pwq.pool, pwq.pool.lock(), pwq, requested, item)
}

/// Counts the item in and lists it, active or not.
/// # Context: the lock of the pwq's pool held; let go inside.
fn insert(
    pool: &Pool,
    mut st: PoolGuard<'_>,
    pwq: &Arc<Pwq>,
    requested: Option<usize>,
    item: Item,
) -> Result<(), (Refusal, Item)> {
    let queue = &pwq.queue;
    // Under the lock: a drain sets the mode first and then visits each pool, so it either meets
    // this item or this reading meets the mode.
    if queue.is_mode(DRAINING | DESTROYING | DESTROYED) && !context::in_run_of(queue) {
        let refusal = if queue.is_mode(DESTROYING | DESTROYED) {
            Refusal::Destroyed
        } else {
            Refusal::Draining
        };
        return Err((refusal, item));
    }
    let rt = &pool.rt;
    let (work, function) = (item.identity().address, item.function());
    rt.trace(|| TraceEvent::Queue {
        work,
        function,
        workqueue: &queue.name,
        req_cpu: requested.map_or(-1, |c| i32::try_from(c).unwrap_or(-1)),
        cpu: pool.cpu(),
    });
    let p = st.pwqs.get_mut(pwq.number);
    p.refs += 1;
    p.nr_in_flight[usize::from(p.colour)] += 1;
    item.set_pwq(pwq.number);
    // Behind those that wait, even if a slot is free: the order of a pwq holds.
    let active = p.inactive.is_empty() && p.take_slot();
    item.state.set_queued(pool.id, p.colour, !active);
    if !active {
        p.inactive.push_back(item);
        return Ok(());
    }
    rt.trace(|| TraceEvent::Activate { work, function });
    st.add_active(item, || rt.clock.coarse());
    let wake = st.kick();
    let starving = st.is_starving();
    drop(st);
    wake.go();
    if starving {
        rt.monitor.watch_runs();
    }
    Ok(())
}

/// The CPU for an item that asked for none: `here`, if it may be used.
fn pick_cpu(queue: &QueueInner, here: usize) -> usize {
    let rt = &queue.rt;
    if queue.is_unbound() {
        if rt.is_unbound_cpu(here) && !rt.config.force_rr_cpu {
            return here;
        }
        return rt.next_cpu_of(&rt.unbound_cpus());
    }
    if rt.is_online_cpu(here) {
        here
    } else {
        rt.next_cpu_of(&rt.online_cpus())
    }
}

/// A CPU of this node, the caller's if it is one; None if there is no such node.
pub(crate) fn cpu_of_node(rt: &RuntimeInner, node: usize) -> Option<usize> {
    let cpus = rt.topology.node_cpus(node).and(&rt.online_cpus());
    let here = rt.this_cpu();
    if cpus.contains(here) {
        Some(here)
    } else {
        cpus.lowest()
    }
}
