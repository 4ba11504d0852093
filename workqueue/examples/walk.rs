// SPDX-License-Identifier: MIT OR Apache-2.0
//! Adds up a directory tree, with a closure for each directory that it meets.
//!
//! ```sh
//! cargo run -p cmwq --example walk -- /usr/share
//! ```
//!
//! The closures borrow the totals from `main`, since the scope ends after the last of them. On an
//! unbound queue `max_active` is the number of directories that are read at once.

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{env, fs, io};
use workqueue::{Flags, Runtime, SpawnScope};

#[derive(Default)]
struct Totals {
    directories: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    unreadable: AtomicU64,
}

fn visit<'a>(scope: &'a SpawnScope<'a, '_>, totals: &'a Totals, directory: PathBuf) {
    totals.directories.fetch_add(1, Relaxed);
    let read = || -> io::Result<()> {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                let spawned = scope.spawn(move || visit(scope, totals, entry.path()));
                spawned.map_err(io::Error::other)?;
            } else if kind.is_file() {
                totals.files.fetch_add(1, Relaxed);
                totals.bytes.fetch_add(entry.metadata()?.len(), Relaxed);
            }
        }
        Ok(())
    };
    if read().is_err() {
        totals.unreadable.fetch_add(1, Relaxed);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = env::args_os().nth(1).unwrap_or_else(|| ".".into());
    let runtime = Runtime::builder().start()?;
    let queue = runtime.queue("walk").flags(Flags::UNBOUND).max_active(16);
    let queue = queue.build()?;
    let totals = Totals::default();
    queue.scope(|scope| visit(scope, &totals, root.into()))?;
    println!(
        "{} files with {} bytes in {} directories, {} of them unreadable",
        totals.files.into_inner(),
        totals.bytes.into_inner(),
        totals.directories.into_inner(),
        totals.unreadable.into_inner(),
    );
    Ok(())
}
