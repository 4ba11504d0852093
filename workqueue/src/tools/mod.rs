// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the programs `wq-monitor` and `wq-dump` are made of.
//!
//! Both ask a control socket ([`crate::Runtime::open_control_socket`]) and show the reply as text
//! or JSON. [`run`] is their common frame: arguments in, one line for what went wrong, exit status
//! out. Kernel counterparts: `tools/workqueue/wq_monitor.py` and `wq_dump.py`.

mod client;

mod output;

mod patterns;

pub mod dump;

pub mod monitor;

use clap::error::ErrorKind;
use clap::Parser;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
PATTERN is a queue's name, where * stands for any text and ? for any one character. Without one,
all queues are shown.

Exit status:
  0  done
  1  the process has ended or gave no sensible answer
  2  bad usage
  3  there is no process to ask: no socket, nobody listens, or no permission

Environment:
  WQ_SOCKET   the socket's path, if --socket is not given";

/// Why a program ends without having done its work.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    /// The process went away or answered what cannot be.
    fn lost(message: impl Display) -> Self {
        Self {
            status: 1,
            message: message.to_string(),
        }
    }

    fn usage(message: impl Display) -> Self {
        Self {
            status: 2,
            message: message.to_string(),
        }
    }

    /// There is nobody to ask.
    fn unreachable(message: impl Display) -> Self {
        Self {
            status: 3,
            message: message.to_string(),
        }
    }
}

/// Parses the arguments, runs the body, and says in one line on standard error what went wrong.
pub fn run<A: Parser>(
    program: &str,
    words: impl IntoIterator<Item = OsString>,
    body: impl FnOnce(&A) -> Result<(), Failure>,
) -> ExitCode {
    let done = match A::try_parse_from(words) {
        Ok(args) => body(&args),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            output::print(&e.to_string()).map(drop)
        }
        Err(e) => Err(Failure::usage(one_line(&e))),
    };
    let Err(failure) = done else {
        return ExitCode::SUCCESS;
    };
    // When standard error is closed there is nobody to tell.
    let _unheard = writeln!(io::stderr(), "{program}: {}", failure.message);
    ExitCode::from(failure.status)
}

/// Presses clap's first paragraph into one line.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = first.split_whitespace().collect();
    let line = words.join(" ");
    format!("{} (see --help)", line.trim_start_matches("error: "))
}
