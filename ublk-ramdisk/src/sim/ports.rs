// SPDX-License-Identifier: MIT OR Apache-2.0
//! The transport: moves bytes between the jobs' buffers and the store, at once or when the request's
//! time is over, and brings ends back to the jobs. Stands where `ublk`'s transport does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use workqueue::VirtualClock;

use super::buffers::Buffers;
use super::config::SimConfig;
use super::service::{Kept, Serving};
use super::values::Service;
use crate::mq::{Home, Moved, Moving, Operations, Queue, Request, Transport};

/// An end that its job has not seen yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) tag: u16,
    pub(super) result: i32,
    pub(super) at: u64,
}

/// What has happened to a job's requests.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) ends: Vec<End>,
    pub(super) serving: Serving,
}

/// One job's part.
#[derive(Debug)]
pub(super) struct Port(Mutex<Inbox>);

impl Port {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of them.
pub(super) struct Ports {
    clock: Arc<VirtualClock>,
    driver: Arc<dyn Operations>,
    buffers: Arc<Buffers>,
    service: Service,
    iodepth: u16,
    queues: u16,
    /// By job, and one for the script's requests.
    ports: Vec<Port>,
}

impl Ports {
    pub(super) fn new(
        config: &SimConfig,
        clock: Arc<VirtualClock>,
        driver: Arc<dyn Operations>,
        buffers: Arc<Buffers>,
    ) -> Self {
        // The last number below those of the jobs, so that adding jobs does not change it.
        let serving = |user| Serving::new(config.service, config.seed, u64::MAX - user);
        let port = |user| {
            Port(Mutex::new(Inbox {
                ends: Vec::new(),
                serving: serving(user),
            }))
        };
        Self {
            clock,
            driver,
            buffers,
            service: config.service,
            iodepth: config.iodepth,
            queues: config.device.queues,
            ports: (0..=u64::from(config.jobs)).map(port).collect(),
        }
    }

    /// Nanoseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        self.clock.now().as_nanos() as u64
    }

    /// Those of the jobs, and that of the script.
    pub(super) fn all(&self) -> &[Port] {
        &self.ports
    }

    /// The port of a job.
    pub(super) fn of_job(&self, job: u16) -> &Port {
        &self.ports[usize::from(job)]
    }

    /// That of the script.
    pub(super) fn of_script(&self) -> &Port {
        self.ports
            .last()
            .expect("made with one more than there are jobs")
    }

    fn of(&self, queue: u16, tag: u16) -> &Port {
        let job = usize::from(queue) + usize::from(tag / self.iodepth) * usize::from(self.queues);
        self.ports.get(job).unwrap_or_else(|| self.of_script())
    }

    /// A request that has had its time: moves its bytes and completes it.
    pub(super) fn finish(&self, kept: Kept, queue: &Queue) {
        let Kept {
            token,
            queue: hctx,
            request,
            data,
        } = kept;
        let outcome = self.buffers.copy(&*self.driver, hctx, &request, data);
        queue.complete(token, outcome, &mut At(self, hctx));
    }

    fn transferred<'m>(&self, moving: Moving<'m>) -> Moved<'m> {
        let (queue, request, data) = (moving.queue(), *moving.request(), moving.data());
        if self.service == Service::Fixed(Duration::ZERO) {
            let outcome = self.buffers.copy(&*self.driver, queue, &request, data);
            return moving.done(outcome);
        }
        let (token, moved) = moving.keep();
        let port = self.of(queue, request.tag());
        let kept = Kept {
            token,
            queue,
            request,
            data,
        };
        port.lock().serving.begin(self.now(), kept);
        moved
    }

    fn deliver(&self, queue: u16, tag: u16, result: i32) {
        let at = self.now();
        let end = End { tag, result, at };
        self.of(queue, tag).lock().ends.push(end);
    }
}

impl Transport for Ports {
    fn transfer<'m>(&self, moving: Moving<'m>) -> Moved<'m> {
        self.transferred(moving)
    }

    fn end(&self, queue: u16, request: &Request, result: i32) {
        self.deliver(queue, request.tag(), result);
    }
}

/// The same from the point of view of a job's own thread.
pub(super) struct At<'a>(pub(super) &'a Ports, pub(super) u16);

impl Home for At<'_> {
    fn transfer<'m>(&mut self, moving: Moving<'m>) -> Moved<'m> {
        self.0.transferred(moving)
    }

    fn end(&mut self, request: &Request, result: i32) {
        self.0.deliver(self.1, request.tag(), result);
    }
}
