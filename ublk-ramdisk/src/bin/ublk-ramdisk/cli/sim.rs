// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sim`: the words for the front end without a kernel.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ublk_ramdisk::config::{Backing, DeviceConfig, DeviceRequest};
use ublk_ramdisk::mq::{Kblockd, Rules};
use ublk_ramdisk::sim::config::{Rw, SimConfig};
use ublk_ramdisk::sim::script::Step;
use ublk_ramdisk::sim::values::{self, Rate, Service};
use workqueue::Flags;

use super::space::SpaceArgs;
use super::PressureArgs;
use crate::parse::{backing, on_or_off, records, size, whole};
use ublk_ramdisk::config::space::SpaceRequest;
use ublk_ramdisk::trace::RECORDS;

pub const SIM_LONG: &str = "\
Run the disk's dispatch and memory in this process, under a load made here: no root, no ublk.

Requests take the way they take behind /dev/ublkbN, from the software queue over the driver, BUSY,
the dispatch list and kblockd to the end; only the kernel's side is missing. Time is virtual, so
nothing depends on the machine: the same command line prints the same figures, to the byte.";

pub const SIM_EXAMPLES: &str = "\
Times: a number with ns, us, ms or s, such as 3ms. Sizes as for `add`.

Events for --at TIME:EVENT
  busy on|dev|off               the driver answers RESOURCE or DEV_RESOURCE to everything
  fail-worker-creation on|off   kblockd can create no worker: its rescuer has to help
  stop-load, start-load         the jobs pause
  rate N                        the jobs' rate changes
  discard OFFSET,LENGTH         in bytes
  set slots=N|off, mbps=N|off   the pressure changes, as by `ublk-ramdisk set`
  set inject KIND=VALUE         the same for faults
  set memory-limit=SIZE|off, no-space-timeout=SECS, reclaim=KIND, compress-idle=TIME   and for memory
  psi on|off                    memory is short, as far as --psi says that this matters
  corrupt OFFSET                a bit of the store flips; --verify finds it

Examples:
  ublk-ramdisk sim --rw randrw --iodepth 32 --service-time 100us --verify
  ublk-ramdisk sim --ops 1 --at '0:busy on' --at '1s:busy off' --sample 100ms
  ublk-ramdisk sim --rw randwrite --iodepth 8 --ops 50 --service-time 100us --slots 2 \\
      --at '1ms:busy on' --at '5ms:busy off' --trace trace.json
  ublk-ramdisk sim --queues 64 --jobs 64 --duration 1s --rate 100 --at '0:fail-worker-creation on' \\
      --at '100ms:busy on' --at '200ms:busy off' --json
  ublk-ramdisk sim --rw randwrite --memory-limit 32M --at '1s:set memory-limit=off' --sample 100ms

Exit status 1 also if --verify finds a wrong block, if a request never ends, or if the counters do
not add up.";

/// `sim`
#[derive(Debug, Args)]
pub struct SimArgs {
    #[command(flatten)]
    device: SimDevice,
    #[command(flatten)]
    load: SimLoad,
    #[command(flatten)]
    model: SimModel,
    #[command(flatten)]
    pressure: PressureArgs,
    #[command(
        flatten,
        next_help_heading = "Memory: all of it is taken before the beginning, \
        unless one of these or --psi is given"
    )]
    space: SpaceArgs,
    /// Something that happens meanwhile: TIME:EVENT, see below; may be given several times
    #[arg(
        long = "at",
        value_name = "TIME:EVENT",
        help_heading = "Script and output"
    )]
    script: Vec<Step>,
    /// Take a point of the time line so often
    #[arg(long, value_name = "TIME", value_parser = values::duration,
        help_heading = "Script and output")]
    sample: Option<Duration>,
    /// How long nothing may end before the run is given up
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = values::duration,
        help_heading = "Script and output")]
    patience: Duration,
    /// Write what happens to each request into this file, for Perfetto (https://ui.perfetto.dev)
    ///
    /// The file is the same in each run, too, to the byte.
    #[arg(long, value_name = "FILE", help_heading = "Script and output")]
    pub trace: Option<PathBuf>,
    /// Write the same as lines in the columns of blkparse
    #[arg(long, value_name = "FILE", help_heading = "Script and output")]
    pub trace_text: Option<PathBuf>,
    /// Events that each thread keeps for --trace, of 48 bytes, from 64 to 1048576
    #[arg(long, value_name = "N", default_value_t = RECORDS as u32, value_parser = records,
        allow_hyphen_values = true, help_heading = "Script and output")]
    pub records: u32,
    /// Print everything as one object
    #[arg(long, help_heading = "Script and output")]
    pub json: bool,
}

/// The device: the options of `add` that mean something without a kernel.
#[derive(Debug, Args)]
#[command(next_help_heading = "Device")]
struct SimDevice {
    /// Size of the disk
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size,
        allow_hyphen_values = true)]
    size: u64,
    /// Hardware queues
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole,
        allow_hyphen_values = true)]
    queues: u64,
    /// Tags of each queue
    #[arg(long, value_name = "N", default_value = "128", value_parser = whole,
        allow_hyphen_values = true)]
    depth: u64,
    /// Logical block size: 512, 1024, 2048 or 4096 bytes
    #[arg(long, value_name = "SIZE", default_value = "512", value_parser = size,
        allow_hyphen_values = true)]
    block_size: u64,
    /// Largest single request
    #[arg(long, value_name = "SIZE", default_value = "512K", value_parser = size,
        allow_hyphen_values = true)]
    io_buffer: u64,
    /// Refuse every write
    #[arg(long)]
    read_only: bool,
    /// Where the contents live: memfd, tmpfs:PATH or hugetlb
    #[arg(long, value_name = "KIND", default_value = "memfd", value_parser = backing)]
    backing: Backing,
    /// Transparent huge pages [default: on]
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    thp: Option<bool>,
    /// Seconds until a request that the driver keeps counts as late, 1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = whole,
        allow_hyphen_values = true)]
    timeout: u64,
}

/// The load.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
struct SimLoad {
    /// What the jobs do
    #[arg(long, value_name = "KIND", default_value = "randread", value_enum)]
    rw: RwArg,
    /// Reads of rw and randrw, in per cent
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 50,
        allow_hyphen_values = true
    )]
    read_share: u8,
    /// Bytes of each request
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = size,
        allow_hyphen_values = true)]
    bs: u64,
    /// Requests that each job keeps in flight
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_hyphen_values = true
    )]
    iodepth: u16,
    /// Jobs; number j uses hardware queue j modulo --queues
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_hyphen_values = true
    )]
    jobs: u16,
    /// Requests that a job hands in together
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_hyphen_values = true
    )]
    batch: u16,
    /// Requests per second of each job, evenly or by chance [default: as soon as one has ended]
    ///
    /// Latencies count from the time a request was due, also if it had to wait for a tag.
    #[arg(long, value_name = "N|poisson:N")]
    rate: Option<Rate>,
    /// Requests of each job [default: 10000, or without end if --duration is given]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    ops: Option<u64>,
    /// How long the jobs make requests
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    duration: Option<Duration>,
    /// What the random numbers follow from
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_hyphen_values = true
    )]
    seed: u64,
    /// Check everything that is read, and read everything again at the end
    #[arg(long)]
    verify: bool,
    /// FLUSHes among the requests
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 0,
        allow_hyphen_values = true
    )]
    flush: u8,
    /// Writes of nothing but zeros, among the writes [default: none with --verify, else all]
    ///
    /// Memory that holds only zeros can be taken back when it is short: see --reclaim.
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true)]
    zeros: Option<u8>,
    /// DISCARDs among the requests
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 0,
        allow_hyphen_values = true
    )]
    discard: u8,
}

/// What is modelled.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
struct SimModel {
    /// How long a READ or WRITE takes once accepted: always, exp:MEAN, or LEAST..MOST
    #[arg(long, value_name = "TIME", default_value = "0")]
    service_time: Service,
    /// How soon a queue is run again after RESOURCE, from the second time on; never: restarts alone
    #[arg(long, value_name = "TIME|never", default_value = "3ms",
        value_parser = values::duration_or_never)]
    rerun_delay: Duration,
    /// By whose rules queues are run: this kernel's, or those of the first multi-queue kernels
    ///
    /// 3.x: a run pulls everything, what is refused goes back to the head of the list, and the
    /// queue is run again at once and for ever; no direct issue, no restart, no delay.
    #[arg(long = "blk-mq", value_name = "7.2|3.x", default_value = "7.2", value_parser = rules)]
    rules: Rules,
    /// Time of a kblockd worker that each of its calls of queue_rq takes
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = values::duration)]
    call_cost: Duration,
    /// kblockd's flags: mem_reclaim, highpri, percpu, unbound, cpu_intensive, or none
    /// [default: mem_reclaim,highpri,percpu]
    #[arg(long, value_name = "FLAGS", value_parser = values::flags)]
    kblockd_flags: Option<Flags>,
    /// Made-up CPUs
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_hyphen_values = true
    )]
    cpus: u16,
    /// Work items of another queue that keep CPU 0's normal pool busy, and how long each, for ever
    #[arg(long, value_name = "COUNT:TIME", value_parser = values::hogs)]
    hogs: Option<(u16, Duration)>,
}

fn rules(text: &str) -> Result<Rules, String> {
    match text {
        "7.2" => Ok(Rules::Linux7),
        "3.x" => Ok(Rules::Linux3),
        _ => Err("expected 7.2 or 3.x".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RwArg {
    /// One block after the other
    Read,
    /// The same, written
    Write,
    /// The same, each read or written
    #[value(alias = "readwrite")]
    Rw,
    /// Anywhere
    Randread,
    /// The same, written
    Randwrite,
    /// The same, each read or written
    Randrw,
    /// One block after the other, discarded and then written
    Trimwrite,
}

impl SimArgs {
    /// The device that was asked for, for `config.rs` to judge.
    pub fn request(&self) -> DeviceRequest {
        let device = &self.device;
        DeviceRequest {
            size: Some(device.size),
            queues: device.queues,
            depth: device.depth,
            block_size: device.block_size,
            physical_block_size: device.block_size.max(4096),
            io_buffer: device.io_buffer,
            read_only: device.read_only,
            backing: device.backing.clone(),
            huge_pages: device.thp,
            pressure: self.pressure.settings(),
            timeout: device.timeout,
            space: self.space(),
            ..DeviceRequest::default()
        }
    }

    /// A load is about requests, and about memory only where that can be short.
    fn space(&self) -> SpaceRequest {
        let asked = self.space.request();
        let says_nothing = asked == SpaceRequest::default();
        SpaceRequest {
            preallocate: asked.preallocate
                || (says_nothing && self.pressure.settings().psi.is_none()),
            ..asked
        }
    }

    /// The simulation on that device, for `sim/config.rs` to judge.
    pub fn config(&self, device: DeviceConfig) -> SimConfig {
        let (load, model) = (&self.load, &self.model);
        SimConfig {
            device,
            rw: match load.rw {
                RwArg::Read => Rw::Read,
                RwArg::Write => Rw::Write,
                RwArg::Rw => Rw::ReadWrite,
                RwArg::Randread => Rw::RandRead,
                RwArg::Randwrite => Rw::RandWrite,
                RwArg::Randrw => Rw::RandRw,
                RwArg::Trimwrite => Rw::TrimWrite,
            },
            read_share: load.read_share,
            bs: load.bs,
            iodepth: load.iodepth,
            jobs: load.jobs,
            batch: load.batch,
            rate: load.rate,
            ops: load.ops,
            duration: load.duration,
            seed: load.seed,
            verify: load.verify,
            flush: load.flush,
            discard: load.discard,
            zeros: load.zeros,
            service: model.service_time,
            rerun_delay: model.rerun_delay,
            rules: model.rules,
            call_cost: model.call_cost,
            kblockd_flags: model.kblockd_flags.unwrap_or(Kblockd::FLAGS),
            cpus: model.cpus,
            hogs: model.hogs,
            script: self.script.clone(),
            sample: self.sample,
            patience: self.patience,
        }
    }
}
