// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study k: a disk as swap space while its server can make no thread.

use super::device::act::{around, failed, Disk, Guest};
use super::device::raw::Raw;
use super::device::DevicePart;
use super::draft::{Draft, Drawn};
use super::outcome::{show, Axis, Kind, Part, Plot, Samples, Series};
use super::settings::StudyError;
use super::table::{Block, StudyFile};
use crate::files::read;
use crate::kernel::Group;
use crate::process::{apart, run, Undo};
use crate::stats::median;
use crate::table::Table;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The time from one look at the kernel's counters to the next.
const EVERY: Duration = Duration::from_millis(20);
/// How long no thread can be made, from the first page that goes out.
const OUTAGE: Duration = Duration::from_secs(10);
/// A program that has not ended by then is killed, and its round has not ended well.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the program may have in memory, and what it fills.
const MEMORY: &str = "64M";
/// One try in ten. Only from when no thread can be made: before, a refused try would have workers made.
const REFUSED: &str = "--inject requeue=1,10,0,-1";
/// Fills 96 MiB and compares them. It is loaded before it joins its control group.
const PROGRAM: &str = r#"
    open(my $group, ">", "$ARGV[0]/cgroup.procs") or die; print $group $$; close $group;
    $bytes[$_] = pack("Q", $_ + 1) x 131072 for 0 .. 95;
    $bytes[$_] eq pack("Q", $_ + 1) x 131072 or die "lost: MiB $_" for 0 .. 95;
"#;

/// One look.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Moment {
    /// Seconds from the first page that went out.
    at: f64,
    /// Pages swapped out and in since then.
    out: f64,
    back: f64,
    /// Requests that the disk has.
    waiting: f64,
}

/// One round.
#[derive(Debug, Serialize, Deserialize)]
struct Round {
    well: bool,
    rescued: f64,
    moments: Vec<Moment>,
}

impl Round {
    /// The longest time in which no page came or went, in milliseconds.
    fn stall(&self) -> f64 {
        let moved = |m: &Moment| m.out + m.back;
        let still = self.moments.chunk_by(|a, b| moved(a) == moved(b));
        let still = still.map(|chunk| chunk[chunk.len() - 1].at - chunk[0].at);
        still.fold(0.0, f64::max) * 1e3
    }

    /// MiB that went out and in while no thread could be made.
    fn moved(&self) -> f64 {
        let within = self.moments.iter().rev();
        let last = within.clone().find(|m| m.at <= OUTAGE.as_secs_f64());
        last.map_or(0.0, |m| (m.out + m.back) / 256.0)
    }

    /// Its course: what has gone out, and what waits.
    fn plot(&self, limited: bool) -> Plot {
        let panel = |label: &str, of: fn(&Moment) -> f64| {
            let points = self.moments.iter().map(|m| (m.at, of(m)));
            let (name, points) = (label.to_owned(), points.collect());
            (Axis::linear(label), Series { name, points })
        };
        let lifted =
            limited.then(|| (OUTAGE.as_secs_f64(), "threads can be made again".to_owned()));
        Plot::Stack {
            x: Axis::linear("time since the first page went out, s"),
            panels: vec![
                panel("swapped out and in, MiB", |m| (m.out + m.back) / 256.0),
                panel("requests at the disk", |m| m.waiting),
            ],
            levels: Vec::new(),
            bands: Vec::new(),
            marks: lifted.into_iter().collect(),
        }
    }
}

/// The part on the device.
pub const DEVICE: DevicePart = DevicePart {
    act: Some(act),
    read: Some(read_part),
};

/// Makes all rounds of each case, in the guest.
fn act(guest: &Guest, blocks: &[Block]) -> Result<(), StudyError> {
    guest.each(blocks, |words, options, _| {
        let (name, rounds) = case(words);
        let limited = name.starts_with("pids.max");
        let rounds = (0..rounds).map(|_| round(&guest.disk(options)?, limited));
        Ok(json!({ "rounds": rounds.collect::<Result<Vec<_>, _>>()? }))
    })
}

/// The name of a case, and how many rounds it has.
fn case(words: &[String]) -> (&str, usize) {
    let mut pieces = words[0].split('|');
    let name = pieces.next().unwrap_or_default();
    (
        name,
        pieces.nth(1).and_then(|n| n.parse().ok()).unwrap_or(1),
    )
}

/// One round on a fresh disk.
fn round(disk: &Disk<'_>, limited: bool) -> Result<Round, StudyError> {
    let command = |name: &str| run(Command::new(name).arg(&disk.path)).map_err(failed);
    command("mkswap")?;
    command("swapon")?;
    let mut undo = Undo::default();
    undo.command("swapoff", [&disk.path]);
    let server = around("swap-server", &[disk])?;
    if limited {
        server.set("pids.max", "1")?;
    }
    disk.set(REFUSED)?;
    let group = Group::new("study-swap-program")?;
    group.set("memory.max", MEMORY)?;
    let mut program = apart("perl");
    let program = program.args(["-e", PROGRAM]).arg(&group.0).spawn();
    let mut program = program.map_err(|e| failed(format!("perl: {e}")))?;
    let (before, mut first, mut moments) = (swapped()?, None, Vec::new());
    let began = Instant::now();
    let ended = loop {
        let ended = program.try_wait().map_err(failed)?;
        let now = swapped()?;
        if now[0] > before[0] {
            let at = first.get_or_insert_with(Instant::now).elapsed();
            moments.push(Moment {
                at: at.as_secs_f64(),
                out: now[0] - before[0],
                back: now[1] - before[1],
                waiting: disk.waiting()? as f64,
            });
            if limited && at >= OUTAGE {
                server.set("pids.max", "max")?;
            }
        }
        if ended.is_some() {
            break ended;
        }
        if began.elapsed() > PATIENCE {
            server.set("pids.max", "max")?;
            program
                .kill()
                .and_then(|()| program.wait())
                .map_err(failed)?;
            break None;
        }
        thread::sleep(EVERY);
    };
    server.set("pids.max", "max")?;
    let rescued = disk.stats()?["kblockd"]["rescued"].as_f64();
    drop(undo);
    Ok(Round {
        well: ended.is_some_and(|status| status.success()),
        rescued: rescued.unwrap_or(f64::NAN),
        moments,
    })
}

/// Pages that the kernel has swapped out and in.
fn swapped() -> Result<[f64; 2], StudyError> {
    let text = read(Path::new("/proc/vmstat"))?;
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|n| n.trim().parse().ok());
        number.ok_or_else(|| failed(format!("/proc/vmstat has no {name}")))
    };
    Ok([number("pswpout ")?, number("pswpin ")?])
}

/// Makes measures and pictures of what the guest left.
fn read_part(raw: &Raw, file: &StudyFile, kind: Kind) -> Result<Part, StudyError> {
    let mut draft = Draft::new(file, "device", kind)?;
    let blocks = file.device.as_ref().map_or(&[][..], |spec| &spec.blocks);
    let mut table = Table::default();
    let (mut sets, mut courses, mut all_moved) = (Vec::new(), Vec::new(), Vec::new());
    for words in blocks.iter().flat_map(Block::cases) {
        let (name, _) = case(&words);
        let [experiment, ..] = blocks[0].on_device(&words);
        let Value::Array(rounds) = raw.get(&experiment)?.0["rounds"].take() else {
            return Err(StudyError::Lacking(format!("{experiment} has no rounds")));
        };
        let rounds = rounds.into_iter().map(serde_json::from_value);
        let mut rounds = rounds.collect::<Result<Vec<Round>, _>>().map_err(failed)?;
        rounds.sort_by(|a, b| a.stall().total_cmp(&b.stall()));
        let stalls: Vec<f64> = rounds.iter().map(Round::stall).collect();
        let half = |of: fn(&Round) -> f64| {
            let values: Vec<f64> = rounds.iter().map(of).collect();
            median(&values).unwrap_or(f64::NAN)
        };
        let well = rounds.iter().filter(|round| round.well).count() as f64;
        let longest = stalls.last().copied().unwrap_or(f64::NAN);
        let (stall, moved) = (half(Round::stall), half(Round::moved));
        for (what, value, unit) in [
            ("rounds ended well", well, ""),
            ("stall, median", stall, "ms"),
            ("stall, longest", longest, "ms"),
            ("swapped out and in, in 10 s", moved, "MiB"),
        ] {
            draft.measure(format!("device: {name}: {what}"), value, unit);
        }
        let (all, rescued) = (rounds.len() as f64, half(|round| round.rescued));
        let figures = [all, well, stall, longest, moved, rescued];
        table.row(name, figures.map(show));
        all_moved.push(moved);
        if let Some(middle) = rounds.get(rounds.len() / 2) {
            courses.push(middle.plot(name.starts_with("pids.max")));
        }
        let (name, values) = (name.to_owned(), stalls);
        sets.push(Samples { name, values });
    }
    let name = "device: swapped in 10 s, with MEM_RECLAIM over without";
    draft.measure(name, all_moved[1] / all_moved[2], "");
    let without = courses.pop();
    for (id, course) in [
        ("with-rescuer", courses.pop()),
        ("without-rescuer", without),
    ] {
        if let Some(course) = course {
            draft.figure(id, Drawn::Plot(course), table.clone())?;
        }
    }
    draft.figure("stalls", Drawn::Percentiles(sets), table)?;
    Ok(draft.part())
}
