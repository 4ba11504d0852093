// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue's pwqs: linked at creation, exchanged with the attributes, released at the end.
//!
//! Kernel counterparts: `alloc_and_link_pwqs`, `apply_wqattrs_commit`, `pwq_release_workfn`,
//! `destroy_workqueue`.

use super::attrs::{Attrs, Flags};
use super::queue::{QueueInner, QueueState, DESTROYED, DESTROYING};
use crate::env::helpers::Job;
use crate::error::{AttrError, WaitError};
use crate::observe::dump;
use crate::pool::worker_state::Wake;
use crate::pool::{context, registry, Pool, PoolKind, PoolState};
use crate::pwq::{self, NodeActive, Pwq};
use crate::runtime::directory::Directory;
use crate::sys::cpuset::CpuSet;
use crate::sys::{call_user_code, log_safely};
use crate::work::{list, Item};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// The pools for a queue, not installed yet. Dropping it gives them back.
pub(crate) struct Plan {
    dir: Arc<Directory>,
    attrs: Attrs,
    /// By CPU; None for the default pwq.
    pools: Vec<(Option<usize>, Arc<Pool>)>,
}

impl Drop for Plan {
    fn drop(&mut self) {
        for (_, pool) in &self.pools {
            self.dir.put_unbound_pool(pool);
        }
    }
}

impl QueueInner {
    /// One pwq per CPU, in that CPU's pool of the queue's priority.
    pub(crate) fn link_percpu(self: &Arc<Self>) -> Result<(), i32> {
        let mut state = self.state.lock();
        for cpu in self.env.cpus.known().iter() {
            self.link_cpu(cpu, &mut state)?;
        }
        self.reserve(state.pwqs.len());
        Ok(())
    }

    /// Adds CPUs to the queue that are met for the first time. The pwqs of an unbound queue follow
    /// in `recompute_slots`.
    /// # Context: `attrs_lock` held, no other.
    pub(crate) fn add_cpus(self: &Arc<Self>, new: &CpuSet) {
        let mut state = self.state.lock();
        for cpu in new.iter() {
            if self.ordered {
                self.set_slot(cpu, state.installed.last().cloned());
            } else if !self.is_unbound() {
                let linked = self.link_cpu(cpu, &mut state);
                debug_assert!(linked.is_ok(), "a CPU has its pools before it has queues");
            }
        }
        self.reserve(state.pwqs.len());
    }

    fn link_cpu(self: &Arc<Self>, cpu: usize, state: &mut QueueState) -> Result<(), i32> {
        let (highpri, bh) = (
            self.flags.contains(Flags::HIGHPRI),
            self.flags.contains(Flags::BH),
        );
        let pools = self.dir.pools_of(cpu).ok_or(libc::ESHUTDOWN)?;
        let pool = match (bh, highpri) {
            (false, false) => pools.normal,
            (false, true) => pools.highpri,
            (true, false) => pools.bh,
            (true, true) => pools.bh_highpri,
        };
        let pwq = Pwq::link(self, &pool, None, state.flush.color(), false);
        self.set_slot(cpu, Some(pwq.clone()));
        state.pwqs.push(pwq);
        Ok(())
    }

    /// Makes room, so that neither waiting for a slot nor a mayday allocates.
    fn reserve(&self, pwqs: usize) {
        self.nodes.iter().for_each(|n| n.reserve(pwqs));
        if let Some(rescuer) = &self.rescuer {
            rescuer.reserve(pwqs);
        }
    }

    /// Installs new attributes, or changes nothing.
    pub(crate) fn apply_attrs(self: &Arc<Self>, attrs: Attrs) -> Result<(), AttrError> {
        if !self.is_unbound() {
            return Err(AttrError::NotUnbound);
        }
        if self.env.is_in_forked_child() {
            return Err(AttrError::Destroyed);
        }
        let _attrs = self.dir.attrs_lock.lock();
        if self.is_mode(DESTROYING) {
            return Err(AttrError::Destroyed);
        }
        attrs.check(&self.env.cpus.known())?;
        self.install_attrs(attrs).map_err(AttrError::Spawn)?;
        self.adjust_limits();
        Ok(())
    }

    /// Installs pools for `attrs` on all CPUs, or changes nothing.
    /// # Context: `attrs_lock` held, no other.
    pub(crate) fn install_attrs(self: &Arc<Self>, attrs: Attrs) -> Result<(), i32> {
        let plan = self.plan(attrs, &self.env.unbound_cpus())?;
        self.install(plan);
        Ok(())
    }

    /// Finds the pools that `attrs` ask for, with `unbound` as the unbound mask.
    /// # Context: `attrs_lock` held, no other.
    pub(crate) fn plan(self: &Arc<Self>, attrs: Attrs, unbound: &CpuSet) -> Result<Plan, i32> {
        let (dir, env) = (&self.dir, &self.env);
        let online = env.online_cpus();
        // The default pwq comes last; an ordered queue has no other.
        let each: Vec<usize> = if self.ordered {
            Vec::new()
        } else {
            env.cpus.known().iter().collect()
        };
        let mut plan = Plan {
            dir: dir.clone(),
            attrs,
            pools: Vec::new(),
        };
        for cpu in each.into_iter().map(Some).chain([None]) {
            let key = registry::key_for(env, &plan.attrs, cpu, unbound, &online);
            plan.pools.push((cpu, dir.get_unbound_pool(key)?));
        }
        Ok(plan)
    }

    /// Installs the pools of a plan.
    /// # Context: `attrs_lock` held since the plan was made, no other.
    pub(crate) fn install(self: &Arc<Self>, mut plan: Plan) {
        let mut state = self.state.lock();
        let former = std::mem::take(&mut state.installed);
        // An ordered queue's new pwq activates nothing before the older one is empty.
        let plugged = self.ordered && !state.pwqs.is_empty();
        let color = state.flush.color();
        for (cpu, pool) in std::mem::take(&mut plan.pools) {
            let pwq = Pwq::link(self, &pool, Some(self.node_of(&pool)), color, plugged);
            match cpu {
                Some(cpu) => drop(self.set_slot(cpu, Some(pwq.clone()))),
                None if self.ordered => self.set_all_slots(&pwq),
                None => {}
            }
            state.pwqs.push(pwq.clone());
            state.installed.push(pwq);
        }
        state.attrs = plan.attrs.clone();
        self.reserve(state.pwqs.len());
        drop(state);
        former.iter().for_each(|pwq| self.put_base_ref(pwq));
    }

    /// After CPUs have left or returned: installs another pool wherever the attributes now ask for
    /// one. `unbound` is the unbound mask, `online` the CPUs in use. The default pwq takes over
    /// where a pool cannot be made.
    /// # Context: `attrs_lock` held, no other.
    pub(crate) fn recompute_slots(self: &Arc<Self>, unbound: &CpuSet, online: &CpuSet) {
        if self.ordered || !self.is_unbound() {
            return;
        }
        let attrs = self.state.lock().attrs.clone();
        for cpu in self.env.topology().possible().iter() {
            let key = registry::key_for(&self.env, &attrs, Some(cpu), unbound, online);
            let fits = |pwq: &Arc<Pwq>| matches!(&pwq.pool.kind, PoolKind::Unbound { key: k, .. } if *k == key);
            if self.slot(cpu).as_ref().is_some_and(fits) {
                continue;
            }
            let pool = self.dir.get_unbound_pool(key);
            let mut state = self.state.lock();
            let Some(default) = state.installed.last().cloned() else {
                return;
            };
            let next = match pool {
                Ok(pool) => {
                    let pwq = Pwq::link(
                        self,
                        &pool,
                        Some(self.node_of(&pool)),
                        state.flush.color(),
                        false,
                    );
                    state.pwqs.push(pwq.clone());
                    // The default pwq stays last.
                    state.installed.insert(0, pwq.clone());
                    self.reserve(state.pwqs.len());
                    pwq
                }
                Err(errno) => {
                    let error = std::io::Error::from_raw_os_error(errno);
                    log_safely!(
                        warn,
                        "workqueue: {}: CPU {cpu} is served by the default pool: {error}",
                        self.name
                    );
                    default.clone()
                }
            };
            let former = self
                .set_slot(cpu, Some(next))
                .filter(|p| !Arc::ptr_eq(p, &default));
            if let Some(former) = &former {
                state.installed.retain(|p| !Arc::ptr_eq(p, former));
            }
            drop(state);
            if let Some(former) = former {
                self.put_base_ref(&former);
            }
        }
    }

    fn node_of(&self, pool: &Pool) -> Arc<NodeActive> {
        let spanning = self.nodes.len() - 1;
        let node = match &pool.kind {
            PoolKind::Unbound {
                node: Some(node), ..
            } => *node,
            _ => spanning,
        };
        self.nodes[node].clone()
    }

    /// Drops the queue's reference to a pwq; items in flight may keep it for a while.
    /// # Context: no pool lock and no queue lock held.
    fn put_base_ref(&self, pwq: &Arc<Pwq>) {
        let mut st = pwq.pool.lock();
        let last = pwq::put(&mut st, pwq.number);
        drop(st);
        if last.is_some() {
            self.release_pwq(pwq);
        }
    }

    /// Releases a pwq without references: keeps its counters, gives up its pool, and lets an
    /// ordered queue go on with the next one.
    /// # Context: no lock of the crate but `attrs_lock` held; not on a worker of that pool.
    pub(crate) fn release_pwq(&self, pwq: &Arc<Pwq>) {
        let wake = {
            let mut state = self.state.lock();
            state.pwqs.retain(|p| !Arc::ptr_eq(p, pwq));
            let past = pwq.unlink();
            state.past.add(&past);
            // Still under the queue's lock: other attributes may release the next one, too.
            let next = state.pwqs.first().filter(|_| self.ordered);
            next.map_or(Wake::Nobody, unplug)
        };
        wake.perform();
        self.dir.put_unbound_pool(&pwq.pool);
    }

    /// Runs everything enqueued before, then takes the queue down.
    pub(crate) fn destroy(self: &Arc<Self>) -> Result<(), WaitError> {
        if self.env.is_in_forked_child() {
            return Err(WaitError::Destroyed);
        }
        if context::in_run_of(self) {
            return Err(WaitError::WouldDeadlock);
        }
        self.begin_destroy()?;
        self.wait_for_enqueues();
        if self.env.is_online() {
            self.drain();
        } else {
            self.discard();
        }
        self.finish_destroy()
    }

    /// From here on only the queue's own runs may enqueue. The caller that gets Ok takes the queue
    /// down.
    fn begin_destroy(&self) -> Result<(), WaitError> {
        let _mode = self.state.lock();
        if self.mode.fetch_or(DESTROYING, Ordering::SeqCst) & DESTROYING != 0 {
            return Err(WaitError::Destroyed);
        }
        Ok(())
    }

    /// Takes an empty queue down.
    /// # Context: after `begin_destroy`.
    fn finish_destroy(self: &Arc<Self>) -> Result<(), WaitError> {
        if let Some(rescuer) = &self.rescuer {
            rescuer.stop();
        }
        // From here on no attributes are applied and no limits set.
        let _attrs = self.dir.attrs_lock.lock();
        let busy = self.state.lock().pwqs.iter().any(has_work);
        if busy {
            log_safely!(
                error,
                "workqueue: {} is still busy after it was drained; it is kept\n{}",
                self.name,
                dump::queue(self)
            );
            self.mode.fetch_and(!DESTROYING, Ordering::SeqCst);
            return Err(WaitError::QueueBusy);
        }
        self.mode.fetch_or(DESTROYED, Ordering::SeqCst);
        let installed = {
            let mut state = self.state.lock();
            let percpu = if self.is_unbound() {
                Vec::new()
            } else {
                state.pwqs.clone()
            };
            let unbound = std::mem::take(&mut state.installed);
            [percpu, unbound].concat()
        };
        for cpu in 0..self.slots.len() {
            self.set_slot(cpu, None);
        }
        installed.iter().for_each(|pwq| self.put_base_ref(pwq));
        self.dir.remove_queue(self);
        Ok(())
    }

    /// Destroys the queue when its owner is dropped. In one of the queue's own runs the monitor
    /// does it.
    pub(crate) fn destroy_on_drop(self: &Arc<Self>) {
        if self.is_mode(DESTROYING) || self.env.is_in_forked_child() {
            return;
        }
        if context::in_run_of(self) {
            return self.destroy_by_monitor();
        }
        if let Err(e) = self.destroy() {
            log_safely!(debug, "workqueue: {} dropped: {e}", self.name);
        }
    }

    /// Lets the monitor destroy the queue, unless somebody does so already.
    pub(crate) fn destroy_by_monitor(self: &Arc<Self>) {
        if self.begin_destroy().is_ok() {
            let queue = self.clone();
            let job = Job::new(move || queue.destroy_without_waiting(0));
            self.env.monitor.post(job);
        }
    }

    /// Takes the queue down if it is empty; else posts itself again for when what is in flight has
    /// ended. `flushes` counts the calls before.
    /// # Context: on the monitor, which the end of an item may need; after `begin_destroy`.
    pub(crate) fn destroy_without_waiting(self: &Arc<Self>, flushes: u32) {
        self.wait_for_enqueues();
        if !self.is_empty() {
            self.warn_of_long_drain(flushes);
            let queue = self.clone();
            let next = flushes.saturating_add(1);
            self.post_after_flush(Job::new(move || queue.destroy_without_waiting(next)));
            return;
        }
        if let Err(e) = self.finish_destroy() {
            log_safely!(warn, "workqueue: {}: {e}", self.name);
        }
    }

    /// Takes all items off a queue whose runtime runs nothing, and drops them.
    fn discard(&self) {
        for pwq in self.pwqs() {
            while let Some(item) = take_any(&pwq) {
                let _ignored = call_user_code(|| drop(item));
            }
        }
    }
}

fn has_work(pwq: &Arc<Pwq>) -> bool {
    let st = pwq.pool.lock();
    let p = st.pwqs.get(pwq.number);
    p.in_flight() > 0 || p.refs > 1
}

/// Lets an ordered queue's next pwq activate its items.
/// # Context: the queue's lock held.
fn unplug(pwq: &Arc<Pwq>) -> Wake {
    let mut st = pwq.pool.lock();
    let p = st.pwqs.get_mut(pwq.number);
    if std::mem::take(&mut p.plugged) {
        st.activate_inactive(pwq.number);
    }
    st.kick()
}

/// Takes one waiting item of a pwq off its list.
fn take_any(pwq: &Pwq) -> Option<Item> {
    let mut st = pwq.pool.lock();
    let PoolState {
        worklist,
        pwqs,
        marks,
        ..
    } = &mut *st;
    let on_worklist = worklist.iter().find(|w| w.pwq() == pwq.number);
    let work = on_worklist.or_else(|| pwqs.get(pwq.number).inactive.front())?;
    let before = work.snapshot();
    // SAFETY: found on a list of this pool, whose lock is held.
    let item = unsafe { list::unlink(work, marks) };
    item.state.set_taken_off();
    let followup = pwq::retire(&mut st, pwq.number, before.color(), !before.inactive());
    drop(st);
    followup.perform();
    Some(item)
}

#[cfg(test)]
mod tests {
    use super::super::spawn::ClosureWork;
    use super::*;
    use crate::env::topology::Topology;
    use crate::work::pointer::{claim, offer};
    use crate::{enqueue, new_work, Runtime};
    use std::sync::atomic::AtomicBool;

    #[test]
    fn s10_01_a_flush_waits_for_an_item_that_is_claimed_and_not_listed() {
        let rt = Runtime::builder().topology(Topology::one_cpu());
        let rt = rt.start().expect("threads can be made");
        let q = rt.queue("q").flags(Flags::PERCPU).build().unwrap();
        let ran = Arc::new(AtomicBool::new(false));
        let (own, run) = (q.handle(), ran.clone());
        let item = Box::pin(ClosureWork {
            work: new_work!(),
            f: move || run.store(true, Ordering::SeqCst),
        });
        let entry = enqueue::enter(&q.inner, None, None).unwrap();
        let placed = offer(item, claim, |item, ()| {
            let flusher = std::thread::spawn(move || {
                own.flush().unwrap();
                ran.load(Ordering::SeqCst)
            });
            // The sign of a thread that waits for the slots: it keeps further readers out.
            let waits = || q.inner.slots.iter().any(|slot| slot.try_read().is_err());
            while !flusher.is_finished() && !waits() {
                std::thread::yield_now();
            }
            entry.place(item);
            drop(entry);
            assert!(flusher.join().unwrap(), "the flush was over before the run");
        });
        assert!(placed.is_ok());
    }

    #[test]
    fn s11_02_a_queue_that_is_busy_after_the_drain_is_kept() {
        let rt = Runtime::builder().start().unwrap();
        let q = rt.queue("q").flags(Flags::PERCPU).build().unwrap();
        let pwq = q.inner.pwqs()[0].clone();
        // No call of the crate leaves anything behind, so something is made to be.
        pwq.pool.lock().pwqs.get_mut(pwq.number).refs += 1;
        assert_eq!(q.inner.destroy(), Err(WaitError::QueueBusy));
        q.try_spawn(|| ()).unwrap();
        q.flush().unwrap();
        pwq.pool.lock().pwqs.get_mut(pwq.number).refs -= 1;
        q.destroy().unwrap();
    }

    #[test]
    fn s04_15_the_next_pwq_stays_until_it_has_been_let_begin() {
        let rt = Runtime::builder().start().unwrap();
        let q = rt.ordered("q", Flags::default()).unwrap();
        let pwqs = || q.inner.pwqs();
        let first = pwqs()[0].clone();
        // As an item in flight keeps it when the attributes change.
        first.pool.lock().pwqs.get_mut(first.number).refs += 1;
        let attrs = |nice| Attrs {
            nice,
            ..Attrs::new()
        };
        q.apply_attrs(attrs(5)).unwrap();
        let second = pwqs()[1].clone();
        let plugged = |pwq: &Arc<Pwq>| pwq.pool.lock().pwqs.get(pwq.number).plugged;
        assert!(plugged(&second));
        let next_is_busy = second.pool.lock();
        let (queue, going) = (q.inner.clone(), first.clone());
        let releaser = std::thread::spawn(move || queue.put_base_ref(&going));
        let is_linked = || {
            let st = first.pool.lock();
            let linked = st.pwqs.iter().any(|p| Arc::ptr_eq(&p.pwq, &first));
            linked
        };
        while is_linked() {
            std::thread::yield_now();
        }
        // No thread sees a queue that has lost the first pwq and has not unplugged the second.
        for _ in 0..1000 {
            if let Some(state) = q.inner.state.try_lock() {
                assert_eq!(state.pwqs.len(), 2);
            }
            std::thread::yield_now();
        }
        drop(next_is_busy);
        releaser.join().unwrap();
        assert!(!plugged(&second));
        q.apply_attrs(attrs(6)).unwrap();
        assert_eq!(pwqs().len(), 1);
    }
}
