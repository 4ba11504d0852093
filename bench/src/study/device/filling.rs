// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study g on the device: fio fills a disk that has memory for half of its blocks.

use super::act::{Fio, Guest};
use super::raw::Raw;
use crate::study::busy::filling::{first, mode, panels, Moment};
use crate::study::outcome::{show, Axis, Figure, Kind, Measure, Part, Plot, Series, Table};
use crate::study::StudyError;
use serde_json::{json, Value};
use std::thread;
use std::time::{Duration, Instant};

const MIB: f64 = 1024.0 * 1024.0;
const LIMIT: f64 = 16.0 * MIB;
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

/// The half in the guest.
pub fn act(guest: &Guest) -> Result<(), StudyError> {
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
fn moments(samples: &[Value]) -> Vec<Moment> {
    let ended = |stats: &Value| -> f64 {
        let queues = stats["queues"].as_array().into_iter().flatten();
        queues
            .map(|q| q["write"]["requests"].as_f64().unwrap_or(0.0))
            .sum()
    };
    let space = |stats: &Value, name: &str| stats["space"][name].as_f64().unwrap_or(f64::NAN);
    let no_space = |stats: &Value| space(stats, "no_space") + space(stats, "above_cap");
    let steps = samples.windows(2).map(|two| {
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
    steps.collect()
}

/// A time no shorter than what the samples can tell.
fn soon(seconds: f64) -> String {
    match seconds < EVERY.as_secs_f64() {
        true => format!("within a sample of {} s", show(EVERY.as_secs_f64())),
        false => format!("after {} s", show(seconds)),
    }
}

/// The half outside.
pub fn read(raw: &Raw, kind: Kind) -> Result<Part, StudyError> {
    let found = raw.get("filling")?;
    let samples = found.0["samples"].as_array();
    let moments = moments(samples.map_or(&[][..], Vec::as_slice));
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
    let measures = vec![
        Measure::new("device: most memory used, of the limit", most / LIMIT, ""),
        Measure::new("device: first zeros given back", zeros, "s"),
        Measure::new("device: exhausted for the first time", exhausted, "s"),
        Measure::new(
            "device: writes wait, from exhausted to the first NOSPC",
            failed - exhausted,
            "s",
        ),
        Measure::new(
            "device: from the discard to accepted writes",
            back - discarded,
            "s",
        ),
        Measure::new(
            "device: from the raised limit to accepted writes",
            up - raised,
            "s",
        ),
        Measure::new(
            "device: failed writes, fio's count over ours",
            errors / no_space,
            "",
        ),
        Measure::new("device: zeros given back", given, "MiB"),
    ];
    let mut happened: Vec<(f64, String)> = vec![
        (zeros, "limit reached: zeros given back".into()),
        (exhausted, "exhausted: writes wait".into()),
        (failed, "patience over: NOSPC".into()),
        (discarded, "8 MiB discarded".into()),
        (again, "full again: writes wait".into()),
        (raised, "limit taken away".into()),
    ];
    happened.retain(|(at, _)| at.is_finite());
    happened.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut table = Table::new(&["when, s", "what"]);
    for (at, what) in &happened {
        table.row([format!("{at:.2}"), what.clone()]);
    }
    let limit = Series {
        name: "limit, MiB".into(),
        points: vec![(0.0, LIMIT / MIB), (raised, LIMIT / MIB)],
    };
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
        measures,
        figures: vec![Figure {
            id: "device-filling".into(),
            title: "Real driver: a disk of 32 MiB with 16 MiB of memory, filled by fio".into(),
            alt: "Timeline of the disk on the device: memory used and its limit, zeros given back, what a write can expect, \
                  requests that wait, writes per second, and writes ended with NOSPC."
                .into(),
            plot: Plot::Stack {
                x: Axis::linear("time, s"),
                panels: panels(&moments, 1),
                levels: vec![(0, limit)],
                marks: happened,
            },
            table,
        }],
    })
}
