// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of jobs: the product of the axes' values, or a preset.

use super::{bad, BadMatrix, Job, Rw};

/// The values of each axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axes {
    /// Patterns.
    pub rw: Vec<Rw>,
    /// Block sizes.
    pub bs: Vec<u64>,
    /// Requests in flight.
    pub iodepth: Vec<u32>,
    /// Jobs side by side.
    pub numjobs: Vec<u32>,
    /// Past the page cache or not.
    pub direct: Vec<bool>,
    /// With checksums or not.
    pub verify: Vec<bool>,
    /// Latency targets.
    pub latency_us: Vec<Option<u32>>,
}

/// The values of the axes that are not named.
impl Default for Axes {
    fn default() -> Self {
        Self {
            rw: vec![Rw::RandRead, Rw::RandWrite],
            bs: vec![4096],
            iodepth: vec![32],
            numjobs: vec![1],
            direct: vec![true],
            verify: vec![false],
            latency_us: vec![None],
        }
    }
}

impl Axes {
    /// Every combination that means something, each once, the patterns outermost.
    pub fn expand(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for &rw in &self.rw {
            for &bs in &self.bs {
                for &iodepth in &self.iodepth {
                    for &numjobs in &self.numjobs {
                        for &direct in &self.direct {
                            for &verify in &self.verify {
                                for &latency_us in &self.latency_us {
                                    jobs.extend(possible(&Job {
                                        rw,
                                        bs,
                                        iodepth,
                                        numjobs,
                                        direct,
                                        verify,
                                        latency_us,
                                    }));
                                }
                            }
                        }
                    }
                }
            }
        }
        once(jobs)
    }
}

/// The job as it can be run, or none. Through the page cache a job waits for each request.
/// Only writes can be verified. A depth is sought past the page cache, for reads and
/// writes. A discard is never buffered.
pub fn possible(job: &Job) -> Option<Job> {
    let mut job = job.clone();
    if !job.direct {
        job.iodepth = 1;
    }
    let sought = job.latency_us.is_some();
    let wrong = job.verify && (!job.rw.verifiable() || sought)
        || !job.direct && (job.rw.trims() || sought)
        || sought && job.rw.trims();
    (!wrong).then_some(job)
}

fn once(jobs: Vec<Job>) -> Vec<Job> {
    let mut kept: Vec<Job> = Vec::new();
    for job in jobs {
        if !kept.contains(&job) {
            kept.push(job);
        }
    }
    kept
}

/// The presets, and what each is for.
pub const PRESETS: [(&str, &str); 8] = [
    ("default", "the six jobs that the targets are about"),
    ("sizes", "512 B to 1 MiB, random and sequential"),
    ("depths", "4 KiB with 1 to 128 in flight"),
    ("jobs", "1 to 8 jobs side by side"),
    ("buffered", "through the page cache"),
    ("verify", "written, then read back against checksums"),
    ("latency", "the depth that keeps a latency target"),
    ("full", "all of these, and discards"),
];

fn powers(from: u32, to: u32) -> Vec<u32> {
    (0..=to.ilog2())
        .map(|power| 1 << power)
        .filter(|&value| value >= from)
        .collect()
}

/// The jobs of a preset.
pub fn preset(name: &str) -> Result<Vec<Job>, BadMatrix> {
    let all_sizes: Vec<u64> = (9..=20).map(|power| 1 << power).collect();
    let usual = &Axes::default();
    let lists = match name {
        "default" => return Ok(default_jobs()),
        "sizes" => vec![
            Axes {
                rw: vec![Rw::RandRead, Rw::RandWrite, Rw::RandMixed],
                bs: all_sizes.clone(),
                ..usual.clone()
            },
            Axes {
                rw: vec![Rw::Read, Rw::Write, Rw::Mixed],
                bs: all_sizes,
                iodepth: vec![8],
                ..usual.clone()
            },
        ],
        "depths" => vec![Axes {
            rw: vec![Rw::RandRead, Rw::RandWrite, Rw::RandMixed],
            iodepth: powers(1, 128),
            ..usual.clone()
        }],
        "jobs" => vec![Axes {
            numjobs: powers(1, 8),
            iodepth: vec![1, 16],
            ..usual.clone()
        }],
        "buffered" => vec![Axes {
            rw: vec![Rw::Read, Rw::Write, Rw::RandRead, Rw::RandWrite],
            bs: vec![4096, 128 << 10],
            direct: vec![false],
            ..usual.clone()
        }],
        "verify" => vec![Axes {
            rw: vec![Rw::Write, Rw::RandWrite, Rw::RandMixed],
            bs: vec![512, 4096, 64 << 10, 1 << 20],
            iodepth: vec![16],
            verify: vec![true],
            ..usual.clone()
        }],
        "latency" => vec![Axes {
            iodepth: vec![128],
            latency_us: vec![Some(200), Some(1000), Some(5000)],
            ..usual.clone()
        }],
        "full" => {
            let mut jobs = Vec::new();
            for (name, _) in PRESETS.iter().filter(|(name, _)| *name != "full") {
                jobs.extend(preset(name)?);
            }
            jobs.extend(trims(usual).expand());
            return Ok(once(jobs));
        }
        _ => {
            let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
            return bad(format!("preset '{name}': none of {}", names.join(" ")));
        }
    };
    Ok(once(lists.iter().flat_map(Axes::expand).collect()))
}

fn trims(usual: &Axes) -> Axes {
    Axes {
        rw: vec![
            Rw::Trim,
            Rw::RandTrim,
            Rw::TrimWrite,
            Rw::RandTrimWrite,
            Rw::TrimMix,
        ],
        bs: vec![4096, 64 << 10],
        iodepth: vec![16],
        ..usual.clone()
    }
}

fn default_jobs() -> Vec<Job> {
    vec![
        Job::new(Rw::RandRead, 4096, 32),
        Job::new(Rw::RandWrite, 4096, 32),
        Job::new(Rw::RandRead, 4096, 1),
        Job::new(Rw::RandWrite, 4096, 1),
        Job::new(Rw::Read, 128 << 10, 8),
        Job::new(Rw::Write, 128 << 10, 8),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(jobs: &[Job]) -> Vec<String> {
        jobs.iter().map(Job::to_string).collect()
    }

    #[test]
    fn the_product_of_the_axes_in_their_order() {
        let axes = Axes {
            rw: vec![Rw::Read, Rw::Write],
            bs: vec![512, 4096],
            iodepth: vec![1, 8],
            ..Axes::default()
        };
        assert_eq!(
            names(&axes.expand()),
            [
                "read-512-qd1",
                "read-512-qd8",
                "read-4k-qd1",
                "read-4k-qd8",
                "write-512-qd1",
                "write-512-qd8",
                "write-4k-qd1",
                "write-4k-qd8"
            ]
        );
    }

    #[test]
    fn what_comes_to_the_same_is_there_once_and_what_means_nothing_is_not() {
        let axes = Axes {
            rw: vec![Rw::RandRead, Rw::RandWrite, Rw::Trim],
            iodepth: vec![1, 32],
            direct: vec![true, false],
            verify: vec![false, true],
            ..Axes::default()
        };
        assert_eq!(
            names(&axes.expand()),
            [
                "randread-4k-qd1",
                "randread-4k-qd1-buffered",
                "randread-4k-qd32",
                "randwrite-4k-qd1",
                "randwrite-4k-qd1-verify",
                "randwrite-4k-qd1-buffered",
                "randwrite-4k-qd1-buffered-verify",
                "randwrite-4k-qd32",
                "randwrite-4k-qd32-verify",
                "trim-4k-qd1",
                "trim-4k-qd32"
            ]
        );
    }

    #[test]
    fn every_preset_has_jobs_whose_names_make_them_again() {
        for (name, _) in PRESETS {
            let jobs = preset(name).unwrap();
            assert!(!jobs.is_empty(), "{name}");
            for job in &jobs {
                assert_eq!(job.to_string().parse::<Job>().as_ref(), Ok(job));
            }
        }
        assert!(preset("fulll").unwrap_err().to_string().contains("default"));
    }

    #[test]
    fn the_full_preset_covers_every_axis() {
        let jobs = preset("full").unwrap();
        for rw in Rw::ALL {
            assert!(jobs.iter().any(|job| job.rw == rw), "{}", rw.name());
        }
        for bs in (9..=20).map(|power| 1u64 << power) {
            assert!(jobs.iter().any(|job| job.bs == bs), "{bs}");
        }
        for depth in powers(1, 128) {
            assert!(jobs.iter().any(|job| job.iodepth == depth), "{depth}");
        }
        assert!(jobs.iter().any(|job| job.numjobs > 1));
        assert!(jobs.iter().any(|job| !job.direct));
        assert!(jobs.iter().any(|job| job.verify));
        assert!(jobs.iter().any(|job| job.latency_us.is_some()));
        assert_eq!(jobs.len(), once(jobs.clone()).len(), "each once");
    }

    #[test]
    fn the_default_jobs_are_those_of_the_kept_runs() {
        assert_eq!(
            names(&preset("default").unwrap()),
            [
                "randread-4k-qd32",
                "randwrite-4k-qd32",
                "randread-4k-qd1",
                "randwrite-4k-qd1",
                "read-128k-qd8",
                "write-128k-qd8"
            ]
        );
    }
}
