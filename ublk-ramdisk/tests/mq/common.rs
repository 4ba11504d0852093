// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device without a kernel: a driver that answers what a test tells it to (`driver`), a transport that
//! collects results, and a kblockd that lives by a clock the test moves.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use ublk_ramdisk::mq::*;
use workqueue::{CpuPlace, CpuSet, Runtime, Topology, VirtualClock};

// Where it lies has to be said: this file is part of another program, too.
#[path = "driver.rs"]
mod driver;
pub use driver::*;

/// How long a test waits for a sign before it is called hung. Nothing is timed by it.
pub const HUNG: Duration = Duration::from_secs(60);
/// In place of the 3 ms: the net is off.
pub const HOUR: Duration = Duration::from_secs(3600);
pub const MS: Duration = Duration::from_millis(1);

pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < HUNG, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// The transport: results by (queue, tag), and whether bytes can be moved where the request is.
#[derive(Default)]
pub struct Wire {
    pub ends: Mutex<Vec<(u16, u16, i32)>>,
    pub keep: std::sync::atomic::AtomicBool,
    pub kept: Mutex<Vec<(u16, InFlight)>>,
}

impl Wire {
    fn moved<'m>(&self, moving: Moving<'m>) -> Moved<'m> {
        if !self.keep.load(Ordering::SeqCst) {
            let bytes = moving.request().len();
            return moving.done(Ok(bytes));
        }
        let tag = moving.request().tag();
        let (token, moved) = moving.keep();
        self.kept.lock().unwrap().push((tag, token));
        moved
    }

    /// How many have ended.
    pub fn count(&self) -> usize {
        self.ends.lock().unwrap().len()
    }

    pub fn tags(&self) -> Vec<u16> {
        self.ends.lock().unwrap().iter().map(|end| end.1).collect()
    }
}

impl Transport for Wire {
    fn transfer<'m>(&self, moving: Moving<'m>) -> Moved<'m> {
        self.moved(moving)
    }

    fn end(&self, queue: u16, request: &Request, result: i32) {
        let tag = request.tag();
        self.ends.lock().unwrap().push((queue, tag, result));
    }
}

/// The wire as one lane's thread sees it.
pub struct At<'a>(pub &'a Wire, pub u16);

impl Home for At<'_> {
    fn transfer<'m>(&mut self, moving: Moving<'m>) -> Moved<'m> {
        self.0.moved(moving)
    }

    fn end(&mut self, request: &Request, result: i32) {
        self.0.end(self.1, request, result);
    }
}

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

/// A made-up machine: nobody is bound to its CPUs.
pub fn machine(cpus: usize) -> Topology {
    let place = |cpu| CpuPlace {
        cpu,
        core: cpu,
        cache: 0,
        node: 0,
    };
    Topology::simulated((0..cpus).map(place).collect())
}

/// Everything a test needs. Dropped in this order.
pub struct Bed {
    pub lanes: Vec<Vec<Lane>>,
    pub queue: RequestQueue,
    pub driver: Arc<Driver>,
    pub wire: Arc<Wire>,
    pub kblockd: Kblockd,
    pub clock: Arc<VirtualClock>,
    /// Do kblockd's threads take turns, when the test settles?
    in_turns: bool,
    _rt: Runtime,
}

impl Bed {
    /// A device with the net off.
    pub fn new(queues: u16, depth: u16) -> Self {
        Self::with(
            TagSet {
                rerun_delay: HOUR,
                ..TagSet::new(queues, depth)
            },
            Driver::new(),
        )
    }

    /// As [`Bed::new`], for a test that says what does not happen: what came due has had its turn
    /// whenever the test settles, and nothing goes on meanwhile.
    pub fn in_turns(queues: u16, depth: u16) -> Self {
        Self::in_turns_with(TagSet {
            rerun_delay: HOUR,
            ..TagSet::new(queues, depth)
        })
    }

    /// The same, of another shape.
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
            .topology(machine(2))
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
                    .map(|c| queue.lane(h, c).unwrap())
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
        lane.insert(&request, &mut At(&self.wire, hctx));
    }

    pub fn insert_batch(&mut self, hctx: u16, requests: &[Request]) {
        let lane = &mut self.lanes[usize::from(hctx)][0];
        lane.insert_batch(requests, &mut At(&self.wire, hctx));
    }

    pub fn insert_passthrough(&mut self, hctx: u16, request: Request, at_head: bool) {
        let lane = &mut self.lanes[usize::from(hctx)][0];
        lane.insert_passthrough(&request, at_head, &mut At(&self.wire, hctx));
    }

    /// Waits until kblockd has nothing to do but wait for its clock.
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

    /// Moves the clock, and waits until what came due has run.
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
        assert!(self.queue.complete_away(token, Ok(0)));
    }

    pub fn dispatch(&self, hctx: u16) -> Vec<u16> {
        self.queue.snapshot(hctx).dispatch
    }

    /// Lets everything through, and checks the identities (K5).
    pub fn finish(self) {
        self.driver.always(OK);
        self.queue.start_stopped_hw_queues(true);
        self.queue.kick_requeue_list();
        self.queue.run_hw_queues(true);
        let held: Vec<_> = self.driver.held.lock().unwrap().drain(..).collect();
        for (_, token) in held {
            self.queue.complete_away(token, Ok(0));
        }
        let kept: Vec<_> = self.wire.kept.lock().unwrap().drain(..).collect();
        for (_, token) in kept {
            self.queue.complete_away(token, Ok(0));
        }
        self.settle();
        let busy =
            || (0..self.queue.tag_set().nr_hw_queues).any(|h| self.queue.snapshot(h).usage > 0);
        until("everything has ended", || !busy());
        self.settle();
        assert_eq!(self.queue.fault_at_rest(), None);
    }
}

/// The CPU sets of queues none of whose CPUs is the caller's.
pub fn elsewhere(queues: u16) -> Vec<CpuSet> {
    vec![CpuSet::single(100_000); usize::from(queues)]
}

/// A call of queue_rq on the first hardware queue.
pub fn q(tag: u16, last: bool) -> Call {
    Call::QueueRq { hctx: 0, tag, last }
}

/// A device with `tags` listed on a quiesced queue, in this order.
pub fn quiesced(bed: &mut Bed, tags: &[u16]) {
    bed.queue.quiesce();
    for &tag in tags {
        bed.insert(0, write(tag));
    }
    assert!(bed.driver.take_calls().is_empty());
}

pub fn quiesced_more(bed: &mut Bed, tags: &[u16]) {
    bed.driver.take_calls();
    quiesced(bed, tags);
}
