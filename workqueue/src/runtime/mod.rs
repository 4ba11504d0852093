// SPDX-License-Identifier: MIT OR Apache-2.0
//! The runtime: everything that is global in the kernel, as an object.
//!
//! Made by [`builder::RuntimeBuilder`] in two phases: early (queues and items, no thread), then
//! started, in which its threads are made. Here too is what its two helper threads do.
//! [`Runtime::shutdown`] ends it, and all threads go. Queues are made from it ([`crate::wq`]).
//! Kernel counterparts: `workqueue_init_early`, `workqueue_init`.

pub(crate) mod directory;

pub(crate) mod builder;

pub(crate) mod cpus;

use crate::env::helpers::TimerEvent;
use crate::env::topology::Topology;
use crate::env::{Env, EARLY, ONLINE, STOPPED};
use crate::error::{AllocError, StartError, WaitError};
use crate::observe::watchdog;
use crate::pool::rescuer::RESCUER_NICE;
use crate::pool::sampler::Sampler;
use crate::pool::worker::{create_worker, CreateError};
use crate::pool::{context, manager, registry, Pool};
use crate::sys::call_user_code;
use crate::sys::clock::{after, Clock, Notify, VirtualClock};
use crate::sys::cpu::{self, errno_of, AbortOnUnwind};
use crate::sys::run_clock::{RunClock, Sleeper};
use crate::work::{delayed, Returned};
use crate::wq::attrs::Flags;
use crate::wq::builder::QueueBuilder;
use crate::wq::queue::QueueInner;
use crate::wq::system::SystemQueues;
use crate::wq::{OwnedQueue, Queue};
use builder::RuntimeBuilder;
use directory::Directory;
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

static GLOBAL: OnceLock<Runtime> = OnceLock::new();

/// All global state of a set of workqueues. Programs use [`Runtime::global`]; tests, and programs
/// with several independent sets, make their own.
///
/// Dropping it is [`Runtime::shutdown`]. Dropped in one of its own runs, it ends by itself as soon
/// as the run is over.
#[derive(Debug)]
pub struct Runtime {
    pub(crate) inner: Arc<Directory>,
    system: SystemQueues,
}

impl Runtime {
    /// Begins a runtime of its own.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::new()
    }

    /// The process's runtime, started at the first call with default settings; with others by
    /// [`RuntimeBuilder::start_global`].
    ///
    /// # Panics
    /// If its first threads cannot be created.
    pub fn global() -> &'static Self {
        let make = || match Self::builder().start() {
            Ok(runtime) => runtime,
            Err(e) => panic!("the process's workqueue runtime cannot start: {e}"),
        };
        GLOBAL
            .get()
            .unwrap_or_else(|| registry::while_forks_wait(|| GLOBAL.get_or_init(make)))
    }

    /// Makes this one the process's runtime; false if there is one, and this one ends.
    pub(crate) fn make_global(self) -> bool {
        // One that is refused ends after the forks may go on.
        let set = registry::while_forks_wait(|| GLOBAL.set(self));
        set.is_ok()
    }

    /// Has the process a runtime already?
    pub(crate) fn has_global() -> bool {
        GLOBAL.get().is_some()
    }

    /// The first phase.
    pub(crate) fn assemble(env: Env) -> Self {
        let inner = Arc::new(Directory::new(env));
        let known = inner.env.cpus.known();
        known.iter().for_each(|cpu| inner.add_pools(cpu));
        let system = SystemQueues::new(&inner);
        Self { inner, system }
    }

    /// A queue of this runtime, to be configured.
    pub fn queue(&self, name: &str) -> QueueBuilder {
        QueueBuilder::new(&self.inner, name)
    }

    /// An ordered queue: one item at a time, in the order they were enqueued.
    pub fn ordered(&self, name: &str, flags: Flags) -> Result<OwnedQueue, AllocError> {
        QueueBuilder::new(&self.inner, name)
            .flags(flags)
            .ordered()
            .build()
    }

    /// The ready-made queues.
    pub(crate) fn system_queues(&self) -> &SystemQueues {
        &self.system
    }

    /// The topology of the CPUs that this runtime has met so far.
    pub fn topology(&self) -> Arc<Topology> {
        let env = &self.inner.env;
        if env.is_in_forked_child() {
            return Arc::new(env.cpus.describe_known());
        }
        env.cpus.shown_topology()
    }

    /// The clock for time that counts only while the process runs.
    pub fn run_clock(&self) -> &RunClock {
        &self.inner.env.run_clock
    }

    /// The virtual clock, if the runtime uses one.
    pub fn virtual_clock(&self) -> Option<&Arc<VirtualClock>> {
        match &self.inner.env.clock {
            Clock::Real => None,
            Clock::Virtual(v) => Some(v),
        }
    }
}

impl Queue {
    /// A queue of the process's runtime, to be configured.
    pub fn builder(name: &str) -> QueueBuilder {
        Runtime::global().queue(name)
    }

    /// An ordered queue of the process's runtime: one item at a time, in order.
    pub fn ordered(name: &str, flags: Flags) -> Result<OwnedQueue, AllocError> {
        Runtime::global().ordered(name, flags)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if self.inner.env.is_in_forked_child() {
            // The threads are the parent's.
            return;
        }
        match self.end() {
            Ok(()) => {}
            Err(WaitError::WouldDeadlock) => self.end_by_monitor(),
            Err(e) => log::warn!("workqueue: the runtime is left running: {e}"),
        }
    }
}

impl Runtime {
    /// The second phase: creates the rescuers of the queues that exist, one worker for each pool
    /// and the helper threads. Items queued so far begin to run. If a thread cannot be created,
    /// those made are ended again and the runtime stays early.
    pub fn start(&self) -> Result<(), StartError> {
        let (dir, env) = (&self.inner, &self.inner.env);
        if env.is_in_forked_child() {
            return Err(StartError::Destroyed);
        }
        if let Some(why) = env.cpus.fault() {
            return Err(StartError::Topology(why.clone()));
        }
        let is_early = || env.phase() == EARLY;
        if !is_early() {
            return Err(StartError::AlreadyStarted);
        }
        let _attrs = dir.attrs_lock.lock();
        // Another thread may have started it while this call waited for the lock.
        if !is_early() {
            return Err(StartError::AlreadyStarted);
        }
        self.start_threads().inspect_err(|_| self.undo_start())?;
        env.set_phase(ONLINE);
        for pool in dir.all_pools() {
            let wake = pool.lock().kick();
            wake.perform();
        }
        Ok(())
    }

    fn start_threads(&self) -> Result<(), StartError> {
        let (dir, env) = (&self.inner, &self.inner.env);
        for queue in dir.queues() {
            if let Some(rescuer) = &queue.rescuer {
                let failed = |e: CreateError| e.at_start(queue.rescuer_name(), RESCUER_NICE);
                rescuer.start(&queue).map_err(failed)?;
            }
        }
        let wanted = |pool: &Arc<Pool>| !pool.is_bh() || dir.wants_bh_thread(pool);
        for pool in dir.all_pools().into_iter().filter(wanted) {
            let failed = |e: CreateError| e.at_start(pool.worker_name(0), pool.nice);
            create_worker(&pool, 1).map_err(failed)?;
        }
        env.timers.begin_thread();
        env.monitor.begin_thread();
        env.watchdog.begin(env.clock.now());
        let (timer, own) = (dir.clone(), dir.clone());
        self.start_helper("wq/timer", move || {
            cpu::set_current_timer_exact();
            let sleep = |wake: &Notify, due| timer.env.run_clock.sleep(Sleeper::Timers, wake, due);
            timer.env.timers.serve(sleep, |event| expire(&timer, event));
        })?;
        self.start_helper("wq/monitor", move || monitor(&own))?;
        Ok(())
    }

    fn start_helper(
        &self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), StartError> {
        let guarded = || {
            let _abort = AbortOnUnwind;
            body();
        };
        let made = self.inner.env.spawn_thread(name.to_owned(), guarded);
        let handle = made.map_err(|e| StartError::Spawn {
            thread: name.to_owned(),
            errno: errno_of(&e),
        })?;
        self.inner.helpers.lock().push(handle);
        Ok(())
    }

    fn undo_start(&self) {
        let dir = &self.inner;
        for queue in dir.queues() {
            if let Some(rescuer) = &queue.rescuer {
                rescuer.stop();
            }
        }
        for pool in dir.all_pools() {
            manager::dismiss(&pool);
        }
        dir.join_helpers();
    }

    /// Thaws, drains and destroys all queues, then joins all threads. Items armed on a timer are
    /// dropped.
    ///
    /// # Errors
    /// [`WaitError::WouldDeadlock`] on a thread of the runtime: the monitor then ends it as soon as
    /// the run is over.
    pub fn shutdown(self) -> Result<(), WaitError> {
        self.end()
    }

    pub(super) fn end(&self) -> Result<(), WaitError> {
        let (dir, env) = (&self.inner, &self.inner.env);
        if env.is_in_forked_child() {
            return Err(WaitError::Destroyed);
        }
        if dir.is_own_thread() {
            return Err(WaitError::WouldDeadlock);
        }
        if env.is_stopped() {
            return Ok(());
        }
        self.prepare_end();
        for queue in dir.queues() {
            match queue.destroy() {
                // Destroyed: its owner destroys it at this moment and needs the threads until then.
                Ok(()) | Err(WaitError::Destroyed) => {}
                Err(e) => return Err(e),
            }
        }
        dir.wait_for_queues();
        dir.finish();
        Ok(())
    }

    /// As `end`, on a thread of the runtime: nothing waits here. The queues end one by one, then
    /// the monitor.
    pub(super) fn end_by_monitor(&self) {
        self.prepare_end();
        let queues = self.inner.queues();
        queues.iter().for_each(QueueInner::destroy_by_monitor);
        self.inner.end_with_last_queue();
    }

    fn prepare_end(&self) {
        // Threads are waited for by joining them from here on.
        if let Some(turns) = self.inner.env.clock.turns() {
            turns.disband();
        }
        // Nobody is left to thaw the queues, and their items have to run.
        self.thaw();
    }
}

impl Directory {
    fn is_own_thread(&self) -> bool {
        let this = thread::current().id();
        let helper = |h: &JoinHandle<()>| h.thread().id() == this;
        context::with(|c| Arc::ptr_eq(&c.pool.env, &self.env)) == Some(true)
            || self.helpers.lock().iter().any(helper)
    }

    /// Ends the helper threads and waits for them, unless the caller is one.
    pub(super) fn join_helpers(&self) {
        self.env.timers.end_thread();
        self.env.monitor.stop();
        let helpers = mem::take(&mut *self.helpers.lock());
        let this = thread::current().id();
        for handle in helpers.into_iter().filter(|h| h.thread().id() != this) {
            // A panic of a helper ends the process, so the result says nothing.
            let _ignored = handle.join();
        }
    }

    /// The end, once all queues are gone: joins the threads.
    fn finish(&self) {
        let env = &self.env;
        env.set_phase(STOPPED);
        self.join_helpers();
        // Armed timers end like those that expire on a destroyed queue. All of them before the
        // first pointer is dropped: its drop may cancel another item.
        let armed: Vec<_> = env.timers.close().into_iter().filter_map(ended).collect();
        env.monitor.close();
        let percpu = mem::take(&mut *self.percpu.lock());
        for (_, pools) in percpu {
            for pool in pools.all() {
                manager::stop(&pool);
                registry::forget(&pool);
            }
        }
        let left = mem::take(&mut *self.leftovers.lock());
        for job in left {
            let _ignored = call_user_code(|| job.run());
        }
        for item in armed {
            let _ignored = call_user_code(|| drop(item));
        }
    }
}

/// The monitor's loop: runs jobs, and checks the CPUs, the pools and the runs from time to time.
fn monitor(dir: &Arc<Directory>) {
    let (env, mut next_look, mut sampler) = (&dir.env, 0, Sampler::default());
    while !env.monitor.work_off() {
        let now = env.clock.now();
        if now >= next_look {
            dir.update_cpus();
            let poll = env.config.cpu_poll;
            next_look = if poll.is_zero() {
                u64::MAX
            } else {
                after(now, poll)
            };
        }
        let mut next = next_look.min(watchdog::look(dir, now));
        if env.monitor.take_watch() {
            let look = sampler.sample(&dir.percpu_pools(), env.config.sample_period);
            if let Some(period) = look {
                env.monitor.keep_watching();
                next = next.min(after(env.clock.now(), period));
            }
        }
        env.monitor.sleep_until(&env.run_clock, next);
    }
    if dir.ends_itself.load(Ordering::Relaxed) {
        dir.finish();
    }
}

/// Handles an expired timer, on the timer thread.
fn expire(dir: &Directory, event: TimerEvent) {
    match event {
        TimerEvent::Item(item) => {
            if let Err(refused) = delayed::expired(item) {
                dir.run_on_worker(move || refused.report());
            }
        }
        TimerEvent::Pool(pool, timer) => pool.expired(timer),
    }
}

/// The pointer of an item whose timer was still armed when the runtime ended.
fn ended(event: TimerEvent) -> Option<Returned> {
    match event {
        TimerEvent::Item(item) => Some(delayed::abandoned(item)),
        TimerEvent::Pool(..) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::topology::Topology;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    #[test]
    fn s06_10_of_two_starts_at_once_one_finds_it_started() {
        let rt = Arc::new(Runtime::builder().build_early());
        let held = rt.inner.attrs_lock.lock();
        let (here, is_there) = mpsc::channel();
        let starts = [(); 2].map(|()| {
            let (rt, here) = (rt.clone(), here.clone());
            thread::spawn(move || {
                here.send(std::fs::read_link("/proc/thread-self").unwrap())
                    .unwrap();
                rt.start().is_ok()
            })
        });
        // Both sleep, for the lock: asleep is what the state behind the name in brackets says.
        for _ in 0..2 {
            let stat = std::path::Path::new("/proc").join(is_there.recv().unwrap());
            let begun = Instant::now();
            while !std::fs::read_to_string(stat.join("stat"))
                .is_ok_and(|s| s.rsplit_once(')').is_some_and(|s| s.1.starts_with(" S")))
            {
                assert!(begun.elapsed() < Duration::from_secs(60), "never sleeps");
                thread::yield_now();
            }
        }
        drop(held);
        let done = starts.map(|s| s.join().unwrap());
        assert_eq!(done.iter().filter(|ok| **ok).count(), 1);
        Arc::into_inner(rt).unwrap().shutdown().unwrap();
    }

    #[test]
    fn s11_05_nobody_waits_for_a_monitor_that_has_gone() {
        let rt = Runtime::builder().topology(Topology::one_cpu());
        let rt = rt.start().expect("threads can be made");
        // The moment between the end of the monitor and that of the runtime: a thread that looked a
        // moment ago still finds the runtime.
        rt.inner.join_helpers();
        rt.inner.env.monitor.close();
        rt.refresh_cpus();
        rt.shutdown().expect("nothing keeps it");
    }
}
