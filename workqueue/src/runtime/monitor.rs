// SPDX-License-Identifier: MIT OR Apache-2.0
//! The monitor thread: does what takes long and what a worker may not do to its own pool.
//!
//! Workers, timers and rescuers post; the thread works the posts off in order. It never waits for
//! an item to end: that may need a post behind the present one. Kernel counterparts:
//! `idle_cull_fn`, `pwq_release_workfn`, which run as items of a system queue there.

use crate::pool::sampler::Sampler;
use crate::pool::{manager, Pool};
use crate::pwq::Pwq;
use crate::runtime::RuntimeInner;
use crate::sys::clock::{after, Clock, Notify};
use crate::sys::sync::{Completion, Mutex};
use crate::wq::QueueInner;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Something to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Look for workers that have been idle for too long.
    Cull(Arc<Pool>),
    /// Nothing refers to this pwq any more.
    ReleasePwq(Arc<Pwq>),
    /// See whether the process's CPUs have changed, and tell.
    LookAtCpus(Arc<RuntimeInner>, Arc<Completion>),
    /// A queue was dropped on a thread that must not wait for it. Posted again after each flush
    /// until the queue is empty; this is how many there have been.
    Destroy(Arc<QueueInner>, u32),
}

#[derive(Debug, Default)]
struct Inbox {
    jobs: Vec<Job>,
    stop: bool,
    /// Nobody will ever look again.
    closed: bool,
}

/// The inbox and the means to wake the thread.
#[derive(Debug)]
pub(crate) struct Monitor {
    inbox: Mutex<Inbox>, // Q
    /// Is the sampler at work, or about to be?
    watching: AtomicBool, // A: set by whoever finds a pool starving, cleared by the monitor
    samples: bool,       // I: does this runtime sample at all?
    wake: Arc<Notify>,
}

impl Monitor {
    pub(crate) fn new(clock: &Clock, sample_period: Duration) -> Self {
        Self {
            inbox: Mutex::default(),
            watching: AtomicBool::new(false),
            // A virtual clock says nothing about what threads really do.
            samples: matches!(clock, Clock::Real) && !sample_period.is_zero(),
            wake: Notify::new(clock),
        }
    }

    /// Items wait behind a run: have the sampler see whether it sleeps. Wakes the monitor once per
    /// time that pools begin to starve.
    pub(crate) fn watch_runs(&self) {
        // SeqCst, and pairs with the swap in `serve`; what would be lost is a pool that starves
        // with nobody looking.
        //   here: pool starves (lock) | mark set?      monitor: clear mark | look at pools (lock)
        // If the look came first, the mark is clear when it is read here, unless it was set again
        // by someone who has the sampler look once more. If it came second, it finds the pool.
        if self.samples
            && !self.watching.load(Ordering::SeqCst)
            && !self.watching.swap(true, Ordering::SeqCst)
        {
            self.wake.notify();
        }
    }

    pub(crate) fn post(&self, job: Job) {
        // After the end there is nothing left that a job could be about.
        let _after_the_end = self.try_post(job);
    }

    /// As `post`; false if the job will never be done.
    #[must_use]
    pub(crate) fn try_post(&self, job: Job) -> bool {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            // Without the lock: the job may be the last to refer to something.
            drop(inbox);
            drop(job);
            return false;
        }
        inbox.jobs.push(job);
        drop(inbox);
        self.wake.notify();
        true
    }

    /// Does what is left in the inbox and takes no more. Whoever waits for a job of his either
    /// finds it done, or finds the inbox closed.
    /// # Context: the thread has ended.
    pub(crate) fn close(&self) {
        loop {
            let jobs = {
                let mut inbox = self.inbox.lock();
                let jobs = std::mem::take(&mut inbox.jobs);
                inbox.closed = jobs.is_empty();
                jobs
            };
            if jobs.is_empty() {
                return;
            }
            jobs.into_iter().for_each(handle);
        }
    }

    /// Something that the thread goes by has changed.
    pub(crate) fn look_again(&self) {
        self.wake.notify();
    }

    /// A thread is about to `serve`.
    pub(crate) fn begin_thread(&self) {
        self.inbox.lock().stop = false;
    }

    /// Lets the thread finish its inbox and end.
    pub(crate) fn stop(&self) {
        self.inbox.lock().stop = true;
        self.wake.notify();
    }

    /// Does what is in the inbox; true if the thread shall end.
    pub(crate) fn work_off(&self) -> bool {
        loop {
            let (jobs, stop) = {
                let mut inbox = self.inbox.lock();
                (std::mem::take(&mut inbox.jobs), inbox.stop)
            };
            if jobs.is_empty() {
                return stop;
            }
            jobs.into_iter().for_each(handle);
        }
    }

    /// The thread's life: the inbox, and now and then a look at the CPUs.
    pub(crate) fn serve(&self, rt: &Arc<RuntimeInner>) {
        let mut next_look = 0;
        let mut sampler = Sampler::default();
        while !self.work_off() {
            let now = rt.clock.now();
            if now >= next_look {
                rt.look_at_cpus();
                next_look = after(now, rt.config.cpu_poll);
            }
            let mut next = next_look.min(rt.watchdog.look(rt, now));
            if self.watching.swap(false, Ordering::SeqCst) && sampler.sample(rt) {
                self.watching.store(true, Ordering::SeqCst);
                next = next.min(after(rt.clock.now(), rt.config.sample_period));
            }
            self.wake.wait_until(Some(next));
        }
    }
}

fn handle(job: Job) {
    match job {
        Job::Cull(pool) => manager::cull(&pool),
        Job::ReleasePwq(pwq) => {
            let queue = pwq.queue.clone();
            queue.release_pwq(&pwq);
        }
        Job::LookAtCpus(rt, done) => {
            rt.look_at_cpus();
            done.complete();
        }
        Job::Destroy(queue, flushes) => queue.destroy_without_waiting(flushes),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::wq::topology::{CpuPlace, Topology};
    use crate::Runtime;

    #[test]
    fn s11_05_nobody_waits_for_a_monitor_that_has_gone() {
        let place = CpuPlace {
            cpu: 0,
            core: 0,
            cache: 0,
            node: 0,
        };
        let rt = Runtime::builder().topology(Topology::simulated(vec![place]));
        let rt = rt.start().expect("threads can be made");
        // The moment between the end of the monitor and that of the runtime: to whoever looked a
        // moment ago the runtime is still there.
        rt.join_helpers();
        rt.inner.monitor.close();
        rt.refresh_cpus();
        rt.shutdown().expect("nothing keeps it");
    }
}
