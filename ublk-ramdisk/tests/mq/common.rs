// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device without a kernel: a scripted driver (`driver`), a front end that collects results, and
//! kblockd on a clock that the test moves.

use std::sync::Arc;
use std::time::Duration;
use ublk_ramdisk::mq::*;
use workqueue::{CpuSet, Runtime, Topology, VirtualClock};

// The paths are needed as this file is part of another program, too.
#[path = "../common/mod.rs"]
mod client;
#[path = "driver.rs"]
mod driver;
pub use client::*;
pub use driver::*;

/// The rerun delay of devices where the 3 ms must not help.
pub const HOUR: Duration = Duration::from_secs(3600);
pub const MS: Duration = Duration::from_millis(1);

pub const LIMITS: Limits = Limits {
    size: 1 << 30,
    block_size: 512,
    max_data: 1 << 20,
    read_only: false,
};

pub fn request(tag: u16, op: Op) -> Request {
    let sectors = if op == Op::Flush { 0 } else { 8 };
    Request::check(tag, op, u64::from(tag) * 8, sectors, &LIMITS).unwrap()
}

pub fn read(tag: u16) -> Request {
    request(tag, Op::Read)
}

pub fn write(tag: u16) -> Request {
    request(tag, Op::Write)
}

/// Everything a test needs. Dropped in this order.
pub struct Bed {
    pub lanes: Vec<Vec<Submitter>>,
    pub queue: RequestQueue,
    pub driver: Arc<Driver>,
    pub wire: Arc<Wire>,
    pub kblockd: Kblockd,
    pub clock: Arc<VirtualClock>,
    /// Do kblockd's threads run only while the test settles?
    in_turns: bool,
    _rt: Runtime,
}

impl Bed {
    /// A device whose queues are not run again after 3 ms.
    pub fn new(queues: u16, depth: u16) -> Self {
        Self::with(
            TagSet {
                rerun_delay: HOUR,
                ..TagSet::new(queues, depth)
            },
            Driver::new(),
        )
    }

    /// As [`Bed::new`], for a test of what does not happen. kblockd's threads run only while the test
    /// settles, and have done all that was due then.
    pub fn in_turns(queues: u16, depth: u16) -> Self {
        Self::in_turns_with(TagSet {
            rerun_delay: HOUR,
            ..TagSet::new(queues, depth)
        })
    }

    /// The same with another tag set.
    pub fn in_turns_with(set: TagSet) -> Self {
        Self {
            in_turns: true,
            ..Self::under(VirtualClock::in_turns(), set, Driver::new())
        }
    }

    pub fn with(set: TagSet, driver: Driver) -> Self {
        Self::under(VirtualClock::new(), set, driver)
    }

    fn under(clock: Arc<VirtualClock>, set: TagSet, driver: Driver) -> Self {
        let rt = Runtime::builder()
            .sample_period(Duration::ZERO)
            .topology(Topology::simulated_nodes(2, 1))
            .virtual_clock(clock.clone())
            .start()
            .expect("threads can be made");
        Self::on(rt, clock, set, driver)
    }

    pub fn on(rt: Runtime, clock: Arc<VirtualClock>, set: TagSet, driver: Driver) -> Self {
        let kblockd = Kblockd::new(&rt).unwrap();
        let (driver, wire) = (Arc::new(driver), Arc::new(Wire::default()));
        let queue = RequestQueue::new(set.clone(), driver.clone(), wire.clone(), &kblockd).unwrap();
        let lanes = (0..set.nr_hw_queues)
            .map(|h| {
                (0..set.nr_ctxs)
                    .map(|c| queue.submitter(h, c).unwrap())
                    .collect()
            })
            .collect();
        Self {
            lanes,
            queue,
            driver,
            wire,
            kblockd,
            clock,
            in_turns: false,
            _rt: rt,
        }
    }

    pub fn insert(&mut self, hctx: u16, request: Request) {
        self.insert_by(hctx, 0, request);
    }

    pub fn insert_by(&mut self, hctx: u16, ctx: u16, request: Request) {
        let lane = &mut self.lanes[usize::from(hctx)][usize::from(ctx)];
        lane.insert(&request, &mut at(&self.wire, hctx));
    }

    pub fn insert_batch(&mut self, hctx: u16, requests: &[Request]) {
        let lane = &mut self.lanes[usize::from(hctx)][0];
        lane.insert_batch(requests, &mut at(&self.wire, hctx));
    }

    pub fn insert_passthrough(&mut self, hctx: u16, request: Request, at_head: bool) {
        let lane = &mut self.lanes[usize::from(hctx)][0];
        lane.insert_passthrough(&request, at_head, &mut at(&self.wire, hctx));
    }

    /// Waits until kblockd only waits for the clock.
    pub fn settle(&self) {
        if self.in_turns {
            return self.clock.settle();
        }
        loop {
            let before = self.kblockd.queue().stats().completed;
            self.kblockd.queue().flush().unwrap();
            if self.kblockd.queue().stats().completed == before {
                return;
            }
        }
    }

    /// Moves the clock, and waits until `expected` holds.
    pub fn advance(&self, time: Duration, expected: impl Fn() -> bool) {
        self.clock.advance(time);
        if self.in_turns {
            self.settle();
            assert!(expected(), "what came due has run");
            return;
        }
        until("what came due has run", expected);
        self.settle();
    }

    pub fn complete(&self, tag: u16) {
        let token = self.driver.take_held(tag);
        assert!(self.queue.complete_remote(token, Ok(0)));
    }

    pub fn dispatch(&self, hctx: u16) -> Vec<u16> {
        self.queue.snapshot(hctx).dispatch
    }

    /// Completes everything, and checks the identities of the counters (K5).
    pub fn finish(self) {
        self.driver.always(OK);
        self.queue.start_stopped_hw_queues(true);
        self.queue.kick_requeue_list();
        self.queue.run_hw_queues(true);
        let held: Vec<_> = self.driver.held.lock().unwrap().drain(..).collect();
        for (_, token) in held {
            self.queue.complete_remote(token, Ok(0));
        }
        let kept: Vec<_> = self.wire.kept.lock().unwrap().drain(..).collect();
        for (_, token) in kept {
            self.queue.complete_remote(token, Ok(0));
        }
        self.settle();
        let busy =
            || (0..self.queue.tag_set().nr_hw_queues).any(|h| self.queue.snapshot(h).usage > 0);
        until("everything has ended", || !busy());
        self.settle();
        assert_eq!(self.queue.fault_at_rest(), None);
    }
}

/// CPU sets of queues that do not hold the caller's CPU.
pub fn elsewhere(queues: u16) -> Vec<CpuSet> {
    vec![CpuSet::single(8000); usize::from(queues)]
}

/// A call of queue_rq on the first hardware queue.
pub fn q(tag: u16, last: bool) -> Call {
    Call::QueueRq { hctx: 0, tag, last }
}

/// Quiesces the queue and inserts `tags` in this order.
pub fn quiesced(bed: &mut Bed, tags: &[u16]) {
    bed.queue.quiesce();
    for &tag in tags {
        bed.insert(0, write(tag));
    }
    assert!(bed.driver.take_calls().is_empty());
}

/// The same when there were calls before.
pub fn quiesced_more(bed: &mut Bed, tags: &[u16]) {
    bed.driver.take_calls();
    quiesced(bed, tags);
}
