// SPDX-License-Identifier: MIT OR Apache-2.0
//! `save`: the contents of a disk as a sparse file. Read through the page cache, where what was written
//! last may be.

use std::fs::File;
use std::io::{self, Read, Write};

use nix::fcntl::{posix_fadvise, PosixFadviseAdvice};
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::ctrl::block_path;

use super::output_file::{OutputFile, Writing};
use crate::cli::SaveArgs;

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;
/// Zeros of this length become a hole.
const BLOCK: usize = 4096;

/// Saves the disk.
pub fn run(args: &SaveArgs) -> Result<Exit, Failure> {
    let path = block_path(args.id);
    let cannot_read = |error| Failure::runtime(format!("cannot read {path}: {error}"));
    let disk = File::open(&path).map_err(cannot_read)?;
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
