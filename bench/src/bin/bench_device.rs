// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `scripts/bench-device` runs, in this order: `plan` writes down what is to be measured,
//! `run` makes the disks and takes the samples (in a guest or not), and `report` prints the tables.
//!
//! `report` reads fio's own files where the folder still has them, and then writes `samples.json`.
//! A kept run that has only `samples.json` is read from that.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bench::files::{Failure, Pair};
use bench::plan::options::Options;
use bench::plan::{Plan, Step};
use bench::report;
use bench::run::Run;
use bench::runner::{self, Programs};
use clap::{Args, Parser, Subcommand};

/// The plan and the tables of a run of scripts/bench-device.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The steps of a run.
#[derive(Subcommand)]
enum Command {
    /// Write plan, job files and the list of missing samples into a folder
    Plan(Box<Options>),
    /// Make the disks, take the samples that are missing, take the disks away; as root, in a guest or not
    Run(RunArgs),
    /// Print the tables of a run; exit status 1 if samples failed or counters differ
    Report {
        /// Folder of the run.
        folder: PathBuf,
    },
}

/// The folder and the programs of the contenders.
#[derive(Args)]
struct RunArgs {
    /// Folder of the run.
    folder: PathBuf,
    #[arg(long)]
    ours: PathBuf,
    #[arg(long)]
    libublk: PathBuf,
    /// The example of libublk.
    #[arg(long)]
    example: Option<PathBuf>,
    #[arg(long)]
    rublk: Option<PathBuf>,
    /// Why one of these is not given.
    #[arg(long, default_value = "it was not built")]
    lacking: String,
}

/// Writes or describes the plan, or sees that a run that goes on is still the same.
fn plan(options: &Options) -> Result<ExitCode, Failure> {
    match &options.out {
        None => print!("{}", options.plan(None)?.describe()),
        Some(folder) if options.resume => {
            let begun = Plan::load(folder)?;
            options.plan(Some(&begun))?.same_as(&begun, folder)?;
            // As it was begun: the job files may be those of an older version.
            begun.keep(folder)?;
        }
        Some(folder) => {
            let plan = options.plan(None)?;
            refuse_old(folder)?;
            plan.keep(folder)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes the samples that are missing.
fn take(args: &RunArgs) -> Result<ExitCode, Failure> {
    let plan = Plan::load(&args.folder)?;
    let or_why = |path: &Option<PathBuf>| path.clone().ok_or_else(|| args.lacking.clone());
    let programs = Programs {
        ours: args.ours.clone(),
        libublk: args.libublk.clone(),
        example: or_why(&args.example),
        rublk: or_why(&args.rublk),
    };
    runner::take(&args.folder, &plan, &programs).map(status)
}

/// A run that is not sound is a failure.
fn status(sound: bool) -> ExitCode {
    match sound {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// A new run does not begin where another one is.
fn refuse_old(folder: &Path) -> Result<(), Failure> {
    for name in ["plan", "raw", "samples.json"] {
        if folder.join(name).exists() {
            return Err(Failure::Usage(format!(
                "{} already holds a run; name another folder with --out, or go on with --resume",
                folder.display()
            )));
        }
    }
    Ok(())
}

/// Prints the tables of a run, and keeps its samples.
fn tables(folder: &Path) -> Result<ExitCode, Failure> {
    let mut run = Run::load(folder)?;
    let raw = folder.join("raw").is_dir();
    // Samples of an absent contender, or of a job that its disk cannot do, are not missing.
    let mut missing = 0;
    if let (true, Ok(plan)) = (raw, Plan::load(folder)) {
        let absent = |step: &Step| {
            let out = |(name, _): &Pair| *name == step.contender;
            let job = format!("{}:", step.job);
            let unfit = |(name, why): &Pair| *name == step.contender && why.starts_with(&job);
            run.absent.iter().any(out) || run.unfit.iter().any(unfit)
        };
        let steps = plan.missing(folder);
        missing = steps.iter().filter(|step| !absent(step)).count();
    }
    if missing > 0 {
        let all = run.samples.values().flat_map(|jobs| jobs.values());
        let taken: usize = all.map(Vec::len).sum();
        run.setting.push((
            "INCOMPLETE".to_owned(),
            format!("{taken} samples, {missing} missing"),
        ));
    }
    if raw {
        run.keep(folder)?;
    }
    print!("{}", report::report(&run));
    Ok(status(run.is_sound()))
}

/// clap's paragraph as one line.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first = text.split("\n\n").next().unwrap_or_default();
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            eprintln!("bench_device: {} (see --help)", one_line(&error));
            return ExitCode::from(2);
        }
    };
    let done = match &cli.command {
        Command::Plan(options) => plan(options),
        Command::Run(args) => take(args),
        Command::Report { folder } => tables(folder),
    };
    let (status, why) = match done {
        Ok(code) => return code,
        // As a shell reports it. No message: the sender of the signal knows why.
        Err(Failure::Stopped(signal)) => return ExitCode::from(128 + signal as u8),
        Err(Failure::Usage(why)) => (2, why),
        Err(Failure::Runtime(why)) => (1, why),
    };
    eprintln!("bench_device: {why}");
    ExitCode::from(status)
}
