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
use super::settings::StudyError;
use super::table::{Block, StudyFile};
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
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::InProcess => Kind::Measured,
            Self::Icount => Kind::Counted,
            Self::Vm => Kind::Guest,
        }
    }
}

/// Makes experiments in the guest.
pub type Act = fn(&Guest, &[Block]) -> Result<(), StudyError>;

/// Reads what a guest left; the texts of the part are in the study's table.
pub type Read = fn(&Raw, &StudyFile, Kind) -> Result<Part, StudyError>;

/// The part of a study on the device, as far as the study's table does not say it.
#[derive(Clone, Copy)]
pub struct DevicePart {
    /// Makes experiments in the guest; is given the blocks of the table.
    pub act: Option<Act>,
    /// Reads what the guest left.
    pub read: Option<Read>,
}

impl DevicePart {
    /// The table says all.
    pub const TABLE: Self = Self {
        act: None,
        read: None,
    };

    /// Some experiments are made by this.
    pub const fn acts(act: Act) -> Self {
        Self {
            act: Some(act),
            read: None,
        }
    }
}
