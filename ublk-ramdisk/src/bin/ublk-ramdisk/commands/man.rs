// SPDX-License-Identifier: MIT OR Apache-2.0
//! `man`: a page for each command, made from the command line's own definition, for the package.

use clap::CommandFactory;
use ublk_ramdisk::error::{Exit, Failure};

use crate::cli::{Cli, ManArgs};

/// Writes the pages.
pub fn run(args: &ManArgs) -> Result<Exit, Failure> {
    let written = clap_mangen::generate_to(Cli::command(), &args.folder);
    written.map_err(|error| Failure::runtime(format!("{}: {error}", args.folder.display())))?;
    Ok(Exit::Done)
}
