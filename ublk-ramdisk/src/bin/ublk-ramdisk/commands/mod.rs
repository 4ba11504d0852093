// SPDX-License-Identifier: MIT OR Apache-2.0
//! One file per verb. Each takes what `cli.rs` read and ends with an exit status or one line of
//! failure; `main.rs` prints the line.

mod add;

mod del;

mod list;

mod stop;

mod new_server;

mod export;

mod serve;

mod power_cut;
mod reset;
mod resize;
mod rules;
mod save;
mod set;

mod prometheus;
mod stats;
mod stats_text;

mod trace;

mod debugfs;

mod explain;

mod top;

mod features;

mod doctor;

mod sim;

mod udev;

pub mod completions;
mod man;

pub mod machine;
pub mod output;
mod output_file;

use ublk_ramdisk::error::{Exit, Failure};

use crate::cli::{Cli, Command};

/// Runs one command.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Add(args) => add::run(&args),
        Command::Del(args) => del::run(&args),
        Command::List(args) => list::run(&args),
        Command::Stop(args) => stop::run(&args),
        Command::Recover(args) => new_server::recover(&args),
        Command::Upgrade(args) => new_server::upgrade(&args),
        Command::Resize(args) => resize::run(&args),
        Command::Set(args) => set::run(&args),
        Command::Rules(args) => rules::run(&args),
        Command::Reset(args) => reset::run(&args),
        Command::Save(args) => save::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Unexport(args) => export::end(&args),
        Command::PowerCut(args) => power_cut::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Debugfs(args) => debugfs::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Features(args) => features::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Udev(args) => udev::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}
