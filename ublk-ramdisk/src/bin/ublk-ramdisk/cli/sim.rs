// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sim`: the options of the simulation. Those of its load and model stand in `sim/config.rs`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, Args};
use ublk_ramdisk::config::space::NewMemoryOptions;
use ublk_ramdisk::config::{Backing, DeviceConfig, Surroundings};
use ublk_ramdisk::error::Failure;
use ublk_ramdisk::pressure::PressureOptions;
use ublk_ramdisk::sim::config::{Load, Model, SimConfig};
use ublk_ramdisk::sim::script::Step;
use ublk_ramdisk::trace::RECORDS;
use ublk_ramdisk::units::{number, time};

pub const SIM_LONG: &str = "\
Run the disk's dispatch and memory in this process, under a load made here: no root, no ublk.

Requests take the way they take behind /dev/ublkbN, from the software queue over the driver, BUSY,
the dispatch list and kblockd to the end; only the kernel's side is missing. Time is virtual, so
nothing depends on the machine: the same command line prints the same figures, to the byte.";

pub const SIM_EXAMPLES: &str = "\
Events for --at TIME:EVENT
  busy on|dev|off               the driver refuses everything: RESOURCE or DEV_RESOURCE
  fail-worker-creation on|off   kblockd can create no worker: its rescuer has to help
  stop-load, start-load         the jobs pause
  rate N                        the jobs' rate changes
  discard OFFSET,LENGTH         in bytes
  set slots=N|off, mbps=N|off   the pressure changes, as by `ublk-ramdisk set`
  set inject KIND=VALUE         the same for faults
  rules add RULE, del NAME, clear, release NAME   the rules change, as by `ublk-ramdisk rules`
  set memory-limit=SIZE|off, no-space-timeout=TIME|off, reclaim=off|zero   and for memory
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
    #[command(flatten, next_help_heading = "Device")]
    pub device: DeviceConfig,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    pressure: PressureOptions,
    #[command(
        flatten,
        next_help_heading = "Memory: all of it is taken before the beginning, \
        unless one of these or --psi is given"
    )]
    memory: NewMemoryOptions,
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
    #[arg(long, value_name = "TIME", value_parser = time)]
    sample: Option<Duration>,
    /// How long nothing may end before the run is given up
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = time)]
    patience: Duration,
    /// Write what happens to each request into this file, as a page that opens in any browser
    ///
    /// The file is the same in each run, too, to the byte.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the same for Perfetto (https://ui.perfetto.dev)
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Write the same as lines in the columns of blkparse
    #[arg(long, value_name = "FILE")]
    pub trace_text: Option<PathBuf>,
    /// Events that each thread keeps for these, of 48 bytes, from 64 to 1048576
    #[arg(long, value_name = "N", default_value_t = RECORDS as u32, value_parser = number::<u32>(64, 1 << 20))]
    pub records: u32,
    /// Print everything as one object
    #[arg(long)]
    pub json: bool,
}

/// Options of `add` that mean nothing without a kernel.
const KERNEL_ONLY: [&str; 9] = [
    "base",
    "id",
    "name",
    "physical_block_size",
    "rotational",
    "volatile_cache",
    "partition_scan",
    "data_path",
    "swap",
];

/// An option of `add` as `sim` has it.
pub fn of_sim(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "size" => arg.default_value("64M").hide_default_value(false),
        "kblockd_flags" => arg.hide(false),
        id if KERNEL_ONLY.contains(&id) => arg.hide(true),
        _ => arg,
    }
}

impl SimArgs {
    /// The simulation that was asked for, judged.
    pub fn config(&self, device: DeviceConfig, around: Surroundings) -> Result<SimConfig, Failure> {
        let usual = DeviceConfig::default();
        let without_kernel = DeviceConfig {
            id: None,
            name: None,
            base: None,
            physical_block_size: usual.physical_block_size,
            rotational: false,
            volatile_cache: false,
            partition_scan: true,
            data_path: None,
            swap: false,
            ..device.clone()
        };
        if matches!(device.backing(), Backing::Private(_)) {
            return Err(Failure::usage(
                "--backing private outlives a server, and sim has none: leave it out",
            ));
        }
        if without_kernel != device {
            return Err(Failure::usage(
                "--base, --id, --name, --physical-block-size, --rotational, --volatile-cache, --no-partition-scan, \
                 --data-path and --swap mean nothing to sim, which has no kernel",
            ));
        }
        let mut memory = self.memory.clone();
        // All memory is taken before the beginning, unless an option is about memory.
        if memory == NewMemoryOptions::default() && self.pressure.psi.is_none() {
            memory.preallocate = true;
        }
        let config = SimConfig {
            device: device.checked(&memory, &self.pressure, around)?,
            load: self.load.clone(),
            model: self.model.clone(),
            script: self.output.script.clone(),
            sample: self.output.sample,
            patience: self.output.patience,
        };
        config.check()?;
        Ok(config)
    }
}
