// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study d on the device: what the first writes to fresh disks wait for when no thread is to be had, by the kernel's own
//! limits.

use super::act::{write, Disk, Fio, Group, Guest};
use super::raw::{expand, Experiment, Raw};
use super::threads::NotMade;
use crate::study::outcome::{
    quantile, show, Axis, Figure, Kind, Measure, Part, Plot, Samples, Table,
};
use crate::study::StudyError;
use serde_json::{json, Value};
use std::thread;
use std::time::Duration;

/// Disks at once, each with a queue per CPU, so that each has a pool that has made no second worker yet.
const DISKS: usize = 6;
const CPUS: usize = 2;
/// Tries that each disk refuses at first.
const REFUSED: u32 = 16;
/// How long the limit holds that would hold for ever, in seconds from when all writes are there.
const OUTAGE: u64 = 2;

/// A setting: its name, kblockd's flags, the limit's file and value, and whether the limit is lifted.
struct Setting {
    name: &'static str,
    flags: &'static str,
    limit: Option<(&'static str, &'static str)>,
    lifted: bool,
}

const SETTINGS: [Setting; 4] = [
    Setting {
        name: "threads to be had",
        flags: "mem_reclaim,highpri,percpu",
        limit: None,
        lifted: false,
    },
    Setting {
        name: "pids.max, MEM_RECLAIM",
        flags: "mem_reclaim,highpri,percpu",
        limit: Some(("pids.max", "1")),
        lifted: false,
    },
    Setting {
        name: "pids.max, without",
        flags: "highpri,percpu",
        limit: Some(("pids.max", "1")),
        lifted: true,
    },
    Setting {
        name: "memory.max",
        flags: "mem_reclaim,highpri,percpu",
        limit: Some(("memory.max", "256K")),
        lifted: true,
    },
];

fn file_name(name: &str) -> String {
    name.replace([' ', ','], "-").replace("--", "-")
}

/// The half in the guest.
pub fn act(guest: &Guest) -> Result<(), StudyError> {
    for setting in &SETTINGS {
        guest.experiment(&file_name(setting.name), || first_writes(guest, setting))?;
    }
    Ok(())
}

fn first_writes(guest: &Guest, setting: &Setting) -> Result<Value, StudyError> {
    let options = format!(
        "--size 16M --no-partition-scan --queues {CPUS} --inject requeue=1,100,0,{REFUSED} --kblockd-flags {}",
        setting.flags
    );
    let disks: Vec<Disk<'_>> = (0..DISKS)
        .map(|_| guest.disk(&options))
        .collect::<Result<_, _>>()?;
    let group = Group::around("rescuer", &disks.iter().collect::<Vec<_>>())?;
    let started = |disks: &[Disk<'_>]| -> Result<Vec<Value>, StudyError> {
        disks.iter().map(Disk::stats).collect()
    };
    let before = started(&disks)?;
    let not_made = NotMade::watch()?;
    // The kernel has a page to say each time it finds nobody to kill, and a console is slow.
    write("/proc/sys/kernel/printk", "1")?;
    if let Some((file, value)) = setting.limit {
        group.limit(file, value)?;
    }
    // One write on each CPU to each disk, all begun together.
    let jobs: String = disks
        .iter()
        .enumerate()
        .flat_map(|(n, disk)| {
            (0..CPUS).map(move |cpu| {
                let path = disk.path.display();
                let at = cpu * 4096;
                format!(
                    " --name=disk{n}-cpu{cpu} --filename={path} --cpus_allowed={cpu} --offset={at}"
                )
            })
        })
        .collect();
    let jobs = format!("--rw=write --size=4k --number_ios=1{jobs}");
    let mut fio = Fio::start_on(&disks, &jobs)?;
    if let (Some((file, _)), true) = (setting.limit, setting.lifted) {
        let all = (DISKS * CPUS) as u64;
        // A disk that is gone has failed its writes.
        let begun = |disk: &Disk<'_>| disk.writes_begun().unwrap_or(CPUS as u64);
        if fio.wait(|| Ok(disks.iter().map(begun).sum::<u64>() >= all))? {
            thread::sleep(Duration::from_secs(OUTAGE));
        }
        group.limit(file, "max")?;
    }
    let fio = fio.end()?;
    let not_made = not_made.by_error()?;
    // A server that the kernel has killed says nothing any more.
    let after: Vec<Value> = disks
        .iter()
        .map(|disk| disk.stats().unwrap_or(Value::Null))
        .collect();
    let number = |file: &str, name: &str| group.number(file, name).unwrap_or(0);
    Ok(json!({
        "fio": fio,
        "before": before,
        "after": after,
        "threads_not_made": not_made.values().sum::<u64>(),
        "by_error": not_made,
        "memory_max": number("memory.events", "max "),
        "nobody_to_kill": number("memory.events", "oom "),
        "oom_kills": number("memory.events", "oom_kill "),
    }))
}

/// kblockd's counter, summed over the disks that still answer.
fn kblockd(of: &Experiment, counter: &str) -> f64 {
    let all = of.0["after"].as_array().into_iter().flatten();
    all.map(|stats| stats["kblockd"][counter].as_f64().unwrap_or(0.0))
        .sum()
}

/// The half outside.
pub fn read(raw: &Raw, kind: Kind) -> Result<Part, StudyError> {
    let mut measures = Vec::new();
    let mut rows = Table::new(&[
        "setting",
        "writes ended well",
        "median, ms",
        "longest, ms",
        "threads not made",
        "runs rescued",
        "processes killed for memory",
    ]);
    let mut sets = Vec::new();
    for Setting { name, .. } in SETTINGS {
        let of = raw.get(&file_name(name))?;
        let jobs = of.jobs();
        let well = jobs.iter().filter(|job| job.errors() == 0.0);
        let mut buckets: Vec<(f64, u64)> = well.flat_map(|job| job.buckets()).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let times = expand(&buckets, usize::MAX);
        let plain = |name: &str| of.0[name].as_f64().unwrap_or(f64::NAN);
        let shortest = times.first().copied().unwrap_or(f64::NAN);
        let [median, longest] = [0.5, 1.0].map(|q| quantile(&times, q));
        let rescued = kblockd(&of, "rescued");
        let mut measure = |what: &str, value, unit| {
            measures.push(Measure::new(format!("device: {name}: {what}"), value, unit));
        };
        measure("writes ended well", times.len() as f64, "");
        measure("shortest wait", shortest, "ms");
        measure("median wait", median, "ms");
        measure("longest wait", longest, "ms");
        measure("threads not made", plain("threads_not_made"), "");
        measure("runs rescued", rescued, "");
        measure("processes killed", plain("oom_kills"), "");
        rows.row([
            name.to_owned(),
            times.len().to_string(),
            show(median),
            show(longest),
            show(plain("threads_not_made")),
            show(rescued),
            show(plain("oom_kills")),
        ]);
        if times.len() > 1 {
            sets.push(Samples {
                name: name.into(),
                values: times,
            });
        }
    }
    let value = |name: &str| {
        let found = measures
            .iter()
            .find(|m| m.name == format!("device: {name}"));
        found.map_or(f64::NAN, |m| m.value)
    };
    let finding = format!(
        "On the real driver, with no thread to be had (pids.max), first writes to {DISKS} disks end after {} ms in the \
         median, the last after {}, {} runs by rescuers; without MEM_RECLAIM not one before threads can be made again: {} ms. \
         With memory.max at 256 KiB for {OUTAGE} s {} threads were not made, {} of {DISKS} servers were killed, and the writes \
         took {} ms in the median.",
        show(value("pids.max, MEM_RECLAIM: median wait")),
        show(value("pids.max, MEM_RECLAIM: longest wait")),
        show(value("pids.max, MEM_RECLAIM: runs rescued")),
        show(value("pids.max, without: shortest wait")),
        show(value("memory.max: threads not made")),
        show(value("memory.max: processes killed")),
        show(value("memory.max: median wait")),
    );
    Ok(Part {
        kind,
        finding,
        measures,
        figures: vec![Figure {
            id: "device-limits".into(),
            title: "Real driver: what a first write waits for when the kernel gives no thread".into(),
            alt: "Waits of first writes by percentile: with threads to be had, and under a limit of processes with and \
                  without MEM_RECLAIM."
                .into(),
            plot: Plot::Percentiles {
                value: Axis::log("wait, ms"),
                sets,
            },
            table: rows,
        }],
    })
}
