// SPDX-License-Identifier: MIT OR Apache-2.0
//! The studies: what a rule of the workqueue or of the mirror is worth, found out by experiment.
//!
//! The way of a study: its plan with the predictions ([`text`], [`prediction`]; written before the run, in
//! `bench/studies/`), the experiment (a module each), what it found ([`outcome`]), what is kept of that ([`kept`]).
//! [`crate::page`] makes the report of it. [`stage`] is where experiments in virtual time act.

pub mod text;

pub mod prediction;

pub mod outcome;

pub mod stage;

pub mod job;

pub mod reading;

pub mod table;

pub mod sim;

pub mod hogs;

pub mod rescuer;

pub mod priority;

pub mod designs;

pub mod rate;

pub mod delay;

pub mod rules;

pub mod filling;

pub mod fairness;

pub mod device;

pub mod kept;

pub mod headline;

use device::act::Guest;
use device::{DevicePart, Read};
use outcome::{Kind, Part};
use table::Spec;
use text::{Plan, PlanError};
use workqueue::{AllocError, StartError, WaitError};

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Less of everything that is measured.
    pub quick: bool,
    /// Also what depends on the machine; else the parts in virtual time alone.
    pub measure: bool,
}

impl Settings {
    /// How much of something to do.
    pub fn scaled(&self, full: usize, quick: usize) -> usize {
        if self.quick {
            quick
        } else {
            full
        }
    }
}

/// Why a study has no result.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// A queue could not be made.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// A runtime could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A queue could not be ended.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// An item was not taken.
    #[error("an item was refused: {0}")]
    Refused(String),
    /// A program or file that the study needs is not to be had.
    #[error("{0}")]
    Lacking(String),
}

/// One study.
pub struct Study {
    /// Its letter.
    pub id: &'static str,
    /// The plan's file, in `bench/studies/`.
    pub file: &'static str,
    text: &'static str,
    run: Run,
    /// Its part on the device, or why there is none.
    pub device: Result<DevicePart, &'static str>,
}

/// The part in process.
enum Run {
    /// A table, all by the simulator.
    Table(&'static Spec),
    /// Code of its own.
    Own(fn(&Settings) -> Result<Vec<Part>, StudyError>),
}

macro_rules! study {
    ($id:literal, $file:literal, $run:expr, $device:expr) => {
        Study {
            id: $id,
            file: $file,
            text: include_str!(concat!("../../studies/", $file)),
            run: $run,
            device: $device,
        }
    };
}

const fn on_device(
    act: fn(&Guest) -> Result<(), StudyError>,
    read: Read,
) -> Result<DevicePart, &'static str> {
    Ok(DevicePart { act, read })
}

/// All studies, in the order of the report.
pub static ALL: [Study; 8] = [
    study!(
        "a",
        "a-busy-rate.md",
        Run::Table(&rate::SPEC),
        on_device(rate::act, Read::Table(&rate::DEVICE))
    ),
    study!(
        "b",
        "b-delay.md",
        Run::Table(&delay::SPEC),
        on_device(delay::act, Read::Table(&delay::DEVICE))
    ),
    study!(
        "c",
        "c-old-rules.md",
        Run::Table(&rules::SPEC),
        Err("the old rules exist in the simulation only")
    ),
    study!(
        "d",
        "d-rescuer.md",
        Run::Own(rescuer::run),
        on_device(rescuer::device::act, Read::Table(&rescuer::device::DEVICE))
    ),
    study!(
        "e",
        "e-priority.md",
        Run::Own(priority::run),
        on_device(
            priority::device::act,
            Read::Table(&priority::device::DEVICE)
        )
    ),
    study!(
        "f",
        "f-designs.md",
        Run::Own(designs::run),
        Err("it is about the workqueue alone, which needs no disk")
    ),
    study!(
        "g",
        "g-filling.md",
        Run::Own(filling::run),
        on_device(filling::act, Read::Own(filling::read))
    ),
    study!(
        "h",
        "h-fairness.md",
        Run::Table(&fairness::SPEC),
        on_device(fairness::act, Read::Table(&fairness::DEVICE))
    ),
];

impl Study {
    /// What was written before.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        Plan::parse(self.text)
    }

    /// Runs it.
    pub fn run(&self, settings: &Settings) -> Result<Vec<Part>, StudyError> {
        match self.run {
            Run::Table(spec) => Ok(vec![spec.part(Kind::Deterministic, settings, sim::read)?]),
            Run::Own(run) => run(settings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_study_has_a_plan() {
        for study in &ALL {
            if let Err(error) = study.plan() {
                panic!("{}: {error}", study.file);
            }
        }
    }
}
