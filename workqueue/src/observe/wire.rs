// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes over a control socket: one request and one reply, each a line of JSON.
//!
//! | request | reply |
//! |---|---|
//! | `{"get":"sample"}` | `{"sample":{...}}`: the counters of all queues |
//! | `{"get":"snapshot"}` | `{"snapshot":{...}}`: CPUs, pools, queues, rescuers |
//! | anything else | `{"error":"..."}` |
//!
//! Both ends are in this crate: [`super::control_socket`] and [`crate::tools`].

use super::snapshot::{Sample, Snapshot};
use crate::sys::cpuset::CpuSet;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// No message is longer, so that nobody can make the other end read for ever.
const LONGEST_LINE: usize = 16 << 20;

/// What a reader asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "get", rename_all = "lowercase")]
pub(crate) enum Request {
    Sample,
    Snapshot,
}

/// What it gets.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reply {
    Sample(Sample),
    Snapshot(Box<Snapshot>),
    Error(String),
}

impl Serialize for CpuSet {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.to_list())
    }
}

impl<'de> Deserialize<'de> for CpuSet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse_list(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no CPU list")))
    }
}

/// The other end has until a moment, however many pieces it needs.
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(patience: Duration) -> Self {
        Self(Instant::now() + patience)
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(left)
    }
}

/// Sends a message as one line.
pub(crate) fn send(
    mut stream: &UnixStream,
    message: &impl Serialize,
    deadline: &Deadline,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut rest = &line[..];
    while !rest.is_empty() {
        stream.set_write_timeout(Some(deadline.left()?))?;
        match stream.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => rest = &rest[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Receives a message. A line that is none is an error of kind `InvalidData`.
pub(crate) fn receive<T: DeserializeOwned>(
    mut stream: &UnixStream,
    deadline: &Deadline,
) -> io::Result<T> {
    let (mut line, mut piece) = (Vec::new(), [0; 4096]);
    while !line.contains(&b'\n') {
        if line.len() > LONGEST_LINE {
            return Err(ErrorKind::InvalidData.into());
        }
        stream.set_read_timeout(Some(deadline.left()?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => line.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    serde_json::from_slice(&line).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))
}
