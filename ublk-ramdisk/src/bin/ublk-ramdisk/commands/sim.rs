// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sim`: runs a simulation and prints what it found.

use std::fmt::Write as _;
use std::io;

use serde::Serialize;

use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::sim;
use ublk_ramdisk::sim::figures::{Figures, Kind, Load};
use ublk_ramdisk::trace::{Format, Trace};
use ublk_ramdisk::units::Size;

use super::output_file::{OutputFile, Writing};
use super::{add, output};
use crate::cli::SimArgs;

/// The figures with what they are of.
#[derive(Serialize)]
struct Printed<'f> {
    command: Vec<String>,
    #[serde(flatten)]
    figures: &'f Figures,
}

/// Runs one.
pub fn run(args: &SimArgs) -> Result<Exit, Failure> {
    let mut device = args.device.clone();
    let around = add::surroundings(&mut device)?;
    let config = args.config(device, around)?;
    let wanted = [
        (Format::Html, &args.output.html),
        (Format::Chrome, &args.output.trace),
        (Format::Text, &args.output.trace_text),
    ];
    let mut files = Vec::new();
    for (format, path) in wanted {
        if let Some(path) = path {
            files.push((format, OutputFile::check(path)?));
        }
    }
    let figures = if files.is_empty() {
        sim::run(&config)?
    } else {
        let (figures, trace) = sim::run_traced(&config, args.output.records as usize)?;
        write_trace(&trace, files)?;
        figures
    };
    if args.output.json {
        let command = std::env::args_os().skip(1);
        output::print_json(&Printed {
            command: command
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            figures: &figures,
        })?;
    } else {
        output::print(&text(&figures))?;
    }
    match figures.faults.first() {
        None => Ok(Exit::Done),
        Some(fault) => Err(Failure::runtime(fault)),
    }
}

fn write_trace(trace: &Trace, files: Vec<(Format, OutputFile)>) -> Result<(), Failure> {
    for (format, file) in files {
        write_whole(file, |writing| trace.write(format, writing))?;
    }
    if trace.lost() > 0 {
        output::warn(&format!(
            "{} older events were overwritten: give a larger --records, or fewer --ops",
            trace.lost()
        ));
    }
    Ok(())
}

fn write_whole(
    file: OutputFile,
    write: impl FnOnce(&mut Writing) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut writing = file.begin()?;
    write(&mut writing).map_err(|error| writing.failed(&error))?;
    writing.finish()
}

/// A time, in the unit that suits it.
fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.3} s", ns as f64 / 1e9),
    }
}

fn kinds(load: &Load) -> String {
    let name = |name: &str, kind: &Kind| match (kind.ops, kind.errors) {
        (0, 0) => None,
        (ops, 0) => Some(format!("{ops} {name}")),
        (ops, errors) => Some(format!("{ops} {name} ({errors} failed)")),
    };
    let all = [
        name("read", &load.read),
        name("written", &load.write),
        name("discarded", &load.discard),
        name("flushed", &load.flush),
    ];
    let some: Vec<_> = all.into_iter().flatten().collect();
    if some.is_empty() {
        "none".to_owned()
    } else {
        some.join(", ")
    }
}

fn latencies(load: &Load) -> String {
    let found = &load.latency;
    let [p50, p99, p999, max] = [found.p50, found.p99, found.p999, found.max].map(time);
    format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")
}

/// The table.
fn text(figures: &Figures) -> String {
    let mut out = String::new();
    write_text(figures, &mut out).expect("a string takes everything");
    out
}

fn write_text(figures: &Figures, out: &mut String) -> std::fmt::Result {
    let total = &figures.total;
    writeln!(
        out,
        "{} on the virtual clock, seed {}",
        time(figures.elapsed_ns),
        figures.seed
    )?;
    writeln!(out, "requests    {}", kinds(total))?;
    writeln!(
        out,
        "rate        {:.0} per second, {:.1} MiB/s",
        total.iops,
        total.bytes_per_s / f64::from(1 << 20)
    )?;
    writeln!(out, "latency     {}", latencies(total))?;
    for (status, count) in &figures.errors {
        writeln!(out, "failed      {count} with {status}")?;
    }
    if let Some(verify) = &figures.verify {
        writeln!(
            out,
            "verified    {}, {} wrong",
            verify.checked, verify.failed
        )?;
    }
    let refused: Vec<_> = figures.refused_by.iter().filter(|(_, &n)| n > 0).collect();
    if !refused.is_empty() {
        let list: Vec<_> = refused
            .iter()
            .map(|(who, n)| format!("{n} {who}"))
            .collect();
        writeln!(out, "refused     {}", list.join(", "))?;
    }
    let space = &figures.space;
    if space.limit > 0 || space.zero > 0 || space.no_space + space.above_cap > 0 {
        let limit = match space.limit {
            0 => "no limit".to_owned(),
            limit => format!("of {}", Size(limit)),
        };
        writeln!(
            out,
            "memory      {} {limit}, {} given memory, {} without, {} zeros taken back",
            Size(space.used),
            space.populated,
            space.no_space + space.above_cap,
            Size(space.zero),
        )?;
    }
    let kblockd = &figures.kblockd;
    writeln!(
        out,
        "kblockd     {} runs, {} rescued after {} calls for help",
        kblockd.completed, kblockd.rescued, kblockd.maydays
    )?;
    if figures.jobs.len() > 1 {
        writeln!(
            out,
            "\n{:>5} {:>5} {:>10}  latency",
            "job", "hctx", "per second"
        )?;
        for job in &figures.jobs {
            writeln!(
                out,
                "{:>5} {:>5} {:>10.0}  {}",
                job.job,
                job.hctx,
                job.load.iops,
                latencies(&job.load)
            )?;
        }
    }
    writeln!(
        out,
        "\n{:>5} {:>9} {:>9} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9}",
        "hctx",
        "inserted",
        "accepted",
        "refused",
        "errors",
        "run_sync",
        "run_async",
        "delayed",
        "restarted"
    )?;
    for hctx in &figures.hctxs {
        let of = &hctx.counters;
        writeln!(
            out,
            "{:>5} {:>9} {:>9} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9}",
            hctx.hctx,
            of.inserted,
            of.accepted,
            of.refused(),
            of.errors,
            of.run_sync,
            of.run_async,
            of.run_delayed,
            of.restarted
        )?;
    }
    write_time_line(figures, out)
}

fn write_time_line(figures: &Figures, out: &mut String) -> std::fmt::Result {
    if figures.samples.is_empty() && figures.events.is_empty() {
        return Ok(());
    }
    // Of interest where memory can be short.
    let limited = figures.samples.iter().any(|sample| sample.limit > 0);
    let memory = |used: &str, no_space: &str, mode: &str| match limited {
        true => format!(" {used:>10} {no_space:>8} {mode:>9}"),
        false => String::new(),
    };
    writeln!(
        out,
        "\n{:>10} {:>10} {:>9} {:>7} {:>5} {:>9} {:>9} {:>8}{}",
        "time",
        "per second",
        "in flight",
        "parked",
        "busy",
        "refused",
        "runs",
        "rescued",
        memory("memory", "no space", "mode")
    )?;
    let mut events = figures.events.iter().peekable();
    for sample in &figures.samples {
        while let Some(event) = events.next_if(|event| event.t_ns < sample.t_ns) {
            writeln!(out, "{:>10} {}", time(event.t_ns), event.what)?;
        }
        writeln!(
            out,
            "{:>10} {:>10.0} {:>9} {:>7} {:>5} {:>9} {:>9} {:>8}{}",
            time(sample.t_ns),
            sample.iops,
            sample.in_flight,
            sample.parked,
            sample.dispatch_busy,
            sample.refused,
            sample.kblockd_runs,
            sample.rescued,
            memory(
                &Size(sample.used).to_string(),
                &sample.no_space.to_string(),
                sample.mode.name()
            )
        )?;
    }
    for event in events {
        writeln!(out, "{:>10} {}", time(event.t_ns), event.what)?;
    }
    Ok(())
}
