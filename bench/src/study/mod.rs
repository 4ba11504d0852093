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

pub mod sim;

pub mod hogs;

pub mod rescuer;

pub mod priority;

pub mod designs;

pub mod busy;

pub mod device;

pub mod kept;

use outcome::Part;
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
    run: fn(&Settings) -> Result<Vec<Part>, StudyError>,
}

macro_rules! study {
    ($id:literal, $file:literal, $run:path) => {
        Study {
            id: $id,
            file: $file,
            text: include_str!(concat!("../../studies/", $file)),
            run: $run,
        }
    };
}

/// All studies, in the order of the report.
pub const ALL: &[Study] = &[
    study!("a", "a-busy-rate.md", busy::rate::run),
    study!("b", "b-delay.md", busy::delay::run),
    study!("c", "c-old-rules.md", busy::rules::run),
    study!("d", "d-rescuer.md", rescuer::run),
    study!("e", "e-priority.md", priority::run),
    study!("f", "f-designs.md", designs::run),
    study!("g", "g-filling.md", busy::filling::run),
    study!("h", "h-fairness.md", busy::fairness::run),
];

impl Study {
    /// What was written before.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        Plan::parse(self.text)
    }

    /// Runs it.
    pub fn run(&self, settings: &Settings) -> Result<Vec<Part>, StudyError> {
        (self.run)(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_study_has_a_plan() {
        for study in ALL {
            if let Err(error) = study.plan() {
                panic!("{}: {error}", study.file);
            }
        }
    }
}
