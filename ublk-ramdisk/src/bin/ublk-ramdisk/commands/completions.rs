// SPDX-License-Identifier: MIT OR Apache-2.0
//! `completions`: scripts for the shells, made from the command line's own definition.

use clap::CommandFactory;
use ublk_ramdisk::error::{Exit, Failure};

use super::output;
use crate::cli::{Cli, CompletionsArgs};

/// Prints the script of one shell.
pub fn run(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ublk-ramdisk", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
