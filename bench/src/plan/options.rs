// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options that describe a run, and the plan that they make. An option that is not given has the usual value of
//! the bed or, with `--resume`, that of the run.

use super::Plan;
use crate::contender::{self, Contender};
use crate::matrix::axes::{self, Axes};
use crate::matrix::{bad, BadMatrix, Job};
use clap::{value_parser, Args};
use std::path::PathBuf;
use ublk_ramdisk::units::on_or_off;

/// See the module. `scripts/bench-device --help` explains each option.
#[derive(Args)]
pub struct Options {
    /// Folder of the run; without it the plan is only described.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Go on with the run in the folder: what is not given is as it was.
    #[arg(long, requires = "out")]
    pub resume: bool,
    #[arg(long, value_parser = ["icount", "vm", "host"])]
    bed: Option<String>,
    #[arg(long)]
    kernel: Option<String>,
    // Never taken from the run before: a run must not go on with another commit.
    #[arg(long, default_value = "unknown")]
    commit: String,
    #[arg(long, value_parser = value_parser!(u32).range(1..=99))]
    repeat: Option<u32>,
    /// In MiB.
    #[arg(long, value_parser = value_parser!(u64).range(16..=1 << 20))]
    size: Option<u64>,
    #[arg(long, value_parser = value_parser!(u32).range(1..=64))]
    queues: Option<u32>,
    // Multiples of the usual amount of a sample.
    #[arg(long, value_parser = value_parser!(u64).range(1..=10_000))]
    scale: Option<u64>,
    #[arg(long, value_parser = on_or_off)]
    cross_check: Option<bool>,
    // The whole path keeps clap from reading a list of lists.
    #[arg(long, value_parser = contender::list)]
    contenders: Option<std::vec::Vec<Contender>>,
    #[arg(long, value_delimiter = ',')]
    only: Vec<Job>,
    #[arg(long, value_parser = axes::preset)]
    preset: Option<std::vec::Vec<Job>>,
    #[command(flatten)]
    axes: Axes,
}

impl Options {
    /// The jobs that are asked for: a preset, or the product of the axes, or `--only` alone. `None` if nothing is said.
    fn jobs(&self) -> Result<Option<Vec<Job>>, BadMatrix> {
        // An axis that is given, with its usual value too, asks for a matrix.
        let by_axes = self.axes != Axes::default();
        let all = match &self.preset {
            Some(_) if by_axes => {
                return bad("either a preset or the axes of a matrix, not both");
            }
            Some(jobs) => Some(jobs.clone()),
            None => by_axes.then(|| self.axes.expand()),
        };
        // `--only` alone is a list of jobs. Beside a matrix it picks some of it.
        let Some(mut jobs) = all else {
            return Ok((!self.only.is_empty()).then(|| self.only.clone()));
        };
        if jobs.is_empty() {
            return bad(
                "the matrix has no combination that means anything (reads cannot be verified, \
                 buffered ones have no latency target, discards are direct)",
            );
        }
        if !self.only.is_empty() {
            jobs.retain(|job| self.only.contains(job));
        }
        match jobs.is_empty() {
            true => bad("none of these jobs is in the matrix"),
            false => Ok(Some(jobs)),
        }
    }

    /// Makes the plan that is asked for; what is not said is as in `before`, or as usual on the
    /// bed. Fails with one line if the options contradict each other or leave nothing to do.
    pub fn plan(&self, before: Option<&Plan>) -> Result<Plan, BadMatrix> {
        let usual = before.cloned().unwrap_or_else(|| self.usual());
        let mib = self.size.unwrap_or(usual.mib);
        let jobs = self.jobs()?.unwrap_or(usual.jobs);
        // Each has a part of its own, of whole MiB.
        if let Some(job) = jobs.iter().find(|job| u64::from(job.numjobs) > mib) {
            return bad(format!(
                "numjobs '{}': at most one for each MiB of the disk, which has {mib}",
                job.numjobs
            ));
        }
        Ok(Plan {
            bed: self.bed.clone().unwrap_or(usual.bed),
            kernel: self.kernel.clone().unwrap_or(usual.kernel),
            commit: self.commit.clone(),
            rounds: self.repeat.unwrap_or(usual.rounds),
            mib,
            queues: self.queues.unwrap_or(usual.queues),
            // No option: libublk's example has 128 and cannot be told another depth.
            depth: usual.depth,
            scale: self.scale.unwrap_or(usual.scale),
            cross_check: self.cross_check.unwrap_or(usual.cross_check),
            contenders: self.contenders.clone().unwrap_or(usual.contenders),
            jobs,
        })
    }

    /// A run of which nothing is said but the bed. Where instructions are counted two small rounds repeat to 1 %; the
    /// faster the bed, the larger a sample must be.
    fn usual(&self) -> Plan {
        let bed = self.bed.as_deref().unwrap_or("icount");
        let (rounds, scale) = match bed {
            "icount" => (2, 1),
            "vm" => (3, 4),
            _ => (3, 40),
        };
        Plan {
            bed: bed.to_owned(),
            kernel: "newest".to_owned(),
            commit: String::new(),
            rounds,
            mib: 256,
            queues: 1,
            depth: 128,
            scale,
            cross_check: true,
            contenders: contender::everybody(),
            jobs: axes::preset("default").expect("there is this preset"),
        }
    }
}
