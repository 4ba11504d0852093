// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of a run that needs the disks: makes one per contender, fills each, takes the samples
//! that are missing, and takes the disks away. Runs as root, in a guest or not.
//!
//! All contenders have their disk at the same time, and take turns at each job. So what changes in
//! the course of a run, such as the load of the machine, meets all of them.
//!
//! | file of the run | what is in it | written by |
//! |---|---|---|
//! | `plan` | what is to be measured | [`crate::plan`], before |
//! | `raw/CONTENDER/JOB/ROUND.json` | a sample as fio wrote it | [`load`] |
//! | `ROUND.counters` beside it | what kernel and server counted before and after | [`load`] |
//! | `setting` | what ran where | [`setting`] |
//! | `devices`, `setup` | each disk's queue, and how it was made | [`setting`] |
//! | `absent` | contenders that could not be had, with the reason | here |
//! | `unfit` | jobs that a disk cannot do, with the reason | here |
//! | `failed` | samples that could not be taken, with the reason | here |

pub mod disks;

mod load;

mod setting;

use crate::contender::Contender;
use crate::files::{at, Failure, FileError, Scratch};
use crate::kernel::Former;
use crate::matrix::Job;
use crate::plan::Plan;
use crate::process::{run, Waiter};
use crate::run::CROSS_CHECK;
use disks::{Disk, Maker};
use load::{FioJobs, Load};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The programs of the contenders, or why there is none.
pub struct Programs {
    /// `ublk-ramdisk`.
    pub ours: PathBuf,
    /// The folder of the servers of `bench/libublk`.
    pub libublk: PathBuf,
    /// The example of libublk.
    pub example: Result<PathBuf, String>,
    /// `rublk`.
    pub rublk: Result<PathBuf, String>,
}

/// Prints a line about the progress of the run.
pub fn note(text: &str) {
    eprintln!("bench-device: {text}");
}

/// A contender with its disk.
struct Participant<'a> {
    who: &'a Contender,
    name: String,
    disk: Disk,
    /// Something has happened to the disk; it stays until the end, and nothing is measured on it.
    given_up: bool,
}

/// The participants; the disk that was made last is taken away first.
struct Participants<'a>(Vec<Participant<'a>>);

impl Drop for Participants<'_> {
    fn drop(&mut self) {
        // A vector drops its first element first. A module must go after all disks that it serves.
        while self.0.pop().is_some() {}
    }
}

/// A run in its folder.
struct Runner<'a> {
    folder: &'a Path,
    plan: &'a Plan,
    programs: &'a Programs,
    waiter: Waiter,
    jobs: FioJobs,
    /// Logs, sockets and files of a tmpfs; it goes with the run.
    scratch: &'a Path,
    /// A sample could not be taken: the run ends with exit status 1.
    failed: bool,
}

/// Takes what is missing of a run. False if samples failed. Fails if no contender takes part, if
/// the run was begun elsewhere, if its folder cannot be written to, and on a signal. One contender
/// without a disk, or one sample that fails, is no failure of the run: it is noted and the others
/// go on.
pub fn take(folder: &Path, plan: &Plan, programs: &Programs) -> Result<bool, Failure> {
    let scratch = Scratch::new("bench-device").map_err(at(&std::env::temp_dir()))?;
    let mut runner = Runner {
        folder,
        plan,
        programs,
        waiter: Waiter::new().map_err(|e| e.to_string())?,
        jobs: FioJobs::new(&scratch.0, plan.mib)?,
        scratch: &scratch.0,
        failed: false,
    };
    // Before any disk is made: a run that was begun elsewhere ends here.
    runner.keep_setting()?;
    let _driver = (!Path::new("/dev/ublk-control").exists())
        .then(|| run(Command::new("modprobe").arg("ublk_drv")));
    // The scheduler would group by session: at one request at a time that alone costs a twentieth.
    let own = plan.contenders.iter().any(|who| who.node.is_none());
    let _autogroup =
        own.then(|| Former::set(Path::new("/proc/sys/kernel/sched_autogroup_enabled"), "0"));
    let mut participants = runner.participants()?;
    if participants.0.is_empty() {
        return Err(Failure::Runtime("no contender takes part".into()));
    }
    for participant in &mut participants.0 {
        note(&format!("filling {}", participant.name));
        runner.fill(participant)?;
    }
    // Once per disk and before the samples: a disk that loses requests is found early.
    if plan.cross_check {
        for participant in participants
            .0
            .iter_mut()
            .filter(|participant| !participant.given_up)
        {
            note(&format!("counting on {}", participant.name));
            runner.count(participant)?;
        }
    }
    runner.measure_all(&mut participants)?;
    Ok(!runner.failed)
}

impl<'a> Runner<'a> {
    /// Adds a line to a file of the folder.
    fn add(&self, file: &str, name: &str, text: &str) -> Result<(), FileError> {
        let path = self.folder.join(file);
        let opened = File::options().create(true).append(true).open(&path);
        let written = opened.and_then(|mut file| writeln!(file, "{name}\t{text}"));
        written.map_err(at(&path))
    }

    /// Notes that a contender could not be had.
    fn absent(&self, name: &str, why: &str) -> Result<(), FileError> {
        note(&format!("{name} does not take part: {why}"));
        self.add("absent", name, why)
    }

    /// Notes that a sample could not be taken. The run goes on, and fails at its end.
    fn fail(&mut self, name: &str, load: &Load<'_>, why: &str) -> Result<(), FileError> {
        let why = format!("{}, round {}: {why}", load.job, load.round);
        note(&format!("{name}, {why}"));
        self.failed = true;
        self.add("failed", name, &why)
    }

    /// Makes all disks.
    fn participants(&self) -> Result<Participants<'a>, Failure> {
        let maker = Maker {
            plan: self.plan,
            programs: self.programs,
            scratch: self.scratch,
        };
        let mut participants = Participants(Vec::new());
        for who in &self.plan.contenders {
            let name = who.name.clone();
            let made = maker.make(who);
            // A signal waits until it is known how to take the disk away.
            self.waiter.look()?;
            match made {
                Ok(disk) if !disk.is_there() => {
                    self.absent(
                        &name,
                        &format!("{} is not a block device", disk.node.display()),
                    )?;
                }
                Ok(mut disk) => {
                    self.settle(&name, &mut disk)?;
                    note(&format!("{name} is {}", disk.node.display()));
                    disk.keep_udev_away();
                    let given_up = false;
                    participants.0.push(Participant {
                        who,
                        name,
                        disk,
                        given_up,
                    });
                }
                Err(why) => self.absent(&name, &why)?,
            }
        }
        Ok(participants)
    }

    /// Every block of the disk is there before the first sample.
    fn fill(&mut self, participant: &mut Participant<'_>) -> Result<(), Failure> {
        let load = Load {
            job: "fill",
            round: 1,
            arguments: vec![self.jobs.path("bench-fill.fio").into()],
            // By the clock of the bed.
            timeout: Duration::from_secs(60 + self.plan.mib / 8),
            compare: false,
        };
        let taken = self.measure(participant, &load);
        // A sample of the fill would be reported as a job.
        let _no_sample =
            fs::remove_dir_all(self.folder.join("raw").join(&participant.name).join("fill"));
        taken
    }

    /// How long a load may take before its disk is given up.
    fn timeout(&self) -> Duration {
        // A sample moves some hundred MiB for each step of the scale; a disk that takes longer hangs.
        Duration::from_secs(900 * self.plan.scale)
    }

    /// A load that is there to be counted.
    fn count(&mut self, participant: &mut Participant<'_>) -> Result<(), Failure> {
        let mut arguments: Vec<std::ffi::OsString> =
            vec!["--section=random".into(), "--section=sequential".into()];
        if participant
            .disk
            .says("queue/discard_max_bytes")
            .is_none_or(|most| most != "0")
        {
            arguments.push("--section=discards".into());
        }
        arguments.push(self.jobs.path("cross-check.fio").into());
        let load = Load {
            job: CROSS_CHECK,
            round: 1,
            arguments,
            timeout: self.timeout(),
            compare: true,
        };
        self.measure(participant, &load)
    }

    /// All samples that are missing, each step said before it is taken.
    fn measure_all(&mut self, participants: &mut Participants<'_>) -> Result<(), Failure> {
        let steps = self.plan.missing(self.folder);
        let mut told = BTreeSet::new();
        for (done, step) in steps.iter().enumerate() {
            let mut present = participants
                .0
                .iter_mut()
                .filter(|participant| !participant.given_up);
            let Some(participant) = present.find(|participant| participant.name == step.contender)
            else {
                continue;
            };
            let job = step.job.to_string();
            note(&format!(
                "{} of {}: {job} on {}, round {}",
                done + 1,
                steps.len(),
                participant.name,
                step.round
            ));
            if let Some(why) = cannot(&step.job, &participant.disk) {
                // Once per job, and not in every round.
                if told.insert((participant.name.clone(), job.clone())) {
                    self.add("unfit", &participant.name, &format!("{job}: {why}"))?;
                }
                continue;
            }
            let load = Load {
                job: &job,
                round: step.round,
                arguments: vec![self.folder.join(format!("jobs/{job}.fio")).into()],
                timeout: self.timeout(),
                compare: self.plan.cross_check,
            };
            self.measure(participant, &load)?;
        }
        Ok(())
    }
}

/// Why a disk cannot do a job, if so.
fn cannot(job: &Job, disk: &Disk) -> Option<String> {
    if job.rw.trims() && disk.says("queue/discard_max_bytes")? == "0" {
        return Some("the disk takes no discards".into());
    }
    let block: u64 = disk.says("queue/logical_block_size")?.parse().ok()?;
    (!job.bs.is_multiple_of(block)).then(|| format!("a block of the disk is {block} bytes"))
}
