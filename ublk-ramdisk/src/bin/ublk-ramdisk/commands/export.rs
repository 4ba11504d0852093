// SPDX-License-Identifier: MIT OR Apache-2.0
//! `export` and `unexport`: a disk for other hosts. The kernel keeps what they say; see
//! [`ublk_ramdisk::ublk::export`].

use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::ctrl::block_path;
use ublk_ramdisk::ublk::export::{self, Hosts};

use super::output;
use crate::cli::{ExportArgs, UnexportArgs};
use crate::server::run_dir::RunDir;

/// Exports a disk and prints how another host connects to it.
pub fn run(args: &ExportArgs) -> Result<Exit, Failure> {
    let (id, listen) = (args.id, args.listen);
    let run_dir = RunDir::of_this_machine()?;
    // Another program's disk would come and go without this one's knowledge.
    let Some(state) = run_dir.state(id) else {
        return Err(Failure::runtime(format!(
            "device {id} is not one of ublk-ramdisk: see `ublk-ramdisk list`"
        )));
    };
    let number = format!("ublkb{id}");
    let name = state.name().unwrap_or(&number);
    let hosts = args.hosts();
    let export = export::export(id, name, listen, &hosts)?;
    if hosts == Hosts::Named(Vec::new()) {
        output::warn(&format!(
            "no host may connect to {}: export it with --host NQN or --any-host",
            block_path(id)
        ));
    }
    let address = match listen.ip() {
        ip if ip.is_unspecified() => "ADDRESS-OF-THIS-HOST".to_owned(),
        ip => ip.to_string(),
    };
    let (nqn, port) = (export.nqn, listen.port());
    output::print(&format!(
        "nvme connect -t tcp -a {address} -s {port} -n {nqn}\n"
    ))?;
    Ok(Exit::Done)
}

/// Ends the export of a disk.
pub fn end(args: &UnexportArgs) -> Result<Exit, Failure> {
    match export::unexport(args.id)? {
        true => Ok(Exit::Done),
        false => Err(Failure::runtime(format!(
            "{} is not exported by ublk-ramdisk",
            block_path(args.id)
        ))),
    }
}
