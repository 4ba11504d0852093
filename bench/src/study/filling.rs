// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study g: a disk with less memory than it has blocks, filled, exhausted, and brought back; in the simulation and on the
//! real driver.

use super::device::act::{Fio, Guest};
use super::device::raw::Raw;
use super::device::DevicePart;
use super::outcome::{fill, show, Axis, Figure, Kind, Measure, Part, Plot, Series, Table};
use super::sim::{self, Said};
use super::table::Block;
use super::{Settings, StudyError};
use serde_json::{json, Value};
use std::thread;
use std::time::{Duration, Instant};

const MIB: f64 = 1024.0 * 1024.0;
const LIMIT: f64 = 16.0 * MIB;
const LOAD: &str =
    "--size 32M --memory-limit 16M --no-space-timeout 5 --rw write --bs 64K --rate 40 --zeros 25 \
                    --iodepth 16 --service-time 1ms --duration 30s --verify --sample 10ms";
/// The script: seconds, event, and its name in the picture.
const EVENTS: [(f64, &str, &str); 4] = [
    (17.0, "discard 0,8388608", "8 MiB discarded"),
    (21.0, "psi on", "PSI: memory is short"),
    (21.6, "psi off", ""),
    (27.0, "set memory-limit=off", "limit taken away"),
];
/// Samples that become one point of the picture.
const POINT: usize = 25;

/// One sample of the time line.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// Seconds.
    at: f64,
    /// Requests ended since the one before, well or not.
    ended: f64,
    /// Of these, with NOSPC.
    no_space: f64,
    /// Requests that wait.
    parked: f64,
    /// Bytes used.
    used: f64,
    /// Bytes of zeros given back since the one before.
    zero: f64,
    /// What a write gets: 0 memory, 1 a wait, 2 NOSPC.
    mode: f64,
}

impl Moment {
    /// Requests that ended well since the one before.
    fn well(&self) -> f64 {
        self.ended - self.no_space
    }
}

/// A mode as a number that can be drawn.
fn mode(name: &str) -> f64 {
    match name {
        "enough" => 0.0,
        "exhausted" => 1.0,
        "error" => 2.0,
        _ => f64::NAN,
    }
}

fn moments(said: &Said) -> Vec<Moment> {
    let samples = said.json["samples"].as_array();
    let samples = samples.map_or(&[][..], Vec::as_slice).iter();
    let number = |sample: &serde_json::Value, name: &str| sample[name].as_f64().unwrap_or(f64::NAN);
    samples
        .map(|sample| Moment {
            at: number(sample, "t_ns") / 1e9,
            ended: number(sample, "ops"),
            no_space: number(sample, "no_space"),
            parked: number(sample, "parked"),
            used: number(sample, "used"),
            zero: number(sample, "zero"),
            mode: mode(sample["mode"].as_str().unwrap_or_default()),
        })
        .collect()
}

/// The first moment from a time on that is as asked.
fn first(moments: &[Moment], from: f64, is: impl Fn(&Moment) -> bool) -> f64 {
    let found = moments.iter().find(|m| m.at >= from && is(m));
    found.map_or(f64::NAN, |m| m.at)
}

/// The panels of the timeline; each point is made of this many samples.
fn panels(moments: &[Moment], point: usize) -> Vec<(Axis, Series)> {
    let points: Vec<&[Moment]> = moments.chunks(point.max(1)).collect();
    let begins = |n: usize| match n {
        0 => 0.0,
        n => points[n - 1].last().map_or(0.0, |m| m.at),
    };
    let course = |name: &str, of: &dyn Fn(&[Moment], f64) -> f64| {
        let series = points.iter().enumerate().filter_map(|(n, some)| {
            let last = some.last()?;
            Some((last.at, of(some, last.at - begins(n))))
        });
        Series {
            name: name.into(),
            points: series.collect(),
        }
    };
    let last = |some: &[Moment]| some[some.len() - 1];
    let panel = |label: &str, series| (Axis::linear(label), series);
    vec![
        panel(
            "memory used and allowed, MiB",
            course("memory used, MiB", &|some, _| last(some).used / MIB),
        ),
        panel(
            "zeros given back, MiB in all",
            sums(course("zeros given back, MiB", &|some, _| {
                some.iter().map(|m| m.zero).sum::<f64>() / MIB
            })),
        ),
        panel("a write gets", course("mode", &|some, _| last(some).mode)),
        panel(
            "requests that wait",
            course("requests that wait", &|some, _| last(some).parked),
        ),
        panel(
            "writes ended well per second",
            course("writes ended well per second", &|some, time| {
                some.iter().map(Moment::well).sum::<f64>() / time
            }),
        ),
        panel(
            "writes ended with NOSPC, in all",
            sums(course("NOSPC", &|some, _| {
                some.iter().map(|m| m.no_space).sum()
            })),
        ),
    ]
}

/// The panel that shows a state, with the names of the states.
fn bands() -> Vec<(usize, Vec<String>)> {
    vec![(2, ["memory", "a wait", "NOSPC"].map(str::to_owned).into())]
}

/// The same, added up.
fn sums(mut series: Series) -> Series {
    let mut sum = 0.0;
    for point in &mut series.points {
        sum += point.1;
        point.1 = sum;
    }
    series
}

/// What happened when, as marks and as a table, with the limit until it was raised, in one picture.
fn figure(
    [id, title, alt]: [&str; 3],
    moments: &[Moment],
    point: usize,
    raised: f64,
    happened: &[(f64, &str)],
) -> Figure {
    let mut marks: Vec<(f64, String)> = happened
        .iter()
        .map(|&(at, what)| (at, what.into()))
        .collect();
    marks.retain(|(at, what)| at.is_finite() && !what.is_empty());
    marks.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut table = Table::new(&["when, s", "what"]);
    for (at, what) in &marks {
        table.row([format!("{at:.2}"), what.clone()]);
    }
    let limit = Series {
        name: "limit, MiB".into(),
        points: vec![(0.0, LIMIT / MIB), (raised, LIMIT / MIB)],
    };
    Figure {
        id: id.into(),
        title: title.into(),
        alt: format!(
            "{alt}: memory used and its limit, zeros given back, what a write can expect, requests that wait, writes per \
             second, and writes ended with NOSPC."
        ),
        plot: Plot::Stack {
            x: Axis::linear("time, s"),
            panels: panels(moments, point),
            levels: vec![(0, limit)],
            bands: bands(),
            marks,
        },
        table,
    }
}

/// Runs it.
pub fn run(_settings: &Settings) -> Result<Vec<Part>, StudyError> {
    let script = EVENTS
        .iter()
        .map(|(at, event, _)| format!(" --at '{}ms:{event}'", at * 1000.0));
    let script: String = script.collect();
    let said = sim::run(&format!("{LOAD} --psi 'some 150000 1000000'{script}"))?;
    if let Some(error) = said.error {
        return Err(StudyError::Refused(format!("ublk-ramdisk sim: {error}")));
    }
    Ok(vec![part(&said, &moments(&said))])
}

/// The longest stretch of samples from a time on, in which requests wait.
fn longest_wait(moments: &[Moment], from: f64, to: f64) -> f64 {
    let within = moments.iter().filter(|m| (from..to).contains(&m.at));
    let within: Vec<&Moment> = within.collect();
    let waits = within.chunk_by(|a, b| (a.parked > 0.0) == (b.parked > 0.0));
    let waits = waits.filter(|chunk| chunk[0].parked > 0.0);
    waits
        .map(|chunk| chunk[chunk.len() - 1].at - chunk[0].at)
        .fold(0.0, f64::max)
}

fn part(said: &Said, moments: &[Moment]) -> Part {
    let [discard, psi, _, raised] = EVENTS.map(|e| e.0);
    let zeros = first(moments, 0.0, |m| m.zero > 0.0);
    let exhausted = first(moments, 0.0, |m| m.mode == 1.0);
    let failed = first(moments, 0.0, |m| m.no_space > 0.0);
    let back = first(moments, discard, |m| m.well() > 0.0 && m.mode != 2.0);
    let again = first(moments, back, |m| m.mode == 1.0);
    let up = first(moments, raised, |m| m.well() > 0.0 && m.mode == 0.0);
    let until = |to: f64, of: fn(&Moment) -> f64| moments.iter().filter(move |m| m.at < to).map(of);
    let most = |to: f64, of: fn(&Moment) -> f64| until(to, of).fold(0.0, f64::max);
    let sum = |to: f64, of: fn(&Moment) -> f64| until(to, of).fold(0.0, |sum, value| sum + value);
    let errors = said.json["errors"].as_object().into_iter().flatten();
    let others = errors
        .filter(|(name, _)| *name != "NOSPC")
        .filter_map(|(_, n)| n.as_f64());
    let measures = [
        (
            "most memory used, of the limit",
            most(raised, |m| m.used) / LIMIT,
            "",
        ),
        ("first zeros given back", zeros, "s"),
        (
            "zeros given back before it is exhausted",
            sum(exhausted + 1e-6, |m| m.zero) / MIB,
            "MiB",
        ),
        ("exhausted for the first time", exhausted, "s"),
        (
            "writes wait, from exhausted to the first NOSPC",
            failed - exhausted,
            "s",
        ),
        ("most requests that wait", most(31.0, |m| m.parked), ""),
        (
            "writes ended with NOSPC while waiting was allowed",
            sum(exhausted + 4.9, |m| m.no_space),
            "",
        ),
        (
            "from NOSPC to accepted writes after the discard",
            back - discard,
            "s",
        ),
        (
            "requests that failed, but not with NOSPC",
            others.fold(0.0, |sum, n| sum + n),
            "",
        ),
        (
            "PSI: longest wait",
            longest_wait(moments, psi, psi + 2.0),
            "s",
        ),
        ("refused by PSI", said.at("refused_by.psi"), ""),
        ("from the raised limit to accepted writes", up - raised, "s"),
        ("blocks that read back wrong", said.at("verify.failed"), ""),
        (
            "memory used at the end, of the limit",
            moments.last().map_or(f64::NAN, |m| m.used) / LIMIT,
            "",
        ),
    ];
    let measures = measures.map(|(name, value, unit)| Measure::new(name, value, unit));
    let mut happened = vec![
        (zeros, "limit reached: zeros given back"),
        (exhausted, "exhausted: writes wait"),
        (failed, "patience over: NOSPC"),
        (again, "full again: writes wait"),
    ];
    happened.extend(EVENTS.map(|(at, _, name)| (at, name)));
    let figure = figure(
        [
            "filling",
            "A disk of 32 MiB with 16 MiB of memory: full, waiting, failing, and back",
            "Timeline of thirty seconds",
        ],
        moments,
        POINT,
        raised,
        &happened,
    );
    Part {
        kind: Kind::Deterministic,
        finding: fill(
            "Filled at 2.5 MiB/s, a fourth of it zeros, a disk that may use half its size reaches the limit after \
             {first zeros given back} s and lives on zeros ({zeros given back before it is exhausted} MiB) until \
             {exhausted for the first time} s; then writes wait {writes wait, from exhausted to the first NOSPC} s and fail. \
             {from NOSPC to accepted writes after the discard} s after a discard of 8 MiB they are accepted again, without \
             a word to the disk.",
            &measures,
        ),
        measures: measures.into(),
        figures: vec![figure],
    }
}

/// Seconds from the first write.
const DISCARD: u64 = 17;
const RAISED: u64 = 24;
const END: u64 = 28;
const EVERY: Duration = Duration::from_millis(250);
/// Three parts of data and one of zeros, each on a part of the disk of its own, so that no write takes the place of
/// another. That a write fails is not always a reason for fio to go on: ENOSPC has to be named.
const JOBS: &str =
    "--rw=write --bs=64k --iodepth=16 --continue_on_error=write --ignore_error=,ENOSPC --time_based --runtime=28 \
                    --name=data --size=24m --rate_iops=30 --refill_buffers \
                    --name=zeros --offset=24m --size=8m --rate_iops=10 --zero_buffers";

/// The part on the device.
pub const DEVICE: DevicePart = DevicePart {
    act: Some(act),
    read: Some(read),
};

fn act(guest: &Guest, _blocks: &[Block]) -> Result<(), StudyError> {
    guest.experiment("filling", || {
        let disk = guest.disk("--size 32M --memory-limit 16M --no-space-timeout 5")?;
        disk.ready_to_discard()?;
        let mut fio = Fio::start(&disk.path, JOBS)?;
        // Until fio is there a guest's clock may have leapt by seconds.
        fio.until("its first write", || Ok(disk.writes_begun()? > 0))?;
        let began = Instant::now();
        let mut samples = Vec::new();
        let mut steps = Vec::new();
        let mut script = vec![(DISCARD, "discard"), (RAISED, "raise")]
            .into_iter()
            .peekable();
        while began.elapsed().as_secs() < END {
            if let Some((_, step)) =
                script.next_if(|step| began.elapsed() >= Duration::from_secs(step.0))
            {
                match step {
                    "discard" => disk.discard(0, 8 << 20)?,
                    _ => disk.set("--memory-limit off")?,
                }
                // Done, not begun: what comes of it is counted from here.
                steps.push(json!({ "t_ns": began.elapsed().as_nanos() as u64, "step": step }));
            }
            let at = began.elapsed();
            samples.push(json!({ "t_ns": at.as_nanos() as u64, "stats": disk.stats()? }));
            thread::sleep(EVERY.saturating_sub(began.elapsed() - at));
        }
        let fio = fio.end()?;
        Ok(json!({ "fio": fio, "samples": samples, "steps": steps, "after": disk.stats()? }))
    })
}

/// The samples as steps from one to the next.
fn steps(samples: &[Value]) -> Vec<Moment> {
    let ended = |stats: &Value| -> f64 {
        let queues = stats["queues"].as_array().into_iter().flatten();
        queues
            .map(|q| q["write"]["requests"].as_f64().unwrap_or(0.0))
            .sum()
    };
    let space = |stats: &Value, name: &str| stats["space"][name].as_f64().unwrap_or(f64::NAN);
    let no_space = |stats: &Value| space(stats, "no_space") + space(stats, "above_cap");
    let moments = samples.windows(2).map(|two| {
        let [old, new] = [&two[0]["stats"], &two[1]["stats"]];
        let failed = no_space(new) - no_space(old);
        Moment {
            at: two[1]["t_ns"].as_f64().unwrap_or(f64::NAN) / 1e9,
            ended: ended(new) - ended(old) + failed,
            no_space: failed,
            parked: space(new, "parked"),
            used: space(new, "used"),
            zero: space(new, "zero") - space(old, "zero"),
            mode: mode(new["space"]["mode"].as_str().unwrap_or_default()),
        }
    });
    moments.collect()
}

/// A time no shorter than what the samples can tell.
fn soon(seconds: f64) -> String {
    match seconds < EVERY.as_secs_f64() {
        true => format!("within a sample of {} s", show(EVERY.as_secs_f64())),
        false => format!("after {} s", show(seconds)),
    }
}

fn read(raw: &Raw, kind: Kind) -> Result<Part, StudyError> {
    let found = raw.get("filling")?;
    let samples = found.0["samples"].as_array();
    let moments = steps(samples.map_or(&[][..], Vec::as_slice));
    let step = |name: &str| {
        let steps = found.0["steps"].as_array().into_iter().flatten();
        let mut of_it = steps.filter(|step| step["step"] == name);
        let at = of_it.next().and_then(|step| step["t_ns"].as_f64());
        at.map_or(f64::NAN, |ns| ns / 1e9)
    };
    let [discarded, raised] = ["discard", "raise"].map(step);
    let zeros = first(&moments, 0.0, |m| m.zero > 0.0);
    let exhausted = first(&moments, 0.0, |m| m.mode == 1.0);
    let failed = first(&moments, 0.0, |m| m.no_space > 0.0);
    let back = first(&moments, discarded, |m| m.well() > 0.0 && m.mode == 0.0);
    let again = first(&moments, back, |m| m.mode == 1.0);
    let up = first(&moments, raised, |m| m.well() > 0.0 && m.mode == 0.0);
    let most = moments
        .iter()
        .filter(|m| m.at < raised)
        .map(|m| m.used)
        .fold(0.0, f64::max);
    let errors: f64 = found.jobs().iter().map(|job| job.errors()).sum();
    let given: f64 = moments.iter().map(|m| m.zero).sum::<f64>() / MIB;
    let no_space: f64 = moments.iter().map(|m| m.no_space).sum();
    let measures = [
        ("most memory used, of the limit", most / LIMIT, ""),
        ("first zeros given back", zeros, "s"),
        ("exhausted for the first time", exhausted, "s"),
        (
            "writes wait, from exhausted to the first NOSPC",
            failed - exhausted,
            "s",
        ),
        ("from the discard to accepted writes", back - discarded, "s"),
        ("from the raised limit to accepted writes", up - raised, "s"),
        (
            "failed writes, fio's count over ours",
            errors / no_space,
            "",
        ),
        ("zeros given back", given, "MiB"),
    ];
    let measures =
        measures.map(|(name, value, unit)| Measure::new(format!("device: {name}"), value, unit));
    let figure = figure(
        [
            "device-filling",
            "Real driver: a disk of 32 MiB with 16 MiB of memory, filled by fio",
            "Timeline of the disk on the device",
        ],
        &moments,
        1,
        raised,
        &[
            (zeros, "limit reached: zeros given back"),
            (exhausted, "exhausted: writes wait"),
            (failed, "patience over: NOSPC"),
            (discarded, "8 MiB discarded"),
            (again, "full again: writes wait"),
            (raised, "limit taken away"),
        ],
    );
    Ok(Part {
        kind,
        finding: format!(
            "On the real driver: the limit after {} s, exhausted after {} s, NOSPC {} s later; after the discard of 8 MiB \
             writes are accepted {}, and so they are when the limit is gone: {}.",
            show(zeros),
            show(exhausted),
            show(failed - exhausted),
            soon(back - discarded),
            soon(up - raised),
        ),
        measures: measures.into(),
        figures: vec![figure],
    })
}
