// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a study is run, and why it may have no result.

use crate::files::FileError;
use workqueue::{AllocError, EnqueueError, StartError, WaitError};

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Less of everything that is measured.
    pub quick: bool,
    /// Also what depends on the machine; else the parts in virtual time alone.
    pub measure: bool,
}

impl Settings {
    /// In a guest everything is measured, at full length.
    pub const GUEST: Self = Self {
        quick: false,
        measure: true,
    };

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
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A program or file that the study needs is missing.
    #[error("{0}")]
    Lacking(String),
}

impl<W> From<EnqueueError<W>> for StudyError {
    fn from(error: EnqueueError<W>) -> Self {
        Self::Refused(error.to_string())
    }
}
