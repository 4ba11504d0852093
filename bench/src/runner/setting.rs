// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs where: the machine and the programs of a run, and the queue of each disk.
//!
//! Figures of two machines, or of disks with different queues, say nothing about each other. So the setting is kept with
//! every run, a run only goes on where it was begun, and the report names each disk whose queue differs.

use super::disks::Disk;
use super::{Programs, Runner};
use crate::files::{at, lines_of, pairs, write, Failure, FileError, Pair};
use crate::process::{apart, run};
use std::fs;
use std::path::Path;

impl Runner<'_> {
    /// Writes what runs where. Samples of two machines are not put into one run. Fails if the run
    /// was begun with another kernel, CPU, number of CPUs or fio.
    pub(super) fn keep_setting(&self) -> Result<(), Failure> {
        let path = self.folder.join("setting");
        let was = pairs(&path)?;
        let now = setting(self.programs)?;
        // What figures depend on most. Memory and clock source are noted, but may differ.
        for name in ["kernel", "cpu", "cpus", "fio"] {
            let of = |pairs: &[Pair]| {
                let found = pairs.iter().find(|pair| pair.0 == name);
                found.map(|pair| pair.1.clone()).unwrap_or_default()
            };
            let (was, now) = (of(&was), of(&now));
            if path.exists() && was != now {
                return Err(Failure::Usage(format!(
                    "the run was begun with {name} {was}, here it is {now}; name another folder with --out"
                )));
            }
        }
        write(&path, &lines_of(now))?;
        // Emptied, not appended to: a run that goes on makes its disks anew and says all of it again.
        for file in ["devices", "setup", "absent", "unfit", "failed"] {
            write(&self.folder.join(file), "")?;
        }
        let raw = self.folder.join("raw");
        Ok(fs::create_dir_all(&raw).map_err(at(&raw))?)
    }

    /// Switches off the I/O scheduler, whose sorting and merging would be measured instead of the disk, and
    /// notes what the device says of its queue.
    pub(super) fn settle(&self, name: &str, disk: &mut Disk) -> Result<(), FileError> {
        // Some have none to choose from.
        let _as_it_is = fs::write(disk.sysfs("queue/scheduler"), "none");
        let queues = fs::read_dir(disk.sysfs("mq"))
            .map_or(0, |entries| entries.flatten().filter(is_folder).count());
        // The driver's tags per hardware queue. `nr_requests` depends on the scheduler, too.
        let tags = disk.number("mq/0/nr_tags");
        let mut facts = format!("{} queues={queues} tags={tags}", disk.node.display());
        for file in [
            "scheduler",
            "nr_requests",
            "max_sectors_kb",
            "nomerges",
            "write_cache",
            "logical_block_size",
            "discard_max_bytes",
        ] {
            if let Some(value) = disk.says(&format!("queue/{file}")) {
                facts += &format!(" {file}={value}");
            }
        }
        self.add("devices", name, &facts)?;
        // In sectors of 512 bytes.
        let mib = disk.number("size") >> 11;
        if disk.says("size").is_some() && mib != self.plan.mib {
            disk.how += &format!(
                "; of its {mib} MiB only the first {} take part",
                self.plan.mib
            );
        }
        self.add("setup", name, &disk.how)
    }
}

/// The hardware queues of a disk are folders.
fn is_folder(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// What runs where.
fn setting(programs: &Programs) -> Result<Vec<Pair>, String> {
    let line = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix(name));
        found
            .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
            .unwrap_or_default()
    };
    let version =
        |program: &Path| run(apart(program).arg("--version")).map(|text| text.trim().to_owned());
    let rublk = programs
        .rublk
        .as_ref()
        .map_or_else(|_| Ok(String::new()), |path| version(path))?;
    let cpus = std::thread::available_parallelism().map_err(|e| e.to_string())?;
    // Where the TSC is not trusted, each reading of the time asks a slow device.
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let pairs = [
        ("kernel", line("/proc/sys/kernel/osrelease", "")),
        ("cpu", line("/proc/cpuinfo", "model name")),
        ("cpus", cpus.to_string()),
        ("memory", line("/proc/meminfo", "MemTotal:")),
        ("clock source", line(clock, "")),
        ("fio", version(Path::new("fio"))?),
        ("ours", version(&programs.ours)?),
        ("rublk", rublk),
    ];
    Ok(pairs.map(|(name, value)| (name.to_owned(), value)).into())
}
