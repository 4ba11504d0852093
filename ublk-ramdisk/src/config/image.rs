// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--base`: the image that a disk begins with, and how it is known again (H18).

use std::convert::Infallible;
use std::fs::{File, Metadata};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// A file that a disk reads where it has not been written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its path, absolute once it was [found](Image::found).
    pub path: PathBuf,
    /// What it was when the disk was made.
    pub known: Option<Known>,
}

/// What changes when somebody writes to an image, or puts another file in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Bytes.
    pub length: u64,
    /// Time of the last write, in seconds and nanoseconds.
    pub modified: (i64, i64),
}

impl FromStr for Image {
    type Err = Infallible;

    fn from_str(path: &str) -> Result<Self, Infallible> {
        let (path, known) = (path.into(), None);
        Ok(Self { path, known })
    }
}

impl Known {
    fn of(found: &Metadata) -> Self {
        Self {
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        }
    }
}

impl Image {
    /// Bytes of the image; 0 before it was found.
    pub fn length(&self) -> u64 {
        self.known.map_or(0, |known| known.length)
    }

    /// Looks what the image is now, for a new disk.
    pub fn found(self) -> Result<Self, Failure> {
        let (_, known) = self.open_any()?;
        if known.length == 0 {
            return Err(Failure::usage(format!(
                "--base {}: the file is empty",
                self.path.display()
            )));
        }
        let path = std::path::absolute(&self.path).map_err(|error| self.cannot_open(&error))?;
        let known = Some(known);
        Ok(Self { path, known })
    }

    /// Opens the image as it was found.
    ///
    /// # Errors
    /// It cannot be opened, or has changed since: the disk would hold a mixture of both.
    pub fn open(&self) -> Result<File, Failure> {
        let (file, known) = self.open_any()?;
        if self.known == Some(known) {
            return Ok(file);
        }
        Err(Failure::environment(format!(
            "--base {}: the image has changed since the disk was made: put the former one back, with its \
             time of change",
            self.path.display()
        )))
    }

    fn open_any(&self) -> Result<(File, Known), Failure> {
        let mut options = File::options();
        let opened = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&self.path);
        let opened = opened.and_then(|file| Ok((file.metadata()?, file)));
        let (found, file) = opened.map_err(|error| self.cannot_open(&error))?;
        if !found.is_file() {
            return Err(Failure::usage(format!(
                "--base {}: this is not a regular file",
                self.path.display()
            )));
        }
        Ok((file, Known::of(&found)))
    }

    fn cannot_open(&self, error: &std::io::Error) -> Failure {
        Failure::environment(format!("--base {}: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use crate::sys::scratch::Scratch;
    use std::fs;

    #[test]
    fn h18_an_image_is_a_regular_file_and_known_again() {
        let place = Scratch::new("ublk-image").unwrap();
        let image = |path: PathBuf| Image { path, known: None };
        let at = |name: &str| image(place.0.join(name)).found();
        let missing = at("missing").unwrap_err();
        assert_eq!(missing.exit, Exit::Environment, "{missing}");
        let folder = image(place.0.clone()).found().unwrap_err();
        assert_eq!(folder.exit, Exit::Usage, "{folder}");
        fs::write(place.0.join("image"), []).unwrap();
        assert!(at("image").unwrap_err().message.contains("empty"));
        fs::write(place.0.join("image"), [1; 1000]).unwrap();
        let found = at("image").unwrap();
        assert_eq!(found.length(), 1000);
        found.open().expect("it is the same");
        // As many bytes, later.
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
        let file = File::options().write(true).open(place.0.join("image"));
        file.and_then(|file| file.set_modified(later)).unwrap();
        let changed = found.open().unwrap_err();
        assert!(changed.message.contains("has changed"), "{changed}");
    }
}
