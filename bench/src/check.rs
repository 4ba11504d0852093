// SPDX-License-Identifier: MIT OR Apache-2.0
//! Are the numbers right? Three parties count the same requests, and their figures are compared:
//! fio, the kernel (`/sys/block/DISK/stat`, which is what iostat shows), and our server.
//!
//! What must be equal:
//!
//! - bytes of each direction, fio's and the kernel's, past the page cache;
//! - requests, fio's and the kernel's with what it merged, where a block is not larger than the
//!   disk's largest request. Else the kernel splits it, and must have at least as many;
//! - requests and bytes of each kind, the kernel's and our server's, always.
//!
//! While it seeks a depth fio begins to count anew, so the kernel must have at least fio's figure.
//!
//! [`crate::runner`] leaves a file of lines `NAME VALUE` beside each sample, with a tab between.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fio::{Done, Sample};
use crate::matrix::Job;

/// The kinds of request that are counted.
pub const KINDS: [&str; 4] = ["read", "write", "discard", "flush"];

/// Requests and bytes of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests that were ended.
    pub ios: u64,
    /// Requests that became part of another.
    pub merged: u64,
    /// Bytes; 0 for a flush.
    pub bytes: u64,
}

/// The counts of all kinds, in the order of [`KINDS`].
pub type Counts = [Count; 4];

/// Reads `/sys/block/DISK/stat`.
/// Four numbers for each of read, write and discard (requests, merges, sectors, milliseconds), with
/// the two of the queue after the writes, then two for flushes. None if there are fewer.
pub fn kernel_counts(line: &str) -> Option<Counts> {
    let fields: Vec<u64> = line
        .split_whitespace()
        .map(|word| word.parse().ok())
        .collect::<Option<_>>()?;
    let kind = |at: usize| {
        Some(Count {
            ios: *fields.get(at)?,
            merged: *fields.get(at + 1)?,
            bytes: fields.get(at + 2)? * 512,
        })
    };
    let flush = Count {
        ios: *fields.get(15)?,
        ..Count::default()
    };
    Some([kind(0)?, kind(4)?, kind(11)?, flush])
}

/// The hardware queues of the one disk that `ublk-ramdisk stats --json` was asked for.
fn our_queues(json: &str) -> Option<Vec<Value>> {
    let [disk] = serde_json::from_str::<[Value; 1]>(json).ok()?;
    disk["queues"].as_array().cloned()
}

/// Reads `ublk-ramdisk stats --json` of one disk: its counts, and how many
/// requests ended with an error. WRITE_ZEROES count as writes, as in the kernel.
pub fn our_counts(json: &str) -> Option<(Counts, u64)> {
    let (mut counts, mut errors) = (Counts::default(), 0);
    for queue in our_queues(json)? {
        errors += queue["errors"].as_u64()?;
        for (at, kind) in [
            (0, "read"),
            (1, "write"),
            (1, "write_zeroes"),
            (2, "discard"),
            (3, "flush"),
        ] {
            counts[at].ios += queue[kind]["requests"].as_u64()?;
            counts[at].bytes += queue[kind]["bytes"].as_u64()?;
        }
    }
    counts[3].bytes = 0;
    Some((counts, errors))
}

/// What was counted between two readings. The counters of the kernel may wrap around.
fn minus(after: Counts, before: Counts) -> Counts {
    let mut by = after;
    for (count, before) in by.iter_mut().zip(before) {
        count.ios = count.ios.wrapping_sub(before.ios);
        count.merged = count.merged.wrapping_sub(before.merged);
        count.bytes = count.bytes.wrapping_sub(before.bytes);
    }
    by
}

/// What was counted while a sample was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// The kernel, on the disk.
    pub kernel: Counts,
    /// Which kinds the kernel counts on this disk at all: it has no counts for
    /// brd, and none of discards for zram.
    pub kernel_counts: [bool; 4],
    /// Our server, and its errors.
    pub ours: Option<(Counts, u64)>,
    /// The largest request of the disk in bytes.
    pub most_bytes: u64,
    /// The largest discard of the disk in bytes.
    pub most_discard: u64,
}

/// Reads the file beside a sample. Fails with a line that
/// says what is missing or unreadable, which the report shows as a difference: figures that nobody
/// has checked are not called right.
pub fn counted(text: &str) -> Result<Counted, String> {
    let lines: BTreeMap<&str, &str> = text.lines().filter_map(|l| l.split_once('\t')).collect();
    let kernel = |name: &str| {
        let line = lines.get(name).ok_or(format!("no line '{name}'"))?;
        kernel_counts(line).ok_or(format!("'{name}' is not a line of /sys/block/DISK/stat"))
    };
    let number = |name: &str| lines.get(name).and_then(|n| n.parse().ok()).unwrap_or(0);
    let (before, after) = (kernel("kernel.before")?, kernel("kernel.after")?);
    let ours = match (lines.get("ours.before"), lines.get("ours.after")) {
        (Some(before), Some(after)) => {
            let read =
                |json: &str| our_counts(json).ok_or("the counters of our server are unreadable");
            let ((before, errors), (after, more)) = (read(before)?, read(after)?);
            Some((minus(after, before), more - errors))
        }
        _ => None,
    };
    Ok(Counted {
        kernel: minus(after, before),
        kernel_counts: after.map(|count| count != Count::default()),
        ours,
        most_bytes: number("most_bytes"),
        most_discard: number("most_discard"),
    })
}

/// What came of the comparison over a whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrossCheck {
    /// Samples that were looked at.
    pub samples: u64,
    /// Pairs of figures that were compared.
    pub compared: u64,
    /// The differences, in words.
    pub differences: Vec<String>,
    /// Contenders on whose disks the kernel does not count a kind of request.
    pub uncounted: Vec<String>,
}

impl CrossCheck {
    /// Compares two figures, each with the one who counted it. `at_least` says that the left one
    /// may be larger.
    fn pair(&mut self, what: &str, left: (&str, u64), right: (&str, u64), at_least: bool) {
        self.compared += 1;
        let fits = match at_least {
            true => left.1 >= right.1,
            false => left.1 == right.1,
        };
        if !fits {
            let than = if at_least { "less than" } else { "not" };
            self.differences.push(format!(
                "{what}: {} counted {}, {than} {} as {}",
                left.0, left.1, right.1, right.0
            ));
        }
    }

    /// Compares the counts of one sample. `place` names the sample in messages.
    pub fn sample(
        &mut self,
        place: &str,
        contender: &str,
        job: &Job,
        sample: &Sample,
        by: &Counted,
    ) {
        self.samples += 1;
        let ways = [sample.read, sample.write, sample.trim];
        // Through the page cache the kernel reads ahead and writes in its own time. An old sample has no counts.
        if job.is_direct() && ways != [None; 3] {
            for (at, way) in ways.map(Option::unwrap_or_default).iter().enumerate() {
                self.fio_and_kernel(place, contender, job, at, way, by);
            }
        }
        self.server(place, by);
    }

    /// fio against the kernel's counters, for the kind of request at this place of [`KINDS`].
    fn fio_and_kernel(
        &mut self,
        place: &str,
        contender: &str,
        job: &Job,
        at: usize,
        fio: &Done,
        by: &Counted,
    ) {
        let (kind, kernel) = (KINDS[at], by.kernel[at]);
        // Where our server counts, the kernel does too.
        if fio.ios > 0 && !by.kernel_counts[at] && by.ours.is_none() {
            let name = format!("{contender} ({kind})");
            if !self.uncounted.contains(&name) {
                self.uncounted.push(name);
            }
            return;
        }
        let is_discard = at == 2;
        // While it seeks the depth fio begins to count anew at each step.
        let not_alone = job.latency_us.is_some();
        // Discards beside another pattern have their own size.
        let whole = match is_discard {
            true => job.bs.max(64 << 10) <= by.most_discard,
            false => job.bs <= by.most_bytes,
        };
        // A merged request ends as a part of another, but fio has counted it.
        let requests = kernel.ios + kernel.merged;
        for (unit, kernel, fio, at_least) in [
            // A split or merged request has the same bytes, so they are equal even where requests are not.
            ("bytes", kernel.bytes, fio.bytes, not_alone),
            ("requests", requests, fio.ios, !whole || not_alone),
        ] {
            let what = format!("{place}, {kind} {unit}");
            self.pair(&what, ("the kernel", kernel), ("fio", fio), at_least);
        }
    }

    /// Our server against the kernel's counters.
    fn server(&mut self, place: &str, by: &Counted) {
        let Some((counts, errors)) = by.ours else {
            return;
        };
        // It sees the requests as the block layer made them, so no merge or split stands between.
        for (at, count) in counts.iter().enumerate() {
            let (kind, kernel) = (KINDS[at], by.kernel[at]);
            for (unit, counted, kernel) in [
                ("requests", count.ios, kernel.ios),
                ("bytes", count.bytes, kernel.bytes),
            ] {
                let what = format!("{place}, {kind} {unit}");
                self.pair(
                    &what,
                    ("our server", counted),
                    ("the kernel", kernel),
                    false,
                );
            }
        }
        let what = format!("{place}, errors");
        self.pair(&what, ("our server", errors), ("fio", 0), false);
    }

    /// The result as lines of the summary.
    pub fn text(&self) -> String {
        let mut text = format!(
            "cross-check: {} figures of {} samples compared between fio, the kernel and our server: ",
            self.compared, self.samples
        );
        match self.differences.len() {
            0 => text += "no difference\n",
            count => text += &format!("{count} DIFFERENCES\n"),
        }
        for difference in &self.differences {
            text += &format!("  {difference}\n");
        }
        if !self.uncounted.is_empty() {
            text += &format!(
                "  (the kernel does not count on {})\n",
                self.uncounted.join(", ")
            );
        }
        text
    }
}

#[cfg(test)]
mod tests;
