// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thin disk without a kernel: the real driver and store behind the mirror, on a clock that the
//! test moves. Queues are not run again after 3 ms.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use ublk_ramdisk::backend::{self, Mirror};
use ublk_ramdisk::mq::*;
use ublk_ramdisk::pressure::{Pressured, Settings};
use ublk_ramdisk::ramdisk::space::{SpaceOptions, SpaceStats};
use ublk_ramdisk::ramdisk::store::Store;
use ublk_ramdisk::ramdisk::{Mode, Ramdisk};
use ublk_ramdisk::sys::memory::Headroom;
use workqueue::VirtualClock;

#[path = "../common/mod.rs"]
mod client;
pub use client::*;

pub const S: Duration = Duration::from_secs(1);
pub const PAGE: u64 = 4096;
pub const NOSPC: i32 = -libc::ENOSPC;

/// The files by which a machine of 1 GiB says how much memory it has.
pub struct Machine(std::path::PathBuf);

impl Machine {
    pub fn new(name: &str) -> Self {
        let proc = std::env::temp_dir().join(format!("ublk-proc-{name}-{}", std::process::id()));
        std::fs::create_dir_all(proc.join("sys/vm")).unwrap();
        std::fs::write(proc.join("sys/vm/min_free_kbytes"), "512\n").unwrap();
        Self(proc)
    }

    /// Sets the memory that it has available.
    pub fn has(&self, kib: u64) {
        let text = format!("MemTotal: {} kB\nMemAvailable: {kib} kB\n", 1 << 20);
        std::fs::write(self.0.join("meminfo"), text).unwrap();
    }

    pub fn headroom(&self) -> Headroom {
        Headroom::of(&self.0, &[]).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Everything a test needs. Dropped in this order.
pub struct Bed {
    lanes: Vec<Submitter>,
    pub mirror: Mirror,
    pub driver: Arc<Pressured<Ramdisk>>,
    pub ramdisk: Arc<Ramdisk>,
    pub client: Arc<Wire>,
    pub clock: Arc<VirtualClock>,
}

impl Bed {
    /// A disk of `pages` pages, of which `limit` may be in memory; 0 for all. Its workqueues run only
    /// while the test waits, so a timer is armed before the clock moves.
    pub fn new(queues: u16, depth: u16, pages: u64, limit: u64, options: SpaceOptions) -> Self {
        let clock = VirtualClock::in_turns();
        Self::on(clock, (queues, depth), pages, limit, options)
    }

    /// The same with workqueues that run beside the test, for races. The clock stands still.
    pub fn at_once(queues: u16, depth: u16, pages: u64, limit: u64) -> Self {
        let options = SpaceOptions::default();
        Self::on(VirtualClock::new(), (queues, depth), pages, limit, options)
    }

    /// As [`Bed::new`], for a disk that counts as being removed once the flag is set.
    pub fn removable(
        queues: u16,
        depth: u16,
        pages: u64,
        limit: u64,
        options: SpaceOptions,
    ) -> (Self, Arc<AtomicBool>) {
        let ramdisk = Self::ramdisk(pages, options);
        let removed = Arc::new(AtomicBool::new(false));
        let flag = removed.clone();
        ramdisk.on_removal(move || flag.load(Ordering::SeqCst));
        let clock = VirtualClock::in_turns();
        (Self::of(ramdisk, clock, (queues, depth), limit), removed)
    }

    pub fn on(
        clock: Arc<VirtualClock>,
        shape: (u16, u16),
        pages: u64,
        limit: u64,
        options: SpaceOptions,
    ) -> Self {
        Self::of(Self::ramdisk(pages, options), clock, shape, limit)
    }

    pub fn ramdisk(pages: u64, options: SpaceOptions) -> Ramdisk {
        let store = Store::anonymous(pages * PAGE, false).expect("a memfd");
        Ramdisk::new(store).with_space(options)
    }

    pub fn of(ramdisk: Ramdisk, clock: Arc<VirtualClock>, shape: (u16, u16), limit: u64) -> Self {
        Self::under(ramdisk, clock, shape, limit, (Settings::default(), None))
    }

    /// Under pressure; what its rules have done is kept in the file.
    pub fn under(
        ramdisk: Ramdisk,
        clock: Arc<VirtualClock>,
        (queues, depth): (u16, u16),
        limit: u64,
        (pressure, rules_file): (Settings, Option<PathBuf>),
    ) -> Self {
        let runtime = backend::runtime()
            .sample_period(Duration::ZERO)
            .virtual_clock(clock.clone());
        let set = TagSet {
            rerun_delay: Duration::from_secs(1 << 20),
            timeout: Duration::from_secs(1 << 20),
            ..TagSet::new(queues, depth)
        };
        let ramdisk = Arc::new(ramdisk);
        let client = Arc::new(Wire::default());
        client.byte.store(0xa5, Ordering::SeqCst);
        let disk = ramdisk.clone();
        let driver = Pressured::with_rules_file(disk, pressure, queues, depth, rules_file);
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
            lanes: (0..queues).map(|queue| mirror.submitter(queue)).collect(),
            mirror,
            driver,
            ramdisk,
            client,
            clock,
        };
        if limit > 0 {
            bed.limit(limit);
        }
        bed
    }

    /// Waits until the condition holds.
    #[track_caller]
    pub fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        until(what, || {
            self.clock.settle();
            condition()
        });
    }

    /// Moves the clock, and waits until all that became due is done.
    pub fn advance(&self, time: Duration) {
        self.clock.settle();
        self.clock.advance(time);
        self.clock.settle();
    }

    /// Sets the memory limit, in pages.
    pub fn limit(&self, pages: u64) {
        let store = self.ramdisk.store();
        store.set_memory_limit(store.table_bytes() + pages * PAGE);
    }

    pub fn insert(&mut self, queue: u16, tag: u16, op: Op, page: u64, pages: u64) {
        self.insert_with(queue, tag, op, page, pages, false);
    }

    pub fn insert_with(
        &mut self,
        queue: u16,
        tag: u16,
        op: Op,
        page: u64,
        pages: u64,
        is_fua: bool,
    ) {
        let limits = Limits {
            size: self.ramdisk.store().size(),
            block_size: 512,
            max_data: 64 << 20,
            read_only: false,
        };
        let sectors = if op == Op::Flush { 0 } else { pages * 8 };
        let request = Request::check(tag, op, page * 8, sectors as u32, &limits).unwrap();
        let lane = &mut self.lanes[usize::from(queue)];
        lane.insert(&request.with_fua(is_fua), &mut at(&self.client, queue));
    }

    pub fn write(&mut self, tag: u16, page: u64) {
        self.insert(0, tag, Op::Write, page, 1);
    }

    /// Takes the result of the request with this tag, if it has ended.
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

    /// Writes the first `pages` pages.
    #[track_caller]
    pub fn fill(&mut self, pages: u64) {
        for page in 0..pages {
            assert_eq!(self.ended(0, Op::Write, page, 1), PAGE as i32);
        }
    }

    pub fn stats(&self) -> SpaceStats {
        self.ramdisk.space_stats()
    }

    /// Waits until the store is exhausted and `parked` requests are parked.
    #[track_caller]
    pub fn exhausted(&self, parked: u64) {
        self.until("the store is exhausted", || {
            let now = self.stats();
            now.mode == Mode::Exhausted && now.parked == parked
        });
    }

    /// Checks that every request has ended once, and that the account is what the file holds (K5, E7).
    #[track_caller]
    pub fn finish(self) {
        self.until("the counters add up", || {
            self.mirror.queue().fault_at_rest().is_none()
        });
        let (store, stats) = (self.ramdisk.store(), self.stats());
        assert_eq!(stats.parked, 0);
        if !store.keeps_flushed() {
            assert_eq!(stats.used - stats.tables, store.allocated().unwrap());
        }
        for result in self.client.ends.lock().unwrap().iter() {
            let errno = -result.2;
            assert!(![libc::ENOMEM, libc::EBUSY, libc::EAGAIN].contains(&errno));
        }
    }
}
