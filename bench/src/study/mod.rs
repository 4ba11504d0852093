// SPDX-License-Identifier: MIT OR Apache-2.0
//! The studies: experiments that show what a rule of the workqueue or of the mirror is worth.
//!
//! A study is two files in `bench/studies/`: a plan with predictions, written before the run
//! ([`text`], [`prediction`]), and a table of cases, measures and pictures ([`table`], whose
//! quantities are in [`reading`]). The same table reader serves two instruments: [`sim`], which
//! makes cases in virtual time, and [`device`], which makes them on the real driver.
//!
//! What needs real threads or a script has a module of its own, whose texts are in the table all
//! the same ([`draft`]). [`stage`] is where its virtual time passes, [`job`] an item that calls a
//! closure, [`hogs`] threads that use up the CPUs.
//!
//! What a study found ([`outcome`]) is kept as JSON ([`kept`]), of which [`crate::page`] makes the
//! report.

pub mod settings;

pub mod text;

pub mod prediction;

pub mod outcome;

pub mod stage;

pub mod job;

pub mod reading;

pub mod table;

pub mod draft;

pub mod sim;

pub mod hogs;

pub mod rescuer;

pub mod priority;

pub mod designs;

pub mod delay;

pub mod filling;

pub mod swap;

pub mod device;

pub mod kept;

pub mod headline;

use device::act::Guest;
use device::raw::Raw;
use device::{Bed, DevicePart};
use outcome::{Kind, Part};
use settings::{Settings, StudyError};
use table::StudyFile;
use text::{Plan, PlanError};

/// Runs parts of a study that are code; their texts are in the study's table.
type Own = fn(&Settings, &StudyFile) -> Result<Vec<Part>, StudyError>;

/// One study.
pub struct Study {
    /// Its letter.
    pub id: &'static str,
    /// The plan, `bench/studies/NAME.md`.
    plan: &'static str,
    /// The table, `bench/studies/NAME.toml`.
    table: &'static str,
    /// What of the part in process is not in the table.
    own: Option<Own>,
    /// Its part on the device, or why there is none.
    pub device: Result<DevicePart, &'static str>,
}

macro_rules! study {
    ($id:literal, $name:literal, $own:expr, $device:expr) => {
        Study {
            id: $id,
            plan: include_str!(concat!("../../studies/", $name, ".md")),
            table: include_str!(concat!("../../studies/", $name, ".toml")),
            own: $own,
            device: $device,
        }
    };
}

/// All studies, in the order of the report.
pub static ALL: [Study; 11] = [
    study!("a", "a-busy-rate", None, Ok(DevicePart::TABLE)),
    study!("b", "b-delay", None, Ok(DevicePart::acts(delay::act))),
    study!(
        "c",
        "c-old-rules",
        None,
        Err("the old rules exist in the simulation only")
    ),
    study!(
        "d",
        "d-rescuer",
        Some(rescuer::run),
        Ok(DevicePart::acts(rescuer::device::act))
    ),
    study!(
        "e",
        "e-priority",
        Some(priority::run),
        Ok(DevicePart::acts(priority::device::act))
    ),
    study!(
        "f",
        "f-designs",
        Some(designs::run),
        Err("it is about the workqueue alone, which needs no disk")
    ),
    study!("g", "g-filling", Some(filling::run), Ok(filling::DEVICE)),
    study!("h", "h-fairness", None, Ok(DevicePart::TABLE)),
    study!("i", "i-append", None, Ok(DevicePart::TABLE)),
    study!(
        "j",
        "j-depth",
        None,
        Err("what it varies, the delay, a disk has no option for")
    ),
    study!("k", "k-swap", None, Ok(swap::DEVICE)),
];

impl Study {
    /// What was written before the run. An error is a fault of the file, which a test finds.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        Plan::parse(self.plan)
    }

    /// What is measured, and the texts of what is measured by code. An error is a fault of the
    /// file, which a test finds.
    pub fn table(&self) -> Result<StudyFile, StudyError> {
        toml::from_str(self.table)
            .map_err(|e| StudyError::Lacking(format!("the table of study {}: {e}", self.id)))
    }

    /// Runs the parts in process: that of the table, then those of its own code. Fails if a program
    /// or thread is lacking, or if a run comes to no end.
    pub fn run(&self, settings: &Settings) -> Result<Vec<Part>, StudyError> {
        let mut parts = Vec::new();
        let file = self.table()?;
        if let Some(spec) = &file.process {
            parts.push(spec.part(Kind::Deterministic, settings, sim::read)?);
        }
        if let Some(own) = self.own {
            parts.extend(own(settings, &file)?);
        }
        Ok(parts)
    }

    /// Makes the experiments of the part on the device, in a guest. Fails with the first experiment
    /// that does. Those before it are kept.
    pub fn act(&self, guest: &Guest) -> Result<(), StudyError> {
        let blocks = self
            .table()?
            .device
            .map_or_else(Vec::new, |spec| spec.blocks);
        if let Ok(DevicePart { act: Some(act), .. }) = self.device {
            act(guest, &blocks)?;
        }
        // What was made already is not made again.
        guest.loads(&blocks)
    }

    /// Makes the part on the device of what a guest has left. Fails with the name of an experiment
    /// that is missing.
    pub fn read(&self, raw: &Raw, bed: Bed) -> Result<Part, StudyError> {
        if let Ok(DevicePart {
            read: Some(read), ..
        }) = self.device
        {
            return read(raw, &self.table()?, bed.kind());
        }
        let Some(spec) = self.table()?.device else {
            return Err(StudyError::Lacking(
                "the study has no part on the device".into(),
            ));
        };
        spec.part(bed.kind(), &Settings::GUEST, |name| raw.reading(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_study_has_a_plan() {
        for study in &ALL {
            if let Err(error) = study.plan() {
                panic!("{}: {error}", study.id);
            }
        }
    }
}
