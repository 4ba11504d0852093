// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is kept of a run of studies: a file of JSON per study and bed, and all predictions with their
//! verdicts.
//!
//! The report is made from these files and can be made again at any time, with the texts of today.

use super::device::Bed;
use super::outcome::Part;
use super::prediction::{Prediction, Verdict};
use super::text::Plan;
use super::{Study, ALL};
use crate::files::{at, read_json, write_whole, FileError, Pair};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The result of one study with the setting it was found in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The study's letter.
    pub id: String,
    /// What ran where: machine, kernel, commit, versions, command.
    pub setting: Vec<Pair>,
    /// Was it a short run?
    pub quick: bool,
    /// Why it could not be run here, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<String>,
    /// The beds it was run on, as they are typed; none: in process alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beds: Vec<String>,
    /// Parts that were not run, and why. Follows from what is kept, and is not read again.
    #[serde(default, skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    pub not_run: Vec<String>,
    /// What it found.
    pub parts: Vec<Part>,
}

/// The file of a study's result on one bed.
/// A file per bed: the guest's half is made by another command, perhaps days later.
fn path(folder: &Path, id: &str, bed: Bed) -> PathBuf {
    folder.join(match bed {
        Bed::InProcess => format!("study-{id}.json"),
        bed => format!("study-{id}-{}.json", bed.name()),
    })
}

impl Kept {
    /// Reads the result of a study on one bed, if there is one. Fails if there is one that cannot
    /// be read.
    pub fn load(folder: &Path, id: &str, bed: Bed) -> Result<Option<Self>, FileError> {
        let path = path(folder, id, bed);
        match path.exists() {
            true => read_json(&path).map(Some),
            false => Ok(None),
        }
    }

    /// Writes it. Fails if the folder cannot be written to.
    pub fn keep(&self, folder: &Path, bed: Bed) -> Result<(), FileError> {
        let path = path(folder, &self.id, bed);
        let text = serde_json::to_string(self).map_err(at(&path))?;
        write_whole(&path, &(text + "\n"))
    }
}

/// Everything there is of a run, in the order of the report: of each study, what was found on all beds together, and
/// what was not run.
pub fn load_all(folder: &Path) -> Result<Vec<(&'static Study, Kept)>, FileError> {
    let mut all = Vec::new();
    for study in &ALL {
        // In this order, so that a study's first part is the one in process.
        let mut whole: Option<Kept> = None;
        for bed in [Bed::InProcess, Bed::Icount, Bed::Vm] {
            let Some(mut kept) = Kept::load(folder, study.id, bed)? else {
                continue;
            };
            let place = format!("{}: ", bed.name());
            // Of the first bed it stays in `absent`.
            if let (Some(why), Some(_)) = (&kept.absent, &whole) {
                kept.not_run.push(format!("{place}{why}"));
            }
            kept.beds = vec![bed.name().into()];
            match &mut whole {
                None => whole = Some(kept),
                Some(whole) => whole.add(kept, &place),
            }
        }
        let Some(mut kept) = whole else { continue };
        let on_device = kept.beds.iter().any(|bed| bed != Bed::InProcess.name());
        match &study.device {
            Err(why) => kept.not_run.push(format!("on the real driver: {why}")),
            Ok(_) if !on_device => kept
                .not_run
                .push("on the real driver: not asked for (scripts/study --bed icount)".into()),
            Ok(_) => {}
        }
        // In process is the usual, and the command that repeats the study needs no bed.
        if !on_device {
            kept.beds.clear();
        }
        all.push((study, kept));
    }
    Ok(all)
}

/// How a study's predictions came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Score {
    /// As predicted.
    pub held: usize,
    /// Not as predicted.
    pub contradicted: usize,
    /// Not run.
    pub open: usize,
}

impl Score {
    /// Adds another study's.
    pub fn add(&mut self, other: Self) {
        self.held += other.held;
        self.contradicted += other.contradicted;
        self.open += other.open;
    }
}

impl Kept {
    /// Decides one prediction by what was found.
    pub fn verdict(&self, prediction: &Prediction) -> Verdict {
        prediction.decide(self.parts.iter().flat_map(|part| &part.measures))
    }

    /// Decides all predictions of the study.
    pub fn score(&self, plan: &Plan) -> Score {
        let mut score = Score::default();
        for prediction in &plan.predictions {
            match self.verdict(prediction) {
                Verdict::Holds(_) => score.held += 1,
                Verdict::Contradicted(_) => score.contradicted += 1,
                Verdict::NotRun => score.open += 1,
            }
        }
        score
    }

    /// Takes in what was found on another bed. Of its setting, what is not known already.
    fn add(&mut self, other: Self, place: &str) {
        for (name, value) in other.setting {
            let known = self.setting.iter().any(|(n, v)| *n == name && *v == value);
            if !known {
                self.setting.push((format!("{place}{name}"), value));
            }
        }
        self.parts.extend(other.parts);
        self.beds.extend(other.beds);
        self.not_run.extend(other.not_run);
    }
}

/// Predictions and how they came out, one object per line, as `predictions.json`.
pub fn keep_predictions(folder: &Path, all: &[(Plan, &Kept)]) -> Result<(), FileError> {
    let mut lines = Vec::new();
    for (plan, kept) in all {
        for prediction in &plan.predictions {
            let (verdict, value) = match kept.verdict(prediction) {
                Verdict::Holds(value) => ("holds", Some(value)),
                Verdict::Contradicted(value) => ("contradicted", Some(value)),
                Verdict::NotRun => ("not run", None),
            };
            let line = serde_json::json!({
                "study": kept.id,
                "measure": prediction.measure,
                "predicted": prediction.to_string(),
                "value": value,
                "unit": prediction.unit,
                "verdict": verdict,
            });
            lines.push(line.to_string());
        }
    }
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    write_whole(&folder.join("predictions.json"), &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Scratch;
    use crate::study::outcome::Kind;

    fn kept(id: &str, kind: Kind, absent: Option<&str>) -> Kept {
        let part = Part {
            kind,
            finding: kind.place().into(),
            measures: Vec::new(),
            figures: Vec::new(),
        };
        Kept {
            id: id.into(),
            setting: vec![
                ("commit".into(), "1".into()),
                ("kernel".into(), kind.place().into()),
            ],
            absent: absent.map(str::to_owned),
            parts: absent.map_or(vec![part], |_| Vec::new()),
            ..Kept::default()
        }
    }

    #[test]
    fn the_beds_of_a_study_come_together_and_what_was_not_run_is_named() {
        let folder = Scratch::new("study-kept").unwrap();
        let keep = |kept: Kept, bed| kept.keep(&folder.0, bed).unwrap();
        keep(kept("a", Kind::Deterministic, None), Bed::InProcess);
        keep(kept("a", Kind::Counted, None), Bed::Icount);
        keep(kept("c", Kind::Deterministic, None), Bed::InProcess);
        keep(kept("d", Kind::Measured, None), Bed::InProcess);
        keep(kept("d", Kind::Counted, Some("no guest")), Bed::Icount);
        keep(kept("e", Kind::Measured, None), Bed::InProcess);
        let all = load_all(&folder.0).unwrap();
        let of = |id: &str| &all.iter().find(|(study, _)| study.id == id).unwrap().1;
        assert_eq!((of("a").parts.len(), of("a").not_run.len()), (2, 0));
        assert_eq!(of("a").beds, ["in-process", "icount"]);
        // What both settings share stands there once.
        assert_eq!(of("a").setting.len(), 3);
        assert_eq!(of("d").not_run, ["icount: no guest"]);
        assert!(of("c").not_run[0].contains("simulation only"));
        assert!(of("e").not_run[0].contains("not asked for"));
    }
}
