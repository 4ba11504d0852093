// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a claimed item to a worklist: picks the CPU, the pwq and the pool.
//!
//! Callers of [`crate::Queue`], expired timers and flushes of delayed items hand in;
//! [`crate::pool`] takes over. Here is the first half of "never two runs of one item at once": an
//! item that runs for this queue goes to the pool it runs on. The other half is in
//! [`crate::pool::run`]. Kernel counterpart: `__queue_work`.
//!
//! Two ways lead to a pool. An item that needs a wake-up, a look at another pool or a trace event
//! goes in under the pool's lock. Any other item goes to the pool's *inbox*, if a holder of the
//! lock has promised that the lock will be taken again soon. The next holder counts it in, in the
//! same manner, before it does anything else.

use crate::env::Env;
use crate::error::{EnqueueError, Refusal};
use crate::observe::trace::TraceEvent;
use crate::pool::{context, registry, Pool, PoolGuard};
use crate::pwq::Pwq;
use crate::work::pointer::{claim, claim_for, offer_claimed, RawWorkItem};
use crate::work::raw::Item;
use crate::wq::queue::{QueueInner, DESTROYED, DESTROYING, DRAINING};
use std::sync::Arc;

/// A queue in one of these modes takes no items, except from its own runs while it drains.
const CLOSED: u32 = DRAINING | DESTROYING | DESTROYED;

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
    // Held until the item is in its pool or its inbox: a drain sets the mode, then waits for the
    // enqueues that did not see it.
    let slot = queue.slot(cpu.unwrap_or_else(|| pick_cpu(queue, queue.env.this_cpu())));
    let pwq = slot.as_ref();
    offer_claimed(
        work,
        |state| match pwq.filter(|pwq| may_use_inbox(queue, &pwq.pool)) {
            Some(pwq) => claim_for(state, pwq.pool.id),
            None => claim(state).map(|()| false),
        },
        |item, for_inbox| match pwq {
            None => Err((Refusal::Destroyed, item)),
            Some(pwq) if for_inbox => push_to_inbox(pwq, cpu, item),
            Some(pwq) => place_by(queue, pwq, cpu, item),
        },
    )
}

/// True if an item may go to the pool's inbox. Tested before the claim.
/// # Context: the slot of its CPU held.
fn may_use_inbox(queue: &QueueInner, pool: &Pool) -> bool {
    pool.inbox.0.is_owned() && !queue.is_mode(CLOSED) && !queue.env.is_traced()
}

/// Pushes an item that was claimed for this pool to its inbox. Counts it in under the lock if the
/// inbox is not owned any more.
/// # Context: the slot held.
fn push_to_inbox(
    pwq: &Arc<Pwq>,
    requested: Option<usize>,
    item: Item,
) -> Result<(), (Refusal, Item)> {
    let pool = &pwq.pool;
    item.set_pwq(pwq.number);
    match pool.inbox.0.push_if_owned(item) {
        Ok(()) => Ok(()),
        Err(item) => insert(pool, pool.lock(), pwq, requested, item),
    }
}

/// Tests if this queue can take an item for this CPU at all. Called before the claim.
pub(crate) fn check(queue: &QueueInner, cpu: Option<usize>) -> Result<(), Refusal> {
    if queue.env.is_in_forked_child() {
        return Err(Refusal::Destroyed);
    }
    match cpu {
        Some(cpu) if !queue.has_cpu(cpu) => Err(Refusal::InvalidCpu),
        _ => Ok(()),
    }
}

/// Puts a claimed item on the requested CPU, or else near `here`, by default the caller's CPU. The
/// caller has called `check`.
/// # Context: no lock of the crate held.
pub(crate) fn place(
    queue: &Arc<QueueInner>,
    requested: Option<usize>,
    here: Option<usize>,
    item: Item,
) -> Result<(), (Refusal, Item)> {
    let cpu =
        requested.unwrap_or_else(|| pick_cpu(queue, here.unwrap_or_else(|| queue.env.this_cpu())));
    let slot = queue.slot(cpu);
    match slot.as_ref() {
        None => Err((Refusal::Destroyed, item)),
        Some(pwq) => place_by(queue, pwq, requested, item),
    }
}

/// Puts a claimed item into the pool of `pwq`, or into the one where it runs for this queue.
/// # Context: the slot of the pwq held, no other lock of the crate.
fn place_by(
    queue: &Arc<QueueInner>,
    pwq: &Arc<Pwq>,
    requested: Option<usize>,
    item: Item,
) -> Result<(), (Refusal, Item)> {
    // If the item runs for this queue elsewhere, it must go there, or it could run twice at once.
    // An ordered queue has one installed pwq, which keeps the order.
    let last = item
        .snapshot()
        .pool()
        .filter(|&id| id != pwq.pool.id && !queue.ordered);
    if let Some(pool) = last.and_then(registry::lookup) {
        let st = pool.lock();
        if let Some((_, current)) = st.executing(item.identity()) {
            let running_for = st.pwqs.get(current.pwq).pwq.clone();
            // guard: s02_07_stickiness
            if Arc::ptr_eq(&running_for.queue, queue) {
                return insert(&pool, st, &running_for, requested, item);
            }
        }
    }
    insert(&pwq.pool, pwq.pool.lock(), pwq, requested, item)
}

/// Counts the item in and lists it, active or not.
/// # Context: the lock of the pwq's pool held; released inside.
fn insert(
    pool: &Pool,
    mut st: PoolGuard<'_>,
    pwq: &Arc<Pwq>,
    requested: Option<usize>,
    item: Item,
) -> Result<(), (Refusal, Item)> {
    let queue = &pwq.queue;
    // Under the lock: a drain sets the mode first and then visits each pool. So it finds this item,
    // or this reading finds the mode.
    // guard: s10_08_drain_open
    if queue.is_mode(CLOSED) && !context::in_run_of(queue) {
        let refusal = if queue.is_mode(DESTROYING | DESTROYED) {
            Refusal::Destroyed
        } else {
            Refusal::Draining
        };
        return Err((refusal, item));
    }
    let env = &pool.env;
    let (work, function) = (item.identity().address, item.function());
    env.trace(|| TraceEvent::Queue {
        work,
        function,
        workqueue: &queue.name,
        req_cpu: requested.map_or(-1, |c| i32::try_from(c).unwrap_or(-1)),
        cpu: pool.cpu(),
    });
    item.set_pwq(pwq.number);
    if !st.count_in(pwq.number, item, pool.id, || env.clock.coarse()) {
        return Ok(());
    }
    env.trace(|| TraceEvent::Activate { work, function });
    let wake = st.kick();
    let starving = st.is_starving();
    drop(st);
    wake.perform();
    if starving {
        env.monitor.watch_runs();
    }
    Ok(())
}

/// The CPU for an item without a requested one: `here`, if it may be used.
fn pick_cpu(queue: &QueueInner, here: usize) -> usize {
    let env = &queue.env;
    if queue.is_unbound() {
        if env.is_unbound_cpu(here) && !env.config.force_rr_cpu {
            return here;
        }
        return env.next_cpu_of(&env.unbound_cpus());
    }
    if env.is_online_cpu(here) {
        here
    } else {
        env.next_cpu_of(&env.online_cpus())
    }
}

/// A CPU of this node, the caller's if it is one; None if there is no such node.
pub(crate) fn cpu_of_node(env: &Env, node: usize) -> Option<usize> {
    let cpus = env.topology().node_cpus(node).and(&env.online_cpus());
    let here = env.this_cpu();
    if cpus.contains(here) {
        Some(here)
    } else {
        cpus.lowest()
    }
}
