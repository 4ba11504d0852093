// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pressure of a live device: its timers and the monitor of PSI run from the device's start to its
//! end, and its settings are changed in between.

use std::fmt;
use std::sync::Arc;

use workqueue::{AllocError, Flags, OwnedQueue, Runtime};

use super::marks::LOST;
use super::psi_monitor::Monitor;
use super::throttle::Throttle;
use super::timers::TimerContext;
use super::waiting::Waiting;
use super::{PressureOptions, Pressured, PsiError, PsiTrigger, Settings};
use crate::mq::{Disk, Queue};
use crate::sys::lock::Lock;

/// Runs the timers of pressure, on a workqueue of their own (kblockd must not carry them, D2), and the
/// thread that listens to PSI. Dropping it ends both; nothing is refused or held back from then on.
pub struct Control {
    wq: Arc<OwnedQueue>,
    queue: Queue,
    throttle: Arc<Throttle>,
    waiting: Arc<Waiting>,
    /// Locked only to put it in or take it out.
    monitor: Lock<Option<Monitor>>,
    /// False on a virtual clock, where PSI means nothing.
    is_real: bool,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// Starts the timers of `driver` in `runtime`, for the requests of `queue`. Called once, before the
    /// first request. A PSI file that the machine lacks is a warning (E12).
    pub fn start<D: Disk + 'static>(
        driver: &Arc<Pressured<D>>,
        runtime: &Runtime,
        queue: &Queue,
    ) -> Result<Self, AllocError> {
        let flags = Flags::MEM_RECLAIM | Flags::HIGHPRI | Flags::PERCPU;
        let wq = Arc::new(runtime.queue("pressure").flags(flags).build()?);
        let context = TimerContext::new(runtime, &wq, queue);
        for state in driver.source_states() {
            state.set_device(queue.label());
        }
        driver.throttle.start(context.clone());
        driver.waiting.rules.start(context.now());
        driver.waiting.start(context);
        let this = Self {
            wq,
            queue: queue.clone(),
            throttle: driver.throttle.clone(),
            waiting: driver.waiting.clone(),
            monitor: Lock::new(None),
            is_real: runtime.virtual_clock().is_none(),
        };
        driver.name_rules(queue);
        let settings = driver.settings();
        queue.use_budget(settings.slots.is_some());
        if let Err(error) = this.listen(driver, settings.psi.as_ref()) {
            log::warn!("--psi: {error}; this source of BUSY is off");
            let without = Settings {
                psi: None,
                ..settings
            };
            driver.put_in_force(&without, Some(queue), &|_| false);
        }
        Ok(this)
    }

    /// Changes the settings, and returns the new ones. A failure changes nothing.
    pub fn apply<D: Disk + 'static>(
        &self,
        driver: &Arc<Pressured<D>>,
        options: &PressureOptions,
    ) -> Result<Settings, PsiError> {
        let old = driver.settings();
        let new = options.applied_to(&old);
        if new.psi != old.psi {
            if let Err(error) = self.listen(driver, new.psi.as_ref()) {
                // The former trigger again.
                let _ = self.listen(driver, old.psi.as_ref());
                return Err(error);
            }
        }
        driver.put_in_force(&new, Some(&self.queue), &|name| options.begins_anew(name));
        driver.name_rules(&self.queue);
        Ok(new)
    }

    /// Ends all pressure before the disk is stopped, which waits for every request (F4). Requests that
    /// were held back are served, and those that were lost on purpose time out.
    /// # Context: not in queue_rq, and not in a run of this workqueue.
    pub fn let_all_pass<D: Disk + 'static>(&self, driver: &Arc<Pressured<D>>) {
        let silenced = self.listen(driver, None);
        debug_assert!(silenced.is_ok(), "there is nothing to listen to");
        self.waiting.rules.close(false);
        driver.put_in_force(&Settings::default(), Some(&self.queue), &|_| false);
        self.waiting.end();
        // Waits for the calls of queue_rq that began before: they may lose requests still.
        self.queue.quiesce();
        self.queue.unquiesce();
        for (hctx, tag) in self.waiting.marks.all(LOST) {
            self.queue.abort(hctx, tag);
        }
    }

    /// Listens to this trigger instead of the present one.
    fn listen<D: Disk + 'static>(
        &self,
        driver: &Arc<Pressured<D>>,
        trigger: Option<&PsiTrigger>,
    ) -> Result<(), PsiError> {
        // The former one must have ended before the next one begins to tell.
        drop(self.monitor.lock().take());
        driver.set_pressure(false);
        let monitor = match trigger {
            Some(trigger) if self.is_real => {
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
        *self.monitor.lock() = monitor;
        Ok(())
    }

    /// The workqueue that the timers are on.
    pub fn queue(&self) -> &workqueue::Queue {
        &self.wq
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.monitor.lock().take());
        // The next server holds again what a rule holds now.
        self.waiting.rules.close(true);
        self.throttle.end();
        self.waiting.end();
        self.queue.start_stopped_hw_queues(true);
    }
}
