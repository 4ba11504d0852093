// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study d on the device: what the first writes to fresh disks wait for when no thread is to be had, by the kernel's own
//! limits.

use crate::study::device::act::{write, Disk, Fio, Group, Guest};
use crate::study::device::threads::NotMade;
use crate::study::table::{measured, Block, Draw, Picture, Spec};
use crate::study::StudyError;
use serde_json::{json, Value};
use std::thread;
use std::time::Duration;

/// Disks at once, each with a queue per CPU, so that each has a pool that has made no second worker yet.
const DISKS: usize = 6;
const CPUS: usize = 2;
/// How long the limit holds that would hold for ever, in seconds from when all writes are there.
const OUTAGE: u64 = 2;

/// The limit of a setting, if it has one: the file, its value, and is it lifted after a while?
fn limit(setting: &str) -> Option<(&'static str, &'static str, bool)> {
    match setting {
        "pids.max, MEM_RECLAIM" => Some(("pids.max", "1", false)),
        "pids.max, without" => Some(("pids.max", "1", true)),
        "memory.max" => Some(("memory.max", "256K", true)),
        _ => None,
    }
}

/// What is measured. The words are settings with kblockd's flags.
pub const DEVICE: Spec = Spec {
    blocks: &[Block {
        vary: &[&[
            "threads to be had|mem_reclaim,highpri,percpu",
            "pids.max, MEM_RECLAIM|mem_reclaim,highpri,percpu",
            "pids.max, without|highpri,percpu",
            "memory.max|mem_reclaim,highpri,percpu",
        ]],
        make: "{0}",
        device: [
            "--size 16M --no-partition-scan --queues 2 --inject requeue=1,100,0,16 --kblockd-flags {0+}",
            "--rw=write --size=4k --number_ios=1",
        ],
        key: "{0}",
        heads: &[("setting", "{0}")],
        columns: &[
            measured(
                "writes ended well",
                |r| r.buckets.iter().map(|b| b.1).sum::<u64>() as f64,
                "device: {}: writes ended well",
                "",
            ),
            measured(
                "shortest, ms",
                |r| r.buckets.first().map_or(f64::NAN, |b| b.0),
                "device: {}: shortest wait",
                "ms",
            ),
            measured("median, ms", |r| r.latency(0), "device: {}: median wait", "ms"),
            measured("longest, ms", |r| r.latency(4), "device: {}: longest wait", "ms"),
            measured("threads not made", |r| r.counter("threads_not_made"), "device: {}: threads not made", ""),
            measured("runs rescued", |r| r.counter("rescued"), "device: {}: runs rescued", ""),
            measured(
                "processes killed for memory",
                |r| r.counter("oom_kills"),
                "device: {}: processes killed",
                "",
            ),
        ],
        ..Block::NEW
    }],
    full: 0.0,
    ratios: &[],
    sums: &[],
    pictures: &[Picture {
        id: "device-limits",
        title: "Real driver: what a first write waits for when the kernel gives no thread",
        alt: "Waits of first writes by percentile: with threads to be had, and under a limit of processes with and without \
              MEM_RECLAIM.",
        draw: Draw::Percentiles(0, "{0}", &[], usize::MAX),
        rows: (&[0], &[]),
    }],
    finding: "On the real driver, with no thread to be had (pids.max), first writes to 6 disks end after \
              {device: pids.max, MEM_RECLAIM: median wait} ms in the median, the last after \
              {device: pids.max, MEM_RECLAIM: longest wait}, with {device: pids.max, MEM_RECLAIM: runs rescued} runs by \
              rescuers. Without MEM_RECLAIM none ends before threads can be made again: \
              {device: pids.max, without: shortest wait} ms. With memory.max at 256 KiB for 2 s, \
              {device: memory.max: threads not made} threads were not made, {device: memory.max: processes killed} of 6 \
              servers were killed, and the writes took {device: memory.max: median wait} ms in the median.",
};

/// The half in the guest.
pub fn act(guest: &Guest) -> Result<(), StudyError> {
    let block = &DEVICE.blocks[0];
    for words in block.cases() {
        let [options, job] = block.on_device(&words);
        let limit = words[0].split('|').next().and_then(limit);
        guest.experiment(&block.experiment(&words), || {
            first_writes(guest, &options, &job, limit)
        })?;
    }
    Ok(())
}

fn first_writes(
    guest: &Guest,
    options: &str,
    job: &str,
    limit: Option<(&str, &str, bool)>,
) -> Result<Value, StudyError> {
    let disks: Vec<Disk<'_>> = (0..DISKS)
        .map(|_| guest.disk(options))
        .collect::<Result<_, _>>()?;
    let group = Group::around("rescuer", &disks.iter().collect::<Vec<_>>())?;
    let started = |disks: &[Disk<'_>]| -> Result<Vec<Value>, StudyError> {
        disks.iter().map(Disk::stats).collect()
    };
    let before = started(&disks)?;
    let not_made = NotMade::watch()?;
    // The kernel has a page to say each time it finds nobody to kill, and a console is slow.
    write("/proc/sys/kernel/printk", "1")?;
    if let Some((file, value, _)) = limit {
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
    let jobs = format!("{job}{jobs}");
    let mut fio = Fio::start_on(&disks, &jobs)?;
    if let Some((file, _, true)) = limit {
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
