// SPDX-License-Identifier: MIT OR Apache-2.0
//! The front end, in the place of `ublk`. Moves bytes between the jobs' buffers and the store, at once
//! or when the request's service time is over. Keeps the results until the jobs fetch them.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use workqueue::VirtualClock;

use super::buffers::Buffers;
use super::config::SimConfig;
use super::parse::Service;
use crate::mq::{
    Data, DataTransfer, FrontEnd, InFlight, Operations, Queue, Request, TransferAnswer, ViaFrontEnd,
};
use crate::random::Random;
use crate::sys::lock::Lock;

/// A request that has ended, for its job.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) tag: u16,
    pub(super) result: i32,
    /// Nanoseconds since the beginning.
    pub(super) at: u64,
}

/// A request that is being served. Its bytes are moved when its time is over.
#[derive(Debug)]
struct Served {
    /// Stands for the request in the mirror; completing it consumes the token.
    token: InFlight,
    hctx: u16,
    request: Request,
    /// Memory of the store, pinned until the request is completed.
    data: Data,
}

/// The requests of one client: a job, or the script.
#[derive(Debug)]
struct Client {
    ends: Vec<End>,
    /// By the time when service is over, and then by arrival.
    serving: BTreeMap<(u64, u64), Served>,
    /// Requests so far: orders those whose service ends at one time.
    arrived: u64,
    random: Random,
}

/// See the module.
pub(super) struct SimFrontEnd {
    clock: Arc<VirtualClock>,
    driver: Arc<dyn Operations>,
    buffers: Arc<Buffers>,
    service: Service,
    iodepth: u16,
    queues: u16,
    /// By job, and last that of the script.
    /// No two are locked at once.
    clients: Vec<Lock<Client>>,
}

impl SimFrontEnd {
    pub(super) fn new(
        config: &SimConfig,
        clock: Arc<VirtualClock>,
        driver: Arc<dyn Operations>,
        buffers: Arc<Buffers>,
    ) -> Self {
        let client = |number| {
            Lock::new(Client {
                ends: Vec::new(),
                serving: BTreeMap::new(),
                arrived: 0,
                // Counted from the end: the numbers from 0 on are those of the jobs.
                random: Random::new(config.load.seed, u64::MAX - number),
            })
        };
        Self {
            clock,
            driver,
            buffers,
            service: config.model.service_time,
            iodepth: config.load.iodepth,
            queues: config.device.queues,
            clients: (0..=u64::from(config.load.jobs)).map(client).collect(),
        }
    }

    /// Nanoseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        self.clock.now().as_nanos() as u64
    }

    /// The ends of a job's requests since the last call.
    pub(super) fn take_ends(&self, job: u16) -> Vec<End> {
        std::mem::take(&mut self.clients[usize::from(job)].lock().ends)
    }

    /// The same of the script's requests.
    pub(super) fn take_script_ends(&self) -> Vec<End> {
        std::mem::take(&mut self.client(0, u16::MAX).ends)
    }

    /// When the next service is over.
    pub(super) fn next_due(&self) -> Option<u64> {
        let first = |client: &Lock<Client>| {
            client
                .lock()
                .serving
                .first_key_value()
                .map(|(key, _)| key.0)
        };
        self.clients.iter().filter_map(first).min()
    }

    /// Completes the requests whose service is over. True if there were any.
    /// One client after the other, and of each in the order of its services.
    pub(super) fn complete_due(&self, queue: &Queue) -> bool {
        let now = self.now();
        let mut any = false;
        for client in &self.clients {
            // The client must not be locked in here: its request ends.
            while let Some(served) = take_due(client, now) {
                let Served {
                    token,
                    hctx,
                    request,
                    data,
                } = served;
                let outcome = self.buffers.copy(&*self.driver, hctx, &request, data);
                queue.complete(token, outcome, &mut ViaFrontEnd::new(self, hctx));
                any = true;
            }
        }
        any
    }

    /// The client that has this tag. The script's tags are those behind the jobs'.
    fn client(&self, hctx: u16, tag: u16) -> MutexGuard<'_, Client> {
        let job = usize::from(hctx) + usize::from(tag / self.iodepth) * usize::from(self.queues);
        self.clients[job.min(self.clients.len() - 1)].lock()
    }
}

impl Client {
    fn serve(&mut self, now: u64, service: Service, served: Served) {
        let ns = |time: Duration| time.as_nanos() as u64;
        let takes = match service {
            Service::Fixed(time) => ns(time),
            Service::Exponential(mean) => self.random.exponential(ns(mean) as f64) as u64,
            Service::Between(least, most) => {
                ns(least) + self.random.below(ns(most) - ns(least) + 1)
            }
        };
        self.arrived += 1;
        let key = (now.saturating_add(takes), self.arrived);
        self.serving.insert(key, served);
    }
}

/// Takes the next request of a client whose service is over by `now`.
fn take_due(client: &Lock<Client>, now: u64) -> Option<Served> {
    let mut client = client.lock();
    let next = client.serving.first_entry()?;
    (next.key().0 <= now).then(|| next.remove())
}

impl FrontEnd for SimFrontEnd {
    fn transfer<'m>(&self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        let (hctx, request, data) = (transfer.queue(), *transfer.request(), transfer.data());
        // No time at all: as on a RAM disk, it ends where it was issued.
        if self.service == Service::Fixed(Duration::ZERO) {
            let outcome = self.buffers.copy(&*self.driver, hctx, &request, data);
            return transfer.done(outcome);
        }
        // The request stays in flight, and may time out, until `complete_due`.
        let (token, answer) = transfer.keep();
        let mut client = self.client(hctx, request.tag());
        let served = Served {
            token,
            hctx,
            request,
            data,
        };
        client.serve(self.now(), self.service, served);
        answer
    }

    fn end(&self, queue: u16, request: &Request, result: i32) {
        let (at, tag) = (self.now(), request.tag());
        self.client(queue, tag).ends.push(End { tag, result, at });
    }
}
