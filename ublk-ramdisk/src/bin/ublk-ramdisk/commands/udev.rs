// SPDX-License-Identifier: MIT OR Apache-2.0
//! `udev`: what udev is to know of a disk, as lines KEY=VALUE. The rule
//! `package/60-ublk-ramdisk.rules` asks for it at each event of the disk, so nothing is waited for: the
//! run directory alone is read.

use ublk_ramdisk::error::{Exit, Failure};

use super::output;
use crate::cli::UdevArgs;
use crate::server::run_dir::RunDir;

/// Prints model, serial number and name; nothing, and status 1, for a disk that is not ours.
pub fn run(args: &UdevArgs) -> Result<Exit, Failure> {
    let is_new = std::env::var_os("ACTION").is_some_and(|action| action == "add");
    let run_dir = RunDir::of_this_machine()?;
    let Some(name) = run_dir.name_for_udev(args.id, is_new) else {
        return Ok(Exit::Failure);
    };
    let model = env!("CARGO_PKG_NAME");
    let mut text = format!("ID_MODEL={model}\n");
    // The id alone would be no serial number: the next disk may have it.
    if let Some(name) = name {
        text += &format!("ID_SERIAL={model}_{name}\nID_SERIAL_SHORT={name}\n");
        text += &format!("UBLK_RAMDISK_NAME={name}\n");
    }
    output::print(&text)?;
    Ok(Exit::Done)
}
