// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rules`: has the device's server change the rules of the disk, and prints those in force.

use ublk_ramdisk::config::set::SetOptions;
use ublk_ramdisk::error::{Exit, Failure};

use super::machine;
use super::output;
use crate::cli::{RulesArgs, RulesVerb};
use crate::server::protocol::{Reply, Request};
use crate::server::run_dir::RunDir;

/// Carries out the verb.
pub fn run(args: &RulesArgs) -> Result<Exit, Failure> {
    let run_dir = RunDir::of_this_machine()?;
    let mut options = SetOptions::default();
    let pressure = &mut options.pressure;
    match &args.verb {
        None | Some(RulesVerb::List) => {}
        Some(RulesVerb::Add { rules }) => pressure.rule = rules.clone(),
        Some(RulesVerb::Del { names }) => pressure.drop_rules = names.clone(),
        Some(RulesVerb::Clear) => pressure.clear_rules = true,
        Some(RulesVerb::Release { name }) => {
            let name = name.clone();
            let answer = machine::ask_of(&run_dir, args.id, Request::Release { name })?;
            return machine::done(answer).map(|()| Exit::Done);
        }
    }
    let request = Request::Set(Box::new(options));
    let Reply::InForce(in_force) = machine::ask_of(&run_dir, args.id, request)? else {
        return Err(machine::another_question());
    };
    let lines = in_force
        .pressure
        .rules
        .iter()
        .map(|rule| format!("{rule}\n"));
    output::print(&lines.collect::<String>())?;
    Ok(Exit::Done)
}
