// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a command ends when it does not succeed: one exit status and one line.
//!
//! Each layer has an error enum of its own whose variants are facts; on its way
//! to the user an error becomes a [`Failure`], which also crosses the pipe from
//! the daemon to the `add` that started it.

use serde::{Deserialize, Serialize};

/// The documented exit statuses (L1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Tried and failed.
    Failure = 1,
    /// The command line asks for something that cannot be.
    Usage = 2,
    /// This machine lacks something.
    Environment = 3,
    /// Somebody else has it.
    InUse = 4,
}

/// Why a command did not succeed: what, which value, what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit status it stands for.
    pub exit: Exit,
    /// One line for the user.
    pub message: String,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { exit, message }
    }

    /// Exit status 1: it was tried, and failed.
    pub fn runtime(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }

    /// Exit status 2: nothing was tried, as what was asked for cannot be.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Exit status 3: a module, a permission, memory or a feature of the kernel is missing.
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(Exit::Environment, message)
    }

    /// Exit status 4: the disk, its id or its file is in use.
    pub fn in_use(message: impl Into<String>) -> Self {
        Self::new(Exit::InUse, message)
    }
}
