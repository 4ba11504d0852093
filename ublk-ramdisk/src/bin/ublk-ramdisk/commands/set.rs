// SPDX-License-Identifier: MIT OR Apache-2.0
//! `set`: has the device's server change the pressure on the disk, the rules for its memory and how
//! many requests are timed, and shows what is in force.

use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::pressure::{Injection, Settings};

use super::{machine, output};
use crate::cli::SetArgs;
use crate::server::protocol::{Reply, Request};
use crate::server::run_dir::RunDir;

/// Changes the settings of a running disk, and prints those in force.
pub fn run(args: &SetArgs) -> Result<Exit, Failure> {
    let options = &args.options;
    // What is wrong for every disk is bad usage, and no server is asked.
    options.memory.check()?;
    options.pressure.applied_to(&Settings::default()).check()?;
    let init = |injection: &Injection| matches!(injection, Injection::InitHctx(_));
    if options.pressure.injections().any(init) {
        return Err(Failure::usage(
            "--inject init_hctx cannot be changed on a running disk: its hardware queues are set \
             up; give it to `add`",
        ));
    }
    let request = Request::Set(Box::new(options.clone()));
    let in_force = match machine::ask_of(&RunDir::of_this_machine()?, args.id, request)? {
        Reply::InForce(in_force) => in_force,
        _ => return Err(machine::another_question()),
    };
    output::show(args.json, &in_force, |in_force| format!("{in_force}\n"))
}
