// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the studies and writes their report. `scripts/study` builds it and adds the setting.

use bench::page::{self, html};
use bench::run::{self, Pair};
use bench::study::kept::{self, Kept};
use bench::study::text::Plan;
use bench::study::{Settings, StudyError, ALL};
use clap::Parser;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Studies of requeue and rescuer behaviour, and their report.
#[derive(Parser)]
struct Args {
    /// Folder of the run; a study whose result is there already is not run again
    folder: PathBuf,
    /// Only these studies, by letter, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Less of everything that is measured
    #[arg(long)]
    quick: bool,
    /// Only what is in virtual time and repeats exactly
    #[arg(long)]
    deterministic: bool,
    /// Only write the report again
    #[arg(long)]
    report: bool,
}

type Error = Box<dyn std::error::Error>;

fn run_all(args: &Args, setting: &[Pair]) -> Result<(), Error> {
    let settings = Settings {
        quick: args.quick,
        measure: !args.deterministic,
    };
    for study in ALL {
        if !args.only.is_empty() && !args.only.iter().any(|id| id == study.id) {
            continue;
        }
        if Kept::load(&args.folder, study.id)?.is_some_and(|kept| kept.absent.is_none()) {
            eprintln!("study: {}: is there already", study.id);
            continue;
        }
        eprintln!("study: {}: {}", study.id, study.plan()?.title);
        let (parts, absent) = match study.run(&settings) {
            Ok(parts) => (parts, None),
            Err(StudyError::Lacking(why)) => {
                eprintln!("study: {}: not run: {why}", study.id);
                (Vec::new(), Some(why))
            }
            Err(error) => return Err(format!("study {}: {error}", study.id).into()),
        };
        let kept = Kept {
            id: study.id.into(),
            setting: setting.to_vec(),
            quick: args.quick,
            absent,
            parts,
        };
        kept.keep(&args.folder)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()).into())
}

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
    write(&folder.join("report.html"), &html::page(&all))?;
    kept::keep_predictions(folder, &all)?;
    kept::keep_csv(folder, &all)?;
    let pictures = folder.join("figures");
    fs::create_dir_all(&pictures).map_err(|e| format!("{}: {e}", pictures.display()))?;
    for (plan, kept) in &all {
        let score = html::score(plan, kept);
        println!(
            "{}. {}: {} predictions hold, {} contradicted, {} not run",
            kept.id, plan.title, score.held, score.contradicted, score.open
        );
        for part in &kept.parts {
            println!("   {}", part.finding);
            for figure in &part.figures {
                let path = pictures.join(format!("{}-{}.svg", kept.id, figure.id));
                write(&path, &page::draw(figure, page::WIDE))?;
            }
        }
    }
    Ok(())
}

fn work(args: &Args) -> Result<(), Error> {
    if let Some(id) = args.only.iter().find(|id| ALL.iter().all(|s| s.id != **id)) {
        let ids: Vec<&str> = ALL.iter().map(|s| s.id).collect();
        return Err(format!("--only {id}: no such study; there is: {}", ids.join(", ")).into());
    }
    if !args.report {
        let setting = run::pairs(&args.folder.join("setting"))?;
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
