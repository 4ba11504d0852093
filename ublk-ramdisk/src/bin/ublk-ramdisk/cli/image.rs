// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of `reset` and `save`.

use std::path::PathBuf;

use clap::Args;

use crate::parse::device_id;

pub const RESET_LONG: &str = "\
Take the contents of a running disk back to what it was made with.

A disk with --base is its image again, any other reads as zeros. The memory of what was written is
given back, or with --preallocate and --swap taken again. Rules, settings and counters stay as they
are. Partitions are looked for again. A disk that is used is refused with status 4, unless --force
is given: who has it mounted then finds other bytes under its page cache. `del --help` says what
use is not found.";

pub const RESET_EXAMPLES: &str = "\
Examples:
  ublk-ramdisk add --size 1G; mkfs.ext4 /dev/ublkb0; ublk-ramdisk save 0 fs.img; ublk-ramdisk del 0
  ublk-ramdisk add --base fs.img                     each test begins with the same file system
  umount /mnt; ublk-ramdisk reset 0; mount /dev/ublkb0 /mnt";

pub const SAVE_LONG: &str = "\
Write the contents of a disk to a file, with holes where it holds zeros.

The file can be the --base of other disks; it must not be one already. A disk that is written to
meanwhile is saved as a mixture: unmount it first, or freeze the file system on it (fsfreeze). A
file that is there is replaced. One that was made here and cannot be written whole is removed.";

/// `reset`
#[derive(Debug, Args)]
pub struct ResetArgs {
    /// Disk to reset: its name, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: u32,
    /// Even if the disk is in use
    #[arg(long)]
    pub force: bool,
}

/// `save`
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// Disk to save: its name, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: u32,
    /// Where to
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}
