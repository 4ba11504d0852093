// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for a whole queue: flush by colors, drain until empty.
//!
//! Kernel counterparts: `__flush_workqueue`, `drain_workqueue`.
//!
//! Every item carries the color its queue had when it was enqueued. A flush closes the present
//! color into a *generation* and gives new items the next one. Generations end in order:
//!
//! * **arm**: for the oldest generation, each pwq that still has items of its color has to report,
//!   and is counted in `pwqs_to_flush`, which starts at one for the arming itself;
//! * **report**: the last item of that color in a pwq lowers the count ([`crate::pwq::retire`]);
//!   the thread that brings it to zero calls `flush_color_done`;
//! * **done**: the waiters of that generation are woken, the color is free, flushers that found no
//!   free color get one together, and the next generation is armed.
//!
//! With 16 colors, 15 generations can be told apart, since new items need one too. All steps but
//! the report are under the queue's lock.
//!
//! Before it begins, a wait that can deadlock under some conditions is warned of, once for each pair
//! of queue and function; the wait follows in any case. Waits that certainly never end are refused
//! with `WouldDeadlock`. Kernel counterpart: `check_flush_dependency`.

use crate::env::helpers::Job;
use crate::error::WaitError;
use crate::pool::context::{self, blocking};
use crate::pwq::Pwq;
use crate::sys::log_safely;
use crate::sys::sync::Completion;
use crate::work::RawWork;
use crate::wq::attrs::Flags;
use crate::wq::queue::{FlushWaiter, QueueInner, QueueState, DESTROYED, DRAINING};
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// True for the tenth flush of a drain, then for each hundredth up to the thousandth.
fn is_worth_a_warning(flushes: u32) -> bool {
    flushes == 10 || flushes.is_multiple_of(100) && (100..=1000).contains(&flushes)
}

impl QueueInner {
    /// The flush that callers reach, with its checks and warnings.
    pub(crate) fn flush_from_outside(&self) -> Result<(), WaitError> {
        self.may_wait()?;
        if self.system && self.env.first_time("flush of a system queue", 0) {
            log_safely!(
                warn,
                "workqueue: flush of system queue {} waits for items of everybody",
                self.name
            );
        }
        before_flush(self);
        // An item that is claimed and not listed yet counts as enqueued: another caller may have
        // been told that it is pending.
        // guard: s10_01_claimed_items
        self.wait_for_enqueues();
        self.flush();
        Ok(())
    }

    /// The drain that callers reach, with its checks and warnings.
    pub(crate) fn drain_from_outside(&self) -> Result<(), WaitError> {
        self.may_wait()?;
        before_flush(self);
        self.drain();
        Ok(())
    }

    fn may_wait(&self) -> Result<(), WaitError> {
        self.env.require_online()?;
        if context::in_run_of(self) {
            return Err(WaitError::WouldDeadlock);
        }
        if self.is_mode(DESTROYED) {
            return Err(WaitError::Destroyed);
        }
        Ok(())
    }

    /// Waits for everything enqueued so far.
    /// # Context: no lock of the crate held.
    pub(crate) fn flush(&self) {
        let done = Arc::new(Completion::new());
        self.begin_flush(FlushWaiter::Thread(done.clone()));
        if !done.is_done() {
            blocking(|| done.wait());
        }
    }

    /// Posts this job to the monitor when everything enqueued so far has ended.
    /// # Context: no lock of the crate held.
    pub(crate) fn post_after_flush(&self, job: Job) {
        self.begin_flush(FlushWaiter::Monitor(job));
    }

    fn begin_flush(&self, waiter: FlushWaiter) {
        let state = &mut *self.state.lock();
        if state.flush.color_is_free() {
            state.flush.close(vec![waiter]);
            self.set_pwq_colors(state);
            if state.flush.generations.len() == 1 {
                self.advance(state);
            }
        } else {
            state.flush.overflow.push(waiter);
        }
    }

    /// Gives all pwqs the present color.
    fn set_pwq_colors(&self, state: &QueueState) {
        for pwq in &state.pwqs {
            pwq.pool.lock().pwqs.get_mut(pwq.number).color = state.flush.color;
        }
    }

    /// Makes the pwqs report the end of `color`; true if there is nothing to report.
    fn arm(&self, pwqs: &[Arc<Pwq>], color: u8) -> bool {
        self.pwqs_to_flush.start();
        for pwq in pwqs {
            let mut st = pwq.pool.lock();
            let p = st.pwqs.get_mut(pwq.number);
            if p.nr_in_flight[usize::from(color)] > 0 {
                p.flush_color = Some(color);
                self.pwqs_to_flush.add();
            }
        }
        self.pwq_flushed()
    }

    /// A pwq has reported. True for the last one: the caller then calls `flush_color_done`.
    #[must_use]
    pub(crate) fn pwq_flushed(&self) -> bool {
        self.pwqs_to_flush.count_down()
    }

    /// The oldest generation has ended.
    /// # Context: no lock of the crate held.
    pub(crate) fn flush_color_done(&self) {
        let state = &mut *self.state.lock();
        self.finish_oldest(state);
        self.advance(state);
    }

    /// Arms the oldest generation, and ends those with nothing left to wait for.
    fn advance(&self, state: &mut QueueState) {
        while let Some(color) = state.flush.generations.front().map(|g| g.color) {
            if !self.arm(&state.pwqs, color) {
                return;
            }
            self.finish_oldest(state);
        }
    }

    fn finish_oldest(&self, state: &mut QueueState) {
        let over = state
            .flush
            .generations
            .pop_front()
            .expect("a generation that ends was armed");
        over.waiters.into_iter().for_each(|w| w.complete(self));
        if !state.flush.overflow.is_empty() {
            let waiters = std::mem::take(&mut state.flush.overflow);
            state.flush.close(waiters);
            self.set_pwq_colors(state);
        }
    }

    /// Flushes until nothing is in flight; meanwhile only the queue's own runs may enqueue.
    /// # Context: no lock of the crate held.
    pub(crate) fn drain(&self) {
        {
            let mut state = self.state.lock();
            state.drainers += 1;
            self.mode.fetch_or(DRAINING, Ordering::SeqCst);
        }
        self.wait_for_enqueues();
        for flushes in 1.. {
            self.flush();
            if self.is_empty() {
                break;
            }
            self.warn_of_long_drain(flushes);
        }
        let mut state = self.state.lock();
        state.drainers -= 1;
        if state.drainers == 0 {
            self.mode.fetch_and(!DRAINING, Ordering::SeqCst);
        }
    }

    /// Warns now and then that the queue is not empty after this many flushes of a drain.
    pub(crate) fn warn_of_long_drain(&self, flushes: u32) {
        if is_worth_a_warning(flushes) {
            log_safely!(
                warn,
                "workqueue: {} is not empty after {flushes} flushes of a drain",
                self.name
            );
        }
    }

    /// True if nothing is in flight. Final, because the queue takes items from its own runs only.
    pub(crate) fn is_empty(&self) -> bool {
        // The queue's lock keeps the pwqs from being released meanwhile.
        let state = self.state.lock();
        // Counts the runs that have begun; None if something is in flight. A run may enqueue on a
        // pwq that was looked at already, and end before the look reaches its own pwq. So there are
        // two looks. If no run has begun in between, nothing was in flight after the first.
        let look = || {
            state.pwqs.iter().try_fold(0, |begun, pwq| {
                let st = pwq.pool.lock();
                let p = st.pwqs.get(pwq.number);
                (p.in_flight() == 0).then(|| begun + p.stats.started)
            })
        };
        look().is_some_and(|begun| look() == Some(begun))
    }
}

thread_local! {
    /// The number of open `ReclaimScope`s on this thread.
    static RECLAIMING: Cell<u32> = const { Cell::new(0) };
}

/// While it lives, the thread counts as one that frees memory. It must not wait for a queue without
/// MEM_RECLAIM, which may itself wait for memory. See [`reclaim_scope`].
#[derive(Debug)]
#[must_use = "the scope ends when this is dropped"]
pub struct ReclaimScope {
    // Belongs to the thread that made it.
    _here: PhantomData<*const ()>,
}

/// Begins a scope in which the calling thread frees memory. Flushing a queue without MEM_RECLAIM in
/// it logs a warning. Scopes may nest. Kernel counterpart: the PF_MEMALLOC mark of a task.
///
/// ```
/// let _scope = workqueue::reclaim_scope();
/// ```
pub fn reclaim_scope() -> ReclaimScope {
    RECLAIMING.set(RECLAIMING.get() + 1);
    ReclaimScope { _here: PhantomData }
}

impl Drop for ReclaimScope {
    fn drop(&mut self) {
        RECLAIMING.set(RECLAIMING.get() - 1);
    }
}

/// The run, or thread, that is about to wait.
struct Waiter {
    queue: Option<Arc<QueueInner>>,
    function: &'static str,
}

fn waiter() -> Waiter {
    context::with_run(|_, run| Waiter {
        queue: Some(run.pwq.queue.clone()),
        function: run.function,
    })
    .unwrap_or(Waiter {
        queue: None,
        function: "a thread",
    })
}

/// True if others may wait for memory that this run or thread frees.
fn is_reclaiming(waiter: &Waiter) -> bool {
    let reclaim_run = |q: &Arc<QueueInner>| q.flags.contains(Flags::MEM_RECLAIM) && !q.legacy;
    RECLAIMING.get() > 0 || waiter.queue.as_ref().is_some_and(reclaim_run)
}

/// True if a run of the queue may have to wait for another run to end.
fn is_serial(queue: &QueueInner) -> bool {
    queue.has_rescuer() || queue.state.lock().saved_max == 1
}

/// Warns if a thread that frees memory waits for a queue without a rescuer.
fn warn_of_reclaim(target: &QueueInner, waiter: &Waiter) {
    if target.flags.contains(Flags::MEM_RECLAIM) || !is_reclaiming(waiter) {
        return;
    }
    if target.env.first_wait_warning(&target.name, waiter.function) {
        let from = waiter.queue.as_ref().map_or("", |q| q.name.as_str());
        log::warn!(
            "workqueue: {} {from} makes memory free and waits for {}, which is not MEM_RECLAIM",
            waiter.function,
            target.name
        );
    }
}

/// Called before a flush or drain of a whole queue.
/// # Context: no lock of the crate held.
fn before_flush(target: &QueueInner) {
    warn_of_reclaim(target, &waiter());
}

/// Called before a flush of an item that is on `target`, or runs for it.
/// # Context: no lock of the crate held.
pub(super) fn before_item_flush(target: &QueueInner, work: &RawWork) {
    let function = work.function();
    let waiter = waiter();
    let within = waiter
        .queue
        .as_ref()
        .is_some_and(|q| std::ptr::eq(Arc::as_ptr(q), target));
    if within && is_serial(target) && target.env.first_wait_warning(&target.name, waiter.function) {
        log::warn!(
            "workqueue: {} waits for {function} of the same queue {}, which may have one context for both",
            waiter.function,
            target.name
        );
    }
    warn_of_reclaim(target, &waiter);
}

#[cfg(test)]
mod tests {
    use crate::env::topology::Topology;
    use crate::{blocking, Flags, Runtime};
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    const HUNG: Duration = Duration::from_secs(60);

    #[test]
    fn s10_03_fifteen_flushes_are_told_apart_and_the_rest_share_a_color() {
        let rt = Runtime::builder().topology(Topology::one_cpu());
        let rt = rt.start().expect("threads can be made");
        let q = rt.queue("q").flags(Flags::PERCPU).build().unwrap();
        let (told, ended) = mpsc::channel();
        // An item, a flush behind it, the next item, and so on; every item stands at a door of its
        // own.
        let doors: Vec<_> = (0..20)
            .map(|n| {
                let (door, opened) = mpsc::channel::<()>();
                q.try_spawn(move || {
                    let _open = blocking(|| opened.recv());
                })
                .map_err(|e| e.reason())
                .unwrap();
                let (handle, told) = (q.handle(), told.clone());
                thread::spawn(move || {
                    handle.flush().unwrap();
                    told.send(n).unwrap();
                });
                let begun = Instant::now();
                loop {
                    let flush = &q.inner.state.lock().flush;
                    if flush.generations.len() + flush.overflow.len() == n + 1 {
                        break door;
                    }
                    assert!(begun.elapsed() < HUNG, "flush {n} never began");
                }
            })
            .collect();
        // The first fifteen end one after the other, each with the item before it and none later.
        let next = |n: usize| {
            let first = ended.recv_timeout(HUNG);
            assert_eq!(first, Ok(n), "the flush behind item {n} is the next to end");
        };
        for (n, door) in doors.iter().take(15).enumerate() {
            door.send(()).unwrap();
            next(n);
        }
        // The five others have waited for a color, and end together.
        for door in &doors[15..19] {
            door.send(()).unwrap();
        }
        assert!(ended.try_recv().is_err());
        doors[19].send(()).unwrap();
        let mut rest: Vec<_> = (0..5).map(|_| ended.recv_timeout(HUNG).unwrap()).collect();
        rest.sort_unstable();
        assert_eq!(rest, [15, 16, 17, 18, 19]);
        q.flush().unwrap();
    }
}
