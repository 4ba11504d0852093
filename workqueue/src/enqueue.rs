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
use crate::observe::TraceEvent;
use crate::pool::{context, registry, PoolGuard};
use crate::pwq::Pwq;
use crate::work::list::Chain;
use crate::work::pointer::{self, claim, claim_for, offer, RawWorkItem};
use crate::work::state::WorkState;
use crate::work::Item;
use crate::wq::queue::{QueueInner, DESTROYED, DESTROYING, DRAINING};
use std::sync::{Arc, RwLockReadGuard};

/// The number of items that are pushed together.
const AT_ONCE: usize = 16;

/// A queue in one of these modes takes no items, except from its own runs while it drains.
const CLOSED: u32 = DRAINING | DESTROYING | DESTROYED;

/// A queue that lets an item in. The slot of a CPU is held until the item is listed, in an inbox or
/// on its timer. A flush, drain or end of the queue waits for that, so it misses no item that is
/// pending and in no place.
pub(crate) struct Entry<'a> {
    pub(crate) queue: &'a Arc<QueueInner>,
    /// The CPU asked for.
    pub(crate) cpu: Option<usize>,
    slot: RwLockReadGuard<'a, Option<Arc<Pwq>>>,
}

/// Claims and enqueues a caller's item.
pub(crate) fn enqueue<W, const ID: u64>(
    queue: &Arc<QueueInner>,
    cpu: Option<usize>,
    work: W,
) -> Result<(), EnqueueError<W>>
where
    W: RawWorkItem<ID>,
{
    enqueue_if(queue, cpu, work, |_| Ok(())).map_err(|e| refuse(e.reason(), e.into_inner()))
}

/// As [`enqueue`], if `allowed` lets the item be claimed. It is called only if the queue takes the
/// item.
pub(crate) fn enqueue_if<W, const ID: u64>(
    queue: &Arc<QueueInner>,
    cpu: Option<usize>,
    work: W,
    allowed: impl FnOnce(&WorkState) -> Result<(), Refusal>,
) -> Result<(), EnqueueError<W>>
where
    W: RawWorkItem<ID>,
{
    // Before the claim: a refusal changes nothing, also not for a moment in which another caller is
    // told that the item is pending.
    let entry = match enter_open(queue, cpu, None) {
        Ok(entry) => entry,
        Err(refusal) => return Err(EnqueueError::new(refusal, work)),
    };
    let pwq = entry.pwq();
    let claim_it = |state: &WorkState| {
        allowed(state)?;
        claim_near(pwq, state)
    };
    offer(work, claim_it, |item, for_inbox| {
        if for_inbox {
            push_to_inbox(pwq, cpu, item);
        } else {
            entry.place(item);
        }
    })
}

/// Claims and enqueues items in their order. Those that are pending or disabled are passed over, and
/// all from a moment on if the queue closes. Returns how many were taken.
pub(crate) fn enqueue_all<T, const ID: u64>(queue: &Arc<QueueInner>, items: &[Arc<T>]) -> usize
where
    Arc<T>: RawWorkItem<ID>,
{
    let mut taken = 0;
    for part in items.chunks(AT_ONCE) {
        let Ok(entry) = enter_open(queue, None, None) else {
            break;
        };
        let pwq = entry.pwq();
        let push = |chain| {
            let refused = |item| push_to_inbox(pwq, None, item);
            pwq.pool.inbox.0.push_all_if_owned(chain, refused);
        };
        let mut chain = Chain::default();
        for item in part {
            let claim_it = |state: &WorkState| claim_near(pwq, state);
            let placed = offer(item.clone(), claim_it, |item, for_inbox| {
                if for_inbox {
                    item.set_pwq(pwq.number);
                    chain.push(item);
                } else {
                    push(std::mem::take(&mut chain));
                    entry.place(item);
                }
            });
            taken += usize::from(placed.is_ok());
        }
        push(chain);
    }
    taken
}

/// The error of an item that is not taken. What a closed queue refuses may be pending or disabled,
/// which comes first.
pub(crate) fn refuse<W, const ID: u64>(refusal: Refusal, work: W) -> EnqueueError<W>
where
    W: RawWorkItem<ID>,
{
    if !matches!(refusal, Refusal::Draining | Refusal::Destroyed) {
        return EnqueueError::new(refusal, work);
    }
    let (seen, work) = pointer::with_raw(work, |raw| {
        // SAFETY: alive during the call.
        unsafe { raw.as_ref() }.state.read_as_claim()
    });
    let refusal = match (seen.pending(), seen.depth()) {
        (true, _) => Refusal::AlreadyPending,
        (false, 0) => refusal,
        (false, _) => Refusal::Disabled,
    };
    EnqueueError::new(refusal, work)
}

/// Enters a queue that has a pwq for the item, also if it drains. Without a requested CPU the item
/// goes near `here`, by default the caller's CPU.
/// # Context: no lock of the crate held.
#[inline(always)]
pub(crate) fn enter(
    queue: &Arc<QueueInner>,
    cpu: Option<usize>,
    here: Option<usize>,
) -> Result<Entry<'_>, Refusal> {
    if queue.env.is_in_forked_child() {
        return Err(Refusal::Destroyed);
    }
    if cpu.is_some_and(|cpu| !queue.has_cpu(cpu)) {
        return Err(Refusal::InvalidCpu);
    }
    let near = || pick_cpu(queue, here.unwrap_or_else(|| queue.env.this_cpu()));
    let slot = queue.slot(cpu.unwrap_or_else(near));
    match *slot {
        None => Err(Refusal::Destroyed),
        Some(_) => Ok(Entry { queue, cpu, slot }),
    }
}

/// As [`enter`], for an item that goes to its pool at once.
#[inline(always)]
fn enter_open(
    queue: &Arc<QueueInner>,
    cpu: Option<usize>,
    here: Option<usize>,
) -> Result<Entry<'_>, Refusal> {
    let entry = enter(queue, cpu, here)?;
    entry.require_open()?;
    Ok(entry)
}

/// Puts a claimed item on the requested CPU, or else near `here`. It comes back if the queue takes
/// none.
/// # Context: no lock of the crate held.
pub(crate) fn place(
    queue: &Arc<QueueInner>,
    cpu: Option<usize>,
    here: Option<usize>,
    item: Item,
) -> Result<(), (Refusal, Item)> {
    match enter_open(queue, cpu, here) {
        Ok(entry) => {
            entry.place(item);
            Ok(())
        }
        Err(refusal) => Err((refusal, item)),
    }
}

impl Entry<'_> {
    /// Tests if the queue takes an item at once: a closed one takes only those of its own runs.
    #[inline]
    pub(crate) fn require_open(&self) -> Result<(), Refusal> {
        // With the slot held: a drain sets the mode, then waits for the slots. So it waits for this
        // item, or this reading finds the mode.
        // guard: s10_08_drain_open
        if self.queue.is_mode(CLOSED) && !context::in_run_of(self.queue) {
            return Err(if self.queue.is_mode(DESTROYING | DESTROYED) {
                Refusal::Destroyed
            } else {
                Refusal::Draining
            });
        }
        Ok(())
    }

    #[inline]
    fn pwq(&self) -> &Arc<Pwq> {
        self.slot
            .as_ref()
            .expect("tested when the queue was entered")
    }

    /// Puts a claimed item into the pool of the slot's pwq, or into the one where it runs for this
    /// queue.
    pub(crate) fn place(&self, item: Item) {
        let (queue, pwq) = (self.queue, self.pwq());
        // If the item runs for this queue elsewhere, it must go there, or it could run twice at
        // once. An ordered queue has one installed pwq, which keeps the order.
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
                    return insert(st, &running_for, self.cpu, item);
                }
            }
        }
        insert(pwq.pool.lock(), pwq, self.cpu, item);
    }
}

/// Claims an item for the pwq's pool; true if it may go to the inbox.
/// # Context: the slot of its CPU held.
#[inline(always)]
fn claim_near(pwq: &Pwq, state: &WorkState) -> Result<bool, Refusal> {
    if pwq.pool.inbox.0.is_owned() && !pwq.queue.env.is_traced() {
        claim_for(state, pwq.pool.id)
    } else {
        claim(state).map(|()| false)
    }
}

/// Pushes an item that was claimed for this pool to its inbox. Counts it in under the lock if the
/// inbox is not owned any more.
/// # Context: the slot held.
#[inline(always)]
fn push_to_inbox(pwq: &Arc<Pwq>, requested: Option<usize>, item: Item) {
    item.set_pwq(pwq.number);
    if let Err(item) = pwq.pool.inbox.0.push_if_owned(item) {
        insert(pwq.pool.lock(), pwq, requested, item);
    }
}

/// Counts the item in and lists it, active or not.
/// # Context: the slot held, and the lock of the pwq's pool; that is released inside.
fn insert(mut st: PoolGuard<'_>, pwq: &Arc<Pwq>, requested: Option<usize>, item: Item) {
    let (pool, queue) = (st.pool(), &pwq.queue);
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
        return;
    }
    env.trace(|| TraceEvent::Activate { work, function });
    let wake = st.kick();
    let starving = st.is_starving();
    drop(st);
    wake.perform();
    if starving {
        env.monitor.watch_runs();
    }
}

/// The CPU for an item without a requested one: `here`, if it may be used.
#[inline]
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
