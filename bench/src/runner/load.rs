// SPDX-License-Identifier: MIT OR Apache-2.0
//! One load of fio on one disk, and what is kept of it: a sample, whole or not at all.
//!
//! fio writes its output under another name, which becomes `ROUND.json` as the last step. So a run that is ended in the
//! middle has no half sample, and goes on with this one.

use super::disks::Disk;
use super::{Participant, Runner};
use crate::files::{at, write, Failure, FileError};
use crate::process::{apart, run, Outcome};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// The loads that are not of the plan, as files for fio.
pub struct FioJobs {
    folder: PathBuf,
    /// What is measured of the disk, in fio's spelling. A disk that was there may be larger.
    size: String,
}

/// The files, as they are in `scripts/fio`. The program has them inside, because a guest has no
/// source tree.
const JOBS: [(&str, &str); 2] = [
    (
        "bench-fill.fio",
        include_str!("../../../scripts/fio/bench-fill.fio"),
    ),
    (
        "cross-check.fio",
        include_str!("../../../scripts/fio/cross-check.fio"),
    ),
];

impl FioJobs {
    /// Writes the job files into a folder, for disks of this size.
    pub fn new(folder: &Path, mib: u64) -> Result<Self, FileError> {
        for (name, text) in JOBS {
            write(&folder.join(name), text)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            size: format!("{mib}m"),
        })
    }

    /// fio with the disk in its environment, where the job files look for it.
    /// In a process group of its own: Ctrl-C must not end fio before its sample is given up.
    fn on(&self, disk: &Disk) -> Command {
        let mut fio = apart("fio");
        fio.env("DISK", &disk.node).env("SIZE", &self.size);
        fio
    }

    /// The path of one of these loads.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// What fio is to do, once.
pub(super) struct Load<'a> {
    /// The folder of its samples below the contender's.
    pub(super) job: &'a str,
    /// From 1.
    pub(super) round: u32,
    /// What fio gets beside the format and the file of its output.
    pub(super) arguments: Vec<OsString>,
    /// fio is ended after this time, and its disk is given up.
    pub(super) timeout: Duration,
    /// Are the counts of kernel and server kept?
    pub(super) compare: bool,
}

impl Runner<'_> {
    /// One sample, whole or not at all.
    pub(super) fn measure(
        &mut self,
        participant: &mut Participant<'_>,
        load: &Load<'_>,
    ) -> Result<(), Failure> {
        self.waiter.look()?;
        if !participant.disk.is_there() {
            participant.given_up = true;
            let node = participant.disk.node.display();
            let why = format!("{node} is not a block device (any more)");
            return Ok(self.fail(&participant.name, load, &why)?);
        }
        let place = self
            .folder
            .join("raw")
            .join(&participant.name)
            .join(load.job);
        fs::create_dir_all(&place).map_err(at(&place))?;
        let file = |end: &str| place.join(format!("{}.{end}", load.round));
        // Counters of an earlier try must not stand beside the sample of this one.
        for end in ["part", "json", "counters"] {
            // Most often there is none.
            let _gone = fs::remove_file(file(end));
        }
        let mut counters = String::new();
        if load.compare {
            counters += &largest(&participant.disk);
            counters += &self.snapshot("before", participant);
        }
        let errors = self.scratch.join("fio");
        let log = File::create(&errors).map_err(at(&errors))?;
        let mut fio = self.jobs.on(&participant.disk);
        fio.arg("--output-format=json");
        fio.arg(format!("--output={}", file("part").display()));
        fio.args(&load.arguments).stdout(Stdio::null()).stderr(log);
        let child = fio.spawn().map_err(|e| format!("fio: {e}"))?;
        let outcome = self.waiter.wait(child, load.timeout)?;
        let why = match outcome {
            Outcome::Ended(status) if status.success() => None,
            Outcome::Ended(status) => Some(why_failed(status, &[errors, file("part")])),
            Outcome::Late => {
                participant.given_up = true;
                let seconds = load.timeout.as_secs();
                Some(format!(
                    "fio has not ended after {seconds} s; no more of this disk"
                ))
            }
        };
        if let Some(why) = why {
            let _no_sample = fs::remove_file(file("part"));
            return Ok(self.fail(&participant.name, load, &why)?);
        }
        if !counters.is_empty() {
            counters += &self.snapshot("after", participant);
            write(&file("counters"), &counters)?;
        }
        // Last: the sample is there when it has its name.
        let whole = file("json");
        Ok(fs::rename(file("part"), &whole).map_err(at(&whole))?)
    }

    /// What kernel and server have counted.
    /// Lines of `NAME.before` or `NAME.after`, a tab, and the words of the kernel or the JSON of the server.
    fn snapshot(&self, when: &str, participant: &Participant<'_>) -> String {
        let Some(stat) = participant.disk.says("stat") else {
            return String::new();
        };
        let mut text = format!("kernel.{when}\t{stat}\n");
        if participant.who.is_ours() {
            let stats = run(apart(&self.programs.ours)
                .args(["stats", "--json"])
                .arg(&participant.disk.node));
            let stats = stats.unwrap_or_default().replace('\n', "");
            text += &format!("ours.{when}\t{stats}\n");
        }
        text
    }
}

/// Why fio failed: its status, and the first of its own lines about it in these files.
fn why_failed(status: ExitStatus, files: &[PathBuf]) -> String {
    let code = status.code().map(|code| format!("status {code}"));
    let code = code.unwrap_or_else(|| status.to_string());
    let said = files
        .iter()
        .map(|path| fs::read_to_string(path).unwrap_or_default());
    let said: String = said.collect();
    let word = said.lines().find(|line| line.starts_with("fio: "));
    let word = word.unwrap_or_default().replace('\t', " ");
    format!("fio ended with {code}: {word}")
}

/// The largest request and discard of a disk, which decide how the kernel splits requests.
fn largest(disk: &Disk) -> String {
    let kb = disk.number("queue/max_sectors_kb");
    if kb == 0 {
        return String::new();
    }
    // A request of scattered pages needs a segment for each, and a page has 4 KiB.
    let kb = kb.min(disk.number("queue/max_segments") * 4);
    let discard = disk.number("queue/discard_max_bytes");
    format!("most_bytes\t{}\nmost_discard\t{discard}\n", kb << 10)
}
