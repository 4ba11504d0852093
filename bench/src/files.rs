// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of a run, read and written so that every error names the file, and the reasons for which a
//! program ends early.

use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::ser::Formatter;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;

pub use ublk_ramdisk::sys::scratch::Scratch;

/// Why a program ends early.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// What was asked for makes no sense. Exit status 2.
    #[error("{0}")]
    Usage(String),
    /// Something went wrong on the way. Exit status 1.
    #[error("{0}")]
    Runtime(String),
    /// A signal asked for it, by its number. Exit status 128 more than that.
    #[error("ended by signal {0}")]
    Stopped(i32),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Runtime(why)
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::Runtime(error.0)
    }
}

/// A file and what is wrong with it, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FileError(String);

impl From<FileError> for String {
    fn from(error: FileError) -> Self {
        error.0
    }
}

/// Makes an error of a file's name and what is wrong with it.
pub fn at<E: Display>(path: &Path) -> impl Fn(E) -> FileError + '_ {
    move |why| FileError(format!("{}: {why}", path.display()))
}

/// Reads a text. Fails if the file is not there, cannot be read, or is no UTF-8.
pub fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(at(path))
}

/// Reads a text, or `None` where there is no such file. Fails if there is one that cannot be read.
pub fn read_if_there(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// Writes a text in place. For files of the kernel, which must not be replaced. Fails if the kernel
/// refuses the value.
pub fn write(path: &Path, text: &str) -> Result<(), FileError> {
    fs::write(path, text).map_err(at(path))
}

/// Writes a text by way of another name, so that an interrupted run leaves no half file. Fails if
/// the folder cannot be written to.
pub fn write_whole(path: &Path, text: &str) -> Result<(), FileError> {
    let part = path.with_extension("part");
    let done = fs::write(&part, text).and_then(|()| fs::rename(&part, path));
    done.map_err(at(path))
}

/// Reads JSON. Fails if the file is not there, or is not what is expected of it.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    serde_json::from_str(&read(path)?).map_err(at(path))
}

/// Writes JSON with a line for each member of the outer three objects: a line for each series of
/// samples, so that a change of one shows as a change of one line.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, Lines(0));
    value.serialize(&mut serializer).map_err(at(path))?;
    text.push(b'\n');
    fs::write(path, text).map_err(at(path))
}

/// The number of objects around what is written.
struct Lines(usize);

impl Lines {
    /// Depth of nesting up to which each member of an object gets a line of its own.
    const MOST: usize = 3;
}

impl Formatter for Lines {
    fn begin_object<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0 += 1;
        to.write_all(b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0 -= 1;
        to.write_all(if self.0 < Self::MOST { b"\n}" } else { b"}" })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        to.write_all(if first { b"" } else { b"," })?;
        to.write_all(if self.0 <= Self::MOST { b"\n" } else { b"" })
    }
}

/// A name and a value.
pub type Pair = (String, String);

/// Reads lines of a name and a value with a tab between; none if there is no such file. Scripts write
/// such files.
pub fn pairs(path: &Path) -> Result<Vec<Pair>, FileError> {
    let text = read_if_there(path)?.unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Ok(lines.map(pair).collect())
}

/// The lines that [`pairs`] reads.
pub fn lines_of<N: Display, V: Display>(pairs: impl IntoIterator<Item = (N, V)>) -> String {
    let lines = pairs.into_iter();
    lines
        .map(|(name, value)| format!("{name}\t{value}\n"))
        .collect()
}
