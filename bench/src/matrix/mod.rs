// SPDX-License-Identifier: MIT OR Apache-2.0
//! What fio does: one [`Job`] is one point of the matrix of patterns, sizes, depths and so on.
//!
//! A job's name says all of it, and a job can be made from its name. So a kept run needs no list of
//! what its jobs were, and `--only` takes the names that the tables show.
//!
//! [`axes`] makes lists of jobs, [`job_file`] what fio reads.

use crate::files::Failure;
use std::fmt;
use std::str::FromStr;
use ublk_ramdisk::units;

pub mod axes;

pub mod job_file;

/// Why a word of the matrix is refused, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadMatrix(pub String);

impl From<BadMatrix> for Failure {
    fn from(error: BadMatrix) -> Self {
        Self::Usage(error.0)
    }
}

/// Refuses a word.
pub(crate) fn bad<T>(text: impl Into<String>) -> Result<T, BadMatrix> {
    Err(BadMatrix(text.into()))
}

/// The pattern of a job: fio's `rw`, and one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rw {
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Random reads.
    RandRead,
    /// Random writes.
    RandWrite,
    /// Sequential, 7 reads to 3 writes.
    Mixed,
    /// Random, 7 reads to 3 writes.
    RandMixed,
    /// Sequential discards.
    Trim,
    /// Random discards.
    RandTrim,
    /// Sequential: each block is discarded, then written.
    TrimWrite,
    /// Random: each block is discarded, then written.
    RandTrimWrite,
    /// Random reads and writes, and beside them random discards of 64 KiB.
    TrimMix,
}

/// Each pattern, as fio spells it (`trimmix` is ours) and as people say it, in the order of the tables.
const PATTERNS: [(Rw, &str, &str); 11] = [
    (Rw::RandRead, "randread", "random read"),
    (Rw::RandWrite, "randwrite", "random write"),
    (Rw::RandMixed, "randrw", "random read and write"),
    (Rw::Read, "read", "read"),
    (Rw::Write, "write", "write"),
    (Rw::Mixed, "rw", "read and write"),
    (Rw::Trim, "trim", "discard"),
    (Rw::RandTrim, "randtrim", "random discard"),
    (Rw::TrimWrite, "trimwrite", "discard, then write"),
    (
        Rw::RandTrimWrite,
        "randtrimwrite",
        "random discard, then write",
    ),
    // fio has no such `rw`: the job file has a second job that discards.
    (Rw::TrimMix, "trimmix", "random read, write, discard"),
];

impl Rw {
    /// All of them, in the order of the tables.
    pub fn all() -> impl Iterator<Item = Rw> {
        PATTERNS.iter().map(|pattern| pattern.0)
    }

    /// The name and the title.
    fn texts(self) -> (&'static str, &'static str) {
        let found = PATTERNS.iter().find(|pattern| pattern.0 == self);
        let (_, name, title) = found.expect("every pattern is in the list");
        (name, title)
    }

    /// As fio spells it; `trimmix` is ours.
    pub fn name(self) -> &'static str {
        self.texts().0
    }

    /// Does it need a disk that takes discards?
    pub fn trims(self) -> bool {
        matches!(
            self,
            Rw::Trim | Rw::RandTrim | Rw::TrimWrite | Rw::RandTrimWrite | Rw::TrimMix
        )
    }

    /// Does it write?
    pub fn writes(self) -> bool {
        !matches!(self, Rw::Read | Rw::RandRead | Rw::Trim | Rw::RandTrim)
    }

    /// Does it write, and only where it says, so that it can be verified?
    /// A pattern with discards is none: what it discards must not read back as it was written.
    pub fn verifiable(self) -> bool {
        matches!(self, Rw::Write | Rw::RandWrite | Rw::Mixed | Rw::RandMixed)
    }
}

impl FromStr for Rw {
    type Err = BadMatrix;

    fn from_str(word: &str) -> Result<Self, BadMatrix> {
        // fio takes both spellings. Names and tables have one.
        let word = if word == "readwrite" { "rw" } else { word };
        match PATTERNS.iter().find(|pattern| pattern.1 == word) {
            Some(pattern) => Ok(pattern.0),
            None => {
                let names = PATTERNS.map(|pattern| pattern.1).join(" ");
                bad(format!("rw '{word}': none of {names}"))
            }
        }
    }
}

/// The largest block, in bytes.
pub const MOST_BYTES: u64 = 1 << 20;
/// The most requests that a job keeps in flight.
/// The tags of each hardware queue: more would wait in fio or in the block layer.
pub const MOST_IN_FLIGHT: u32 = 128;
/// The most jobs that do the same side by side.
pub const MOST_JOBS: u32 = 64;

/// One point of the matrix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Job {
    /// Pattern.
    pub rw: Rw,
    /// Bytes per request.
    pub bs: u64,
    /// Requests in flight, per job.
    pub iodepth: u32,
    /// Jobs side by side, each on a part of the disk of its own.
    pub numjobs: u32,
    /// Past the page cache.
    pub direct: bool,
    /// Reads back all that it wrote, against checksums.
    pub verify: bool,
    /// Seeks the depth at which 99 of 100 requests end within this number of microseconds;
    /// `iodepth` is then the largest that it tries.
    pub latency_us: Option<u32>,
}

impl Job {
    /// A job past the page cache, alone, neither verified nor with a latency target.
    pub fn new(rw: Rw, bs: u64, iodepth: u32) -> Self {
        Self {
            rw,
            bs,
            iodepth,
            numjobs: 1,
            direct: true,
            verify: false,
            latency_us: None,
        }
    }

    /// True if all of it goes past the page cache. fio opens a disk that it both trims and
    /// writes without O_DIRECT, even with `direct=1`.
    pub fn is_direct(&self) -> bool {
        self.direct && !matches!(self.rw, Rw::TrimWrite | Rw::RandTrimWrite)
    }

    /// For people: `4 KiB random read, QD 32`.
    pub fn title(&self) -> String {
        let size = match self.bs {
            bs if bs >= 1 << 20 && bs.is_multiple_of(1 << 20) => format!("{} MiB", bs >> 20),
            bs if bs.is_multiple_of(1024) => format!("{} KiB", bs >> 10),
            bs => format!("{bs} B"),
        };
        let mut text = format!("{size} {}", self.rw.texts().1);
        match (self.direct, self.latency_us) {
            (true, None) => text += &format!(", QD {}", self.iodepth),
            (true, Some(us)) => text += &format!(", p99 {us} us, QD <= {}", self.iodepth),
            (false, _) => text += ", buffered",
        }
        if self.numjobs > 1 {
            text += &format!(", {} jobs", self.numjobs);
        }
        if self.verify {
            text += ", verified";
        }
        text
    }
}

/// The name that a job goes by: `randread-4k-qd32`, and what is not the usual
/// after it: `-j4`, `-buffered`, `-verify`, `-lat200us`.
impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{}-qd{}",
            self.rw.name(),
            size_name(self.bs),
            self.iodepth
        )?;
        if self.numjobs > 1 {
            write!(f, "-j{}", self.numjobs)?;
        }
        if !self.direct {
            f.write_str("-buffered")?;
        }
        if self.verify {
            f.write_str("-verify")?;
        }
        match self.latency_us {
            Some(us) => write!(f, "-lat{us}us"),
            None => Ok(()),
        }
    }
}

impl FromStr for Job {
    type Err = BadMatrix;

    fn from_str(name: &str) -> Result<Self, BadMatrix> {
        let mut words = name.split('-');
        let (Some(rw), Some(bs), Some(depth)) = (words.next(), words.next(), words.next()) else {
            return bad(format!("job '{name}': not like randread-4k-qd32"));
        };
        let depth = depth.strip_prefix("qd").unwrap_or_default();
        let mut job = Job::new(rw.parse()?, size(bs)?, iodepth(depth)?);
        for word in words {
            if word == "buffered" {
                job.direct = false;
            } else if word == "verify" {
                job.verify = true;
            } else if let Some(count) = word.strip_prefix('j') {
                job.numjobs = numjobs(count)?;
            } else if let Some(time) = word.strip_prefix("lat") {
                job.latency_us = Some(latency(time)?);
            } else {
                return bad(format!("job '{name}': '{word}' means nothing"));
            }
        }
        // A name is taken as it is or not at all: another job under this name would mislead a reader.
        match axes::possible(&job) {
            Some(same) if same == job => Ok(job),
            _ => bad(format!("job '{name}': there is no such combination")),
        }
    }
}

/// A block size as it is typed.
fn size_name(bytes: u64) -> String {
    match bytes {
        bytes if bytes.is_multiple_of(1 << 20) => format!("{}m", bytes >> 20),
        bytes if bytes.is_multiple_of(1024) => format!("{}k", bytes >> 10),
        bytes => bytes.to_string(),
    }
}

/// A block size, from 512 bytes to 1 MiB.
pub fn size(word: &str) -> Result<u64, BadMatrix> {
    match units::size(word) {
        Ok(bytes) if (512..=MOST_BYTES).contains(&bytes) && bytes.is_multiple_of(512) => Ok(bytes),
        _ => bad(format!(
            "bs '{word}': not a multiple of 512 from 512 to 1m, such as 4k"
        )),
    }
}

/// A number from 1 to `most`.
fn count(what: &str, word: &str, most: u32) -> Result<u32, BadMatrix> {
    match word.parse() {
        Ok(count) if (1..=most).contains(&count) => Ok(count),
        _ => bad(format!("{what} '{word}': not a number from 1 to {most}")),
    }
}

/// Requests in flight.
pub fn iodepth(word: &str) -> Result<u32, BadMatrix> {
    count("iodepth", word, MOST_IN_FLIGHT)
}

/// Jobs side by side.
pub fn numjobs(word: &str) -> Result<u32, BadMatrix> {
    count("numjobs", word, MOST_JOBS)
}

/// A latency target, in microseconds.
pub fn latency(word: &str) -> Result<u32, BadMatrix> {
    match units::time(word).map(|time| time.as_micros()) {
        Ok(us @ 1..=10_000_000) => Ok(us as u32),
        _ => bad(format!(
            "latency target '{word}': not a time such as 200us or 5ms"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_enough_to_make_the_job_again() {
        for name in [
            "randread-4k-qd32",
            "randwrite-512-qd1",
            "rw-1m-qd128-j4",
            "write-64k-qd1-j2-buffered",
            "randrw-20k-qd8-verify",
            "randread-4k-qd64-lat200us",
            "trimmix-4k-qd16",
        ] {
            let job: Job = name.parse().unwrap();
            assert_eq!(job.to_string(), name);
        }
    }

    #[test]
    fn a_title_says_all_of_it() {
        let title = |name: &str| name.parse::<Job>().unwrap().title();
        assert_eq!(title("randread-4k-qd32"), "4 KiB random read, QD 32");
        assert_eq!(title("read-1m-qd8"), "1 MiB read, QD 8");
        assert_eq!(
            title("randwrite-512-qd8-j4-verify"),
            "512 B random write, QD 8, 4 jobs, verified"
        );
        assert_eq!(title("write-4k-qd1-buffered"), "4 KiB write, buffered");
        assert_eq!(
            title("randread-4k-qd64-lat200us"),
            "4 KiB random read, p99 200 us, QD <= 64"
        );
    }

    #[test]
    fn what_means_nothing_is_refused_in_one_line() {
        for name in [
            "",
            "randread",
            "randread-4k",
            "randread-4k-32",
            "randread-5-qd1",
            "randread-100-qd1",
            "randread-2m-qd1",
            "randread-4k-qd0",
            "randread-4k-qd129",
            "randread-4k-qd1-j0",
            "randread-4k-qd1-j65",
            "randread-4k-qd1-fast",
            "randread-4k-qd1-lat0us",
            "randread-4k-qd1-lat5",
            "randread-99999999999999999999k-qd1",
            "scan-4k-qd1",
            // There are no such combinations.
            "randread-4k-qd1-verify",
            "randread-4k-qd32-buffered",
            "trim-4k-qd1-buffered",
        ] {
            let complaint = name.parse::<Job>().unwrap_err().to_string();
            assert!(!complaint.contains('\n') && !complaint.is_empty(), "{name}");
        }
    }
}
