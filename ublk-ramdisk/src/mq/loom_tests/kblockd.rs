// SPDX-License-Identifier: MIT OR Apache-2.0
//! kblockd as the models see it: an item is idle, queued, or waits for a time that never comes.
//!
//! Same face as the shipped `kblockd`. Nothing runs by itself: a model's thread calls
//! [`Queue::run_queued`]. A delay other than 0 is for ever, so a wake-up that only the 3 ms net
//! would repair is lost here.

use crate::mq::queue::{Inner, Queue};
use crate::mq::sync::Mutex;
use std::sync::Weak;
use std::time::Duration;
use workqueue::CpuSet;

/// Stands for the workqueue.
#[derive(Clone, Debug, Default)]
pub struct Kblockd;

impl Kblockd {
    pub(in crate::mq) fn online_cpus(&self) -> CpuSet {
        CpuSet::new()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    No,
    Queued,
    Later,
}

/// Pending, and being run.
#[derive(Clone, Copy, Debug)]
struct DeviceWork(Pending, bool);

/// A device's work items: one per hctx, then requeue_work and timeout_work.
pub(in crate::mq) struct Works(Mutex<Vec<DeviceWork>>);

impl Works {
    pub(in crate::mq) fn new(_: &Kblockd, _: &Weak<Inner>, nr_hw_queues: u16) -> Self {
        let items = usize::from(nr_hw_queues) + 2;
        Self(Mutex::new(vec![DeviceWork(Pending::No, false); items]))
    }

    fn modify(&self, item: usize, delay: Duration) {
        let pending = if delay.is_zero() {
            Pending::Queued
        } else {
            Pending::Later
        };
        self.0.lock()[item].0 = pending;
    }

    pub(in crate::mq) fn mod_run(&self, hctx: u16, _: Option<usize>, delay: Duration) {
        self.modify(usize::from(hctx), delay);
    }

    pub(in crate::mq) fn cancel_run(&self, hctx: u16) {
        self.0.lock()[usize::from(hctx)].0 = Pending::No;
    }

    pub(in crate::mq) fn run_is_pending(&self, hctx: u16) -> bool {
        self.0.lock()[usize::from(hctx)].0 != Pending::No
    }

    pub(in crate::mq) fn mod_requeue(&self, delay: Duration) {
        let requeue = self.0.lock().len() - 2;
        self.modify(requeue, delay);
    }

    pub(in crate::mq) fn timeout_now(&self) {
        let timeout = self.0.lock().len() - 1;
        self.modify(timeout, Duration::ZERO);
    }

    pub(in crate::mq) fn arm_timeout(&self, _: Duration) {}

    pub(in crate::mq) fn disable(&self) {}

    pub(in crate::mq) fn now_exactly(&self) -> u64 {
        0
    }

    pub(in crate::mq) fn now(&self) -> (u64, u32) {
        (0, 0)
    }

    pub(in crate::mq) fn run_time(&self) -> Duration {
        Duration::ZERO
    }

    pub(in crate::mq) fn current_cpu(&self) -> usize {
        0
    }

    /// Takes a queued item that nobody runs: pending no more when its callback begins.
    fn claim(&self) -> Option<usize> {
        let mut items = self.0.lock();
        let found = items
            .iter()
            .position(|item| item.0 == Pending::Queued && !item.1)?;
        items[found] = DeviceWork(Pending::No, true);
        Some(found)
    }
}

impl Queue {
    /// The time has come that the models leave out.
    pub(in crate::mq) fn fire_delayed(&self) {
        let mut items = self.inner.works.0.lock();
        for item in items.iter_mut().filter(|item| item.0 == Pending::Later) {
            item.0 = Pending::Queued;
        }
    }

    /// Runs what is queued until nothing is; delayed items stay.
    pub(in crate::mq) fn run_queued(&self) {
        while let Some(item) = self.inner.works.claim() {
            match self.hctxs().get(item) {
                Some(hctx) => self.run_work(hctx),
                None if item == self.hctxs().len() => self.requeue_work(),
                None => self.timeout_work(),
            }
            self.inner.works.0.lock()[item].1 = false;
        }
    }
}
