// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of `add`.

use clap::{Args, ValueEnum};
use ublk_ramdisk::config::{Backing, DataPath, DeviceRequest};
use ublk_ramdisk::mq::TIMED_OF;
use ublk_ramdisk::tuning::KblockdFlags;

use super::{space, PressureArgs, SampleArgs};
use crate::parse::{backing, log_target, on_or_off, size, whole, LogTarget};

pub const ADD_LONG: &str = "\
Make a RAM disk and leave a server behind it.

Returns when the disk can be opened, and prints its path. The server is a process of its own,
detached from the terminal; `del` ends it, and so does SIGTERM: it waits until nobody has the disk
open, then stops and deletes it. A second SIGTERM does not wait.";

pub const ADD_EXAMPLES: &str = "\
Examples:
  ublk-ramdisk add --size 4G
  ublk-ramdisk add --size 512M --id 7 --block-size 4096 --json
  ublk-ramdisk add --size 1G --queues 4 --backing hugetlb
  ublk-ramdisk add --size 1G --backing tmpfs:/dev/shm/disk.img   keeps its contents
  ublk-ramdisk add --size 1G --foreground                        Ctrl-C ends it";

/// `add`
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Size of the disk, a multiple of the block size, such as 512M or 4G
    ///
    /// Memory is taken as it is written, not in advance (but see --backing hugetlb). May be left
    /// out when --backing names an existing file: its length is the size.
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    pub size: Option<u64>,
    /// Number N of /dev/ublkbN, 0 to 1048575 [default: the first free one]
    #[arg(long, value_name = "N", value_parser = whole, allow_hyphen_values = true)]
    pub id: Option<u64>,
    /// Hardware queues, 1 to 4096, each served by a thread of its own
    ///
    /// The kernel lowers the number to its CPUs; that is said on standard error.
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole,
        allow_hyphen_values = true)]
    pub queues: u64,
    /// Requests in flight per queue, 1 to 4096
    #[arg(long, value_name = "N", default_value = "128", value_parser = whole,
        allow_hyphen_values = true)]
    pub depth: u64,
    /// Logical block size: 512, 1024, 2048 or 4096 bytes
    #[arg(long, value_name = "SIZE", default_value = "512", value_parser = size,
        allow_hyphen_values = true)]
    pub block_size: u64,
    /// Physical block size, a power of two from the logical one to 256M
    #[arg(long, value_name = "SIZE", default_value = "4096", value_parser = size,
        allow_hyphen_values = true)]
    pub physical_block_size: u64,
    /// Largest single request, whole pages up to 32M
    #[arg(long, value_name = "SIZE", default_value = "512K", value_parser = size,
        allow_hyphen_values = true)]
    pub io_buffer: u64,
    /// Refuse every write
    #[arg(long)]
    pub read_only: bool,
    /// Announce a spinning disk; changes a flag in sysfs and nothing else
    #[arg(long)]
    pub rotational: bool,
    /// Announce a volatile write cache, so that flushes reach the server
    #[arg(long)]
    pub volatile_cache: bool,
    /// How data travels between kernel and disk memory
    ///
    /// `features` shows what this kernel offers. A path that is asked for by name and not there
    /// ends with status 3; `auto` takes the best one there is.
    #[arg(long, value_name = "PATH", default_value = "auto", value_enum)]
    pub data_path: DataPathArg,
    /// Where the contents live: memfd, tmpfs:PATH or hugetlb
    ///
    /// memfd: anonymous memory. tmpfs:PATH: a file on a tmpfs such as /dev/shm, made if it does
    /// not exist (and then --size is needed), else opened with its contents; it is kept when the
    /// disk is deleted. hugetlb: 2 MiB pages from the kernel's pool (vm.nr_hugepages), all
    /// reserved at once unless --memory-limit allows fewer, and made as they are written; the size
    /// must be a multiple of 2M.
    #[arg(long, value_name = "KIND", default_value = "memfd", value_parser = backing)]
    pub backing: Backing,
    /// Transparent huge pages for memfd and tmpfs [default: on]
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    pub thp: Option<bool>,
    /// Do not look for a partition table
    ///
    /// Kernels before 7.0 look all the same.
    #[arg(long)]
    pub no_partition_scan: bool,
    /// Seconds until a request that the driver keeps counts as late, 1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = whole,
        allow_hyphen_values = true)]
    pub timeout: u64,
    #[command(flatten, next_help_heading = "Memory")]
    pub space: space::SpaceArgs,
    /// Flags of the workqueue that tries refused requests again; for studies
    #[arg(long, value_name = "LIST", default_value_t, hide = true)]
    pub kblockd_flags: KblockdFlags,
    /// Where the server logs: `syslog`, or the path of a file to append to
    #[arg(long, value_name = "syslog|FILE", default_value = "syslog", value_parser = log_target,
        conflicts_with = "foreground")]
    pub log: LogTarget,
    /// Serve in this process, log to standard error; Ctrl-C stops and deletes the disk
    #[arg(long)]
    pub foreground: bool,
    /// Print an object with id, path, char_path, size, data_path, queues, depth, pid
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub pressure: PressureArgs,
    #[command(flatten)]
    pub sample: SampleArgs,
}

impl AddArgs {
    /// The device that was asked for, for `config.rs` to judge.
    pub fn request(&self) -> DeviceRequest {
        DeviceRequest {
            id: self.id,
            size: self.size,
            queues: self.queues,
            depth: self.depth,
            block_size: self.block_size,
            physical_block_size: self.physical_block_size,
            io_buffer: self.io_buffer,
            read_only: self.read_only,
            rotational: self.rotational,
            volatile_cache: self.volatile_cache,
            partition_scan: !self.no_partition_scan,
            data_path: self.data_path.chosen(),
            backing: self.backing.clone(),
            huge_pages: self.thp,
            pressure: self.pressure.settings(),
            timeout: self.timeout,
            space: self.space.request(),
            kblockd_flags: self.kblockd_flags,
            latency_sample: self.sample.latency_sample.unwrap_or(TIMED_OF),
        }
    }
}

/// `--data-path` as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DataPathArg {
    /// The best one this kernel offers
    Auto,
    /// Batched commands and copies by the server (Linux 7.0)
    Batch,
    /// One command per request and copies by the server (Linux 6.5)
    UserCopy,
    /// One command per request; the kernel copies to a buffer, the server copies on
    Buffer,
}

impl DataPathArg {
    fn chosen(self) -> Option<DataPath> {
        match self {
            DataPathArg::Auto => None,
            DataPathArg::Batch => Some(DataPath::Batch),
            DataPathArg::UserCopy => Some(DataPath::UserCopy),
            DataPathArg::Buffer => Some(DataPath::Buffer),
        }
    }
}
