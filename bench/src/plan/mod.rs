// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run is to be, written down before it begins, and what of it is still to do: a run that
//! was interrupted goes on from there.
//!
//! `plan` in the folder of a run holds lines of a name and a value with a tab between, which
//! `scripts/bench-device` reads, too. A run only goes on with the plan and the commit that it was
//! begun with: samples of two programs would stand in one series.

pub mod options;

use crate::contender::{self, Contender};
use crate::files::{at, lines_of, pairs, write, Failure, FileError};
use crate::matrix::job_file::{amount, job_file, Extent};
use crate::matrix::Job;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A run as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `icount`, `vm` or `host`.
    pub bed: String,
    /// Kernel of the guest.
    pub kernel: String,
    /// Of this project, and a digest of what is changed in the work tree.
    pub commit: String,
    /// How often everything is measured.
    pub rounds: u32,
    /// Size of the disks, in MiB.
    pub mib: u64,
    /// Hardware queues of each disk.
    pub queues: u32,
    /// Depth of each hardware queue.
    pub depth: u32,
    /// How many times the usual amount a sample is.
    /// 1 suits a guest that counts instructions. A faster bed needs more, or fio's clock is too coarse.
    pub scale: u64,
    /// Are the counters of kernel and server compared with fio's?
    pub cross_check: bool,
    /// The contenders.
    pub contenders: Vec<Contender>,
    /// What fio does.
    pub jobs: Vec<Job>,
}

/// One sample that is to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Round, from 1.
    pub round: u32,
    /// Name of the job.
    pub job: Job,
    /// Name of the contender.
    pub contender: String,
}

/// Names with a space between, as the file of the plan has them.
fn joined<T: ToString>(items: &[T]) -> String {
    let words: Vec<String> = items.iter().map(T::to_string).collect();
    words.join(" ")
}

impl Plan {
    /// What the job files depend on.
    fn extent(&self) -> Extent {
        Extent {
            mib: self.mib,
            scale: self.scale,
        }
    }

    /// The plan as names and values, in the order of the file.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        // The words that the options take, too.
        let switch = |on| if on { "on" } else { "off" }.to_owned();
        vec![
            ("bed", self.bed.clone()),
            ("kernel", self.kernel.clone()),
            ("commit", self.commit.clone()),
            ("rounds", self.rounds.to_string()),
            // MiB, as the option takes it.
            ("size", format!("{}", self.mib)),
            ("queues", self.queues.to_string()),
            ("depth", self.depth.to_string()),
            ("scale", self.scale.to_string()),
            ("cross-check", switch(self.cross_check)),
            ("contenders", joined(&self.contenders)),
            ("jobs", joined(&self.jobs)),
        ]
    }

    /// Reads the plan of a folder. Fails as bad usage if there is none, or if a line is missing or
    /// makes no sense.
    /// A run begun by an older version fails here, too: its missing lines have no default.
    pub fn load(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join("plan");
        let none = |why: &str| Failure::Usage(format!("{}: {why}", path.display()));
        if !path.exists() {
            return Err(none("not there: the folder holds no run to go on with"));
        }
        let pairs = pairs(&path)?;
        let value = |name: &str| {
            let found = pairs.iter().find(|pair| pair.0 == name);
            let found = found.map(|pair| pair.1.as_str());
            found.ok_or_else(|| none(&format!("it does not say '{name}'")))
        };
        let number = |name: &str| {
            let number = value(name)?.parse::<u64>();
            number.map_err(|_| none(&format!("'{name}' is no number")))
        };
        let small = |name: &str| {
            u32::try_from(number(name)?).map_err(|_| none(&format!("'{name}' is too large")))
        };
        let jobs = value("jobs")?.split(' ').map(str::parse);
        Ok(Self {
            bed: value("bed")?.to_owned(),
            kernel: value("kernel")?.to_owned(),
            commit: value("commit")?.to_owned(),
            rounds: small("rounds")?,
            mib: number("size")?,
            queues: small("queues")?,
            depth: small("depth")?,
            scale: number("scale")?,
            cross_check: value("cross-check")? == "on",
            contenders: contender::list(value("contenders")?)?,
            jobs: jobs.collect::<Result<_, _>>()?,
        })
    }

    /// Writes the plan into its folder, and the job files beside it.
    /// The job files come first: a folder with a plan has all of them.
    pub fn keep(&self, folder: &Path) -> Result<(), FileError> {
        let jobs = folder.join("jobs");
        fs::create_dir_all(&jobs).map_err(at(&jobs))?;
        for job in &self.jobs {
            let path = jobs.join(format!("{job}.fio"));
            write(&path, &job_file(job, self.extent()))?;
        }
        write(&folder.join("plan"), &lines_of(self.lines()))
    }

    /// Is this the run that the folder was begun with? Fails with the first line that differs.
    pub fn same_as(&self, begun: &Plan, folder: &Path) -> Result<(), Failure> {
        let mut both = self.lines().into_iter().zip(begun.lines());
        // Compared as text: a new line of the plan is compared without a change here.
        let Some(((name, now), (_, was))) = both.find(|(now, was)| now != was) else {
            return Ok(());
        };
        Err(Failure::Usage(format!(
            "{} was begun with {name} {was}, not {now}; name another folder with --out",
            folder.display()
        )))
    }

    /// Every sample of the run: round by round, job by job, the contenders in
    /// turn, and each time another one first.
    /// Contenders in turn meet the same state of the machine; the first one, whose caches are cold, changes.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for round in 1..=self.rounds {
            for (number, job) in self.jobs.iter().enumerate() {
                let count = self.contenders.len();
                let first = (round as usize - 1 + number) % count.max(1);
                for turn in 0..count {
                    steps.push(Step {
                        round,
                        job: job.clone(),
                        contender: self.contenders[(first + turn) % count].name.clone(),
                    });
                }
            }
        }
        steps
    }

    /// The samples that the folder does not have yet.
    /// A sample has its name only when it is whole, so the file's existence is enough.
    pub fn missing(&self, folder: &Path) -> Vec<Step> {
        let mut steps = self.steps();
        steps.retain(|step| !sample_path(folder, step).is_file());
        steps
    }

    /// For people: what the run would be.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.lines() {
            // The jobs follow one by one, with their titles.
            if name != "jobs" {
                text += &format!("{name:<14}{value}\n");
            }
        }
        for job in &self.jobs {
            text += &format!(
                "{:<14}{job}: {}, {} KiB per sample\n",
                "job",
                job.title(),
                amount(job, self.extent()) >> 10
            );
        }
        let steps = self.steps();
        let jobs: BTreeSet<&Job> = self.jobs.iter().collect();
        text += &format!(
            "{:<14}{} of {} jobs on {} contenders in {} rounds\n",
            "samples",
            steps.len(),
            jobs.len(),
            self.contenders.len(),
            self.rounds
        );
        text
    }
}

/// Where fio's own words about a sample are kept.
pub fn sample_path(folder: &Path, step: &Step) -> PathBuf {
    let place = folder.join("raw").join(&step.contender);
    place
        .join(step.job.to_string())
        .join(format!("{}.json", step.round))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Scratch;
    use crate::matrix::axes;

    fn plan() -> Plan {
        Plan {
            bed: "icount".into(),
            kernel: "newest".into(),
            commit: "abc".into(),
            rounds: 2,
            mib: 256,
            queues: 1,
            depth: 128,
            scale: 1,
            cross_check: true,
            contenders: contender::list("batch,brd,zram").unwrap(),
            jobs: axes::preset("default").unwrap(),
        }
    }

    #[test]
    fn what_is_kept_is_read_again_with_a_file_per_job() {
        let folder = Scratch::new("bench-plan-kept").unwrap();
        plan().keep(&folder.0).unwrap();
        let again = Plan::load(&folder.0).unwrap();
        assert_eq!(again, plan());
        again.same_as(&plan(), &folder.0).unwrap();
        for job in &again.jobs {
            assert!(folder.0.join(format!("jobs/{job}.fio")).is_file());
        }
    }

    #[test]
    fn every_contender_does_every_job_in_every_round_and_another_begins_each_time() {
        let steps = plan().steps();
        // Rounds, jobs of the preset, contenders.
        assert_eq!(steps.len(), 2 * 6 * 3);
        let distinct: BTreeSet<String> = steps
            .iter()
            .map(|step| format!("{} {} {}", step.round, step.job, step.contender))
            .collect();
        assert_eq!(distinct.len(), steps.len());
        let first: Vec<&str> = steps
            .iter()
            .step_by(3)
            .map(|step| step.contender.as_str())
            .take(4)
            .collect();
        assert_eq!(first, ["batch", "zram", "brd", "batch"]);
        assert!(steps.windows(2).all(|pair| pair[0].round <= pair[1].round));
    }

    #[test]
    fn a_run_goes_on_with_what_is_missing() {
        let folder = Scratch::new("bench-plan-missing").unwrap();
        let plan = plan();
        plan.keep(&folder.0).unwrap();
        assert_eq!(plan.missing(&folder.0).len(), 36);
        let steps = plan.steps();
        for step in &steps[..7] {
            let path = sample_path(&folder.0, step);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{}").unwrap();
        }
        // What fio was still writing when it was ended does not count.
        let part = sample_path(&folder.0, &steps[7]).with_extension("part");
        fs::create_dir_all(part.parent().unwrap()).unwrap();
        fs::write(part, "{").unwrap();
        assert_eq!(plan.missing(&folder.0), steps[7..]);
    }

    #[test]
    fn another_matrix_or_commit_is_refused_in_one_line() {
        let folder = Path::new("runs/x");
        let begun = plan();
        type Change = fn(&mut Plan);
        let changes: [(&str, Change); 5] = [
            ("commit", |plan| plan.commit = "def".into()),
            ("jobs", |plan| plan.jobs.truncate(1)),
            ("contenders", |plan| plan.contenders.truncate(1)),
            ("rounds", |plan| plan.rounds = 9),
            ("cross-check", |plan| plan.cross_check = false),
        ];
        for (name, change) in changes {
            let mut now = plan();
            change(&mut now);
            let complaint = now.same_as(&begun, folder).unwrap_err().to_string();
            assert!(
                complaint.contains(name) && complaint.contains("runs/x"),
                "{complaint}"
            );
            assert!(!complaint.contains('\n'));
        }
    }

    #[test]
    fn a_folder_without_a_whole_plan_is_refused() {
        let folder = Scratch::new("bench-plan-broken").unwrap();
        assert!(matches!(Plan::load(&folder.0), Err(Failure::Usage(_))));
        plan().keep(&folder.0).unwrap();
        let path = folder.0.join("plan");
        let whole = fs::read_to_string(&path).unwrap();
        let others = |name: &str| -> String {
            let own = format!("{name}\t");
            let lines = whole.lines().filter(|line| !line.starts_with(&own));
            lines.map(|line| format!("{line}\n")).collect()
        };
        for (name, _) in plan().lines() {
            fs::write(&path, others(name)).unwrap();
            let complaint = Plan::load(&folder.0).unwrap_err().to_string();
            assert!(complaint.contains(name), "{complaint}");
        }
        // A line that is there but makes no sense.
        for bad in ["rounds\tmany", "jobs\tscan-4k-qd1", "contenders\tnobody"] {
            let name = bad.split('\t').next().unwrap();
            fs::write(&path, others(name) + bad).unwrap();
            assert!(Plan::load(&folder.0).is_err(), "{bad}");
        }
    }
}
