// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parts of the studies that need the real driver, in a guest.
//!
//! Each has two halves. In the guest `study --act LETTER FOLDER` makes disks and loads them ([`act`]) and keeps of each
//! experiment what fio, the server and the kernel said, a file of JSON each. Outside that is read ([`raw`]) and becomes
//! a [`Part`] like any other. `scripts/study` boots the guest between the two.

pub mod act;

mod threads;

pub mod raw;

pub mod rate;

pub mod delay;

pub mod filling;

pub mod rescuer;

pub mod priority;

pub mod fairness;

use super::outcome::{Kind, Part};
use super::StudyError;
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
    id: &'static str,
    act: fn(&Guest) -> Result<(), StudyError>,
    read: fn(&Raw, Kind) -> Result<Part, StudyError>,
}

const ALL: [DevicePart; 6] = [
    DevicePart {
        id: "a",
        act: rate::act,
        read: rate::read,
    },
    DevicePart {
        id: "b",
        act: delay::act,
        read: delay::read,
    },
    DevicePart {
        id: "d",
        act: rescuer::act,
        read: rescuer::read,
    },
    DevicePart {
        id: "e",
        act: priority::act,
        read: priority::read,
    },
    DevicePart {
        id: "g",
        act: filling::act,
        read: filling::read,
    },
    DevicePart {
        id: "h",
        act: fairness::act,
        read: fairness::read,
    },
];

/// The part of a study on the device, or why there is none.
pub fn of(id: &str) -> Result<&'static DevicePart, &'static str> {
    const FOUND: &[DevicePart] = &ALL;
    FOUND.iter().find(|part| part.id == id).ok_or(match id {
        "c" => "the old rules exist in the simulation only",
        "f" => "it is about the workqueue alone, which needs no disk",
        _ => "there is no such study",
    })
}

impl DevicePart {
    /// The half in the guest.
    pub fn act(&self, guest: &Guest) -> Result<(), StudyError> {
        (self.act)(guest)
    }

    /// The half outside.
    pub fn read(&self, raw: &Raw, bed: Bed) -> Result<Part, StudyError> {
        (self.read)(raw, bed.kind())
    }
}
