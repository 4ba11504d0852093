// SPDX-License-Identifier: MIT OR Apache-2.0
//! `poke`: runs, starts or kicks a disk's queues by hand.

use ublk_ramdisk::error::{Exit, Failure};

use super::machine;
use crate::cli::{PokeArg, PokeArgs};
use crate::server::protocol::{Poke, Request};
use crate::server::run_dir::RunDir;

/// Asks the server to.
pub fn run(args: &PokeArgs) -> Result<Exit, Failure> {
    let verb = match args.verb {
        PokeArg::Run => Poke::Run,
        PokeArg::Start => Poke::Start,
        PokeArg::Kick => Poke::Kick,
    };
    let request = Request::Poke { verb };
    machine::done(machine::ask_of(
        &RunDir::of_this_machine(),
        args.id,
        request,
    )?)?;
    Ok(Exit::Done)
}
