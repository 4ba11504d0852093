// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the mirror of blk-mq costs per request, in process: two ways to one store take turns.
//!
//! `scripts/bench-mirror` builds it, has valgrind count the instructions of both ways, adds the
//! setting and keeps what it leaves. Time is that of the thread on its CPU, so that what others do
//! meanwhile counts only by the caches it takes.

use std::path::PathBuf;
use std::process::ExitCode;

use bench::files::{pairs, FileError};
use bench::mirror::{thread_time, Bed, Way};
use bench::stats::quantiles;
use bench::wq::kept::Kept;
use clap::{Parser, ValueEnum};
use ublk_ramdisk::mq::Op;

/// The budget of issue 4: nanoseconds per request that the mirror may add.
const BUDGET: f64 = 60.0;
/// Rounds with one store and one mirror; then others are made, that lie elsewhere in memory.
const BED: usize = 10;
/// Requests of a turn: some milliseconds, so that a turn is seldom interrupted.
const TURN: usize = 20_000;

/// The mirror beside the store alone.
#[derive(Parser)]
struct Args {
    /// Folder of the run; the samples are kept there.
    folder: Option<PathBuf>,
    /// How often each way has its turn in each case.
    #[arg(long, default_value_t = 101)]
    rounds: usize,
    /// Measure nothing: just make this many requests one way, for callgrind.
    #[arg(long, value_name = "REQUESTS")]
    count: Option<usize>,
    /// The way for --count.
    #[arg(long, value_enum, default_value = "mirror")]
    way: Way,
    /// The operation for --count.
    #[arg(long, value_enum, default_value = "read")]
    op: OpArg,
}

/// The operations that are counted.
#[derive(Clone, Copy, ValueEnum)]
enum OpArg {
    Read,
    Write,
}

/// Name, operation and blocks. 256 KiB stay in the caches, 64 MiB do not.
const CASES: [(&str, Op, u64); 4] = [
    ("read, 256 KiB", Op::Read, 64),
    ("write, 256 KiB", Op::Write, 64),
    ("read, 64 MiB", Op::Read, 16384),
    ("write, 64 MiB", Op::Write, 16384),
];

/// Nanoseconds of CPU time per request.
fn turn(bed: &mut Bed, way: Way, op: Op) -> f64 {
    let begun = thread_time();
    bed.run(way, op, TURN);
    (thread_time() - begun).as_nanos() as f64 / TURN as f64
}

/// A bed that has been used both ways.
fn warm(blocks: u64, op: Op) -> Bed {
    let mut bed = Bed::new(blocks);
    for way in [Way::Direct, Way::Mirror] {
        turn(&mut bed, way, op);
    }
    bed
}

/// Prints store, mirror and difference: medians with quartiles.
fn print_case(case: &str, found: &[Vec<f64>; 3]) {
    let text = found.each_ref().map(|samples| {
        let [low, median, high] = quantiles(samples, [0.25, 0.5, 0.75]);
        format!("{median:.1} ({low:.1}-{high:.1})")
    });
    println!("{case:<16} {:>22} {:>22} {:>22}", text[0], text[1], text[2]);
}

/// All cases, both ways in turns.
fn measure(args: &Args) -> Result<(), FileError> {
    let mut kept = Kept::default();
    if let Some(folder) = &args.folder {
        kept.setting = pairs(&folder.join("setting"))?;
    }
    println!("ns of CPU time per 4 KiB request, one thread: median (quartiles)");
    println!(
        "{:<16} {:>22} {:>22} {:>22}",
        "case", "store", "mirror", "difference"
    );
    for (case, op, blocks) in CASES {
        let mut bed = None;
        let mut found = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..args.rounds {
            if round % BED == 0 {
                bed = None; // its threads end before others begin
            }
            let bed = bed.get_or_insert_with(|| warm(blocks, op));
            // The second way finds the caches as the first has left them.
            let mut ways = [Way::Direct, Way::Mirror];
            if round % 2 == 1 {
                ways.reverse();
            }
            let mut of = [0.0; 2];
            for way in ways {
                let ns = turn(bed, way, op);
                kept.add(case, way.name(), ns);
                of[usize::from(way == Way::Mirror)] = ns;
            }
            found[0].push(of[0]);
            found[1].push(of[1]);
            // Of each round, before the median: what slows both ways down in a round cancels out.
            found[2].push(of[1] - of[0]);
        }
        print_case(case, &found);
    }
    println!("the budget for the difference is {BUDGET} ns");
    if let Some(folder) = &args.folder {
        kept.keep(folder)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(requests) = args.count {
        let op = match args.op {
            OpArg::Read => Op::Read,
            OpArg::Write => Op::Write,
        };
        Bed::new(64).run(args.way, op, requests);
        return ExitCode::SUCCESS;
    }
    if args.rounds == 0 {
        eprintln!("--rounds 0: at least one is needed");
        return ExitCode::from(2);
    }
    match measure(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
