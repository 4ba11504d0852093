// SPDX-License-Identifier: MIT OR Apache-2.0
//! E17: ranges of the disk that cannot be read or written.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::units::number;

/// Which blocks are bad, and how. Written `START-END[,START-END]...[:once][:partial]`, in sectors
/// of 512 bytes, both ends bad, as null_blk counts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadBlocks {
    /// First and last bad sector of each range.
    pub ranges: Vec<(u64, u64)>,
    /// The first hit repairs a range (null_blk's `badblocks_once`).
    #[serde(default)]
    pub once: bool,
    /// What lies before the first bad sector is transferred (null_blk's `badblocks_partial_io`).
    #[serde(default)]
    pub partial: bool,
}

const FORM: &str = "expected START-END[,START-END]...[:once][:partial], sectors of 512 bytes with \
                    START not after END";

impl FromStr for BadBlocks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(':');
        let mut bad = Self {
            ranges: Vec::new(),
            once: false,
            partial: false,
        };
        for range in words.next().unwrap_or_default().split([',', '+']) {
            let (first, last) = range.split_once('-').ok_or(FORM)?;
            let (first, last) = (sector(first)?, sector(last)?);
            if first > last {
                return Err(FORM.to_owned());
            }
            bad.ranges.push((first, last));
        }
        for word in words {
            match word {
                "once" => bad.once = true,
                "partial" => bad.partial = true,
                _ => return Err(FORM.to_owned()),
            }
        }
        Ok(bad)
    }
}

fn sector(text: &str) -> Result<u64, String> {
    // The first byte of a larger one has no number.
    number(0, (1 << 54) - 1)(text).map_err(|_| FORM.to_owned())
}

impl fmt::Display for BadBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{first}-{last}")?;
        }
        let words = [(self.once, ":once"), (self.partial, ":partial")];
        words
            .iter()
            .filter(|(on, _)| *on)
            .try_for_each(|(_, word)| f.write_str(word))
    }
}

/// A bad range that a request touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    range: (u64, u64),
    /// Bytes before the first bad block that are transferred, a multiple of 4 KiB. With 0 the request
    /// fails without a transfer.
    pub(super) before: u64,
}

/// The ranges in force.
#[derive(Debug, Default)]
pub(super) struct Ranges(Mutex<Option<BadBlocks>>);

impl Ranges {
    pub(super) fn set(&self, bad: Option<BadBlocks>) {
        let mut ranges = self.lock();
        let former = std::mem::replace(&mut *ranges, bad);
        drop(ranges);
        // Freed outside the lock, which queue_rq takes.
        drop(former);
    }

    fn lock(&self) -> MutexGuard<'_, Option<BadBlocks>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first bad range that a READ or WRITE touches. Nothing is repaired: the request may
    /// still be refused. [`Ranges::meet`] follows when it is not.
    pub(super) fn find(&self, offset: u64, len: u64) -> Option<Hit> {
        let bad = self.lock();
        let bad = bad.as_ref()?;
        let (first, last) = (offset >> 9, (offset + len - 1) >> 9);
        let hits = |&(from, to): &(u64, u64)| from <= last && to >= first;
        let range = bad.ranges.iter().copied().filter(hits).min()?;
        let before = match bad.partial {
            // Whole logical blocks. The largest have 4 KiB.
            true => ((range.0.max(first) << 9) - (first << 9)) & !4095,
            false => 0,
        };
        Some(Hit { range, before })
    }

    /// A request meets the bad range, which repairs it if ranges are bad once. False if it has been
    /// repaired since it was found.
    pub(super) fn meet(&self, hit: Hit) -> bool {
        let mut bad = self.lock();
        let Some(bad) = bad.as_mut() else {
            return false;
        };
        let found = bad.ranges.contains(&hit.range);
        if bad.once {
            bad.ranges.retain(|range| *range != hit.range);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Ranges {
        let ranges = Ranges::default();
        ranges.set(Some(text.parse().expect(text)));
        ranges
    }

    /// Bytes that are transferred before a bad block; None if the request touches none.
    fn before(bad: &Ranges, offset: u64, len: u64) -> Option<u64> {
        bad.find(offset, len).map(|hit| hit.before)
    }

    #[test]
    fn e17_a_request_that_touches_a_bad_block_fails() {
        let bad = ranges("8-15+100-100");
        assert_eq!(before(&bad, 0, 4096), None);
        for sector in [8, 15, 100] {
            assert_eq!(before(&bad, sector << 9, 512), Some(0), "{sector}");
        }
        assert_eq!(before(&bad, 0, 4097), Some(0));
        assert_eq!(before(&bad, 16 << 9, 84 << 9), None);
    }

    #[test]
    fn e17_partial_transfers_what_lies_before_the_first_bad_block() {
        let bad = ranges("8-15:partial");
        assert_eq!(before(&bad, 0, 8192), Some(4096));
        assert_eq!(before(&bad, 4096, 4096), Some(0));
        assert_eq!(before(&bad, 10 << 9, 4096), Some(0));
    }

    #[test]
    fn e17_once_repairs_when_a_request_meets_the_range_and_not_when_it_is_found() {
        let bad = ranges("8-15+20-21:once");
        let first = bad.find(0, 32 << 9).expect("the first range");
        assert_eq!(bad.find(0, 32 << 9), Some(first), "nothing has met it");
        assert!(bad.meet(first) && !bad.meet(first));
        assert_eq!(before(&bad, 0, 16 << 9), None);
        let second = bad.find(0, 32 << 9).expect("the second");
        assert!(bad.meet(second) && before(&bad, 0, 32 << 9).is_none());
        let stays = ranges("8-15");
        let hit = stays.find(8 << 9, 512).expect("bad");
        assert!(stays.meet(hit) && stays.meet(hit), "bad without end");
    }

    #[test]
    fn l1_bad_blocks_are_read_as_they_are_shown() {
        for text in [
            "0-0",
            "8-15,100-200:once",
            "1-2:once:partial",
            "7-9:partial",
        ] {
            let bad: BadBlocks = text.parse().expect(text);
            assert_eq!(bad.to_string(), text);
        }
        for text in [
            "",
            "5",
            "9-8",
            "-1-2",
            "1-2,",
            "1-2:twice",
            "a-b",
            "1-",
            "0-18014398509481984",
        ] {
            assert!(text.parse::<BadBlocks>().is_err(), "{text}");
        }
    }
}
