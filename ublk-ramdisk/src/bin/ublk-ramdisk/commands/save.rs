// SPDX-License-Identifier: MIT OR Apache-2.0
//! `save`: the contents of a disk as a sparse file. Read through the page cache, where what was written
//! last may be.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{posix_fadvise, PosixFadviseAdvice};
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::ctrl::block_path;

use super::output_file::{OutputFile, Writing};
use crate::cli::SaveArgs;
use crate::server::run_dir::RunDir;

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;
/// Zeros of this length become a hole.
const BLOCK: usize = 4096;

/// Saves the disk.
pub fn run(args: &SaveArgs) -> Result<Exit, Failure> {
    let path = block_path(args.id);
    let cannot_read = |error| Failure::runtime(format!("cannot read {path}: {error}"));
    let disk = File::open(&path).map_err(cannot_read)?;
    refuse_image(&args.file)?;
    let mut file = OutputFile::check(&args.file)?.begin()?;
    let (mut piece, mut at) = (Vec::new(), 0);
    loop {
        piece.clear();
        let read = (&disk).take(PIECE).read_to_end(&mut piece);
        let held = read.map_err(cannot_read)? as i64;
        if held == 0 {
            break;
        }
        write_sparsely(&mut file, &piece).map_err(|error| file.failed(&error))?;
        // It is in memory already, on the disk.
        let no_more = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        let _refused = posix_fadvise(&disk, at, held, no_more);
        at += held;
    }
    file.finish()?;
    Ok(Exit::Done)
}

/// To write to the image of a disk would empty it under its readers.
fn refuse_image(file: &Path) -> Result<(), Failure> {
    let inode = |path: &Path| {
        fs::metadata(path)
            .ok()
            .map(|found| (found.dev(), found.ino()))
    };
    let (target, run_dir) = (inode(file), RunDir::of_this_machine()?);
    for id in run_dir.ids() {
        let config = run_dir.state(id).and_then(|state| state.config);
        let base = config.and_then(|config| config.base);
        if base.is_some_and(|base| target.is_some() && inode(&base.path) == target) {
            return Err(Failure::in_use(format!(
                "{} is the image of device {id}: save to another file",
                file.display()
            )));
        }
    }
    Ok(())
}

fn write_sparsely(file: &mut Writing, piece: &[u8]) -> io::Result<()> {
    let is_hole = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    let runs = piece.chunks(BLOCK).collect::<Vec<_>>();
    for run in runs.chunk_by(|a, b| is_hole(a) == is_hole(b)) {
        let bytes: usize = run.iter().map(|block| block.len()).sum();
        if is_hole(run[0]) {
            file.skip(bytes as u64)?;
        } else {
            run.iter().try_for_each(|block| file.write_all(block))?;
        }
    }
    Ok(())
}
