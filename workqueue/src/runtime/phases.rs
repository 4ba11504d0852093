// SPDX-License-Identifier: MIT OR Apache-2.0
//! The runtime's second phase, in which its threads are made, and its end, in which they go.
//!
//! The first phase is [`super::builder`]'s: queues and items, no thread. What the timer thread does
//! when something comes due is here too. Kernel counterpart: `workqueue_init`.

use super::monitor::Job;
use super::{Runtime, EARLY, ONLINE, STOPPED};
use crate::error::{StartError, WaitError};
use crate::pool::rescuer::RESCUER_NICE;
use crate::pool::worker::{self, CreateError};
use crate::pool::{context, manager, registry, Pool, TimerEvent};
use crate::sys::cpu;
use crate::work::delayed;
use std::sync::atomic::Ordering;
use std::sync::Arc;

impl Runtime {
    /// The second phase: creates the rescuers of the queues that exist, one worker for each pool
    /// and the helper threads. Items queued so far begin to run. If a thread cannot be created,
    /// those made are ended again and the runtime stays early.
    pub fn start(&self) -> Result<(), StartError> {
        let rt = &self.inner;
        let is_early = || rt.phase.load(Ordering::Acquire) == EARLY;
        if !is_early() {
            return Err(StartError::AlreadyStarted);
        }
        let _attrs = rt.attrs_lock.lock();
        // Somebody else may have started it while this call waited for the lock.
        if !is_early() {
            return Err(StartError::AlreadyStarted);
        }
        self.start_threads().inspect_err(|_| self.undo_start())?;
        // Release pairs with the Acquire in `is_online`.
        rt.phase.store(ONLINE, Ordering::Release);
        for pool in rt.all_pools() {
            let wake = pool.lock().kick();
            wake.go();
        }
        Ok(())
    }

    fn start_threads(&self) -> Result<(), StartError> {
        let rt = &self.inner;
        for queue in rt.queues() {
            if let Some(rescuer) = &queue.rescuer {
                let failed = |e: CreateError| e.at_start(queue.rescuer_name(), RESCUER_NICE);
                rescuer.start(&queue).map_err(failed)?;
            }
        }
        let wanted = |pool: &Arc<Pool>| !pool.is_bh() || rt.wants_bh_thread(pool);
        for pool in rt.all_pools().into_iter().filter(wanted) {
            let failed = |e: CreateError| e.at_start(pool.worker_name(0), pool.nice);
            worker::create_worker(&pool, 1).map_err(failed)?;
        }
        rt.timers.begin_thread();
        rt.monitor.begin_thread();
        rt.watchdog.begin(rt.clock.now());
        let (timer, monitor) = (rt.clone(), rt.clone());
        self.start_helper("wq/timer", move || {
            cpu::set_current_timer_exact();
            timer.timers.serve(expire);
        })?;
        self.start_helper("wq/monitor", move || monitor.monitor.serve(&monitor))?;
        Ok(())
    }

    fn start_helper(
        &self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), StartError> {
        let guarded = || {
            let _abort = worker::AbortOnUnwind;
            body();
        };
        let made = self.inner.spawn_thread(name.to_owned(), guarded);
        let handle = made.map_err(|e| StartError::Spawn {
            thread: name.to_owned(),
            errno: worker::errno_of(&e),
        })?;
        self.inner.helpers.lock().push(handle);
        Ok(())
    }

    fn undo_start(&self) {
        let rt = &self.inner;
        for queue in rt.queues() {
            if let Some(rescuer) = &queue.rescuer {
                rescuer.stop();
            }
        }
        for pool in rt.all_pools() {
            manager::dismiss(&pool);
        }
        self.join_helpers();
    }

    pub(super) fn join_helpers(&self) {
        let rt = &self.inner;
        rt.timers.end_thread();
        rt.monitor.stop();
        let helpers = std::mem::take(&mut *rt.helpers.lock());
        for handle in helpers {
            // A helper's own panic ends the process, so there is no outcome to look at.
            let _outcome = handle.join();
        }
    }

    /// Drains and destroys all queues and joins all threads. Items armed on a timer are dropped.
    pub fn shutdown(self) -> Result<(), WaitError> {
        self.end()
    }

    pub(super) fn end(&self) -> Result<(), WaitError> {
        let rt = &self.inner;
        if rt.is_in_forked_child() {
            return Err(WaitError::Destroyed);
        }
        if context::with(|c| Arc::ptr_eq(&c.pool.rt, rt)) == Some(true) {
            return Err(WaitError::WouldDeadlock);
        }
        if rt.is_stopped() {
            return Ok(());
        }
        // Threads are waited for by joining them from here on.
        if let Some(turns) = rt.clock.turns() {
            turns.disband();
        }
        for queue in rt.queues() {
            match queue.destroy() {
                // Destroyed: its owner is at it already, which needs the threads until it is done.
                Ok(()) | Err(WaitError::Destroyed) => {}
                Err(e) => return Err(e),
            }
        }
        let mut queues = rt.queues.lock();
        while !queues.is_empty() {
            queues = rt.queue_gone.wait(queues);
        }
        drop(queues);
        // Release: pairs with the Acquire in `is_stopped`.
        rt.phase.store(STOPPED, Ordering::Release);
        self.join_helpers();
        // Armed timers end like those that expire on a destroyed queue.
        rt.timers.close().into_iter().for_each(expire_stopped);
        rt.monitor.close();
        let percpu = std::mem::take(&mut *rt.percpu.lock());
        for (_, pools) in percpu {
            for pool in pools.all() {
                manager::stop(&pool);
                registry::forget(&pool);
            }
        }
        Ok(())
    }
}

/// A timer has come due, on the timer thread.
fn expire(event: TimerEvent) {
    match event {
        TimerEvent::Work(armed) => delayed::expired(armed),
        TimerEvent::Mayday(pool) => manager::mayday_expired(&pool),
        TimerEvent::Cull(pool) => {
            let rt = pool.rt.clone();
            rt.monitor.post(Job::Cull(pool));
        }
    }
}

/// The runtime went down before the timer came due.
fn expire_stopped(event: TimerEvent) {
    if let TimerEvent::Work(armed) = event {
        delayed::abandoned(armed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
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
}
