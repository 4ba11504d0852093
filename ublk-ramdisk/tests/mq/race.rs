// SPDX-License-Identifier: MIT OR Apache-2.0
//! C38: completion and timeout of the same request, again and again, on threads of their own. The
//! loom model has every interleaving of one race; this has the real memory and kblockd.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::Instant;
use ublk_ramdisk::mq::*;
use workqueue::Runtime;

use super::common::{write, HUNG};

const DEPTH: u16 = 64;

/// Keeps everything; what is late ends with TIMEOUT.
struct Keeper(Vec<Mutex<Option<InFlight>>>);

impl Keeper {
    fn of(&self, tag: u16) -> std::sync::MutexGuard<'_, Option<InFlight>> {
        let token = self.0[usize::from(tag)].lock();
        token.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Operations for Keeper {
    fn queue_rq<'q>(&self, _: Hctx<'_>, rq: Issued<'q>, _: bool) -> Answer<'q> {
        let tag = rq.request().tag();
        let (token, accepted) = rq.hold();
        *self.of(tag) = Some(token);
        Answer::Ok(accepted)
    }

    fn timeout(&self, _: Hctx<'_>, expired: &RequestRef) -> TimeoutAnswer {
        expired.complete(Status::Timeout);
        TimeoutAnswer::Done
    }
}

/// Results by tag: how many ended well, and how many late.
struct Results(Vec<(AtomicU64, AtomicU64)>);

impl Results {
    fn ended(&self) -> u64 {
        let sum = |(well, late): &(AtomicU64, AtomicU64)| {
            well.load(Ordering::Acquire) + late.load(Ordering::Acquire)
        };
        self.0.iter().map(sum).sum()
    }
}

impl FrontEnd for Results {
    fn transfer<'m>(&self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        transfer.done(Ok(0))
    }

    fn end(&self, _: u16, request: &Request, result: i32) {
        let (well, late) = &self.0[usize::from(request.tag())];
        let count = match result {
            0.. => well,
            _ => late,
        };
        count.fetch_add(1, Ordering::AcqRel);
    }
}

/// UBLK_TEST_RACES of them, or 20000.
#[test]
fn c38_a_race_of_complete_and_timeout_has_one_winner_each_time() {
    let races = std::env::var("UBLK_TEST_RACES").map_or(20_000, |text| {
        text.parse().expect("UBLK_TEST_RACES is a number")
    });
    let rounds = u64::div_ceil(races, DEPTH.into());
    let runtime = Runtime::builder().start().expect("threads can be made");
    let kblockd = Kblockd::new(&runtime).unwrap();
    let driver = Arc::new(Keeper((0..DEPTH).map(|_| Mutex::new(None)).collect()));
    let results = Arc::new(Results((0..DEPTH).map(|_| Default::default()).collect()));
    let set = TagSet::new(1, DEPTH);
    let queue = RequestQueue::new(set, driver.clone(), results.clone(), &kblockd).unwrap();
    let mut lane = queue.submitter(0, 0).unwrap();
    let requests: Vec<_> = (0..DEPTH).map(write).collect();
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..rounds {
                start.wait();
                for tag in 0..DEPTH {
                    // The handler may hold the queue still: then the request is listed, and comes
                    // soon.
                    let token = loop {
                        match driver.of(tag).take() {
                            Some(token) => break token,
                            None => std::thread::yield_now(),
                        }
                    };
                    queue.complete_remote(token, Ok(4096));
                }
                // The next round would put its tokens over those that are left.
                start.wait();
            }
        });
        for round in 1..=rounds {
            lane.insert_batch(&requests, &mut ViaFrontEnd::new(&*results, 0));
            start.wait();
            // From the other end, so that they meet.
            for tag in (0..DEPTH).rev() {
                queue.abort(0, tag);
            }
            let (begun, expected) = (Instant::now(), round * u64::from(DEPTH));
            while results.ended() < expected {
                if begun.elapsed() > HUNG {
                    eprintln!("a request has no winner; the other thread waits for ever");
                    std::process::abort();
                }
                std::thread::yield_now();
            }
            start.wait();
        }
    });
    kblockd.queue().flush().unwrap();
    let (mut well, mut late) = (0, 0);
    for (of_tag, late_of_tag) in &results.0 {
        let (w, l) = (
            of_tag.load(Ordering::Acquire),
            late_of_tag.load(Ordering::Acquire),
        );
        assert_eq!(w + l, rounds, "each tag ends once in each round");
        (well, late) = (well + w, late + l);
    }
    let counters = queue.counters(0);
    println!(
        "{well} ended well, {late} late; {} lost races",
        counters.lost_races
    );
    assert_eq!((counters.ended, counters.errors), (well, late));
    assert!(counters.lost_races >= late, "each late one had a loser");
    assert_eq!(queue.fault_at_rest(), None);
}
