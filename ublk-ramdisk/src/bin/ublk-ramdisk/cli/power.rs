// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of `power-cut`.

use clap::Args;
use ublk_ramdisk::ramdisk::store::{Keep, PowerCut};
use ublk_ramdisk::units::size;

use crate::parse::device_id;

pub const POWER_LONG: &str = "\
Take the power of a running disk away, and with it what was not flushed.

For disks that were added with --volatile-cache. From then on every request ends with an I/O
error. What was written since the last flush, and without FUA, is lost, but for what --keep leaves
of it. The disk stays off as long as anybody has it open, as a mounted file system would write its
memory over what is left: unmount it. Then the disk is switched on again. Prints what was lost, in
pages of 4 KiB, and that the disk is on.

A server that dies, an upgrade and a stop are no power cuts: what was not flushed before can still
be lost after them. A resize flushes everything, a discard what it touches.";

pub const POWER_EXAMPLES: &str = "\
Examples:
  ublk-ramdisk power-cut 0                                  a cache that had written nothing yet
  ublk-ramdisk power-cut 0 --keep random --seed 7 --torn 512
  ublk-ramdisk power-cut 0 --off; umount /mnt; ublk-ramdisk power-cut 0 --on";

/// `power-cut`
#[derive(Debug, Args)]
pub struct PowerCutArgs {
    /// Disk to cut off: its name, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: u32,
    /// What of the unflushed pages survives
    #[arg(long, value_enum, default_value_t = Keep::None)]
    keep: Keep,
    /// Chooses what survives: with the same number the same pages do
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_hyphen_values = true
    )]
    seed: u64,
    /// Bytes that survive together, at least a block of the disk: 512, 1K, 2K or 4K
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = piece,
        allow_hyphen_values = true)]
    torn: u32,
    /// Leave the disk off, and do not wait
    #[arg(long)]
    pub off: bool,
    /// Only switch on a disk that is off, when nobody has it open any more
    #[arg(long, conflicts_with_all = ["off", "keep", "seed", "torn"])]
    pub on: bool,
    /// Print an object
    #[arg(long)]
    pub json: bool,
}

impl PowerCutArgs {
    /// How it is to be done.
    pub fn cut(&self) -> PowerCut {
        PowerCut {
            keep: self.keep,
            seed: self.seed,
            piece: self.torn,
        }
    }
}

fn piece(text: &str) -> Result<u32, String> {
    match size(text)? {
        bytes @ (512 | 1024 | 2048 | 4096) => Ok(bytes as u32),
        _ => Err("expected 512, 1K, 2K or 4K".to_owned()),
    }
}
