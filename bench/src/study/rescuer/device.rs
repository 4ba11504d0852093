// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study d on the device: what the first writes to fresh disks wait for while the kernel's limits refuse
//! every thread.

use crate::files::write;
use crate::study::device::act::{around, Disk, Fio, Guest};
use crate::study::device::threads::NotMade;
use crate::study::settings::StudyError;
use crate::study::table::Block;
use serde_json::{json, Value};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Fresh disks: each has a queue per CPU, and the pools of its queues have made no second worker yet.
const DISKS: usize = 6;
/// Of the guest; each disk has a queue for each.
const CPUS: usize = 2;
/// How long a limit holds that nothing else ends, in seconds from the moment at which all writes are there.
const OUTAGE: u64 = 2;

/// The limit of a setting, if it has one: the file, its value, and is it lifted after a while?
/// Beyond `pids.max` clone fails with EAGAIN. Beyond `memory.max` some clones fail with ENOMEM, and other
/// threads wait at a page fault: a server of root spares itself from the OOM killer.
fn limit(setting: &str) -> Option<(&'static str, &'static str, bool)> {
    match setting {
        "pids.max, MEM_RECLAIM" => Some(("pids.max", "1", false)),
        "pids.max, without" => Some(("pids.max", "1", true)),
        "memory.max" => Some(("memory.max", "256K", true)),
        _ => None,
    }
}

/// Makes the experiments: one for each setting of the table, in the guest.
pub fn act(guest: &Guest, blocks: &[Block]) -> Result<(), StudyError> {
    guest.each(blocks, |words, options, job| {
        let limit = words[0].split('|').next().and_then(limit);
        first_writes(guest, options, job, limit)
    })
}

/// One experiment: the first writes to fresh disks under a limit of the kernel.
fn first_writes(
    guest: &Guest,
    options: &str,
    job: &str,
    limit: Option<(&str, &str, bool)>,
) -> Result<Value, StudyError> {
    let disks: Vec<Disk<'_>> = (0..DISKS)
        .map(|_| guest.disk(options))
        .collect::<Result<_, _>>()?;
    let group = around("rescuer", &disks.iter().collect::<Vec<_>>())?;
    let started = |disks: &[Disk<'_>]| -> Result<Vec<Value>, StudyError> {
        disks.iter().map(Disk::stats).collect()
    };
    let before = started(&disks)?;
    // After the disks are made: their own threads are none of it.
    let not_made = NotMade::watch()?;
    // The kernel prints a page each time it finds no process to kill, and a console is slow.
    write(Path::new("/proc/sys/kernel/printk"), "1")?;
    if let Some((file, value, _)) = limit {
        group.set(file, value)?;
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
        group.set(file, "max")?;
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
        // The kernel's names: how often `max` was hit, no memory was found (`oom`), a process was killed.
        "memory_max": number("memory.events", "max "),
        "nobody_to_kill": number("memory.events", "oom "),
        "oom_kills": number("memory.events", "oom_kill "),
    }))
}
