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
    /// Exit status 1.
    pub fn runtime(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Failure,
            message: message.into(),
        }
    }

    /// Exit status 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            message: message.into(),
        }
    }

    /// Exit status 3.
    pub fn environment(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Environment,
            message: message.into(),
        }
    }

    /// Exit status 4.
    pub fn in_use(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::InUse,
            message: message.into(),
        }
    }
}
