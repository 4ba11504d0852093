// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a job asks for next, and where. Each job has a part of the disk to itself, and no two of its
//! requests that are under way touch the same block, so what a READ must return is always known.

use super::config::{Rw, SimConfig};
use super::random::Random;
use crate::mq::Op;

/// A block whose content is not known: a request that was to change it has failed, or a script has
/// reached into it.
const UNKNOWN: u32 = u32::MAX;

/// Does a script's request reach into a block?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shaken {
    #[default]
    No,
    Now,
    /// It has ended, but one of the job's own was under way beside it.
    UntilEnded,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    generation: u32,
    shaken: Shaken,
    under_way: bool,
    touched: bool,
}

/// A request to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) op: Op,
    /// Of the job's part; none for FLUSH.
    pub(super) block: Option<usize>,
    /// What the block holds afterwards; for a READ, what it holds now.
    pub(super) generation: u32,
}

/// A job's part of the disk.
#[derive(Debug)]
pub(super) struct Places {
    rw: Rw,
    read_share: u8,
    flush: u8,
    discard: u8,
    zeros: u8,
    /// First byte of the part.
    start: u64,
    bs: u64,
    blocks: Vec<Block>,
    /// Steps made one after the other.
    steps: usize,
    /// Next block to be checked at the end.
    checked: usize,
}

impl Places {
    pub(super) fn new(config: &SimConfig, job: u16) -> Self {
        let blocks = config.device.size / config.bs / u64::from(config.jobs);
        Self {
            rw: config.rw,
            read_share: config.read_share,
            flush: config.flush,
            discard: config.discard,
            zeros: config.zeros.unwrap_or(0),
            start: u64::from(job) * blocks * config.bs,
            bs: config.bs,
            blocks: vec![Block::default(); blocks as usize],
            steps: 0,
            checked: 0,
        }
    }

    pub(super) fn offset(&self, block: usize) -> u64 {
        self.start + block as u64 * self.bs
    }

    /// The next request; none if every place it could go to is being used.
    pub(super) fn choose(&mut self, random: &mut Random) -> Option<Want> {
        if random.per_cent(self.flush) {
            return Some(Want {
                op: Op::Flush,
                block: None,
                generation: 0,
            });
        }
        // Of the requests that are no FLUSHes.
        let share = u32::from(self.discard) * 100 / (100 - u32::from(self.flush)).max(1);
        if random.per_cent(share.min(100) as u8) {
            let block = self.free_block(random)?;
            return Some(self.want(Op::Discard, block));
        }
        let either = |random: &mut Random, share| match random.per_cent(share) {
            true => Op::Read,
            false => Op::Write,
        };
        let (op, block) = match self.rw {
            Rw::RandRead => (Op::Read, self.free_block(random)?),
            Rw::RandWrite => (Op::Write, self.free_block(random)?),
            Rw::RandRw => (either(random, self.read_share), self.free_block(random)?),
            Rw::Read => (Op::Read, self.next_block(1)?),
            Rw::Write => (Op::Write, self.next_block(1)?),
            Rw::ReadWrite => (either(random, self.read_share), self.next_block(1)?),
            Rw::TrimWrite => {
                let write = self.steps % 2 == 1;
                let block = self.next_block(2)?;
                (if write { Op::Write } else { Op::Discard }, block)
            }
        };
        let mut want = self.want(op, block);
        if op == Op::Write && random.per_cent(self.zeros) {
            want.generation = 0;
        }
        Some(want)
    }

    /// At the end: a READ of the next block whose content is known and not that of a new disk.
    pub(super) fn choose_check(&mut self) -> Option<Want> {
        while self.checked < self.blocks.len() {
            let block = self.checked;
            self.checked += 1;
            if self.blocks[block].touched && self.blocks[block].generation != UNKNOWN {
                return Some(self.want(Op::Read, block));
            }
        }
        None
    }

    fn want(&mut self, op: Op, block: usize) -> Want {
        let at = &mut self.blocks[block];
        at.under_way = true;
        let generation = match op {
            Op::Read => at.generation,
            Op::Discard => 0,
            _ => match at.generation {
                UNKNOWN => self.steps as u32 % 1_000_000 + 1_000_000,
                old => old % (UNKNOWN - 1) + 1,
            },
        };
        self.steps += usize::from(op != Op::Discard || self.rw == Rw::TrimWrite);
        Want {
            op,
            block: Some(block),
            generation,
        }
    }

    fn free_block(&self, random: &mut Random) -> Option<usize> {
        let draw = || random.below(self.blocks.len() as u64) as usize;
        std::iter::repeat_with(draw)
            .take(64)
            .find(|&block| !self.blocks[block].under_way)
    }

    /// The block of the next step, so many steps to a block.
    fn next_block(&self, steps: usize) -> Option<usize> {
        let block = self.steps / steps % self.blocks.len();
        (!self.blocks[block].under_way).then_some(block)
    }

    /// A request has ended. Answers whether what it has read is known, and so can be checked.
    pub(super) fn ended(&mut self, want: Want, well: bool) -> bool {
        let Some(block) = want.block else {
            return false;
        };
        let at = &mut self.blocks[block];
        at.under_way = false;
        let shaken = at.shaken != Shaken::No;
        if at.shaken == Shaken::UntilEnded {
            at.shaken = Shaken::No;
        }
        if want.op == Op::Read {
            // A script may have reached into it meanwhile.
            return well && at.generation == want.generation && want.generation != UNKNOWN;
        }
        at.touched = true;
        at.generation = match well && !shaken {
            true => want.generation,
            false => UNKNOWN,
        };
        false
    }

    /// A script's request begins to reach into this range of the disk.
    pub(super) fn forget(&mut self, offset: u64, len: u64) {
        for block in 0..self.blocks.len() {
            let at = self.offset(block);
            if at < offset + len && offset < at + self.bs {
                self.blocks[block].generation = UNKNOWN;
                self.blocks[block].shaken = Shaken::Now;
            }
        }
    }

    /// No request of a script is under way any more: what is written from now on stays.
    pub(super) fn calm(&mut self) {
        let shaken = |block: &&mut Block| block.shaken == Shaken::Now;
        for block in self.blocks.iter_mut().filter(shaken) {
            block.shaken = match block.under_way {
                true => Shaken::UntilEnded,
                false => Shaken::No,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places {
            rw: Rw::Write,
            read_share: 0,
            flush: 0,
            discard: 0,
            zeros: 0,
            start: 0,
            bs: 4096,
            blocks: vec![Block::default(); 2],
            steps: 0,
            checked: 0,
        }
    }

    /// Is what this write has left behind taken for known?
    fn written(places: &mut Places, want: Want) -> bool {
        let (written, block) = (want.generation, want.block.unwrap());
        let _ = places.ended(want, true);
        let read = places.want(Op::Read, block);
        places.ended(read, true) && read.generation == written
    }

    #[test]
    fn what_is_written_beside_a_request_of_a_script_is_not_known() {
        let mut places = places();
        let before = places.want(Op::Write, 0);
        places.forget(0, 4096);
        assert!(!written(&mut places, before), "it may be gone again");
        let during = places.want(Op::Write, 0);
        places.calm();
        assert!(!written(&mut places, during), "it may have come first");
        let after = places.want(Op::Write, 0);
        assert!(written(&mut places, after));
        let elsewhere = places.want(Op::Write, 1);
        assert!(written(&mut places, elsewhere));
    }

    #[test]
    fn what_is_read_when_a_script_reaches_for_it_is_not_known() {
        let mut places = places();
        let write = places.want(Op::Write, 0);
        assert!(written(&mut places, write));
        let read = places.want(Op::Read, 0);
        places.forget(0, 4096);
        places.calm();
        assert!(!places.ended(read, true));
    }
}
