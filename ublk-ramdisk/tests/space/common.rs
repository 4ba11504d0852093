// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thin disk without a kernel: the real driver and store behind the mirror, on a clock that the
//! test moves, with the 3 ms net off.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ublk_ramdisk::backend::{self, Mirror};
use ublk_ramdisk::mq::*;
use ublk_ramdisk::pressure::{Pressured, Settings};
use ublk_ramdisk::ramdisk::space::{SpaceOptions, SpaceStats};
use ublk_ramdisk::ramdisk::store::Store;
use ublk_ramdisk::ramdisk::{Mode, Ramdisk};
use workqueue::VirtualClock;

/// How long a test waits for a sign before it is called hung. Nothing is timed by it.
pub const HUNG: Duration = Duration::from_secs(60);
pub const S: Duration = Duration::from_secs(1);
pub const PAGE: u64 = 4096;
pub const NOSPC: i32 = -libc::ENOSPC;

/// The client: fills what it writes with one byte, and keeps the results.
pub struct Client {
    pub ends: Mutex<Vec<(u16, u16, i32)>>,
    pub byte: AtomicU8,
}

impl Client {
    fn moved<'m>(&self, moving: Moving<'m>) -> Moved<'m> {
        let request = *moving.request();
        if let (Op::Write, Data::Contiguous(to)) = (request.op(), moving.data()) {
            let byte = self.byte.load(Ordering::SeqCst);
            // SAFETY: the driver has pinned the request's range for the transfer.
            unsafe { to.as_ptr().write_bytes(byte, request.len() as usize) };
        }
        moving.done(Ok(request.len()))
    }
}

impl Transport for Client {
    fn transfer<'m>(&self, moving: Moving<'m>) -> Moved<'m> {
        self.moved(moving)
    }

    fn end(&self, queue: u16, request: &Request, result: i32) {
        let end = (queue, request.tag(), result);
        self.ends.lock().unwrap().push(end);
    }
}

struct At<'a>(&'a Client, u16);

impl Home for At<'_> {
    fn transfer<'m>(&mut self, moving: Moving<'m>) -> Moved<'m> {
        self.0.moved(moving)
    }

    fn end(&mut self, request: &Request, result: i32) {
        Transport::end(self.0, self.1, request, result);
    }
}

/// Everything a test needs. Dropped in this order.
pub struct Bed {
    lanes: Vec<Lane>,
    pub mirror: Mirror,
    pub ramdisk: Arc<Ramdisk>,
    pub client: Arc<Client>,
    pub clock: Arc<VirtualClock>,
}

impl Bed {
    /// A disk of so many pages, of which `limit` may be there at once; 0 for all. Its workqueues
    /// have their turn while the test waits, and what they have begun is done before the test goes
    /// on: a timer is armed before the clock moves.
    pub fn new(queues: u16, depth: u16, pages: u64, limit: u64, options: SpaceOptions) -> Self {
        let clock = VirtualClock::in_turns();
        Self::on(clock, (queues, depth), pages, limit, options)
    }

    /// The same whose workqueues run beside the test, for races. Its clock stands still.
    pub fn at_once(queues: u16, depth: u16, pages: u64, limit: u64) -> Self {
        let options = SpaceOptions::default();
        Self::on(VirtualClock::new(), (queues, depth), pages, limit, options)
    }

    pub fn on(
        clock: Arc<VirtualClock>,
        (queues, depth): (u16, u16),
        pages: u64,
        limit: u64,
        options: SpaceOptions,
    ) -> Self {
        let store = Store::anonymous(pages * PAGE, false).expect("a memfd");
        let runtime = backend::runtime()
            .sample_period(Duration::ZERO)
            .virtual_clock(clock.clone());
        let set = TagSet {
            rerun_delay: Duration::from_secs(1 << 20),
            timeout: Duration::from_secs(1 << 20),
            ..TagSet::new(queues, depth)
        };
        let ramdisk = Arc::new(Ramdisk::new(store).with_space(options));
        let client = Arc::new(Client {
            ends: Mutex::default(),
            byte: AtomicU8::new(0xa5),
        });
        let pressure = Settings::default();
        let driver = Pressured::new(ramdisk.clone(), pressure, queues, depth);
        let driver = Arc::new(driver);
        let mirror = Mirror::start_on(
            runtime,
            Kblockd::FLAGS,
            set,
            driver.clone(),
            &driver,
            client.clone(),
        )
        .expect("threads");
        let bed = Self {
            lanes: (0..queues).map(|queue| mirror.lane(queue)).collect(),
            mirror,
            ramdisk,
            client,
            clock,
        };
        if limit > 0 {
            bed.limit(limit);
        }
        bed
    }

    /// Waits until it is so.
    #[track_caller]
    pub fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let begun = Instant::now();
        loop {
            self.clock.settle();
            if condition() {
                return;
            }
            assert!(begun.elapsed() < HUNG, "waited in vain: {what}");
            std::thread::yield_now();
        }
    }

    /// Moves the clock on, and has what that sets going done.
    pub fn advance(&self, time: Duration) {
        self.clock.settle();
        self.clock.advance(time);
        self.clock.settle();
    }

    /// So many pages may be there at once.
    pub fn limit(&self, pages: u64) {
        let store = self.ramdisk.store();
        store.set_memory_limit(store.table_bytes() + pages * PAGE);
    }

    pub fn insert(&mut self, queue: u16, tag: u16, op: Op, page: u64, pages: u64) {
        let limits = Limits {
            size: self.ramdisk.store().size(),
            block_size: 512,
            max_data: 64 << 20,
            read_only: false,
        };
        let sectors = if op == Op::Flush { 0 } else { pages * 8 };
        let request = Request::check(tag, op, page * 8, sectors as u32, &limits).unwrap();
        let lane = &mut self.lanes[usize::from(queue)];
        lane.insert(&request, &mut At(&self.client, queue));
    }

    pub fn write(&mut self, tag: u16, page: u64) {
        self.insert(0, tag, Op::Write, page, 1);
    }

    /// The result of the only request of this tag since the last time it was asked, if it has
    /// ended.
    pub fn result(&self, queue: u16, tag: u16) -> Option<i32> {
        let ends = &mut self.client.ends.lock().unwrap();
        let at = ends.iter().position(|end| (end.0, end.1) == (queue, tag))?;
        Some(ends.swap_remove(at).2)
    }

    #[track_caller]
    pub fn end_of(&self, queue: u16, tag: u16) -> i32 {
        let mut result = None;
        self.until("a request ends", || {
            result = self.result(queue, tag);
            result.is_some()
        });
        result.unwrap()
    }

    /// Inserts a request of the first queue and waits for its result.
    #[track_caller]
    pub fn ended(&mut self, tag: u16, op: Op, page: u64, pages: u64) -> i32 {
        self.insert(0, tag, op, page, pages);
        self.end_of(0, tag)
    }

    /// Fills so many pages from the first on.
    #[track_caller]
    pub fn fill(&mut self, pages: u64) {
        for page in 0..pages {
            assert_eq!(self.ended(0, Op::Write, page, 1), PAGE as i32);
        }
    }

    pub fn stats(&self) -> SpaceStats {
        self.ramdisk.space_stats()
    }

    /// Waits until the store is found to be exhausted with so many requests parked.
    #[track_caller]
    pub fn exhausted(&self, parked: u64) {
        self.until("the store is exhausted", || {
            let now = self.stats();
            now.mode == Mode::Exhausted && now.parked == parked
        });
    }

    /// Every request has ended once, and the account is what the file holds (K5, E7).
    #[track_caller]
    pub fn finish(self) {
        let mut fault = None;
        let begun = Instant::now();
        while begun.elapsed() < HUNG {
            self.clock.settle();
            fault = self.mirror.queue().fault_at_rest();
            if fault.is_none() {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(fault, None);
        let (store, stats) = (self.ramdisk.store(), self.stats());
        assert_eq!(stats.parked, 0);
        assert_eq!(stats.used - stats.tables, store.allocated().unwrap());
        for result in self.client.ends.lock().unwrap().iter() {
            let errno = -result.2;
            assert!(![libc::ENOMEM, libc::EBUSY, libc::EAGAIN].contains(&errno));
        }
    }
}
