// SPDX-License-Identifier: MIT OR Apache-2.0
//! Removal of what this program made, and of nothing else.
//!
//! A path may have become something else since then, or never have been ours: a link, a device
//! node, a FIFO. Each function looks at the path itself, never at what a link leads to.

use std::fs::{self, File, FileType};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Removes a regular file. Anything else is left as it is.
pub fn regular_file(path: &Path) -> io::Result<()> {
    match is(path, FileType::is_file)? {
        true => fs::remove_file(path),
        false => Ok(()),
    }
}

/// Removes a socket. Anything else is left as it is.
pub fn socket(path: &Path) -> io::Result<()> {
    match is(path, FileType::is_socket)? {
        true => fs::remove_file(path),
        false => Ok(()),
    }
}

/// Removes a directory with everything in it. Anything else is left as it is.
pub fn directory(path: &Path) -> io::Result<()> {
    match is(path, FileType::is_dir)? {
        true => fs::remove_dir_all(path),
        false => Ok(()),
    }
}

/// Removes the name of an open regular file. A path that names another file by now is left.
pub fn this_file(path: &Path, file: &File) -> io::Result<()> {
    match is_this_file(path, file)? {
        true => fs::remove_file(path),
        false => Ok(()),
    }
}

/// True if the path names this open regular file.
pub fn is_this_file(path: &Path, file: &File) -> io::Result<bool> {
    let (named, held) = (fs::symlink_metadata(path)?, file.metadata()?);
    Ok(named.is_file() && (named.dev(), named.ino()) == (held.dev(), held.ino()))
}

/// A path that is not there is of no kind: nothing is left to remove.
fn is(path: &Path, kind: fn(&FileType) -> bool) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(kind(&found.file_type())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
