// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes requests in process, straight at the store or through the mirror of blk-mq, for
//! `scripts/bench-mirror` to have valgrind count the instructions of both ways, and say which
//! cache lines two queues write.

use bench::mirror::{Bed, Way};
use clap::Parser;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Barrier;
use ublk_ramdisk::mq::Op;

/// Requests through the mirror, or at the store alone.
#[derive(Parser)]
struct Args {
    /// How many.
    requests: usize,
    /// The way they take.
    #[arg(long, value_enum, default_value = "mirror")]
    way: Way,
    /// What they ask for.
    #[arg(long, value_parser = ["read", "write"], default_value = "read")]
    op: String,
    /// Through this number of queues, each with a thread of its own, one after the other. Prints an
    /// address, and writes there when a queue begins, its number, and when it ends, 255.
    #[arg(long, conflicts_with = "way")]
    queues: Option<u8>,
}

/// What a tool that sees all writes knows the queues by.
static MARK: AtomicU8 = AtomicU8::new(0);

/// Has each queue do its requests while no other queue does any.
fn in_turn(queues: u8, op: Op, requests: usize) {
    println!("{:x}", MARK.as_ptr() as usize);
    let turn = Barrier::new(usize::from(queues));
    std::thread::scope(|scope| {
        for (number, mut bed) in (0..queues).zip(Bed::several(queues.into(), 256)) {
            let turn = &turn;
            scope.spawn(move || {
                // What is made once.
                bed.run(Way::Mirror, op, requests);
                for now in 0..queues {
                    turn.wait();
                    if now == number {
                        MARK.store(number, Ordering::SeqCst);
                        bed.run(Way::Mirror, op, requests);
                        MARK.store(u8::MAX, Ordering::SeqCst);
                    }
                }
                turn.wait();
            });
        }
    });
}

fn main() {
    let args = Args::parse();
    let op = match &args.op[..] {
        "read" => Op::Read,
        _ => Op::Write,
    };
    if let Some(queues) = args.queues {
        return in_turn(queues, op, args.requests);
    }
    // 256 KiB, which stay in the caches.
    Bed::new(64).run(args.way, op, args.requests);
}
