// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes requests in process, straight at the store or through the mirror of blk-mq, for
//! `scripts/bench-mirror` to have valgrind count the instructions of both ways.

use bench::mirror::{Bed, Way};
use clap::Parser;
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
}

fn main() {
    let args = Args::parse();
    let op = match &args.op[..] {
        "read" => Op::Read,
        _ => Op::Write,
    };
    // 256 KiB, which stay in the caches.
    Bed::new(64).run(args.way, op, args.requests);
}
