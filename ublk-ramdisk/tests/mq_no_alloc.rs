// SPDX-License-Identifier: MIT OR Apache-2.0
//! J3 and A9: from the arrival of a request to its end nothing allocates, whatever the driver
//! answers. One test only: the counting allocator sees the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use ublk_ramdisk::mq::*;
use ublk_ramdisk::trace;
use workqueue::Runtime;

static WATCHED: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if WATCHED.load(Ordering::Relaxed) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Every answer in turn: OK, both BUSYs, an error, a transfer, a requeue.
struct Turns {
    turn: AtomicU32,
    slots: DeviceSlots,
}

impl Operations for Turns {
    fn queue_rq<'q>(&self, hctx: Hctx<'_>, rq: Issued<'q>, _: bool) -> Answer<'q> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % 7;
        if turn != 4 {
            self.slots.release(hctx);
        }
        match turn {
            1 => rq.busy(Busy::Resource),
            2 => rq.busy(Busy::DevResource),
            3 => Answer::Error(rq, Status::Medium),
            4 => Answer::Ok(rq.transfer(Data::Zeros)),
            5 => Answer::Ok(rq.requeue(Requeue {
                kick: Some(std::time::Duration::ZERO),
                prepared: false,
            })),
            _ => Answer::Ok(rq.end(Ok(()))),
        }
    }

    fn complete(&self, hctx: Hctx<'_>, _: &Request) {
        self.slots.release(hctx);
    }

    fn budget(&self) -> Option<&dyn Budget> {
        Some(&self.slots)
    }

    fn has_waker(&self, _: u16) -> bool {
        true
    }
}

#[derive(Default)]
struct Ended(AtomicUsize);

impl FrontEnd for Ended {
    fn transfer<'m>(&self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        let bytes = transfer.request().len();
        transfer.done(Ok(bytes))
    }

    fn end(&self, _: u16, _: &Request, _: i32) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

const DEPTH: u16 = 16;

fn round(queue: &Queue, lanes: &mut [Submitter], requests: &[Request], ended: &Ended) {
    let begun = Instant::now();
    let goal = ended.0.load(Ordering::Acquire) + lanes.len() * requests.len();
    for lane in lanes.iter_mut() {
        let (alone, together) = requests.split_at(requests.len() / 2);
        for request in alone {
            lane.insert(request, &mut ViaFrontEnd::new(ended, 0));
        }
        lane.insert_batch(together, &mut ViaFrontEnd::new(ended, 0));
    }
    while ended.0.load(Ordering::Acquire) < goal {
        // The driver answers DEV_RESOURCE and promises a waker: this is it. A run that is queued
        // already is left alone, or it would go to the end of the line again and again.
        queue.delay_run_hw_queues(Duration::ZERO);
        std::thread::yield_now();
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain");
    }
}

#[test]
fn d06_j03_nothing_allocates_from_arrival_to_end() {
    // On a slow machine a look at the CPUs or the pools would fall into each of the tries below.
    let runtime = Runtime::builder()
        .sample_period(Duration::ZERO)
        .cpu_poll(Duration::ZERO)
        .watchdog_thresh(Duration::ZERO)
        .start()
        .unwrap();
    let kblockd = Kblockd::new(&runtime).unwrap();
    let ended = Arc::new(Ended::default());
    let driver = Arc::new(Turns {
        turn: AtomicU32::new(0),
        slots: DeviceSlots::new(3, 2),
    });
    let set = TagSet::new(2, DEPTH);
    let queue = RequestQueue::new(set, driver, ended.clone(), &kblockd).unwrap();
    let mut lanes: Vec<_> = (0..2).map(|h| queue.submitter(h, 0).unwrap()).collect();
    let limits = Limits {
        size: 1 << 20,
        block_size: 512,
        max_data: 4096,
        read_only: false,
    };
    let requests: Vec<_> = (0..DEPTH)
        .map(|tag| {
            let op = [Op::Read, Op::Write, Op::Discard][usize::from(tag % 3)];
            Request::check(tag, op, u64::from(tag) * 8, 8, &limits).unwrap()
        })
        .collect();
    // Warm up: workers are made, and what they use once is set up.
    for _ in 0..200 {
        round(&queue, &mut lanes, &requests, &ended);
    }
    // A pool may still make one more worker in a round; one of several tries is quiet.
    let mut least = || {
        let tries = (0..10).map(|_| {
            ALLOCATIONS.store(0, Ordering::SeqCst);
            WATCHED.store(true, Ordering::SeqCst);
            for _ in 0..100 {
                round(&queue, &mut lanes, &requests, &ended);
            }
            WATCHED.store(false, Ordering::SeqCst);
            ALLOCATIONS.load(Ordering::SeqCst)
        });
        tries.min()
    };
    assert_eq!(least(), Some(0));
    // Nor while every event is recorded (K3).
    let recording = trace::start(trace::Options {
        records: 1000,
        clock: None,
    });
    assert_eq!(least(), Some(0));
    let trace = recording.expect("nobody else records").finish();
    assert!(trace.lost() > 0 && trace.len() > 1000, "{}", trace.len());
    kblockd.queue().flush().unwrap();
    assert_eq!(queue.fault_at_rest(), None);
}
