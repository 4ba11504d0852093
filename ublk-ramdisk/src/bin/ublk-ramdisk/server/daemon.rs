// SPDX-License-Identifier: MIT OR Apache-2.0
//! Becoming a daemon, and the one message that a new server sends to the command that started it.
//!
//! The command forks while it has a single thread, waits at a pipe and returns the server's message.
//! Of a server that ends without a message it reports how its supervisor ended.
//!
//! ```text
//!   add                    supervisor             server
//!   make the pipe, fork
//!   close its end for      leave the terminal,
//!   writing, wait          fork
//!                          close the pipe         make the disk
//!                                                 say Ready or Failed
//!   print the path, or     watch the server       serve, or end
//!   the failure
//! ```

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::AsFd;

use ublk_ramdisk::error::Failure;

use super::process::{self, Side};
use super::protocol::{Served, Word};

/// The server's end of the pipe.
pub struct ReadyPipe(PipeWriter);

impl ReadyPipe {
    /// Sends the word. An error means that the command that waited for it is gone.
    pub fn say(&self, word: &Word) -> io::Result<()> {
        let mut line = serde_json::to_vec(word)?;
        line.push(b'\n');
        (&self.0).write_all(&line)
    }
}

/// The command's end of the pipe.
pub struct Waiting(PipeReader);

/// Makes the pipe.
pub fn pipe() -> io::Result<(Waiting, ReadyPipe)> {
    let (reader, writer) = io::pipe()?;
    Ok((Waiting(reader), ReadyPipe(writer)))
}

impl Waiting {
    /// Waits for the one line, or for the end of all who could write it. Without a disk `end` waits
    /// until nothing is left of it, and says how its server or supervisor ended.
    pub fn hear(self, end: impl FnOnce() -> String) -> Result<Served, Failure> {
        let mut line = String::new();
        let heard = BufReader::new(self.0).read_line(&mut line);
        match serde_json::from_str(&line) {
            Ok(Word::Ready(served)) => Ok(served),
            Ok(Word::Failed(failure)) => {
                end();
                Err(failure)
            }
            Ok(Word::TriesAgain(failure)) => Err(Failure {
                message: format!("{failure}; the disk waits, and other servers are tried"),
                ..failure
            }),
            Err(_) => {
                let why = heard.err().map(|error| format!("; {error}"));
                Err(Failure::runtime(format!(
                    "the server ended before the disk was ready ({}{}); its log has more",
                    end(),
                    why.unwrap_or_default()
                )))
            }
        }
    }
}

/// What comes of a fork, or the start of a thread, that fails.
pub fn not_started(error: io::Error) -> Failure {
    Failure::runtime(format!("cannot start the server: {error}"))
}

/// Runs `supervise` in a daemon and returns what its server said. Does not return in the child.
pub fn start(supervise: impl FnOnce(ReadyPipe) -> u8) -> Result<Served, Failure> {
    let (waiting, ready) = pipe().map_err(not_started)?;
    match process::fork().map_err(not_started)? {
        Side::Parent(child) => {
            // Else the pipe would have no end when the child is gone.
            drop(ready);
            waiting.hear(|| match child.end() {
                Ok(end) => end.to_string(),
                Err(error) => error.to_string(),
            })
        }
        Side::Child => {
            drop(waiting);
            let status = match process::detach(ready.0.as_fd()) {
                Ok(()) => supervise(ready),
                Err(error) => {
                    let _ = ready.say(&Word::Failed(not_started(error)));
                    1
                }
            };
            // Not back into the caller: what follows there is the parent's.
            std::process::exit(status.into())
        }
    }
}
