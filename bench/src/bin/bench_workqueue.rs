// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measures the workqueue beside its rivals, all taking turns in one process, or prints the tables
//! of a kept run. `scripts/bench-workqueue` builds it, adds the setting, and keeps what it leaves.
//!
//! The first round of each case warms up and is not kept: it makes threads and touches memory for
//! the first time.

use std::path::PathBuf;
use std::process::ExitCode;

use bench::files::{pairs, FileError};
use bench::wq::contender::ours::PERCPU;
use bench::wq::contender::{self, Contender};
use bench::wq::throughput::{Bodies, Shape};
use bench::wq::wake::Probe;
use bench::wq::{delayed, growth, kept::Kept, memory, tables};
use clap::Parser;
use workqueue::Runtime;

/// The workqueue beside its rivals.
#[derive(Parser)]
struct Args {
    /// Folder of the run.
    folder: PathBuf,
    /// Measure, and keep the samples there; else print what was kept.
    #[arg(long)]
    measure: bool,
    /// How often each contender has its turn in each case.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Only the cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Only the contenders whose name contains this.
    #[arg(long, default_value = "")]
    contender: String,
}

/// Contenders in turn, a round at a time; each round begins with another one.
fn rounds(args: &Args, all: &[Contender], mut turn: impl FnMut(&Contender, bool)) {
    let wanted = |contender: &&Contender| contender.name.contains(&args.contender);
    let all: Vec<&Contender> = all.iter().filter(wanted).collect();
    // The first round warms up.
    for round in 0..=args.rounds {
        for n in 0..all.len() {
            turn(all[(n + round) % all.len()], round > 0);
        }
    }
}

/// All cases that are wanted.
fn measure(args: &Args) -> Result<Kept, FileError> {
    let mut kept = Kept {
        setting: pairs(&args.folder.join("setting"))?,
        ..Kept::default()
    };
    let wanted = |case: &str| case.contains(&args.only);
    let runtime = Runtime::builder().start().expect("threads can be made");
    let all = contender::all(runtime.online_cpus().len(), &runtime);
    // The names are those of the tables, so `--only` takes what a reader sees.
    for (case, shape) in [
        (tables::SPAWN_1, Shape::trivial(1)),
        (tables::SPAWN_4, Shape::trivial(4)),
        (tables::BLOCKED, Shape::blocked()),
    ] {
        if wanted(case) {
            eprintln!("bench_workqueue: {case}");
            let bodies = Bodies::new(shape);
            rounds(args, &all, |contender, counts| {
                let sample = bodies.sample(shape, contender);
                if counts {
                    kept.add(case, contender.name, sample);
                }
            });
        }
    }
    if wanted(tables::WAKE_50) || wanted(tables::WAKE_99) {
        eprintln!("bench_workqueue: wake-up");
        let probe = Probe::default();
        rounds(args, &all, |contender, counts| {
            let [p50, p99] = probe.sample(contender);
            if counts {
                kept.add(tables::WAKE_50, contender.name, p50);
                kept.add(tables::WAKE_99, contender.name, p99);
            }
        });
    }
    if wanted(tables::ARM) || wanted(tables::LATE) {
        measure_delayed(args, &runtime, &mut kept);
    }
    if wanted(tables::BYTES) {
        measure_bytes(&runtime, &mut kept);
    }
    if wanted(tables::GROWTH) {
        eprintln!("bench_workqueue: growth");
        for _ in 0..args.rounds.div_ceil(3) {
            growth::measure(&runtime, |what, beside, ns| {
                kept.add(tables::GROWTH, &format!("{what}, {beside:>7}"), ns);
            });
        }
    }
    // Others' work at the same time is what spoils a run first.
    if let Ok(load) = std::fs::read_to_string("/proc/loadavg") {
        let load: Vec<&str> = load.split_whitespace().take(3).collect();
        kept.setting.push(("load after".into(), load.join(" ")));
    }
    Ok(kept)
}

/// Timers, fewer rounds of them: a sample takes twelve seconds.
fn measure_delayed(args: &Args, runtime: &Runtime, kept: &mut Kept) {
    eprintln!("bench_workqueue: delayed work");
    for _ in 0..args.rounds.div_ceil(3) {
        let sparse = delayed::sample(runtime, delayed::Shape::sparse());
        let control = delayed::control(delayed::Shape::sparse());
        for (case, n) in [(tables::LATE_50, 0), (tables::LATE, 1)] {
            kept.add(case, PERCPU, sparse.late_ms[n]);
            kept.add(case, tables::CONTROL, control[n]);
        }
        let million = delayed::sample(runtime, delayed::Shape::million());
        kept.add(tables::ARM, PERCPU, million.arm_ns);
        kept.add(tables::LATE_MILLION, PERCPU, million.late_ms[1]);
        kept.add(tables::EARLY, PERCPU, sparse.early + million.early);
    }
}

/// Bytes, once: they are the same in every round.
fn measure_bytes(runtime: &Runtime, kept: &mut Kept) {
    eprintln!("bench_workqueue: bytes");
    let bytes = memory::measure(runtime);
    let cpus = runtime.online_cpus().len();
    for (what, bytes) in [
        (
            format!("idle PERCPU queue, {cpus} CPUs"),
            bytes.percpu_queue,
        ),
        (
            format!("idle UNBOUND queue, {cpus} CPUs"),
            bytes.unbound_queue,
        ),
        (
            "memory taken by queueing an item".to_owned(),
            bytes.queued_item,
        ),
        ("Work field".to_owned(), bytes.work),
        ("DelayedWork field".to_owned(), bytes.delayed_work),
    ] {
        kept.add(tables::BYTES, &what, bytes);
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let kept = if args.measure {
        measure(&args).and_then(|kept| kept.keep(&args.folder).map(|()| kept))
    } else {
        Kept::load(&args.folder)
    };
    match kept {
        Ok(kept) => {
            print!("{}", tables::tables(&kept));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench_workqueue: {error}");
            ExitCode::FAILURE
        }
    }
}
