// SPDX-License-Identifier: MIT OR Apache-2.0
//! E17: ranges of the disk that cannot be read or written.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

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

/// What becomes of a request whose range may have bad blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// It has none.
    None,
    /// Only the bytes before the first bad block are transferred. Their number.
    Before(u64),
    /// It fails without a transfer.
    All,
}

/// The ranges in force.
#[derive(Debug, Default)]
pub(super) struct Ranges(Mutex<Option<BadBlocks>>);

impl Ranges {
    pub(super) fn set(&self, bad: Option<BadBlocks>) {
        let mut ranges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let former = std::mem::replace(&mut *ranges, bad);
        drop(ranges);
        // Freed outside the lock, which queue_rq takes.
        drop(former);
    }

    /// Checks the range of a READ or WRITE.
    pub(super) fn check(&self, offset: u64, len: u64) -> Bad {
        let mut bad = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bad) = bad.as_mut() else {
            return Bad::None;
        };
        let (first, last) = (offset >> 9, (offset + len - 1) >> 9);
        let hits = |&(from, to): &(u64, u64)| from <= last && to >= first;
        let Some(at) = bad.ranges.iter().copied().filter(hits).min() else {
            return Bad::None;
        };
        if bad.once {
            bad.ranges.retain(|range| *range != at);
        }
        match bad.partial {
            // Whole logical blocks. The largest have 4 KiB.
            true => Bad::Before(((at.0.max(first) << 9) - (first << 9)) & !4095),
            false => Bad::All,
        }
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

    #[test]
    fn e17_a_request_that_touches_a_bad_block_fails() {
        let bad = ranges("8-15+100-100");
        assert_eq!(bad.check(0, 4096), Bad::None);
        for sector in [8, 15, 100] {
            assert_eq!(bad.check(sector << 9, 512), Bad::All, "{sector}");
        }
        assert_eq!(bad.check(0, 4097), Bad::All);
        assert_eq!(bad.check(16 << 9, 84 << 9), Bad::None);
    }

    #[test]
    fn e17_partial_transfers_what_lies_before_the_first_bad_block() {
        let bad = ranges("8-15:partial");
        assert_eq!(bad.check(0, 8192), Bad::Before(4096));
        assert_eq!(bad.check(4096, 4096), Bad::Before(0));
        assert_eq!(bad.check(10 << 9, 4096), Bad::Before(0));
    }

    #[test]
    fn e17_once_repairs_at_the_first_hit() {
        let bad = ranges("8-15+20-21:once");
        assert_eq!(bad.check(0, 32 << 9), Bad::All, "the first range");
        assert_eq!(bad.check(0, 16 << 9), Bad::None);
        assert_eq!(bad.check(0, 32 << 9), Bad::All, "the second");
        assert_eq!(bad.check(0, 32 << 9), Bad::None);
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
