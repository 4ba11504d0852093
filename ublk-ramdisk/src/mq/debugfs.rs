// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mirror's state as the files that the kernel's debugfs has for a request queue (K1, K2).
//!
//! They are made when they are read; no request pays for them. A lock is held only for the walk over
//! one list. The requests on it are read afterwards and may have moved on by then. Kernel
//! counterpart: `block/blk-mq-debugfs.c`. Of its files `pm_only`, `sched_tags`, `zone_wplugs` and
//! the lists by type of the CPUs have no use here; `run`, `queued` and `dispatched` are gone there
//! by 7.2 and kept here, with the mirror's other counters.

use super::counters::Source;
use super::counters::{HctxCounters, HISTOGRAM};
use super::hctx::HwQueue;
use super::hctx_state::{FROZEN, INACTIVE, QUIESCED, RESTART, STOPPED};
use super::queue::Queue;
use super::request::Op;
use super::slot::{Rq, PARKED, PASSTHROUGH, PREPARED};
use std::fmt;

/// Each file of a hardware queue, and what it says.
pub const HCTX_FILES: &[&str] = &[
    // Bits of the hardware queue: STOPPED (runs are dropped), SCHED_RESTART (the next end of a
    // request runs it), INACTIVE (none of its CPUs is online).
    "state",
    // How it was made; the mirror has no such choices, so the line is empty.
    "flags",
    // Its dispatch list: requests that were refused or may not be reordered, the next one first.
    "dispatch",
    // Requests that the driver or the front end has.
    "busy",
    // Which of its software queues have requests, a bit each, as hex bytes.
    "ctx_map",
    // How many tags there are and how many are busy.
    "tags",
    // Which tags are busy, a bit each, as hex bytes.
    "tags_bitmap",
    // How many requests it has taken in and not ended.
    "active",
    // How busy the driver has lately said it is, 0 to 9; above 0 the software queues are served one
    // request at a time.
    "dispatch_busy",
    // What kind of requests it is for; always default.
    "type",
    // How often it was run: on the spot, on kblockd at once, on kblockd later.
    "run",
    // Requests put on a software queue or the dispatch list when they arrived.
    "queued",
    // Answers: OK.
    "accepted",
    // Answers: BUSY, by what was lacking.
    "refused",
    // Requests the driver gave back after it had accepted them.
    "requeued",
    // Ends of requests that had to run it.
    "restarted",
    // Runs by the number of requests they dispatched: the number or its range, then how many runs.
    "dispatched",
    // Requests that had to wait for another try: now, in all, and those of them that were tried
    // again.
    "parked",
    // Slots: how many of its requests hold one, 1 if it waits for one, and how often there was none.
    "budget",
    // Calls of the driver's timeout.
    "timeouts",
    // Completions of requests that somebody else had completed.
    "lost_races",
];
/// The file of each software queue: its requests that wait for a run, the oldest first.
pub const CTX_FILE: &str = "default_rq_list";
/// Each file of the request queue.
pub const QUEUE_FILES: &[&str] = &[
    // Requests that the driver gave back and that wait for a kick.
    "requeue_list",
    // Of the queue as a whole: QUIESCED (nothing is issued), FROZEN (nothing is taken in). The
    // kernel's takes run, start and kick by writing; here `poke` does that.
    "state",
];

/// One file of the tree.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DebugfsFile {
    /// Below the device's directory.
    pub path: String,
    /// What is in it.
    pub text: String,
}

impl Queue {
    /// All files as they are now.
    pub fn debugfs(&self) -> Vec<DebugfsFile> {
        let mut files = Vec::new();
        let mut file = |path: String, text: String| files.push(DebugfsFile { path, text });
        for name in QUEUE_FILES {
            file((*name).to_owned(), self.queue_file(name));
        }
        for hctx in self.hctxs() {
            for name in HCTX_FILES {
                file(
                    format!("hctx{}/{name}", hctx.index),
                    self.hctx_file(hctx, name),
                );
            }
            for ctx in 0..self.inner.set.nr_ctxs {
                let depth = usize::from(self.inner.set.queue_depth);
                let list = hctx.ctxs.list(&self.inner.slots, ctx, depth);
                file(
                    format!("hctx{}/ctx{ctx}/{}", hctx.index, CTX_FILE),
                    self.lines(&list),
                );
            }
        }
        files
    }

    fn queue_file(&self, name: &str) -> String {
        match name {
            "requeue_list" => {
                let room = usize::from(self.inner.set.queue_depth) * self.hctxs().len();
                let mut list = Vec::with_capacity(room);
                self.inner
                    .requeue
                    .lock()
                    .list_into(&self.inner.slots, &mut list);
                self.lines(&list)
            }
            _ => {
                let hctx = self.hctx(0);
                let bits = [
                    (hctx.state.has(QUIESCED), "QUIESCED"),
                    (hctx.state.has(FROZEN), "FROZEN"),
                ];
                flags(&bits)
            }
        }
    }

    fn hctx_file(&self, hctx: &HwQueue, name: &str) -> String {
        let depth = self.inner.set.queue_depth;
        let in_flight = |tag: &u16| self.slot(self.rq(hctx.index, *tag)).state.is_in_flight();
        match name {
            "state" => flags(&[
                (hctx.state.has(STOPPED), "STOPPED"),
                (hctx.state.has(INACTIVE), "INACTIVE"),
                (hctx.state.has(RESTART), "SCHED_RESTART"),
            ]),
            "dispatch" => self.lines(&hctx.dispatch_list(&self.inner.slots, depth.into())),
            "busy" => (0..depth)
                .filter_map(|tag| self.get(hctx.index, tag))
                .map(|found| format!("{}\n", Shown(self, found.in_flight.rq)))
                .collect(),
            "ctx_map" => bitmap((0..self.inner.set.nr_ctxs).map(|n| hctx.ctxs.map() >> n & 1 != 0)),
            "tags" => format!(
                "nr_tags={depth}\nnr_reserved_tags={}\nbusy={}\n",
                self.inner.set.reserved_tags,
                (0..depth).filter(in_flight).count()
            ),
            "tags_bitmap" => bitmap((0..depth).map(|tag| in_flight(&tag))),
            "active" => format!("{}\n", hctx.state.usage()),
            "dispatch_busy" => format!("{}\n", hctx.dispatch_busy()),
            "type" => "default\n".to_owned(),
            "flags" => "\n".to_owned(),
            "budget" => {
                let now = self.snapshot(hctx.index);
                format!(
                    "held={}\nawaited={}\nmissing={}\n",
                    now.slots_held,
                    u32::from(now.slot_awaited),
                    hctx.counters().no_budget
                )
            }
            name => counter_file(&hctx.counters(), name),
        }
    }

    fn lines(&self, list: &[Rq]) -> String {
        list.iter()
            .map(|rq| format!("{}\n", Shown(self, *rq)))
            .collect()
    }
}

/// What a file says of what a hardware queue has done.
fn counter_file(counters: &HctxCounters, name: &str) -> String {
    let HctxCounters {
        run_sync: sync,
        run_async,
        run_delayed: delayed,
        parked,
        unparked,
        ..
    } = counters;
    let number = match name {
        "run" => return format!("sync={sync}\nasync={run_async}\ndelayed={delayed}\n"),
        "parked" => {
            let now = parked.saturating_sub(*unparked);
            return format!("now={now}\ntotal={parked}\ntried_again={unparked}\n");
        }
        "refused" => {
            let line = |source: &Source| {
                let count = counters.refused_by.of(*source);
                format!("{}={count}\n", source.name())
            };
            return Source::ALL.iter().map(line).collect();
        }
        "dispatched" => {
            let runs = counters.dispatched.iter().enumerate();
            let line = |(bucket, runs)| format!("{}\t{runs}\n", range_of(bucket));
            return runs.map(line).collect();
        }
        "queued" => counters.queued,
        "accepted" => counters.accepted,
        "requeued" => counters.requeued,
        "restarted" => counters.restarted,
        "timeouts" => counters.timeouts,
        "lost_races" => counters.lost_races,
        _ => return "\n".to_owned(),
    };
    format!("{number}\n")
}

/// The numbers that share a bucket of [`HctxCounters::dispatched`].
fn range_of(bucket: usize) -> String {
    match bucket {
        0 | 1 => bucket.to_string(),
        n if n == HISTOGRAM - 1 => format!("{}-", 1u64 << (n - 1)),
        n => format!("{}-{}", 1u64 << (n - 1), (1u64 << n) - 1),
    }
}

/// A request in one line, as the kernel shows one.
struct Shown<'a>(&'a Queue, Rq);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(queue, rq) = *self;
        let (hctx, slot) = (queue.hctx_of(rq), queue.slot(rq));
        let request = slot.request(queue.tag_of(hctx, rq));
        let op = request.op().name().to_uppercase().replace('-', "_");
        let no_unmap = matches!(request.op(), Op::WriteZeroes { unmap: false });
        let cmd = flags(&[(request.is_fua(), "FUA"), (no_unmap, "NOUNMAP")]);
        let rq_flags = flags(&[
            (slot.has(PREPARED), "DONTPREP"),
            (slot.has(PASSTHROUGH), "PASSTHROUGH"),
            (slot.has(PARKED), "PARKED"),
        ]);
        let state = if slot.state.is_in_flight() {
            "in_flight"
        } else {
            "idle"
        };
        write!(
            f,
            "{{.op={op}, .cmd_flags={}, .rq_flags={}, .state={state}, .hctx={}, .tag={}, \
             .sector={}, .nr_sectors={}}}",
            cmd.trim_end(),
            rq_flags.trim_end(),
            hctx.index,
            request.tag(),
            request.offset() >> 9,
            request.len() >> 9
        )
    }
}

/// The names of those that are set, with bars between, and the end of the line.
fn flags(bits: &[(bool, &str)]) -> String {
    let set: Vec<_> = bits.iter().filter(|bit| bit.0).map(|bit| bit.1).collect();
    format!("{}\n", set.join("|"))
}

/// Bits as the kernel's sbitmap shows them: offset, then bytes in groups of two, 16 to the line.
fn bitmap(bits: impl Iterator<Item = bool>) -> String {
    let mut bytes = Vec::new();
    for (n, bit) in bits.enumerate() {
        if n % 8 == 0 {
            bytes.push(0u8);
        }
        bytes[n / 8] |= u8::from(bit) << (n % 8);
    }
    let mut text = String::new();
    for (line, row) in bytes.chunks(16).enumerate() {
        let groups: Vec<String> = row
            .chunks(2)
            .map(|two| two.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        text += &format!("{:08x}: {}\n", line * 16, groups.join(" "));
    }
    text
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn k02_ranges_of_the_dispatched_are_the_counters_buckets() {
        let ranges: Vec<_> = (0..HISTOGRAM).map(range_of).collect();
        assert_eq!(ranges[..5], ["0", "1", "2-3", "4-7", "8-15"]);
        assert_eq!(ranges[HISTOGRAM - 1], "4096-");
    }

    #[test]
    fn k02_bitmaps_read_as_the_kernels() {
        let bits = |set: &[usize], len| bitmap((0..len).map(|n| set.contains(&n)));
        assert_eq!(bits(&[0, 9], 10), "00000000: 0102\n");
        assert_eq!(bits(&[31], 32), "00000000: 0000 0080\n");
        let long = bits(&[128], 136);
        assert_eq!(long.lines().nth(1), Some("00000010: 01"), "{long}");
        assert_eq!(flags(&[(true, "A"), (false, "B"), (true, "C")]), "A|C\n");
    }
}
