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
    of_kind(path, FileType::is_file, |path| fs::remove_file(path))
}

/// Removes a socket. Anything else is left as it is.
pub fn socket(path: &Path) -> io::Result<()> {
    of_kind(path, FileType::is_socket, |path| fs::remove_file(path))
}

/// Removes a directory with everything in it. Anything else is left as it is.
pub fn directory(path: &Path) -> io::Result<()> {
    of_kind(path, FileType::is_dir, |path| fs::remove_dir_all(path))
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

/// A path that is not there, or that another process has just removed, is removed.
fn of_kind(
    path: &Path,
    kind: fn(&FileType) -> bool,
    remove: fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let removed = fs::symlink_metadata(path).and_then(|found| match kind(&found.file_type()) {
        true => remove(path),
        false => Ok(()),
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_what_another_process_has_just_removed_is_removed() {
        let path = std::env::temp_dir().join(format!("ublk-removed-{}", std::process::id()));
        File::create(&path).unwrap();
        // Between the look at the file and its removal.
        let second = |path: &Path| {
            fs::remove_file(path).unwrap();
            fs::remove_file(path)
        };
        of_kind(&path, FileType::is_file, second).unwrap();
        assert!(!path.exists());
        regular_file(&path).unwrap();
    }
}
