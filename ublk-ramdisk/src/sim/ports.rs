// SPDX-License-Identifier: MIT OR Apache-2.0
//! The transport: moves bytes between the jobs' buffers and the store, at once or when the request's
//! time is over, and brings ends back to the jobs. Stands where `ublk`'s transport does.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use workqueue::VirtualClock;

use super::buffers::Buffers;
use super::config::SimConfig;
use super::service::{Kept, Serving};
use super::values::Service;
use crate::mq::{Home, Moved, Moving, Operations, Queue, Request, Transport};

/// The time that the simulation runs by.
#[derive(Clone, Debug)]
pub(super) enum Time {
    Virtual(Arc<VirtualClock>),
    Real(Instant),
}

impl Time {
    /// Nanoseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        match self {
            Self::Virtual(clock) => clock.now().as_nanos() as u64,
            Self::Real(begun) => begun.elapsed().as_nanos() as u64,
        }
    }
}

/// An end that its job has not seen yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) tag: u16,
    pub(super) result: i32,
    pub(super) at: u64,
}

/// What a job's thread finds when it looks.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) ends: Vec<End>,
    pub(super) serving: Serving,
    pub(super) rung: bool,
}

/// One job's part.
#[derive(Debug)]
pub(super) struct Port {
    inbox: Mutex<Inbox>,
    bell: Condvar,
}

impl Port {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the job's thread look.
    pub(super) fn ring(&self) {
        self.lock().rung = true;
        self.bell.notify_one();
    }

    /// Waits until there is something to look at, or this long.
    pub(super) fn wait(&self, most: Duration) {
        let inbox = self.lock();
        let idle = |inbox: &mut Inbox| inbox.ends.is_empty() && !inbox.rung;
        let waited = self.bell.wait_timeout_while(inbox, most, idle);
        let (mut inbox, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inbox.rung = false;
    }
}

/// All of them.
pub(super) struct Ports {
    time: Time,
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
        time: Time,
        driver: Arc<dyn Operations>,
        buffers: Arc<Buffers>,
    ) -> Self {
        // The last number below those of the jobs, so that adding jobs does not change it.
        let serving = |user| Serving::new(config.service, config.seed, u64::MAX - user);
        let port = |user| Port {
            inbox: Mutex::new(Inbox {
                ends: Vec::new(),
                serving: serving(user),
                rung: false,
            }),
            bell: Condvar::new(),
        };
        Self {
            time,
            driver,
            buffers,
            service: config.service,
            iodepth: config.iodepth,
            queues: config.device.queues,
            ports: (0..=u64::from(config.jobs)).map(port).collect(),
        }
    }

    pub(super) fn time(&self) -> &Time {
        &self.time
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
        port.lock().serving.begin(self.time.now(), kept);
        moved
    }

    fn deliver(&self, queue: u16, tag: u16, result: i32) {
        let at = self.time.now();
        let end = End { tag, result, at };
        self.of(queue, tag).lock().ends.push(end);
    }
}

impl Transport for Ports {
    fn transfer<'m>(&self, moving: Moving<'m>) -> Moved<'m> {
        let (queue, tag) = (moving.queue(), moving.request().tag());
        let moved = self.transferred(moving);
        self.of(queue, tag).ring();
        moved
    }

    fn end(&self, queue: u16, request: &Request, result: i32) {
        self.deliver(queue, request.tag(), result);
        self.of(queue, request.tag()).bell.notify_one();
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
