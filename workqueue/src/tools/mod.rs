// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the programs `wq-monitor` and `wq-dump` are made of.
//!
//! Both read from a control socket ([`crate::Runtime::open_control_socket`]) and show the reply as
//! text or JSON. [`run`] parses the arguments, prints an error as one line, and returns the exit
//! status. Kernel counterparts: `tools/workqueue/wq_monitor.py` and `wq_dump.py`.

pub mod dump;

pub mod monitor;

use crate::observe::control_socket::{receive, send, Reply, Request, WaitBudget};
use clap::error::ErrorKind as ClapKind;
use clap::Parser;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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
    /// The process ended or sent a wrong reply.
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

    /// There is no process to connect to.
    fn unreachable(message: impl Display) -> Self {
        Self {
            status: 3,
            message: message.to_string(),
        }
    }
}

/// How long to wait for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The options that both programs have.
#[derive(Debug, clap::Args)]
pub(crate) struct Address {
    /// The control socket of the process to look at
    #[arg(short, long, value_name = "PATH", env = "WQ_SOCKET")]
    socket: PathBuf,
}

/// Why there was no reply.
pub(crate) enum NoReply {
    /// The connection failed.
    Nobody(Failure),
    /// The connection was lost, or the reply was wrong.
    Lost(Failure),
}

impl From<NoReply> for Failure {
    fn from(why: NoReply) -> Self {
        match why {
            NoReply::Nobody(failure) | NoReply::Lost(failure) => failure,
        }
    }
}

impl Address {
    /// Sends one request and returns the reply.
    pub(crate) fn ask(&self, request: Request) -> Result<Reply, NoReply> {
        let stream = UnixStream::connect(&self.socket).map_err(|e| self.nobody(&e))?;
        let budget = &mut WaitBudget::of(REPLY_TIMEOUT);
        let reply = send(&stream, &request, budget).and_then(|()| receive(&stream, budget));
        match reply {
            Ok(Reply::Error(text)) => Err(self.lost(&text)),
            Ok(reply) => Ok(reply),
            Err(e) => Err(self.lost(&reason(&e))),
        }
    }

    /// The reply was to another request.
    pub(crate) fn nonsense(&self) -> Failure {
        self.lost("it answered another question").into()
    }

    /// The process replied before and has ended.
    pub(crate) fn ended(&self) -> Failure {
        Failure::lost(format!(
            "the process behind {} has ended",
            self.socket.display()
        ))
    }

    fn lost(&self, why: &str) -> NoReply {
        let path = self.socket.display();
        NoReply::Lost(Failure::lost(format!(
            "the process behind {path} gave no answer: {why}"
        )))
    }

    fn nobody(&self, error: &io::Error) -> NoReply {
        let path = self.socket.display();
        NoReply::Nobody(Failure::unreachable(match error.kind() {
            ErrorKind::NotFound => format!("there is no socket {path}"),
            ErrorKind::ConnectionRefused => format!("no process listens at {path}"),
            ErrorKind::PermissionDenied => {
                format!("no permission for {path}: only the process's own user may look")
            }
            _ => format!("cannot connect to {path}: {error}"),
        }))
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("nothing came within {} s", REPLY_TIMEOUT.as_secs())
        }
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "it closed the connection".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Parses the arguments, runs the body, and prints an error as one line on standard error.
pub fn run<A: Parser>(
    program: &str,
    words: impl IntoIterator<Item = OsString>,
    body: impl FnOnce(&A) -> Result<(), Failure>,
) -> ExitCode {
    let done = match A::try_parse_from(words) {
        Ok(args) => body(&args),
        Err(e) if matches!(e.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion) => {
            print(&e.to_string()).map(drop)
        }
        Err(e) => Err(Failure::usage(one_line(&e))),
    };
    let Err(failure) = done else {
        return ExitCode::SUCCESS;
    };
    // Fails if standard error is closed.
    let _ignored = writeln!(io::stderr(), "{program}: {}", failure.message);
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

/// Prints text. `Break` if the reader has closed the pipe, which is no error; the rest is dropped.
pub(crate) fn print(text: &str) -> Result<ControlFlow<()>, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(e) => Err(Failure::lost(format!(
            "cannot write to standard output: {e}"
        ))),
    }
}

/// Formats rows as columns below their titles: the first column aligned left, the others right.
pub(crate) fn table<T: ToString>(
    titles: impl IntoIterator<Item = T>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let titles = titles.into_iter().map(|title| title.to_string()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(titles).chain(rows).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line += &match n {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// True if the name matches one of the patterns, or if there is none.
pub(crate) fn wanted(name: &str, patterns: &[String]) -> bool {
    let name: Vec<char> = name.chars().collect();
    patterns.is_empty()
        || patterns.iter().any(|pattern| {
            let pattern: Vec<char> = pattern.chars().collect();
            matches(&name, &pattern)
        })
}

/// Matches greedily, and goes back to the last `*` where that fails.
fn matches(name: &[char], pattern: &[char]) -> bool {
    let (mut at, mut of) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        match pattern.get(of) {
            Some('*') => {
                star = Some((at, of));
                of += 1;
            }
            Some(&c) if c == '?' || c == name[at] => {
                at += 1;
                of += 1;
            }
            _ => match star {
                Some((from, back)) => {
                    star = Some((from + 1, back));
                    at = from + 1;
                    of = back + 1;
                }
                None => return false,
            },
        }
    }
    pattern[of..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let row = |cells: &[&str]| cells.iter().map(|&c| c.to_owned()).collect::<Vec<_>>();
        let rows = [row(&["events", "7"]), row(&["é"])];
        assert_eq!(
            table(["", "total"], rows),
            "        total\nevents      7\né\n"
        );
    }

    #[test]
    fn names_are_matched_whole() {
        let is = |name: &str, pattern: &str| wanted(name, &[pattern.to_owned()]);
        for pattern in [
            "events", "*", "ev*", "*ts", "e*e*s", "event?", "**", "events*",
        ] {
            assert!(is("events", pattern), "{pattern}");
        }
        for pattern in ["event", "vents", "?", "events?", "x*", "*x", "", "EVENTS"] {
            assert!(!is("events", pattern), "{pattern}");
        }
        assert!(is("aXbXc", "a*X?") && is("", "*") && is("ü", "?"));
        assert!(wanted("any", &[]));
        assert!(wanted("b", &["a".to_owned(), "b".to_owned()]));
    }
}
