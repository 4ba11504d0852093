// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `scripts/bench-device` runs: turns a matrix into a plan and job files, makes the disks and takes the samples,
//! says how long that will take, and prints the tables of a run.
//!
//! `report` reads fio's own files where the folder still has them and then writes
//! `samples.json`; a kept run that has only `samples.json` is read from that.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use bench::contender;
use bench::matrix::axes::{self, Axes};
use bench::matrix::{self, BadMatrix, Job};
use bench::plan::{Plan, PlanError};
use bench::progress::Progress;
use bench::runner::process::Stop;
use bench::runner::{self, Programs, RunEnd};
use bench::{report, run::Run, run::RunError};
use clap::{Args, Parser, Subcommand};

/// The plan and the tables of a run of scripts/bench-device.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write plan, job files and the list of missing samples into a folder
    Plan(Box<PlanArgs>),
    /// Make the disks, take the samples that are missing, take the disks away; as root, in a guest or not
    Run(RunArgs),
    /// Print the tables of a run; exit status 1 if samples failed or counters differ
    Report {
        /// Folder of the run.
        folder: PathBuf,
    },
    /// Turn the lines `@step DONE ALL LABEL` of the input into progress with the
    /// time that remains; other lines pass
    Progress,
}

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

#[derive(Args)]
struct PlanArgs {
    /// Folder of the run; without it the plan is only described.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on with the run in the folder: what is not given is as it was.
    #[arg(long, requires = "out")]
    resume: bool,
    #[arg(long)]
    bed: Option<String>,
    #[arg(long)]
    kernel: Option<String>,
    #[arg(long, default_value = "unknown")]
    commit: String,
    #[arg(long)]
    repeat: Option<String>,
    #[arg(long)]
    size: Option<String>,
    #[arg(long)]
    queues: Option<String>,
    #[arg(long)]
    scale: Option<String>,
    #[arg(long)]
    cross_check: Option<String>,
    #[arg(long)]
    contenders: Option<String>,
    #[arg(long)]
    only: Option<String>,
    #[arg(long)]
    preset: Option<String>,
    #[arg(long)]
    rw: Option<String>,
    #[arg(long)]
    bs: Option<String>,
    #[arg(long)]
    iodepth: Option<String>,
    #[arg(long)]
    numjobs: Option<String>,
    #[arg(long)]
    direct: Option<String>,
    #[arg(long)]
    verify: Option<String>,
    #[arg(long)]
    latency_target: Option<String>,
}

/// Why the program ends early.
enum Failure {
    /// What was asked for makes no sense.
    Usage(String),
    /// Something went wrong on the way.
    Runtime(String),
}

impl From<BadMatrix> for Failure {
    fn from(error: BadMatrix) -> Self {
        Failure::Usage(error.to_string())
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Io { .. } => Failure::Runtime(error.to_string()),
            _ => Failure::Usage(error.to_string()),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Failure::Runtime(error.to_string())
    }
}

/// The items of a list, one by one.
fn items<T>(words: &str, item: impl Fn(&str) -> Result<T, BadMatrix>) -> Result<Vec<T>, BadMatrix> {
    let list: Vec<T> = words
        .split(',')
        .filter(|word| !word.is_empty())
        .map(item)
        .collect::<Result<_, _>>()?;
    match list.is_empty() {
        true => Err(BadMatrix(format!("'{words}': an empty list"))),
        false => Ok(list),
    }
}

fn switch(name: &str) -> impl Fn(&str) -> Result<bool, BadMatrix> + '_ {
    move |word| match word {
        "on" | "1" | "yes" => Ok(true),
        "off" | "0" | "no" => Ok(false),
        _ => Err(BadMatrix(format!("{name} '{word}': neither on nor off"))),
    }
}

fn number(name: &str, word: &str, least: u64, most: u64) -> Result<u64, BadMatrix> {
    match word.parse() {
        Ok(count) if (least..=most).contains(&count) => Ok(count),
        _ => Err(BadMatrix(format!(
            "{name} '{word}': not a count from {least} to {most}"
        ))),
    }
}

impl PlanArgs {
    /// The jobs that are asked for, if any are.
    fn jobs(&self) -> Result<Option<Vec<Job>>, BadMatrix> {
        let axes = [
            &self.rw,
            &self.bs,
            &self.iodepth,
            &self.numjobs,
            &self.direct,
            &self.verify,
            &self.latency_target,
        ];
        let by_axes = axes.iter().any(|axis| axis.is_some());
        let mut jobs = match (&self.preset, by_axes) {
            (Some(_), true) => {
                return Err(BadMatrix(
                    "either a preset or the axes of a matrix, not both".to_owned(),
                ))
            }
            (Some(name), false) => axes::preset(name)?,
            (None, true) => self.axes()?.expand(),
            (None, false) if self.only.is_none() => return Ok(None),
            (None, false) => Vec::new(),
        };
        if jobs.is_empty() && by_axes {
            return Err(BadMatrix(
                "the matrix has no combination that means anything (reads cannot be verified, \
                 buffered ones have no latency target, discards are direct)"
                    .to_owned(),
            ));
        }
        if let Some(only) = &self.only {
            let only = items(only, str::parse::<Job>)?;
            if self.preset.is_none() && !by_axes {
                jobs = only;
            } else {
                jobs.retain(|job| only.contains(job));
                if jobs.is_empty() {
                    return Err(BadMatrix("none of these jobs is in the matrix".to_owned()));
                }
            }
        }
        Ok(Some(jobs))
    }

    fn axes(&self) -> Result<Axes, BadMatrix> {
        fn set<T>(
            axis: &mut Vec<T>,
            words: &Option<String>,
            item: impl Fn(&str) -> Result<T, BadMatrix>,
        ) -> Result<(), BadMatrix> {
            if let Some(words) = words {
                *axis = items(words, item)?;
            }
            Ok(())
        }
        let mut axes = Axes::default();
        set(&mut axes.rw, &self.rw, str::parse)?;
        set(&mut axes.bs, &self.bs, matrix::size)?;
        set(&mut axes.iodepth, &self.iodepth, matrix::iodepth)?;
        set(&mut axes.numjobs, &self.numjobs, matrix::numjobs)?;
        set(&mut axes.direct, &self.direct, switch("direct"))?;
        set(&mut axes.verify, &self.verify, switch("verify"))?;
        set(
            &mut axes.latency_us,
            &self.latency_target,
            |word| match word {
                "off" => Ok(None),
                word => matrix::latency(word).map(Some),
            },
        )?;
        Ok(axes)
    }

    /// The run that is asked for; what is not said is as in `usual`.
    fn plan(&self, usual: &Plan) -> Result<Plan, BadMatrix> {
        let count = |name: &str, word: &Option<String>, usual: u64, most: u64| match word {
            Some(word) => number(name, word, 1, most),
            None => Ok(usual),
        };
        let contenders = match &self.contenders {
            Some(words) => contender::list(words)?,
            None => usual.contenders.clone(),
        };
        let size = count("size", &self.size, usual.mib, 1 << 20)?;
        if size < 16 {
            return Err(BadMatrix(format!("size '{size}': at least 16 MiB")));
        }
        let jobs = match self.jobs()? {
            Some(jobs) => jobs,
            None => usual.jobs.clone(),
        };
        // Each has a part of its own, of whole MiB.
        if let Some(job) = jobs.iter().find(|job| u64::from(job.numjobs) > size) {
            return Err(BadMatrix(format!(
                "numjobs '{}': at most one for each MiB of the disk, which has {size}",
                job.numjobs
            )));
        }
        Ok(Plan {
            bed: self.bed.clone().unwrap_or(usual.bed.clone()),
            kernel: self.kernel.clone().unwrap_or(usual.kernel.clone()),
            commit: self.commit.clone(),
            rounds: count("repeat", &self.repeat, usual.rounds.into(), 99)? as u32,
            mib: size,
            queues: count("queues", &self.queues, usual.queues.into(), 64)? as u32,
            depth: usual.depth,
            scale: count("scale", &self.scale, usual.scale, 10_000)?,
            cross_check: match &self.cross_check {
                Some(word) => switch("cross-check")(word)?,
                None => usual.cross_check,
            },
            contenders,
            jobs,
        })
    }
}

/// What a run is when nothing is said, by its bed.
fn usual(bed: Option<&str>) -> Result<Plan, BadMatrix> {
    let bed = bed.unwrap_or("icount");
    let (rounds, scale) = match bed {
        "icount" => (2, 1),
        "vm" => (3, 4),
        "host" => (3, 40),
        _ => {
            return Err(BadMatrix(format!(
                "bed '{bed}': must be icount, vm or host"
            )))
        }
    };
    Ok(Plan {
        bed: bed.to_owned(),
        kernel: "newest".to_owned(),
        commit: String::new(),
        rounds,
        mib: 256,
        queues: 1,
        depth: 128,
        scale,
        cross_check: true,
        contenders: contender::everybody(),
        jobs: axes::preset("default")?,
    })
}

fn plan(args: &PlanArgs) -> Result<ExitCode, Failure> {
    let Some(folder) = args.out.as_deref().filter(|_| args.resume) else {
        let plan = args.plan(&usual(args.bed.as_deref())?)?;
        match &args.out {
            Some(folder) => {
                refuse_old(folder)?;
                plan.keep(folder)?;
            }
            None => print!("{}", plan.describe()),
        }
        return Ok(ExitCode::SUCCESS);
    };
    let begun = Plan::load(folder)?;
    args.plan(&begun)?.same_as(&begun, folder)?;
    begun.keep(folder)?;
    Ok(ExitCode::SUCCESS)
}

fn take(args: &RunArgs) -> Result<ExitCode, Failure> {
    let plan = Plan::load(&args.folder)?;
    let or_why = |path: &Option<PathBuf>| path.clone().ok_or_else(|| args.lacking.clone());
    let programs = Programs {
        ours: args.ours.clone(),
        libublk: args.libublk.clone(),
        example: or_why(&args.example),
        rublk: or_why(&args.rublk),
    };
    match runner::take(&args.folder, &plan, &programs) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(RunEnd::Stopped(Stop(signal))) => Ok(ExitCode::from(128 + signal as u8)),
        Err(RunEnd::Another(why)) => Err(Failure::Usage(why)),
        Err(RunEnd::Failed(why)) => Err(Failure::Runtime(why)),
    }
}

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

fn tables(folder: &Path) -> Result<ExitCode, Failure> {
    let mut run = Run::load(folder)?;
    let raw = folder.join("raw").is_dir();
    // What a contender could not take part in is not waited for.
    let mut missing = 0;
    if let (true, Ok(plan)) = (raw, Plan::load(folder)) {
        let absent = |step: &bench::plan::Step| {
            let out = |(name, _): &(String, String)| *name == step.contender;
            let job = format!("{}:", step.job);
            let unfit =
                |(name, why): &(String, String)| *name == step.contender && why.starts_with(&job);
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
    Ok(match run.is_sound() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Nobody must lose a line because the terminal has gone.
fn progress() -> ExitCode {
    let began = Instant::now();
    let terminal = io::stderr().is_terminal();
    let mut progress = Progress::default();
    for line in io::stdin().lock().split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let text = match progress.line(&line, began.elapsed()) {
            Some(text) if terminal => format!("\r{text}\x1b[K"),
            Some(text) => format!("{text}\n"),
            None if terminal => format!("\r\x1b[K{line}\n"),
            None => format!("{line}\n"),
        };
        let _ = io::stderr().write_all(text.as_bytes());
    }
    if terminal && progress.shown() {
        let _ = io::stderr().write_all(b"\n");
    }
    ExitCode::SUCCESS
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
        Command::Plan(args) => plan(args),
        Command::Run(args) => take(args),
        Command::Report { folder } => tables(folder),
        Command::Progress => Ok(progress()),
    };
    match done {
        Ok(code) => code,
        Err(Failure::Usage(text)) => {
            eprintln!("bench_device: {text}");
            ExitCode::from(2)
        }
        Err(Failure::Runtime(text)) => {
            eprintln!("bench_device: {text}");
            ExitCode::FAILURE
        }
    }
}
