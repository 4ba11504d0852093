// SPDX-License-Identifier: MIT OR Apache-2.0
//! A RAM disk written to the three answers of the old kernels, on the mirror of blk-mq, with a
//! small load generator instead of a kernel.
//!
//! ```sh
//! cargo run --release --example mybrd                      # never busy
//! cargo run --release --example mybrd -- --busy-every 3    # BUSY to every third try
//! cargo run --release --example mybrd -- --error-every 5   # ERROR to every fifth
//! ```
//!
//! Each thread keeps its queue full, and reads back every block it has written. At the end the
//! counters of the queues are printed, and whether they add up.

use clap::Parser;
use std::cell::Cell;
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;
use ublk_ramdisk::mq::legacy::{
    Legacy, LegacyDriver, LegacyRequest, QUEUE_BUSY, QUEUE_ERROR, QUEUE_OK,
};
use ublk_ramdisk::mq::{
    Data, DataTransfer, FrontEnd, Hctx, HctxCounters, Kblockd, Limits, LocalCompletion, Op,
    Request, RequestQueue, Submitter, TagSet, TransferAnswer,
};

/// A RAM disk of the old kind in this process, and a load on it.
#[derive(Parser)]
struct Args {
    /// Hardware queues, each with a thread that keeps it full
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,
    /// Requests in flight per queue
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    depth: u16,
    /// Requests per thread
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// Answer BUSY to every so many-th try; 0 for never
    #[arg(long, default_value_t = 0)]
    busy_every: u64,
    /// Answer ERROR to every so many-th try; 0 for never
    #[arg(long, default_value_t = 0)]
    error_every: u64,
}

const BLOCK: usize = 4096;
const BLOCKS: u64 = 4096;

type Page = Arc<[AtomicU64; BLOCK / 8]>;

/// The driver: pages found by their number, as in brd.
struct Mybrd {
    pages: HashMap<u64, Page>,
    busy_every: u64,
    error_every: u64,
    tries: AtomicU64,
}

impl Mybrd {
    fn new(args: &Args) -> Self {
        // All pages are made now: queue_rq must not allocate.
        let page = || Arc::new([const { AtomicU64::new(0) }; BLOCK / 8]);
        Self {
            pages: (0..BLOCKS).map(|n| (n, page())).collect(),
            busy_every: args.busy_every,
            error_every: args.error_every,
            tries: AtomicU64::new(0),
        }
    }
}

impl LegacyDriver for Mybrd {
    fn queue_rq(&self, _: Hctx<'_>, request: &LegacyRequest<'_>) -> i32 {
        let tries = self.tries.fetch_add(1, Ordering::Relaxed) + 1;
        let is_turn = |every| every > 0 && tries.is_multiple_of(every);
        if is_turn(self.busy_every) {
            return QUEUE_BUSY;
        }
        let block = request.request().offset() / BLOCK as u64;
        match self.pages.get(&block) {
            Some(page) if !is_turn(self.error_every) => {
                request.copy(Data::Contiguous(NonNull::from(&page[0]).cast()));
                QUEUE_OK
            }
            _ => QUEUE_ERROR,
        }
    }
}

/// One queue's client: a buffer per tag, and a line of tags that have ended on other threads.
struct Client {
    buffers: Box<[Page]>,
    ended: Mutex<Vec<(u16, i32)>>,
    changed: Condvar,
}

struct Clients(Box<[Client]>);

impl Clients {
    fn new(args: &Args) -> Self {
        let buffer = || Arc::new([const { AtomicU64::new(0) }; BLOCK / 8]);
        let client = || Client {
            buffers: (0..args.depth).map(|_| buffer()).collect(),
            ended: Mutex::new(Vec::with_capacity(usize::from(args.depth))),
            changed: Condvar::new(),
        };
        Self((0..args.queues).map(|_| client()).collect())
    }

    /// Moves a block between the client's buffer and the disk.
    fn copy<'m>(&self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        let request = *transfer.request();
        let buffer = &self.0[usize::from(transfer.queue())].buffers[usize::from(request.tag())];
        if let Data::Contiguous(at) = transfer.data() {
            // SAFETY: `at` is the first word of a page of the driver, all of which live as long as
            // the driver does.
            let page = unsafe { at.cast::<[AtomicU64; BLOCK / 8]>().as_ref() };
            let (from, to) = match request.op() {
                Op::Write => (&**buffer, page),
                _ => (page, &**buffer),
            };
            for (from, to) in from.iter().zip(to) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        transfer.done(Ok(request.len()))
    }
}

impl FrontEnd for Clients {
    fn transfer<'m>(&self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        self.copy(transfer)
    }

    fn end(&self, queue: u16, request: &Request, result: i32) {
        let client = &self.0[usize::from(queue)];
        let mut ended = client.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push((request.tag(), result));
        client.changed.notify_one();
    }
}

/// What a client's thread is told on the spot.
struct AtHome<'a> {
    clients: &'a Clients,
    ended: &'a mut Vec<(u16, i32)>,
}

impl LocalCompletion for AtHome<'_> {
    fn transfer<'m>(&mut self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        self.clients.copy(transfer)
    }

    fn end(&mut self, request: &Request, result: i32) {
        self.ended.push((request.tag(), result));
    }
}

/// One thread's load: writes a block, then reads it back, tag by tag.
struct Load<'a> {
    lane: Submitter,
    clients: &'a Clients,
    number: u16,
    queues: u64,
    left: u64,
    /// Are errors to be expected?
    errors: bool,
    /// By tag: the block that is written or read, and what was written.
    tags: Vec<Cell<(Op, u64, u64)>>,
    ended: Vec<(u16, i32)>,
}

impl Load<'_> {
    fn run(mut self) -> u64 {
        let depth = self.tags.len() as u64;
        let mut out = 0;
        let mut wrong = 0;
        let mut free: Vec<u16> = (0..depth as u16).rev().collect();
        while self.left > 0 || out > 0 {
            while let (Some(tag), true) = (free.last().copied(), self.left > 0) {
                free.pop();
                self.left -= 1;
                out += 1;
                self.insert(tag);
            }
            self.wait();
            for (tag, result) in std::mem::take(&mut self.ended) {
                out -= 1;
                wrong += u64::from(!self.is_right(tag, result));
                free.push(tag);
            }
        }
        wrong
    }

    /// The next request of a tag: a write to a block of its own, or the read of what it wrote.
    fn insert(&mut self, tag: u16) {
        let cell = &self.tags[usize::from(tag)];
        let (op, block, value) = cell.get();
        let next = match op {
            Op::Write => (Op::Read, block, value),
            _ => {
                let own = u64::from(tag) * self.queues + u64::from(self.number);
                (Op::Write, own % BLOCKS, value.wrapping_add(self.left))
            }
        };
        cell.set(next);
        let buffer = &self.clients.0[usize::from(self.number)].buffers[usize::from(tag)];
        let fill = if next.0 == Op::Write { next.2 } else { !next.2 };
        buffer[0].store(fill, Ordering::Relaxed);
        let limits = Limits {
            size: BLOCKS * BLOCK as u64,
            block_size: BLOCK as u32,
            max_data: BLOCK as u32,
            read_only: false,
        };
        let sector = next.1 * (BLOCK as u64 / 512);
        let request = Request::check(tag, next.0, sector, BLOCK as u32 / 512, &limits)
            .expect("the block is on the disk");
        let mut home = AtHome {
            clients: self.clients,
            ended: &mut self.ended,
        };
        self.lane.insert(&request, &mut home);
    }

    /// Waits until something has ended.
    fn wait(&mut self) {
        let client = &self.clients.0[usize::from(self.number)];
        let mut ended = client.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while self.ended.is_empty() && ended.is_empty() {
            ended = client
                .changed
                .wait(ended)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.ended.append(&mut ended);
    }

    /// Is the result an error the driver was told to answer, or a block as it was written?
    fn is_right(&self, tag: u16, result: i32) -> bool {
        if result < 0 {
            // What was to be written was not: the next request of this tag writes again.
            let (_, block, value) = self.tags[usize::from(tag)].get();
            self.tags[usize::from(tag)].set((Op::Read, block, value));
            return self.errors;
        }
        let (_, _, value) = self.tags[usize::from(tag)].get();
        let buffer = &self.clients.0[usize::from(self.number)].buffers[usize::from(tag)];
        result == BLOCK as i32 && buffer[0].load(Ordering::Relaxed) == value
    }
}

fn main() {
    let args = Args::parse();
    if u64::from(args.queues) * u64::from(args.depth) > BLOCKS {
        eprintln!(
            "mybrd: {} queues of depth {} need more than the disk's {BLOCKS} blocks",
            args.queues, args.depth
        );
        std::process::exit(2);
    }
    let driver = Arc::new(Legacy::new(Mybrd::new(&args), args.queues, args.depth));
    let clients = Arc::new(Clients::new(&args));
    let set = TagSet::new(args.queues, args.depth);
    let queue = match RequestQueue::new(set, driver, clients.clone(), Kblockd::global()) {
        Ok(queue) => queue,
        Err(error) => {
            eprintln!("mybrd: {error}");
            std::process::exit(1);
        }
    };
    let begun = Instant::now();
    let wrong: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.queues)
            .map(|number| {
                let load = Load {
                    lane: queue
                        .submitter(number, 0)
                        .expect("every queue has one lane"),
                    clients: &clients,
                    number,
                    queues: u64::from(args.queues),
                    left: args.requests,
                    errors: args.error_every > 0,
                    tags: vec![Cell::new((Op::Read, 0, 0)); usize::from(args.depth)],
                    ended: Vec::with_capacity(usize::from(args.depth)),
                };
                scope.spawn(move || load.run())
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or(1)).sum()
    });
    let elapsed = begun.elapsed();
    queue.freeze().expect("nothing is stopped");
    for number in 0..args.queues {
        print_counters(number, &queue.counters(number));
    }
    let total = args.requests * u64::from(args.queues);
    println!(
        "{total} requests, {wrong} wrong, {:.0} ns each per queue",
        elapsed.as_nanos() as f64 / args.requests.max(1) as f64
    );
    let fault = queue.fault_at_rest();
    println!("the counters {}", fault.as_deref().unwrap_or("add up"));
    std::process::exit(i32::from(wrong > 0 || fault.is_some()));
}

fn print_counters(number: u16, c: &HctxCounters) {
    println!("queue {number}");
    println!(
        "  requests   inserted {}, ended {}, errors {}",
        c.inserted, c.ended, c.errors
    );
    println!(
        "  answers    OK {}, BUSY {}, error {}",
        c.accepted, c.refused_resource, c.refused_error
    );
    println!(
        "  runs       on the spot {}, by kblockd {}, later {}, by an end {}",
        c.run_sync, c.run_async, c.run_delayed, c.restarted
    );
    println!("  dispatched per run {:?}", c.dispatched);
}
