// SPDX-License-Identifier: MIT OR Apache-2.0
//! A folder that goes with its owner.

use std::fs;
use std::io;
use std::path::PathBuf;

/// A folder below the system's temporary one. It is removed with the value.
#[derive(Debug)]
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// Makes it, under a name with the id of this process.
    pub fn new(name: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind is in the folder for that.
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}
