// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of `add`.

use clap::Args;
use ublk_ramdisk::config::space::NewMemoryOptions;
use ublk_ramdisk::config::DeviceConfig;
use ublk_ramdisk::pressure::PressureOptions;

use crate::server::protocol::LogTarget;

pub const ADD_LONG: &str = "\
Make a RAM disk and leave a server behind it.

Returns when the disk can be opened, and prints its path. The server is a process of its own,
detached from the terminal; `del` ends it, and so does SIGTERM to its parent, the supervisor: that
waits until nobody has the disk open, then stops and deletes it. A second SIGTERM does not wait.";

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
    #[command(flatten)]
    pub device: DeviceConfig,
    #[command(flatten, next_help_heading = "Memory")]
    pub memory: NewMemoryOptions,
    #[command(flatten)]
    pub pressure: PressureOptions,
    /// Where the server logs: `syslog`, or the path of a file to append to
    #[arg(
        long,
        value_name = "syslog|FILE",
        default_value = "syslog",
        conflicts_with = "foreground",
        help_heading = "Server"
    )]
    pub log: LogTarget,
    /// Stay in the foreground, log to standard error; Ctrl-C stops and deletes the disk
    #[arg(long, help_heading = "Server")]
    pub foreground: bool,
    /// Print an object with id, path, char_path, size, data_path, queues, depth, backing,
    /// outlives_server, pid
    #[arg(long, help_heading = "Server")]
    pub json: bool,
}
