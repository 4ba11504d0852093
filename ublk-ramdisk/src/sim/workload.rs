// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which request a job makes next. Each job has a region of the disk to itself, and no two of its
//! requests in flight touch the same block. So it is known what a READ must return.
//!
//! A script may discard parts of a region at any time. What a block holds then is unknown until the
//! next write that begins after the discard has ended.
//!
//! | request that ended | the block holds |
//! |---|---|
//! | WRITE | its generation, or unknown content if it failed |
//! | DISCARD of the job | zeros (generation 0), or unknown content if it failed |
//! | READ | what it held: it is compared if that is known |

use super::config::{Load, Rw, SimConfig};
use crate::mq::Op;
use crate::random::Random;

/// The generation of a block whose content is unknown: a write to it has failed, or a script has
/// discarded it.
const UNKNOWN: u32 = u32::MAX;

/// Is a block being discarded by a script?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Discarding {
    #[default]
    No,
    Yes,
    /// The discard has ended, but a request of the job was in flight beside it and still is.
    UntilEnded,
}

/// What is known of a block of the region.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// How often it has been written; 0: zeros.
    generation: u32,
    discarding: Discarding,
    /// A request of the job touches it.
    in_flight: bool,
    /// It was written or discarded, so the check at the end reads it.
    touched: bool,
}

/// A request to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) op: Op,
    /// Its index in the region; none for FLUSH.
    pub(super) block: Option<usize>,
    /// What the block holds afterwards; for a READ, what it holds now.
    pub(super) generation: u32,
}

/// A job's part of the disk.
#[derive(Debug)]
pub(super) struct Region {
    load: Load,
    /// First byte.
    start: u64,
    blocks: Vec<Block>,
    /// READs and WRITEs made so far, and with trimwrite DISCARDs.
    steps: usize,
    /// Next block to be read again at the end.
    next_check: usize,
}

impl Region {
    /// The region of this job: an equal part of the disk, in whole blocks.
    pub(super) fn new(config: &SimConfig, job: u16) -> Self {
        let blocks = config.device.size / config.load.bs / u64::from(config.load.jobs);
        Self {
            load: config.load.clone(),
            start: u64::from(job) * blocks * config.load.bs,
            blocks: vec![Block::default(); blocks as usize],
            steps: 0,
            next_check: 0,
        }
    }

    /// The first byte of a block on the disk.
    pub(super) fn offset(&self, block: usize) -> u64 {
        self.start + block as u64 * self.load.bs
    }

    /// The next request; none if every block it could go to has one in flight.
    pub(super) fn choose(&mut self, random: &mut Random) -> Option<Access> {
        let load = &self.load;
        if random.per_cent(load.flush) {
            return Some(Access {
                op: Op::Flush,
                block: None,
                generation: 0,
            });
        }
        // The share of those that are no FLUSHes.
        // A per cent of all requests is a larger one of what is left.
        let share = u32::from(load.discard) * 100 / (100 - u32::from(load.flush)).max(1);
        if random.per_cent(share.min(100) as u8) {
            let block = self.free_block(random)?;
            return Some(self.access(Op::Discard, block));
        }
        let op = match load.rw {
            Rw::Read | Rw::RandRead => Op::Read,
            Rw::Write | Rw::RandWrite => Op::Write,
            Rw::ReadWrite | Rw::RandRw if random.per_cent(load.read_share) => Op::Read,
            Rw::ReadWrite | Rw::RandRw => Op::Write,
            Rw::TrimWrite if self.steps.is_multiple_of(2) => Op::Discard,
            Rw::TrimWrite => Op::Write,
        };
        let block = match load.rw {
            Rw::RandRead | Rw::RandWrite | Rw::RandRw => self.free_block(random)?,
            Rw::Read | Rw::Write | Rw::ReadWrite => self.next_block(1)?,
            Rw::TrimWrite => self.next_block(2)?,
        };
        let mut access = self.access(op, block);
        if op == Op::Write && random.per_cent(self.load.zeros.unwrap_or(0)) {
            access.generation = 0;
        }
        Some(access)
    }

    /// For the check at the end: a READ of the next block that was changed and is known.
    pub(super) fn choose_check(&mut self) -> Option<Access> {
        let is_known = |block: &Block| block.touched && block.generation != UNKNOWN;
        let found = self.blocks[self.next_check..].iter().position(is_known);
        let block = found.map_or(self.blocks.len(), |n| self.next_check + n);
        self.next_check = self.blocks.len().min(block + 1);
        found.map(|_| self.access(Op::Read, block))
    }

    /// Makes a request for a block, which is in flight from now on.
    fn access(&mut self, op: Op, block: usize) -> Access {
        let at = &mut self.blocks[block];
        at.in_flight = true;
        let generation = match op {
            Op::Read => at.generation,
            Op::Discard => 0,
            _ => match at.generation {
                // Any number that no earlier write of this block is likely to have had.
                UNKNOWN => self.steps as u32 % 1_000_000 + 1_000_000,
                old => old % (UNKNOWN - 1) + 1,
            },
        };
        self.steps += usize::from(op != Op::Discard || self.load.rw == Rw::TrimWrite);
        Access {
            op,
            block: Some(block),
            generation,
        }
    }

    /// A random block that no request in flight touches. None if 64 draws found none.
    fn free_block(&self, random: &mut Random) -> Option<usize> {
        let draw = || random.below(self.blocks.len() as u64) as usize;
        std::iter::repeat_with(draw)
            .take(64)
            .find(|&block| !self.blocks[block].in_flight)
    }

    /// The next block in order, with `steps` steps to each block.
    fn next_block(&self, steps: usize) -> Option<usize> {
        let block = self.steps / steps % self.blocks.len();
        (!self.blocks[block].in_flight).then_some(block)
    }

    /// A request has ended. True if it has read something that is known and can be checked.
    pub(super) fn ended(&mut self, access: Access, ok: bool) -> bool {
        let Some(block) = access.block else {
            return false;
        };
        let at = &mut self.blocks[block];
        at.in_flight = false;
        let discarding = at.discarding != Discarding::No;
        if at.discarding == Discarding::UntilEnded {
            at.discarding = Discarding::No;
        }
        if access.op == Op::Read {
            // A script may have discarded it meanwhile.
            return ok && at.generation == access.generation && access.generation != UNKNOWN;
        }
        at.touched = true;
        at.generation = match ok && !discarding {
            true => access.generation,
            false => UNKNOWN,
        };
        false
    }

    /// A script begins to discard this range of the disk.
    pub(super) fn discard_begins(&mut self, offset: u64, len: u64) {
        for block in 0..self.blocks.len() {
            let at = self.offset(block);
            if at < offset + len && offset < at + self.load.bs {
                self.blocks[block].generation = UNKNOWN;
                self.blocks[block].discarding = Discarding::Yes;
            }
        }
    }

    /// All discards of the script have ended: what is written from now on stays.
    pub(super) fn discards_ended(&mut self) {
        let discarding = |block: &&mut Block| block.discarding == Discarding::Yes;
        for block in self.blocks.iter_mut().filter(discarding) {
            block.discarding = match block.in_flight {
                true => Discarding::UntilEnded,
                false => Discarding::No,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region() -> Region {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            load: Load,
        }
        let line: Line = clap::Parser::parse_from(["sim", "--rw", "write"]);
        Region {
            load: line.load,
            start: 0,
            blocks: vec![Block::default(); 2],
            steps: 0,
            next_check: 0,
        }
    }

    /// Ends this write. True if its block counts as known then.
    fn is_known_after(region: &mut Region, write: Access) -> bool {
        let _ = region.ended(write, true);
        let read = region.access(Op::Read, write.block.unwrap());
        region.ended(read, true) && read.generation == write.generation
    }

    #[test]
    fn a_write_beside_a_discard_of_the_script_leaves_unknown_content() {
        let mut region = region();
        let before = region.access(Op::Write, 0);
        region.discard_begins(0, 4096);
        assert!(!is_known_after(&mut region, before), "it may be gone again");
        let during = region.access(Op::Write, 0);
        region.discards_ended();
        assert!(
            !is_known_after(&mut region, during),
            "it may have come first"
        );
        let after = region.access(Op::Write, 0);
        assert!(is_known_after(&mut region, after));
        let elsewhere = region.access(Op::Write, 1);
        assert!(is_known_after(&mut region, elsewhere));
    }

    #[test]
    fn a_read_beside_a_discard_of_the_script_is_not_checked() {
        let mut region = region();
        let write = region.access(Op::Write, 0);
        assert!(is_known_after(&mut region, write));
        let read = region.access(Op::Read, 0);
        region.discard_begins(0, 4096);
        region.discards_ended();
        assert!(!region.ended(read, true));
    }
}
