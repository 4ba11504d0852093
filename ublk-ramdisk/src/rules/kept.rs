// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the rules have done: their counts, and the requests that a rule holds. In a file beside the
//! state file, mapped by the server, so that a new server finds it as the former one left it, however
//! that ended (E32). A disk whose contents go with its server has it in memory alone.
//!
//! ```text
//!   words      0           1            1 + 128 x 8
//!              VERSION     cells        held requests: offset, length and operation, place and slot
//! ```
//!
//! Each rule has a slot of cells. Slots are taken in turn, so that a request that is just being looked
//! up under a former rule does not meet the next rule of the slot.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::rule::bit;
use super::MOST_RULES;
use crate::mq::Request;
use crate::sys::mmap::Words;

/// Slots: those of all rules of a disk, and of all that take their place at once.
pub(super) const SLOTS: usize = 2 * MOST_RULES;
const CELLS: usize = 8;
/// Held requests that are kept. A new server serves those above at once.
const HELD: usize = 1024;
const RECORD: usize = 3;
const FIRST_HELD: usize = 1 + SLOTS * CELLS;
const LEN: usize = (FIRST_HELD + HELD * RECORD) * size_of::<u64>();
/// Of the layout.
const VERSION: u64 = 1;

/// The counts of one rule; see the constants.
pub(crate) type Cells = [AtomicU64; CELLS];
/// Which rule they are of; 0 for none.
pub(super) const RULE: usize = 0;
/// Requests that it was asked about.
pub(super) const SEEN: usize = 1;
/// Those of them whose turn it was by `every`.
pub(super) const DUE: usize = 2;
/// Those that it did something to.
pub(super) const HITS: usize = 3;
/// Nanoseconds that the rule has been in force.
pub(super) const SPENT: usize = 4;
/// When the server put it in force, less what it had spent before.
pub(super) const SINCE: usize = 5;

/// A request that a rule held when its server died.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) slot: usize,
    offset: u64,
    what: u64,
}

/// The length and the operation, never 0.
fn what(request: &Request) -> u64 {
    request.len() << 8 | u64::from(bit(request.op()))
}

impl Held {
    pub(super) fn is(&self, request: &Request) -> bool {
        (self.offset, self.what) == (request.offset(), what(request))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Kept(Words);

impl Kept {
    /// Opens the file, or makes it; without one it is in memory.
    pub(super) fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else {
            return Words::anonymous(LEN).map(Self);
        };
        let mut options = File::options();
        options.read(true).write(true).create(true).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
        file.set_len(LEN as u64)?;
        let kept = Self(Words::in_file(&file, LEN)?);
        if kept.0[0].swap(VERSION, Relaxed) != VERSION {
            kept.0[1..].iter().for_each(|word| word.store(0, Relaxed));
        }
        Ok(kept)
    }

    pub(super) fn cells(&self, slot: usize) -> &Cells {
        let cells = &self.0[1 + slot * CELLS..][..CELLS];
        cells.try_into().expect("it has this length")
    }

    fn records(&self) -> impl Iterator<Item = &[AtomicU64]> {
        self.0[FIRST_HELD..].chunks_exact(RECORD).take(HELD)
    }

    /// Notes that a rule holds the request in this place.
    pub(super) fn hold(&self, slot: usize, place: usize, request: &Request) {
        let free = |record: &&[AtomicU64]| record[1].load(Relaxed) == 0;
        if let Some(record) = self.records().find(free) {
            record[0].store(request.offset(), Relaxed);
            record[2].store((place * SLOTS + slot) as u64, Relaxed);
            record[1].store(what(request), Relaxed);
        }
    }

    /// The request in this place is held no more.
    pub(super) fn let_go(&self, place: usize) {
        let its = |record: &&[AtomicU64]| {
            record[1].load(Relaxed) != 0 && record[2].load(Relaxed) as usize / SLOTS == place
        };
        if let Some(record) = self.records().find(its) {
            record[1].store(0, Relaxed);
        }
    }

    /// Takes the requests that were held.
    pub(super) fn take_held(&self) -> Vec<Held> {
        let taken = self.records().map(|record| Held {
            offset: record[0].load(Relaxed),
            slot: record[2].load(Relaxed) as usize % SLOTS,
            what: record[1].swap(0, Relaxed),
        });
        taken.filter(|held| held.what != 0).collect()
    }
}
