// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulation as asked for, and what is wrong with it, if anything.

use std::time::Duration;

use workqueue::Flags;

use super::script::{Event, Step};
use super::values::{Rate, Service};
use crate::config::DeviceConfig;
use crate::error::Failure;
use crate::mq::Rules;

/// What the jobs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rw {
    /// One block after the other.
    Read,
    /// The same, written.
    Write,
    /// The same, each read or written.
    ReadWrite,
    /// Anywhere.
    RandRead,
    /// The same, written.
    RandWrite,
    /// The same, each read or written.
    RandRw,
    /// One block after the other, discarded and then written.
    TrimWrite,
}

/// A simulation whose every number is to be checked by [`SimConfig::check`].
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// The device.
    pub device: DeviceConfig,
    /// What the jobs do.
    pub rw: Rw,
    /// READs among the requests that may be either, in per cent.
    pub read_share: u8,
    /// Bytes of each request.
    pub bs: u64,
    /// Requests that each job keeps in flight at most.
    pub iodepth: u16,
    /// How many jobs; each has a software queue of its own.
    pub jobs: u16,
    /// Requests that a job hands in together.
    pub batch: u16,
    /// When requests arrive; none: as soon as others have ended.
    pub rate: Option<Rate>,
    /// Requests of each job.
    pub ops: Option<u64>,
    /// How long the jobs make requests.
    pub duration: Option<Duration>,
    /// What the random numbers follow from.
    pub seed: u64,
    /// Is what is read checked?
    pub verify: bool,
    /// FLUSHes among the requests, in per cent.
    pub flush: u8,
    /// DISCARDs among the requests, in per cent.
    pub discard: u8,
    /// Writes of nothing but zeros, in per cent; none: no write says what it writes.
    pub zeros: Option<u8>,
    /// How long a request takes once accepted.
    pub service: Service,
    /// How soon a queue is run again after RESOURCE.
    pub rerun_delay: Duration,
    /// By whose rules the queues are run.
    pub rules: Rules,
    /// What a call of queue_rq costs a worker.
    pub call_cost: Duration,
    /// kblockd's flags.
    pub kblockd_flags: Flags,
    /// Made-up CPUs.
    pub cpus: u16,
    /// Work items that keep the normal pool of CPU 0 busy, and for how long each.
    pub hogs: Option<(u16, Duration)>,
    /// What happens meanwhile.
    pub script: Vec<Step>,
    /// How often the figures of the time line are taken.
    pub sample: Option<Duration>,
    /// How long nothing may end before the run is given up.
    pub patience: Duration,
}

/// More blocks than this are not kept track of.
const MAX_BLOCKS: u64 = 1 << 26;

impl SimConfig {
    /// Jobs that share a hardware queue, at most.
    pub(super) fn jobs_per_queue(&self) -> u16 {
        self.jobs.div_ceil(self.device.queues)
    }

    /// Does a script make requests of its own?
    pub(super) fn has_script_requests(&self) -> bool {
        let discards = |step: &Step| matches!(step.event, Event::Discard { .. });
        self.script.iter().any(discards)
    }

    /// Can it be run? The first rule broken names its options and values.
    pub fn check(&self) -> Result<(), Failure> {
        let device = &self.device;
        let usage = |text: String| Err(Failure::usage(text));
        let block = u64::from(device.block_size);
        if self.bs == 0 || !self.bs.is_multiple_of(block) {
            return usage(format!(
                "--bs {} is not a positive multiple of --block-size {block}",
                self.bs
            ));
        }
        if self.bs > u64::from(device.io_buffer) {
            return usage(format!(
                "--bs {} is larger than --io-buffer {}",
                self.bs, device.io_buffer
            ));
        }
        for (option, share) in [
            ("--read-share", self.read_share),
            ("--flush", self.flush),
            ("--discard", self.discard),
            ("--zeros", self.zeros.unwrap_or(0)),
        ] {
            if share > 100 {
                return usage(format!("{option} {share} is more than 100 per cent"));
            }
        }
        if self.flush + self.discard > 100 {
            return usage(format!(
                "--flush {} and --discard {} are more than 100 per cent together",
                self.flush, self.discard
            ));
        }
        for (option, value, most) in [
            ("--jobs", self.jobs, 4096),
            ("--iodepth", self.iodepth, 4096),
            ("--batch", self.batch, 4096),
            ("--cpus", self.cpus, 64),
        ] {
            if !(1..=most).contains(&value) {
                return usage(format!("{option} {value} is outside 1..={most}"));
            }
        }
        if self.jobs_per_queue() > 63 {
            return usage(format!(
                "--jobs {} of --queues {}: more than 63 jobs to a queue",
                self.jobs, device.queues
            ));
        }
        let spare = u32::from(self.has_script_requests());
        let tags = u32::from(self.jobs_per_queue()) * u32::from(self.iodepth) + spare;
        if tags > u32::from(device.depth) {
            return usage(format!(
                "--iodepth {} of {} jobs to a queue{} needs {tags} tags, --depth {} has fewer",
                self.iodepth,
                self.jobs_per_queue(),
                if spare > 0 {
                    " and a script that discards"
                } else {
                    ""
                },
                device.depth
            ));
        }
        if self.batch > self.iodepth {
            return usage(format!(
                "--batch {} is larger than --iodepth {}",
                self.batch, self.iodepth
            ));
        }
        let blocks = device.size / self.bs;
        if blocks > MAX_BLOCKS {
            return usage(format!(
                "--size {} has {blocks} blocks of --bs {}, more than {MAX_BLOCKS}: choose a smaller \
                 disk or larger blocks",
                device.size, self.bs
            ));
        }
        if blocks / u64::from(self.jobs) < u64::from(self.iodepth) {
            return usage(format!(
                "--size {} is too small: each of {} jobs needs room for --iodepth {} blocks of {} \
                 bytes",
                device.size, self.jobs, self.iodepth, self.bs
            ));
        }
        let writes = !matches!(self.rw, Rw::Read | Rw::RandRead) || self.discard > 0;
        if device.read_only && writes {
            return usage("--read-only excludes an --rw that writes, and --discard".to_owned());
        }
        if self.ops == Some(0) {
            return usage("--ops 0: there is nothing to do".to_owned());
        }
        if self.duration.is_some_and(|duration| duration.is_zero()) {
            return usage("--duration 0: there is nothing to do".to_owned());
        }
        if self
            .sample
            .is_some_and(|sample| sample < Duration::from_micros(1))
        {
            return usage("--sample is shorter than 1us".to_owned());
        }
        if self.patience.is_zero() {
            return usage("--patience 0: nothing could ever end in time".to_owned());
        }
        let takes_no_time = self.service == Service::Fixed(Duration::ZERO) && self.rate.is_none();
        let ends_by_time = self.duration.is_some() && self.ops.is_none();
        if takes_no_time && ends_by_time {
            return usage(
                "--duration is never over if requests take no time: give --service-time, --rate or \
                 --ops"
                    .to_owned(),
            );
        }
        if self.rules == Rules::Linux3 && self.call_cost.is_zero() {
            return usage(
                "--blk-mq 3.x runs a refused queue again at once: give --call-cost, so that time \
                 passes"
                    .to_owned(),
            );
        }
        for step in &self.script {
            step.check(device.size)?;
        }
        Ok(())
    }
}
