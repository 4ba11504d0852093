// SPDX-License-Identifier: MIT OR Apache-2.0
//! What pressure lives by: a workqueue for its timers, and who listens to PSI; from a device's start
//! to its end, and what changes it in between.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use workqueue::{AllocError, Flags, OwnedQueue, Runtime};

use super::clock::Clock;
use super::delay::DelayLine;
use super::life::Life;
use super::psi_monitor::Monitor;
use super::throttle::Throttle;
use super::{Changes, Pressured, PsiError, PsiTrigger, Settings};
use crate::mq::{Disk, Queue};

/// What pressure needs to live: a workqueue for its timers, which kblockd must not carry (D2), and
/// the thread that listens to PSI. Dropping it ends both; nothing is refused or held back then.
pub struct Works {
    wq: Arc<OwnedQueue>,
    queue: Queue,
    throttle: Arc<Throttle>,
    delays: Arc<DelayLine>,
    monitor: Mutex<Option<Monitor>>,
    real: bool,
}

impl fmt::Debug for Works {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Works").finish_non_exhaustive()
    }
}

impl Works {
    /// Starts the timers of `driver` in `runtime`, for the requests of `queue`. Once in its life,
    /// before the first request. A PSI file that the machine lacks is a warning (E12).
    pub fn start<D: Disk + 'static>(
        driver: &Arc<Pressured<D>>,
        runtime: &Runtime,
        queue: &Queue,
    ) -> Result<Self, AllocError> {
        let flags = Flags::MEM_RECLAIM | Flags::HIGHPRI | Flags::PERCPU;
        let wq = Arc::new(runtime.queue("pressure").flags(flags).build()?);
        let clock = Clock::of(runtime);
        let life = Life::new(&wq, clock, queue);
        for gate in driver.gates() {
            gate.belongs_to(queue.label());
        }
        driver.throttle.start(life.clone());
        driver.delays.start(life);
        let this = Self {
            wq,
            queue: queue.clone(),
            throttle: driver.throttle.clone(),
            delays: driver.delays.clone(),
            monitor: Mutex::new(None),
            real: runtime.virtual_clock().is_none(),
        };
        let settings = driver.settings();
        queue.use_budget(settings.slots.is_some());
        if let Err(error) = this.listen(driver, settings.psi.as_ref()) {
            log::warn!("--psi: {error}; this source of BUSY is off");
            let without = Settings {
                psi: None,
                ..settings
            };
            driver.put_in_force(&without, Some(queue));
        }
        Ok(this)
    }

    /// Changes what is in force. Nothing is changed by a failure.
    pub fn apply<D: Disk + 'static>(
        &self,
        driver: &Arc<Pressured<D>>,
        changes: &Changes,
    ) -> Result<Settings, PsiError> {
        let (old, new) = {
            let old = driver.settings();
            let new = changes.applied_to(&old);
            (old, new)
        };
        if new.psi != old.psi {
            if let Err(error) = self.listen(driver, new.psi.as_ref()) {
                // The former one goes on, as nothing is to be changed.
                let _ = self.listen(driver, old.psi.as_ref());
                return Err(error);
            }
        }
        driver.put_in_force(&new, Some(&self.queue));
        driver.begin_anew(changes);
        Ok(new)
    }

    /// The disk is about to be stopped, which waits for every request: nothing is refused or held back
    /// from now on, what was is served, and what was lost on purpose has timed out (F4).
    /// # Context: not in queue_rq, and not in a run of this workqueue.
    pub fn let_all_pass<D: Disk + 'static>(&self, driver: &Arc<Pressured<D>>) {
        let silenced = self.listen(driver, None);
        debug_assert!(silenced.is_ok(), "there is nothing to listen to");
        driver.put_in_force(&Settings::default(), Some(&self.queue));
        self.delays.end();
        // Whoever was struck before that has said so.
        self.queue.quiesce();
        self.queue.unquiesce();
        for (hctx, tag) in driver.lost() {
            self.queue.abort(hctx, tag);
        }
    }

    /// Listens to this trigger in place of the present one.
    fn listen<D: Disk + 'static>(
        &self,
        driver: &Arc<Pressured<D>>,
        trigger: Option<&PsiTrigger>,
    ) -> Result<(), PsiError> {
        // The former one is silent before the next one speaks.
        drop(self.lock_monitor().take());
        driver.set_pressure(false);
        let monitor = match trigger {
            Some(trigger) if self.real => {
                let (driver, queue) = (Arc::downgrade(driver), self.queue.downgrade());
                let tell = move |on: bool| {
                    if let (Some(driver), Some(queue)) = (driver.upgrade(), queue.upgrade()) {
                        driver.tell_pressure(on, &queue);
                    }
                };
                Some(Monitor::start(trigger, Box::new(tell))?)
            }
            _ => None,
        };
        *self.lock_monitor() = monitor;
        Ok(())
    }

    fn lock_monitor(&self) -> std::sync::MutexGuard<'_, Option<Monitor>> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The workqueue that the timers are on.
    pub fn queue(&self) -> &workqueue::Queue {
        &self.wq
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        drop(self.lock_monitor().take());
        self.throttle.end();
        self.delays.end();
        self.queue.start_stopped_hw_queues(true);
    }
}
