// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sim`: the options of the simulation. Those of its load and model stand in `sim/config.rs`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ublk_ramdisk::config::space::SpaceRequest;
use ublk_ramdisk::config::{Backing, DeviceConfig, DeviceRequest};
use ublk_ramdisk::sim::config::{Load, Model, SimConfig};
use ublk_ramdisk::sim::parse::duration;
use ublk_ramdisk::sim::script::Step;
use ublk_ramdisk::trace::RECORDS;

use super::space::SpaceArgs;
use super::PressureArgs;
use crate::parse::{backing, on_or_off, records, size, whole};

pub const SIM_LONG: &str = "\
Run the disk's dispatch and memory in this process, under a load made here: no root, no ublk.

Requests take the way they take behind /dev/ublkbN, from the software queue over the driver, BUSY,
the dispatch list and kblockd to the end; only the kernel's side is missing. Time is virtual, so
nothing depends on the machine: the same command line prints the same figures, to the byte.";

pub const SIM_EXAMPLES: &str = "\
Times: a number with ns, us, ms or s, such as 3ms. Sizes as for `add`.

Events for --at TIME:EVENT
  busy on|dev|off               the driver refuses everything: RESOURCE or DEV_RESOURCE
  fail-worker-creation on|off   kblockd can create no worker: its rescuer has to help
  stop-load, start-load         the jobs pause
  rate N                        the jobs' rate changes
  discard OFFSET,LENGTH         in bytes
  set slots=N|off, mbps=N|off   the pressure changes, as by `ublk-ramdisk set`
  set inject KIND=VALUE         the same for faults
  set memory-limit=SIZE|off, no-space-timeout=SECS, reclaim=off|zero   and for memory
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
    load: Load,
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    pressure: PressureArgs,
    #[command(
        flatten,
        next_help_heading = "Memory: all of it is taken before the beginning, \
        unless one of these or --psi is given"
    )]
    space: SpaceArgs,
    #[command(flatten)]
    pub output: SimOutput,
}

/// The script, and what is printed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Script and output")]
pub struct SimOutput {
    /// Something that happens meanwhile: TIME:EVENT, see below; may be given several times
    #[arg(long = "at", value_name = "TIME:EVENT")]
    script: Vec<Step>,
    /// Take a sample of the time line each time this has passed
    #[arg(long, value_name = "TIME", value_parser = duration)]
    sample: Option<Duration>,
    /// How long nothing may end before the run is given up
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration)]
    patience: Duration,
    /// Write what happens to each request into this file, for Perfetto (https://ui.perfetto.dev)
    ///
    /// The file is the same in each run, too, to the byte.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Write the same as lines in the columns of blkparse
    #[arg(long, value_name = "FILE")]
    pub trace_text: Option<PathBuf>,
    /// Events that each thread keeps for --trace, of 48 bytes, from 64 to 1048576
    #[arg(long, value_name = "N", default_value_t = RECORDS as u32, value_parser = records)]
    pub records: u32,
    /// Print everything as one object
    #[arg(long)]
    pub json: bool,
}

/// The device: the options of `add` that mean something without a kernel.
#[derive(Debug, Args)]
#[command(next_help_heading = "Device")]
struct SimDevice {
    /// Size of the disk
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size)]
    size: u64,
    /// Hardware queues
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole)]
    queues: u64,
    /// Tags of each queue
    #[arg(long, value_name = "N", default_value = "128", value_parser = whole)]
    depth: u64,
    /// Logical block size: 512, 1024, 2048 or 4096 bytes
    #[arg(long, value_name = "SIZE", default_value = "512", value_parser = size)]
    block_size: u64,
    /// Largest single request
    #[arg(long, value_name = "SIZE", default_value = "512K", value_parser = size)]
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
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = whole)]
    timeout: u64,
}

impl SimArgs {
    /// The device, for `config.rs` to check.
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

    /// Takes all memory before the beginning, unless an option is about memory that may be short.
    fn space(&self) -> SpaceRequest {
        let asked = self.space.request();
        let says_nothing = asked == SpaceRequest::default();
        SpaceRequest {
            preallocate: asked.preallocate
                || (says_nothing && self.pressure.settings().psi.is_none()),
            ..asked
        }
    }

    /// The simulation on that device, for `sim/config.rs` to check.
    pub fn config(&self, device: DeviceConfig) -> SimConfig {
        SimConfig {
            device,
            load: self.load.clone(),
            model: self.model.clone(),
            script: self.output.script.clone(),
            sample: self.output.sample,
            patience: self.output.patience,
        }
    }
}
