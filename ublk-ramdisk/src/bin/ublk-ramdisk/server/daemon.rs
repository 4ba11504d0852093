// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making the server a daemon, and the one message it sends to the command that started it.
//!
//! The parent forks while it has a single thread, waits at a pipe and returns the child's message.
//! Of a child that ends without a message the parent reports its exit status or signal.
//!
//! ```text
//!   add (parent)                      server (child)
//!   make the pipe, fork
//!   close the end for writing         close the end for reading
//!   wait for a line                   leave the terminal, make the disk
//!                                     say Ready or Failed
//!   print the path, or the failure    serve, or end
//! ```

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::AsFd;

use ublk_ramdisk::error::Failure;

use super::process::{self, Child, Side};
use super::protocol::{Served, Word};

/// The child's end of the pipe.
pub struct ReadyPipe(PipeWriter);

impl ReadyPipe {
    /// Sends the word. An error means that the command that waited for it is gone.
    pub fn say(mut self, word: &Word) -> io::Result<()> {
        let mut line = serde_json::to_vec(word)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

/// Runs `serve` in a daemon and returns what it said. Does not return in the child.
pub fn start(serve: impl FnOnce(ReadyPipe) -> u8) -> Result<Served, Failure> {
    let failed = |error: io::Error| Failure::runtime(format!("cannot start the server: {error}"));
    let (reader, writer) = io::pipe().map_err(failed)?;
    match process::fork().map_err(failed)? {
        Side::Parent(child) => {
            // Else the pipe would have no end when the child is gone.
            drop(writer);
            hear(reader, child)
        }
        Side::Child => {
            drop(reader);
            let status = match process::detach(writer.as_fd()) {
                Ok(()) => serve(ReadyPipe(writer)),
                Err(error) => {
                    let _ = ReadyPipe(writer).say(&Word::Failed(failed(error)));
                    1
                }
            };
            // Not back into the caller: what follows there is the parent's.
            std::process::exit(status.into())
        }
    }
}

/// Waits for the child's one line, or for its end.
fn hear(reader: PipeReader, child: Child) -> Result<Served, Failure> {
    let mut line = String::new();
    let heard = BufReader::new(reader).read_line(&mut line);
    match serde_json::from_str(&line) {
        Ok(Word::Ready(served)) => Ok(served),
        Ok(Word::Failed(failure)) => {
            // Waited for, so that nothing is left of a failed `add` when it returns.
            child.end();
            Err(failure)
        }
        Err(_) => {
            let why = heard.err().map(|error| format!("; {error}"));
            Err(Failure::runtime(format!(
                "the server ended before the disk was ready ({}{}); its log has more",
                child.end(),
                why.unwrap_or_default()
            )))
        }
    }
}
