// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of jobs: the product of the axes' values, or a preset.
//!
//! A preset is written as the command lines whose jobs it has, so that there is one way to say what
//! is measured.

use super::{bad, iodepth, latency, numjobs, size, BadMatrix, Job, Rw};
use clap::{Args, Parser};
use ublk_ramdisk::units::on_or_off;

/// The values of each axis, as options. An axis without values has its usual ones.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Axes {
    /// Patterns; usually random reads and random writes.
    #[arg(long, value_delimiter = ',')]
    pub rw: Vec<Rw>,
    /// Block sizes in bytes; usually 4 KiB.
    #[arg(long, value_delimiter = ',', value_parser = size)]
    pub bs: Vec<u64>,
    /// Requests in flight; usually 32.
    #[arg(long, value_delimiter = ',', value_parser = iodepth)]
    pub iodepth: Vec<u32>,
    /// Jobs side by side; usually one.
    #[arg(long, value_delimiter = ',', value_parser = numjobs)]
    pub numjobs: Vec<u32>,
    /// Past the page cache or not; usually past it.
    #[arg(long, value_delimiter = ',', value_parser = on_or_off)]
    pub direct: Vec<bool>,
    /// With checksums or not; usually without.
    #[arg(long, value_delimiter = ',', value_parser = on_or_off)]
    pub verify: Vec<bool>,
    /// Latency targets in microseconds; usually none.
    #[arg(long = "latency-target", value_delimiter = ',', value_parser = target)]
    pub latency_us: Vec<Option<u32>>,
}

/// Reads a latency target, or `off`.
fn target(word: &str) -> Result<Option<u32>, BadMatrix> {
    match word {
        "off" => Ok(None),
        word => latency(word).map(Some),
    }
}

impl Axes {
    /// Every combination that means something, each once, the patterns outermost.
    /// Combinations without a meaning are left out without a word: a product is bound to have some.
    pub fn expand(&self) -> Vec<Job> {
        // Every field of this one is replaced; an axis that is not given has one or two usual values.
        let jobs = vec![Job::new(Rw::RandRead, 4096, 32)];
        let usual = [Rw::RandRead, Rw::RandWrite];
        let jobs = vary(jobs, &self.rw, &usual, |job, rw| job.rw = rw);
        let jobs = vary(jobs, &self.bs, &[4096], |job, bs| job.bs = bs);
        let jobs = vary(jobs, &self.iodepth, &[32], |job, n| job.iodepth = n);
        let jobs = vary(jobs, &self.numjobs, &[1], |job, n| job.numjobs = n);
        let jobs = vary(jobs, &self.direct, &[true], |job, on| job.direct = on);
        let jobs = vary(jobs, &self.verify, &[false], |job, on| job.verify = on);
        let jobs = vary(jobs, &self.latency_us, &[None], |job, us| {
            job.latency_us = us;
        });
        // Buffered jobs of all depths have become the same job.
        once(jobs.iter().filter_map(possible).collect())
    }
}

/// Makes of each job one for each value of an axis.
/// The earlier axis stays the outer loop.
fn vary<T: Copy>(jobs: Vec<Job>, values: &[T], usual: &[T], set: fn(&mut Job, T)) -> Vec<Job> {
    let values = if values.is_empty() { usual } else { values };
    let mut all = Vec::new();
    for job in jobs {
        for &value in values {
            let mut job = job.clone();
            set(&mut job, value);
            all.push(job);
        }
    }
    all
}

/// The job as it can be run, or none. Through the page cache a job waits for each request.
/// Only writes can be verified. A depth is sought past the page cache, for reads and
/// writes. A discard is never buffered.
pub fn possible(job: &Job) -> Option<Job> {
    let mut job = job.clone();
    // psync has one request in flight, whatever the depth says.
    if !job.direct {
        job.iodepth = 1;
    }
    let sought = job.latency_us.is_some();
    let wrong = job.verify && (!job.rw.verifiable() || sought)
        || !job.direct && (job.rw.trims() || sought)
        || sought && job.rw.trims();
    (!wrong).then_some(job)
}

/// Leaves out what was there before.
fn once(jobs: Vec<Job>) -> Vec<Job> {
    let mut kept: Vec<Job> = Vec::new();
    for job in jobs {
        if !kept.contains(&job) {
            kept.push(job);
        }
    }
    kept
}

/// The presets: name, and command lines whose jobs they have. `full` has those of all others, too.
/// An axis that a line leaves out has its usual values (see [`Axes`]).
pub const PRESETS: [(&str, &[&str]); 8] = [
    // The jobs that have targets.
    (
        "default",
        &[
            "--iodepth=32",
            "--iodepth=1",
            "--rw=read,write --bs=128k --iodepth=8",
        ],
    ),
    (
        // Every power of two that a request can have, random and sequential.
        "sizes",
        &[
            "--rw=randread,randwrite,randrw --bs=512,1k,2k,4k,8k,16k,32k,64k,128k,256k,512k,1m",
            "--rw=read,write,rw --iodepth=8 --bs=512,1k,2k,4k,8k,16k,32k,64k,128k,256k,512k,1m",
        ],
    ),
    (
        // From one request to as many as a queue has tags.
        "depths",
        &["--rw=randread,randwrite,randrw --iodepth=1,2,4,8,16,32,64,128"],
    ),
    // Several threads on one hardware queue: what its locks and its single server thread cost.
    ("jobs", &["--numjobs=1,2,4,8 --iodepth=1,16"]),
    (
        // The page cache merges and reads ahead, so the disk sees other requests than fio made.
        "buffered",
        &["--rw=read,write,randread,randwrite --bs=4k,128k --direct=off"],
    ),
    (
        // Blocks smaller than a page and larger than a request: what is split must come back whole.
        "verify",
        &["--rw=write,randwrite,randrw --bs=512,4k,64k,1m --iodepth=16 --verify=on"],
    ),
    // fio lowers the depth until the target holds.
    ("latency", &["--iodepth=128 --latency-target=200us,1ms,5ms"]),
    (
        // Discards stand here alone: brd and some real disks take none.
        "full",
        &["--rw=trim,randtrim,trimwrite,randtrimwrite,trimmix --bs=4k,64k --iodepth=16"],
    ),
];

/// A line of a preset.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Line {
    #[command(flatten)]
    axes: Axes,
}

/// The jobs of a preset. Fails with the names of all presets if there is none of that name.
pub fn preset(name: &str) -> Result<Vec<Job>, BadMatrix> {
    let names = PRESETS.map(|preset| preset.0);
    if !names.contains(&name) {
        return bad(format!("preset '{name}': none of {}", names.join(" ")));
    }
    let wanted = PRESETS.iter().filter(|p| p.0 == name || name == "full");
    let lines = wanted.flat_map(|preset| preset.1);
    let jobs = lines.flat_map(|line| {
        let line = Line::try_parse_from(line.split(' '));
        line.expect("a preset is a command line").axes.expand()
    });
    Ok(once(jobs.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(jobs: &[Job]) -> String {
        let names: Vec<String> = jobs.iter().map(Job::to_string).collect();
        names.join(" ")
    }

    #[test]
    fn the_product_has_the_order_of_the_axes_and_each_job_that_means_something_once() {
        for (line, expected) in [
            (
                "--rw=read,write --bs=512,4096 --iodepth=1,8",
                "read-512-qd1 read-512-qd8 read-4k-qd1 read-4k-qd8 \
                 write-512-qd1 write-512-qd8 write-4k-qd1 write-4k-qd8",
            ),
            (
                "--rw=randread,randwrite,trim --iodepth=1,32 --direct=on,off --verify=off,on",
                "randread-4k-qd1 randread-4k-qd1-buffered randread-4k-qd32 randwrite-4k-qd1 \
                 randwrite-4k-qd1-verify randwrite-4k-qd1-buffered randwrite-4k-qd1-buffered-verify \
                 randwrite-4k-qd32 randwrite-4k-qd32-verify trim-4k-qd1 trim-4k-qd32",
            ),
        ] {
            let line = Line::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(names(&line.axes.expand()), expected);
        }
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
        for rw in Rw::all() {
            assert!(jobs.iter().any(|job| job.rw == rw), "{}", rw.name());
        }
        for bs in (9..=20).map(|power| 1u64 << power) {
            assert!(jobs.iter().any(|job| job.bs == bs), "{bs}");
        }
        for depth in (0..=7).map(|power| 1 << power) {
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
            "randread-4k-qd32 randwrite-4k-qd32 randread-4k-qd1 randwrite-4k-qd1 \
             read-128k-qd8 write-128k-qd8"
        );
    }
}
