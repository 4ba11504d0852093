// SPDX-License-Identifier: MIT OR Apache-2.0
//! When and where a hardware queue is run: now, on kblockd, later, or not at all (C21 to C24, C27).
//!
//! Called after every insertion that listed something, by ends that find RESTART, by drivers;
//! [`super::dispatch`] does the work. Kernel counterparts: `blk_mq_run_hw_queue`,
//! `blk_mq_delay_run_hw_queue`, `blk_mq_stop_hw_queue`, `blk_mq_start_hw_queue`.

use super::complete::{IssueCtx, Section};
use super::hctx::HwQueue;
use super::hctx_state::{Exit, INACTIVE, QUIESCED, RESTART, STOPPED};
use super::queue::Queue;
use crate::trace::Kind;
use std::time::Duration;
use workqueue::CpuSet;

impl Queue {
    /// Runs a hardware queue: on the calling thread if that is one of its CPUs' and `is_async` is
    /// false, else on kblockd.
    pub fn run_hw_queue(&self, hctx: u16, is_async: bool) {
        let hctx = self.hctx(hctx);
        let mut local = self.via_front_end(hctx);
        self.run_with(hctx, is_async, &mut IssueCtx::new(&mut local));
    }

    /// Runs all of them.
    pub fn run_hw_queues(&self, is_async: bool) {
        for hctx in 0..self.inner.set.nr_hw_queues {
            self.run_hw_queue(hctx, is_async);
        }
    }

    /// As [`Queue::run_hw_queue`]; results go to `cx`.
    pub(super) fn run_with(&self, hctx: &HwQueue, is_async: bool, cx: &mut IssueCtx<'_>) {
        if !self.needs_run(hctx) {
            return;
        }
        if is_async || !self.is_on_cpu_of(hctx) {
            self.queue_run(hctx, Duration::ZERO);
        } else {
            hctx.counters.run_sync.add(1);
            self.trace_run(hctx, None);
            self.run(hctx, cx);
        }
    }

    /// True if a run may find something to do (C21). It returns false only after `test_fenced`: an
    /// unquiesce that came before the caller's insertion was visible has run nothing (W7).
    fn needs_run(&self, hctx: &HwQueue) -> bool {
        if !hctx.state.has(QUIESCED) && hctx.has_pending() {
            return true;
        }
        // guard: w07_look
        !hctx.state.test_fenced(QUIESCED) && hctx.has_pending()
    }

    /// True if the calling thread is on one of the queue's CPUs (C22).
    fn is_on_cpu_of(&self, hctx: &HwQueue) -> bool {
        hctx.cpus.is_empty() || hctx.cpus.contains(self.inner.works.current_cpu())
    }

    /// Clears RESTART and runs the hardware queue, as the end of a request does (C30). Called when
    /// what its requests lacked is there. A dispatcher that has not put its leftovers back yet finds
    /// RESTART clear and queues a run; otherwise this run finds them (W14).
    pub fn restart_hw_queue(&self, hctx: u16) {
        let queue = self.hctx(hctx);
        // guard: w14_clear
        if queue.state.clear(RESTART) {
            queue.counters.restarted.add(1);
        }
        self.run_hw_queue(hctx, true);
    }

    /// Queues a run for later, or moves the one that is queued. Dropped if the queue is stopped.
    pub fn delay_run_hw_queue(&self, hctx: u16, delay: Duration) {
        self.queue_run(self.hctx(hctx), delay);
    }

    /// Queues a run of every queue that has none queued; a queued one keeps its time (W17).
    pub fn delay_run_hw_queues(&self, delay: Duration) {
        for hctx in 0..self.inner.set.nr_hw_queues {
            // guard: w17_keep
            if !self.inner.works.run_is_pending(hctx) {
                self.delay_run_hw_queue(hctx, delay);
            }
        }
    }

    fn queue_run(&self, hctx: &HwQueue, delay: Duration) {
        // Dropped only after `test_fenced`: a start that clears the bit later sees what the caller
        // has listed; one that cleared it before leaves the run to the caller (W5).
        // guard: w05_look
        if hctx.state.has(STOPPED) && hctx.state.test_fenced(STOPPED) {
            return;
        }
        let count = match delay {
            Duration::ZERO => &hctx.counters.run_async,
            _ => &hctx.counters.run_delayed,
        };
        count.add(1);
        self.trace_run(hctx, Some(delay));
        let cpu = hctx_cpu(self, hctx);
        self.inner.works.mod_run(hctx.index, cpu, delay);
    }

    /// The run itself, on kblockd.
    pub(super) fn run_work(&self, hctx: &HwQueue) {
        let mut local = self.via_front_end(hctx);
        self.run(hctx, &mut IssueCtx::new(&mut local));
    }

    /// The run itself: on kblockd, or on the thread that asked for it.
    fn run(&self, hctx: &HwQueue, cx: &mut IssueCtx<'_>) {
        if let Err(exit) = hctx.state.begin_issue() {
            return self.run_exit_actions(hctx, exit);
        }
        let section = Section::entered(self, hctx);
        let mut accepted = 0;
        // Repeated once in place, then handed on (C8).
        let again = if self.is_linux3() {
            self.dispatch_pass_linux3(hctx, &mut accepted, cx);
            false
        } else {
            self.dispatch_pass(hctx, &mut accepted, cx)
                && self.dispatch_pass(hctx, &mut accepted, cx)
        };
        hctx.counters.dispatched(accepted);
        cx.flush_counts(hctx);
        section.leave();
        if again {
            self.run_hw_queue(hctx.index, true);
        }
    }

    pub(super) fn leave_section(&self, hctx: &HwQueue) {
        self.run_exit_actions(hctx, hctx.state.end_issue());
    }

    /// Wakes and runs what an exit asks for (C30).
    #[inline]
    pub(super) fn run_exit_actions(&self, hctx: &HwQueue, exit: Exit) {
        if exit != Exit::default() {
            self.wake_waiters(exit);
            if exit.run {
                hctx.counters.restarted.add(1);
                self.trace_hctx(Kind::Restart, hctx, 0);
                self.run_hw_queue(hctx.index, true);
            }
        }
    }

    pub(super) fn wake_waiters(&self, exit: Exit) {
        if exit.wake {
            self.inner.changed.wake();
        }
    }

    /// Stops a hardware queue: runs are dropped until it is started, insertion goes on. A run in
    /// progress is not waited for.
    pub fn stop_hw_queue(&self, hctx: u16) {
        let queue = self.hctx(hctx);
        queue.state.set(STOPPED);
        self.inner.works.cancel_run(hctx);
    }

    /// Stops all of them.
    pub fn stop_hw_queues(&self) {
        (0..self.inner.set.nr_hw_queues).for_each(|hctx| self.stop_hw_queue(hctx));
    }

    /// Starts a hardware queue and runs it.
    pub fn start_hw_queue(&self, hctx: u16) {
        // Clearing by a read-modify-write is the fence: what was listed by somebody who found the
        // queue stopped is seen by the run (W5).
        self.hctx(hctx).state.clear(STOPPED);
        self.run_hw_queue(hctx, false);
    }

    /// Starts those that are stopped.
    pub fn start_stopped_hw_queues(&self, is_async: bool) {
        for hctx in 0..self.inner.set.nr_hw_queues {
            if self.hctx(hctx).state.clear(STOPPED) {
                self.run_hw_queue(hctx, is_async);
            }
        }
    }

    /// Moves what waits in a software queue to the tail of the dispatch list, in order, and runs
    /// the queue: the thread that inserted through it is gone (C27).
    pub fn drain_ctx(&self, hctx: u16, ctx: u16) {
        let queue = self.hctx(hctx);
        let mut list = queue.ctxs.take(ctx);
        if !list.is_empty() {
            queue.dispatch_append(&self.inner.slots, &mut list);
            self.run_hw_queue(hctx, true);
        }
    }

    /// The CPUs in use have changed. Queues without one are INACTIVE: their runs go to any CPU, and
    /// their software queues are emptied onto the dispatch list. One caller at a time.
    pub fn set_online_cpus(&self, online: CpuSet) {
        for hctx in self.hctxs().iter().filter(|h| !h.cpus.is_empty()) {
            if hctx.cpus.intersects(&online) {
                hctx.state.clear(INACTIVE);
            } else if hctx.state.set(INACTIVE) {
                (0..self.inner.set.nr_ctxs).for_each(|ctx| self.drain_ctx(hctx.index, ctx));
            }
        }
        *self.inner.online.lock() = online;
    }
}

/// With one hardware queue any CPU is as good as another (C23).
fn hctx_cpu(queue: &Queue, hctx: &HwQueue) -> Option<usize> {
    if queue.hctxs().len() == 1 {
        return None;
    }
    hctx.choose_cpu(&queue.inner.online)
}
