// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asks a control socket.

use super::Failure;
use crate::observe::control_socket::{receive, send, Deadline, Reply, Request};
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// How long to wait for a reply.
const PATIENCE: Duration = Duration::from_secs(10);

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
        let deadline = Deadline::after(PATIENCE);
        let reply = send(&stream, &request, &deadline).and_then(|()| receive(&stream, &deadline));
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
            format!("nothing came within {} s", PATIENCE.as_secs())
        }
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "it closed the connection".to_owned()
        }
        _ => error.to_string(),
    }
}
