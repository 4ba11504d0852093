// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the studies and writes their report. `scripts/study` builds it, adds the setting, and boots
//! the guests.
//!
//! A study whose result is in the folder is not run again, so that the same command goes on after
//! Ctrl-C. On the device a study has two halves: `--act`, in the guest, makes the experiments and
//! leaves what they gave in `raw`; without it, outside, that is read.

use bench::files::{pairs, write, Pair};
use bench::page::{self, html};
use bench::study::device::act::Guest;
use bench::study::device::raw::Raw;
use bench::study::device::Bed;
use bench::study::kept::{self, Kept};
use bench::study::outcome::Part;
use bench::study::settings::{Settings, StudyError};
use bench::study::text::Plan;
use bench::study::{Study, ALL};
use clap::Parser;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Studies of requeue and rescuer behavior, and their report.
#[derive(Parser)]
struct Args {
    /// Folder of the run; a study whose result is there already is not run again
    folder: PathBuf,
    /// Only these studies, by letter, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where: in this process; or what the guest of that bed has left in FOLDER/raw
    #[arg(long, value_enum, default_value = "in-process")]
    bed: Bed,
    /// Less of everything that is measured
    #[arg(long)]
    quick: bool,
    /// Only what is in virtual time and repeats exactly
    #[arg(long)]
    deterministic: bool,
    /// Only write the report again
    #[arg(long)]
    report: bool,
    /// Print the letters of the studies that have a part for the bed and no result of it in FOLDER
    #[arg(long, conflicts_with_all = ["report", "act"])]
    missing: bool,
    /// In a guest: make the experiments of these studies on the device, and leave what they give in FOLDER/raw
    #[arg(long, value_name = "LETTERS", value_delimiter = ',', requires = "ours")]
    act: Vec<String>,
    /// The ublk-ramdisk to do so with
    #[arg(long, value_name = "PROGRAM")]
    ours: Option<PathBuf>,
}

/// All errors are said to the user in one line.
type Error = Box<dyn std::error::Error>;

impl Args {
    /// The studies that are asked for.
    fn chosen(&self) -> impl Iterator<Item = &'static Study> + '_ {
        let wanted = |id: &str| self.only.is_empty() || self.only.iter().any(|only| only == id);
        ALL.iter().filter(move |study| wanted(study.id))
    }

    /// True if the folder has a result of the study on the bed.
    fn is_there(&self, study: &Study) -> Result<bool, Error> {
        let kept = Kept::load(&self.folder, study.id, self.bed)?;
        Ok(kept.is_some_and(|kept| kept.absent.is_none()))
    }

    /// Where the guest leaves what it found.
    fn raw(&self, study: &Study) -> PathBuf {
        let name = format!("{}-{}", study.id, self.bed.name());
        self.folder.join("raw").join(name)
    }
}

/// What a guest found, if there was one.
fn read(args: &Args, study: &Study) -> Option<Result<Vec<Part>, StudyError>> {
    study.device.as_ref().ok()?;
    let folder = args.raw(study);
    // The guest's own word: a study that failed there has no whole set of experiments.
    if let Ok(why) = fs::read_to_string(folder.join("failed")) {
        return Some(Err(StudyError::Lacking(why.trim().into())));
    }
    Some(study.read(&Raw(folder), args.bed).map(|part| vec![part]))
}

/// Runs the studies that have no result, or reads what a guest has left of them.
fn run_all(args: &Args, setting: &[Pair]) -> Result<(), Error> {
    let settings = Settings {
        quick: args.quick,
        measure: !args.deterministic,
    };
    for study in args.chosen() {
        if args.is_there(study)? {
            eprintln!("study: {}: is there already", study.id);
            continue;
        }
        let mut setting = setting.to_vec();
        let found = match args.bed {
            Bed::InProcess => {
                eprintln!("study: {}: {}", study.id, study.plan()?.title);
                study.run(&settings)
            }
            bed => {
                let Some(found) = read(args, study) else {
                    continue;
                };
                let guests = args.raw(study).join("setting");
                if guests.exists() {
                    setting.extend(pairs(&guests)?);
                }
                setting.push(("bed".into(), bed.name().into()));
                found
            }
        };
        let (parts, absent) = match found {
            Ok(parts) => (parts, None),
            // Kept as absent, and tried again by the next run. Any other error ends the run.
            Err(StudyError::Lacking(why)) => {
                eprintln!("study: {}: not run: {why}", study.id);
                (Vec::new(), Some(why))
            }
            Err(error) => return Err(format!("study {}: {error}", study.id).into()),
        };
        let kept = Kept {
            id: study.id.into(),
            setting,
            quick: args.quick,
            absent,
            parts,
            ..Kept::default()
        };
        kept.keep(&args.folder, args.bed)?;
    }
    Ok(())
}

/// Writes the report and all that is made of the results, and prints the findings.
fn report(folder: &Path) -> Result<(), Error> {
    let all = kept::load_all(folder)?;
    if all.is_empty() {
        return Err(format!("{}: no study has a result there", folder.display()).into());
    }
    let all: Vec<(Plan, Kept)> = all
        .into_iter()
        .map(|(study, kept)| Ok::<_, Error>((study.plan()?, kept)))
        .collect::<Result<_, _>>()?;
    let all: Vec<(Plan, &Kept)> = all
        .iter()
        .map(|(plan, kept)| (plan.clone(), kept))
        .collect();
    write(&folder.join("report.html"), &html::page(&all)?)?;
    kept::keep_predictions(folder, &all)?;
    let pictures = folder.join("figures");
    fs::create_dir_all(&pictures).map_err(|e| format!("{}: {e}", pictures.display()))?;
    for (plan, kept) in &all {
        let score = kept.score(plan);
        println!(
            "{}. {}: {} predictions hold, {} contradicted, {} not run",
            kept.id, plan.title, score.held, score.contradicted, score.open
        );
        for part in &kept.parts {
            println!("   {}", part.finding);
            for figure in &part.figures {
                let path = pictures.join(format!("{}-{}.svg", kept.id, figure.id));
                write(&path, &page::alone(figure))?;
            }
        }
        for why in kept.absent.iter().chain(&kept.not_run) {
            println!("   Not run: {why}");
        }
    }
    Ok(())
}

/// The half of the studies' parts on the device that is in the guest. A study that fails says so in its folder, and
/// the next one is made.
fn act(args: &Args) -> Result<(), Error> {
    for id in &args.act {
        let study = ALL.iter().find(|study| study.id == id);
        let study = study.ok_or_else(|| format!("--act {id}: no such study"))?;
        if let Err(why) = study.device {
            return Err(format!("--act {id}: {why}").into());
        }
        let folder = args.raw(study);
        let ours = args.ours.clone().unwrap_or_default();
        let made = Guest::new(ours, folder.clone()).and_then(|guest| study.act(&guest));
        match made {
            Ok(()) => write(&folder.join("done"), "")?,
            Err(error) => {
                eprintln!("study: {id}: {error}");
                write(&folder.join("failed"), &error.to_string())?;
            }
        }
    }
    Ok(())
}

/// Does the one thing that is asked for.
fn work(args: &Args) -> Result<(), Error> {
    if let Some(id) = args.only.iter().find(|id| ALL.iter().all(|s| s.id != **id)) {
        let ids: Vec<&str> = ALL.iter().map(|s| s.id).collect();
        return Err(format!("--only {id}: no such study; there is: {}", ids.join(", ")).into());
    }
    if !args.act.is_empty() {
        return act(args);
    }
    if args.missing {
        for study in args.chosen() {
            if study.device.is_ok() && !args.is_there(study)? {
                println!("{}", study.id);
            }
        }
        return Ok(());
    }
    if !args.report {
        let setting = pairs(&args.folder.join("setting"))?;
        run_all(args, &setting)?;
    }
    report(&args.folder)
}

fn main() -> ExitCode {
    match work(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("study: {error}");
            ExitCode::FAILURE
        }
    }
}
