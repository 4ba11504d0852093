// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options of a simulation, and the rules they must obey.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::parse::{self, Rate, Service};
use super::script::{Event, Step};
use crate::config::DeviceConfig;
use crate::error::Failure;
use crate::mq::{Limits, Rules};
use crate::units::{size, time};

/// What the jobs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Rw {
    /// One block after the other
    Read,
    /// The same, written
    Write,
    /// The same, each read or written
    #[value(name = "rw", alias = "readwrite")]
    ReadWrite,
    /// Anywhere
    RandRead,
    /// The same, written
    RandWrite,
    /// The same, each read or written
    RandRw,
    /// One block after the other, discarded and then written
    TrimWrite,
}

/// The load.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub struct Load {
    /// What the jobs do
    #[arg(long, value_name = "KIND", default_value = "randread", value_enum)]
    pub rw: Rw,
    /// Reads of rw and randrw, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    pub read_share: u8,
    /// Bytes of each request
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = size)]
    pub bs: u64,
    /// Requests that each job keeps in flight
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub iodepth: u16,
    /// Jobs; number j uses hardware queue j modulo --queues
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub jobs: u16,
    /// Requests that a job hands in together
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub batch: u16,
    /// Requests per second of each job, evenly or by chance [default: as soon as one has ended]
    ///
    /// Latencies count from the time a request was due, also if it had to wait for a tag.
    #[arg(long, value_name = "N|poisson:N")]
    pub rate: Option<Rate>,
    /// Requests of each job [default: 10000, or without end if --duration is given]
    #[arg(long, value_name = "N")]
    pub ops: Option<u64>,
    /// How long the jobs make requests
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub duration: Option<Duration>,
    /// What the random numbers follow from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Check everything that is read, and read everything again at the end
    #[arg(long)]
    pub verify: bool,
    /// FLUSHes among the requests
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    pub flush: u8,
    /// Writes of nothing but zeros, among the writes [default: none with --verify, else all]
    ///
    /// Memory that holds only zeros can be taken back when it is short: see --reclaim.
    #[arg(long, value_name = "PERCENT")]
    pub zeros: Option<u8>,
    /// DISCARDs among the requests
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    pub discard: u8,
}

/// What is modeled.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct Model {
    /// How long a READ or WRITE takes once accepted: always, exp:MEAN, or LEAST..MOST
    #[arg(long, value_name = "TIME", default_value = "0")]
    pub service_time: Service,
    /// How soon a queue is run again after RESOURCE, from the second time on; never: restarts alone
    #[arg(long, value_name = "TIME|never", default_value = "3ms",
        value_parser = parse::duration_or_never)]
    pub rerun_delay: Duration,
    /// The blk-mq whose rules are followed: this kernel's, or that of the first multi-queue kernels
    ///
    /// 3.x: a run pulls everything, what is refused goes back to the head of the list, and the
    /// queue is run again at once and for ever; no direct issue, no restart, no delay.
    #[arg(long, value_name = "7.2|3.x", default_value = "7.2", value_parser = parse::rules)]
    pub blk_mq: Rules,
    /// Time of a kblockd worker that each of its calls of queue_rq takes
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = time)]
    pub call_cost: Duration,
    /// Made-up CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u16,
    /// Work items of another queue that keep CPU 0's normal pool busy, and how long each, for ever
    #[arg(long, value_name = "COUNT:TIME", value_parser = parse::hogs)]
    pub hogs: Option<(u16, Duration)>,
}

/// A simulation. Its numbers may be anything until [`SimConfig::check`] has accepted them.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// The device.
    pub device: DeviceConfig,
    /// The load.
    pub load: Load,
    /// What is modeled.
    pub model: Model,
    /// What happens meanwhile.
    pub script: Vec<Step>,
    /// How often a sample of the time line is taken.
    pub sample: Option<Duration>,
    /// The run is given up when no request has ended for this long.
    pub patience: Duration,
}

/// More blocks than this are not kept track of.
const MAX_BLOCKS: u64 = 1 << 26;
const MIN_SAMPLE: Duration = Duration::from_micros(1);

impl SimConfig {
    /// Jobs that share a hardware queue, at most.
    pub(super) fn jobs_per_queue(&self) -> u16 {
        self.load.jobs.div_ceil(self.device.queues)
    }

    /// What requests are checked against.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            size: self.device.size,
            block_size: self.device.block_size,
            max_data: self.device.io_buffer,
            read_only: self.device.read_only,
        }
    }

    /// Does the script make requests of its own?
    pub(super) fn has_script_requests(&self) -> bool {
        let discards = |step: &Step| matches!(step.event, Event::Discard { .. });
        self.script.iter().any(discards)
    }

    /// Returns the first rule that is broken, with its options and values.
    pub fn check(&self) -> Result<(), Failure> {
        self.check_load()?;
        self.check_room()?;
        self.check_time()?;
        self.script
            .iter()
            .try_for_each(|step| step.check(self.device.size))
    }

    fn check_load(&self) -> Result<(), Failure> {
        let (device, load) = (&self.device, &self.load);
        let (bs, block_size) = (load.bs, device.block_size);
        // Otherwise every request would fail its check (H11).
        ensure(bs > 0 && bs.is_multiple_of(block_size.into()), || {
            format!("--bs {bs} is not a positive multiple of --block-size {block_size}")
        })?;
        ensure(bs <= device.io_buffer.into(), || {
            format!("--bs {bs} is larger than --io-buffer {}", device.io_buffer)
        })?;
        for (option, share) in [
            ("--read-share", load.read_share),
            ("--flush", load.flush),
            ("--discard", load.discard),
            ("--zeros", load.zeros.unwrap_or(0)),
        ] {
            ensure(share <= 100, || {
                format!("{option} {share} is more than 100 per cent")
            })?;
        }
        let (flush, discard) = (load.flush, load.discard);
        ensure(flush + discard <= 100, || {
            format!("--flush {flush} and --discard {discard} are more than 100 per cent together")
        })?;
        for (option, value, most) in [
            ("--jobs", load.jobs, 4096),
            ("--iodepth", load.iodepth, 4096),
            ("--batch", load.batch, 4096),
            ("--cpus", self.model.cpus, 64),
        ] {
            ensure((1..=most).contains(&value), || {
                format!("{option} {value} is outside 1..={most}")
            })?;
        }
        ensure(load.batch <= load.iodepth, || {
            let (batch, iodepth) = (load.batch, load.iodepth);
            format!("--batch {batch} is larger than --iodepth {iodepth}")
        })?;
        let writes = !matches!(load.rw, Rw::Read | Rw::RandRead) || discard > 0;
        ensure(!(device.read_only && writes), || {
            "--read-only excludes an --rw that writes, and --discard".to_owned()
        })
    }

    /// Are there tags and blocks for all jobs?
    fn check_room(&self) -> Result<(), Failure> {
        let (device, load) = (&self.device, &self.load);
        let (jobs, per_queue, iodepth) = (load.jobs, self.jobs_per_queue(), load.iodepth);
        // One software queue for each, and one for the script: their bits share a word.
        ensure(per_queue <= 63, || {
            let queues = device.queues;
            format!("--jobs {jobs} of --queues {queues}: more than 63 jobs to a queue")
        })?;
        // The script's discards have the last tag of hardware queue 0.
        let spare = u32::from(self.has_script_requests());
        let tags = u32::from(per_queue) * u32::from(iodepth) + spare;
        ensure(tags <= device.depth.into(), || {
            let script = match spare {
                0 => "",
                _ => " and a script that discards",
            };
            let depth = device.depth;
            format!(
                "--iodepth {iodepth} of {per_queue} jobs to a queue{script} needs {tags} tags, \
                 --depth {depth} has fewer"
            )
        })?;
        let (size, bs) = (device.size, load.bs);
        let blocks = size / bs;
        ensure(blocks <= MAX_BLOCKS, || {
            format!(
                "--size {size} has {blocks} blocks of --bs {bs}, more than {MAX_BLOCKS}: choose a \
                 smaller disk or larger blocks"
            )
        })?;
        ensure(blocks / u64::from(jobs) >= iodepth.into(), || {
            format!(
                "--size {size} is too small: each of {jobs} jobs needs room for --iodepth {iodepth} \
                 blocks of {bs} bytes"
            )
        })
    }

    /// Does time pass, and the run end?
    fn check_time(&self) -> Result<(), Failure> {
        let (load, model) = (&self.load, &self.model);
        let ensure = |holds, otherwise: &str| ensure(holds, || otherwise.to_owned());
        ensure(load.ops != Some(0), "--ops 0: there is nothing to do")?;
        ensure(
            load.duration != Some(Duration::ZERO),
            "--duration 0: there is nothing to do",
        )?;
        ensure(
            self.sample.is_none_or(|sample| sample >= MIN_SAMPLE),
            "--sample is shorter than 1us",
        )?;
        ensure(
            !self.patience.is_zero(),
            "--patience 0: nothing could ever end in time",
        )?;
        let takes_no_time =
            model.service_time == Service::Fixed(Duration::ZERO) && load.rate.is_none();
        let ends_by_time = load.duration.is_some() && load.ops.is_none();
        ensure(
            !(takes_no_time && ends_by_time),
            "--duration is never over if requests take no time: give --service-time, --rate or \
             --ops",
        )?;
        let at_once = model.blk_mq == Rules::Linux3 || model.rerun_delay.is_zero();
        ensure(
            !at_once || !model.call_cost.is_zero(),
            "--blk-mq 3.x and --rerun-delay 0 run a refused queue again at once: give --call-cost, so \
             that time passes",
        )
    }
}

/// Status 2 with the line that `otherwise` makes, unless the rule holds.
fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    match holds {
        true => Ok(()),
        false => Err(Failure::usage(otherwise())),
    }
}
