// SPDX-License-Identifier: MIT OR Apache-2.0
//! `completions`: scripts for the shells. While a line is typed they ask this program, which knows its own
//! command line and the disks that are there.

use clap::{Command, CommandFactory};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use ublk_ramdisk::error::{Exit, Failure};

use super::output;
use crate::cli::{Cli, CompletionsArgs};
use crate::server::run_dir::RunDir;

/// Says to the program that a shell asks it.
const VARIABLE: &str = "UBLK_RAMDISK_COMPLETE";
const PROGRAM: &str = "ublk-ramdisk";

/// Answers a shell, and ends, if one asks.
pub fn answer() {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// Prints the script of one shell.
pub fn run(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let name = args.shell.to_string();
    let mut script = Vec::new();
    let written = Shells::builtins()
        .completer(&name)
        .map(|shell| shell.write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut script));
    match written {
        Some(Ok(())) => output::print(&String::from_utf8_lossy(&script))?,
        _ => {
            return Err(Failure::runtime(format!(
                "no script for {name} can be made"
            )))
        }
    }
    Ok(Exit::Done)
}

/// The command line, with the disks that are there in place of each ID.
fn command() -> Command {
    Cli::command().mut_subcommands(|command| {
        command.mut_args(|arg| match arg.get_value_names() {
            Some([name]) if name == "ID" => arg.add(ArgValueCandidates::new(disks)),
            _ => arg,
        })
    })
}

/// Ids and names.
fn disks() -> Vec<CompletionCandidate> {
    let run_dir = RunDir::of_this_machine();
    let disks = run_dir.iter().flat_map(|run_dir| {
        let ids = run_dir.ids().into_iter();
        ids.flat_map(|id| [Some(id.to_string()), run_dir.name(id)])
    });
    disks.flatten().map(CompletionCandidate::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_completed_wherever_a_command_takes_one() {
        let command = command();
        for name in ["del", "list", "stats", "top", "rules", "power-cut", "save"] {
            let found = command.find_subcommand(name).expect("a command");
            let mut args = found.get_arguments();
            assert!(
                args.any(|arg| arg.get::<ArgValueCandidates>().is_some()),
                "{name}"
            );
        }
    }
}
