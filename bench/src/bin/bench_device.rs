// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints the tables of a run of `scripts/bench-device`. Reads fio's own files
//! where the folder still has them and then writes `samples.json`; a kept run
//! that has only `samples.json` is read from that.

use std::path::PathBuf;
use std::process::ExitCode;

use bench::{report, run::Run, run::RunError};
use clap::Parser;

/// The tables of a run of scripts/bench-device.
#[derive(Parser)]
struct Args {
    /// Folder of the run.
    folder: PathBuf,
}

fn run(args: &Args) -> Result<String, RunError> {
    let run = Run::load(&args.folder)?;
    if args.folder.join("raw").is_dir() {
        run.keep(&args.folder)?;
    }
    Ok(report::report(&run))
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench_device: {error}");
            ExitCode::FAILURE
        }
    }
}
