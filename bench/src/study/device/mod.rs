// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parts of the studies that need the real driver, in a guest.
//!
//! Each has two halves. In the guest `study --act LETTER FOLDER` makes disks and loads them ([`act`]) and keeps of each
//! experiment what fio, the server and the kernel said, a file of JSON each. Outside that is read ([`raw`]) and becomes
//! a [`Part`] like any other. `scripts/study` boots the guest between the two.

pub mod act;

pub mod threads;

pub mod raw;

use super::outcome::{Kind, Part};
use super::table::Spec;
use super::{Settings, StudyError};
use act::Guest;
use raw::Raw;

/// Where experiments are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Bed {
    /// In this process, most of it in virtual time.
    InProcess,
    /// On the real driver, in a guest whose clock counts instructions.
    Icount,
    /// On the real driver, in a guest that runs free.
    Vm,
}

impl Bed {
    /// As it is typed, and part of file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::InProcess => "in-process",
            Self::Icount => "icount",
            Self::Vm => "vm",
        }
    }

    /// How far its figures repeat; of a guest.
    fn kind(self) -> Kind {
        match self {
            Self::InProcess => Kind::Measured,
            Self::Icount => Kind::Counted,
            Self::Vm => Kind::Guest,
        }
    }
}

/// The part of a study on the device.
pub struct DevicePart {
    /// The half in the guest.
    pub act: fn(&Guest) -> Result<(), StudyError>,
    /// The half outside.
    pub read: Read,
}

/// How what a guest left is read.
pub enum Read {
    /// By the study's table.
    Table(&'static Spec),
    /// By code of its own.
    Own(fn(&Raw, Kind) -> Result<Part, StudyError>),
}

impl DevicePart {
    /// Reads what a guest left.
    pub fn read(&self, raw: &Raw, bed: Bed) -> Result<Part, StudyError> {
        // A guest is never quick.
        let settings = Settings {
            quick: false,
            measure: true,
        };
        match self.read {
            Read::Table(spec) => spec.part(bed.kind(), &settings, |name| raw.reading(name)),
            Read::Own(read) => read(raw, bed.kind()),
        }
    }
}

/// The part of a study on the device, or why there is none.
pub fn of(id: &str) -> Result<&'static DevicePart, &'static str> {
    let study = super::ALL.iter().find(|study| study.id == id);
    study.map_or(Err("there is no such study"), |study| {
        study.device.as_ref().map_err(|why| *why)
    })
}
