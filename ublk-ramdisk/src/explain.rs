// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each figure, event and file means, and which side of the ublk driver it belongs to (K4).
//!
//! Nothing is said twice: a figure's text is the documentation of its field, an event's and a
//! file's stands beside its name ([`crate::trace::event`], [`crate::mq::debugfs`]). A test walks the
//! JSON of a device's figures and finds each of its names here.

use crate::histogram::Histogram;
use crate::mq::debugfs::{CTX_FILE, HCTX_FILES, QUEUE_FILES};
use crate::mq::{BySource, HctxCounters, HctxSnapshot, LatencyStats};
use crate::pressure::{PressureStats, Settings};
use crate::ramdisk::space::SpaceStats;
use crate::stats::files::{DEVICE_FILES, HCTX_FILE};
use crate::stats::{DeviceStats, KblockdStats, OpStats, PoolStats, QueueStats, WakeUps};
use crate::trace::Kind;
use serde::Serialize;

pub use crate::meanings::Meanings;

/// What kind of thing has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// A number or state in `stats`.
    Figure,
    /// A column of `stats` without --json.
    Column,
    /// Something in `trace`.
    Event,
    /// Something in `debugfs`.
    File,
}

impl Sort {
    /// The word to ask for all of them by.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Figure => "figures",
            Self::Column => "columns",
            Self::Event => "events",
            Self::File => "files",
        }
    }
}

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The server's: what happens behind the ublk driver.
    Server,
    /// The kernel's, for /dev/ublkbN.
    Kernel,
}

/// One name.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// What kind of thing it is.
    pub sort: Sort,
    /// Whose it is.
    pub side: Side,
    /// Where it is found: the path of a figure in the JSON, a file's path.
    pub place: String,
    /// Its last name, as typed after `explain`.
    pub name: String,
    /// Another name, such as an event's short form; may be empty.
    pub also: String,
    /// What it means.
    pub text: String,
}

/// The structs of the JSON, by where they stand in it.
const FIGURES: &[(&str, Meanings)] = &[
    ("", DeviceStats::MEANINGS),
    ("pressure.", PressureStats::MEANINGS),
    ("pressure.settings.", Settings::MEANINGS),
    ("queues[].", QueueStats::MEANINGS),
    ("queues[].read|write|....", OpStats::MEANINGS),
    ("queues[].hctx.", HctxCounters::MEANINGS),
    ("queues[].hctx.refused_by.", BySource::MEANINGS),
    ("queues[].now.", HctxSnapshot::MEANINGS),
    ("queues[].latency.", LatencyStats::MEANINGS),
    ("queues[].latency.read|write|....", Histogram::MEANINGS),
    ("queues[].wakeups.", WakeUps::MEANINGS),
    ("space.", SpaceStats::MEANINGS),
    ("kblockd.", KblockdStats::MEANINGS),
    ("kblockd.pools[].", PoolStats::MEANINGS),
];

/// The columns of the tables and the figures they show.
const COLUMNS: Meanings = &[
    ("QUEUE", "queues[].queue"),
    ("OPERATION", "queues[].read|write|..."),
    ("REQUESTS", "queues[].read|write|....requests"),
    ("BYTES", "queues[].read|write|....bytes"),
    ("ARRIVED", "queues[].inserted"),
    ("FAILED", "queues[].errors"),
    ("WAKE-UPS", "queues[].reaps"),
    ("INSERTED", "queues[].hctx.inserted"),
    ("ACCEPTED", "queues[].hctx.accepted"),
    ("BUSY", "queues[].hctx.refused_by"),
    ("REQUEUED", "queues[].hctx.requeued"),
    ("LISTED", "queues[].hctx.queued"),
    ("RUNS-HERE", "queues[].hctx.run_sync"),
    ("RUNS-ASYNC", "queues[].hctx.run_async"),
    ("RUNS-DELAYED", "queues[].hctx.run_delayed"),
    ("RESTARTS", "queues[].hctx.restarted"),
    ("TIMEOUTS", "queues[].hctx.timeouts"),
    ("STATE", "queues[].now.stopped"),
    ("INSIDE", "queues[].now.usage"),
    ("IN-FLIGHT", "queues[].now.busy"),
    ("ON-DISPATCH", "queues[].now.dispatch"),
    ("ON-CTX", "queues[].now.ctx_lens"),
    ("PARKED", "queues[].now.parked"),
    ("SLOTS-HELD", "queues[].now.slots_held"),
    ("BUSY-LEVEL", "queues[].now.dispatch_busy"),
    ("BELLS", "queues[].wakeups.sent"),
    ("BELLS-SAVED", "queues[].wakeups.saved"),
    ("LATENCY", "queues[].latency"),
    ("TIMED", "queues[].latency.read|write|....buckets"),
    ("MEAN", "queues[].latency.read|write|....sum"),
    ("P50", "queues[].latency.read|write|....buckets"),
    ("P90", "queues[].latency.read|write|....buckets"),
    ("P99", "queues[].latency.read|write|....buckets"),
    ("P99.9", "queues[].latency.read|write|....buckets"),
    ("MAX", "queues[].latency.read|write|....buckets"),
    ("SLOTS", "queues[].hctx.refused_by.slots"),
    ("MEMORY", "queues[].hctx.refused_by.memory"),
    ("PSI", "queues[].hctx.refused_by.psi"),
    ("BANDWIDTH", "queues[].hctx.refused_by.bandwidth"),
    ("INJECTION", "queues[].hctx.refused_by.injection"),
    ("DRIVER", "queues[].hctx.refused_by.driver"),
];

/// What the kernel says of /dev/ublkbN, and what of it can be seen here.
const KERNEL: &[(Sort, &str, &str)] = &[
    (Sort::File, "/sys/block/ublkbN/stat", "Requests and bytes as the kernel's block layer counts them; iostat shows it. A request counts there from its start to its end, so a refused one is a slow one."),
    (Sort::File, "/sys/block/ublkbN/inflight", "Requests that the kernel has handed to ublk: those in flight here, and those that wait here."),
    (Sort::File, "/sys/kernel/debug/block/ublkbN/hctxN/dispatch", "The kernel's own dispatch list. Requests that this server refuses are never there: ublk has no answer for not now."),
    (Sort::File, "/sys/kernel/debug/block/ublkbN/hctxN/dispatch_busy", "How busy the ublk driver has said it is. Stays 0 however often this server refuses."),
    (Sort::File, "/sys/kernel/debug/block/ublkbN/hctxN/tags", "The kernel's tags. A request keeps its tag while it waits here, so all of them may be busy with none in flight here."),
    (Sort::Event, "block:block_rq_issue", "The tracepoint of the kernel (blktrace's D): the request went to ublk. The event of the same name here may follow several times, once per try."),
    (Sort::Event, "block:block_rq_requeue", "The tracepoint of the kernel (blktrace's R): never for a request that was refused here."),
    (Sort::Event, "block:block_rq_complete", "The tracepoint of the kernel (blktrace's C): this server has committed the request's result."),
];

/// Every name there is.
pub fn entries() -> Vec<Entry> {
    let ours = |sort, place: &str, name: &str, also: &str, text: &str| Entry {
        sort,
        side: Side::Server,
        place: format!("{place}{name}"),
        name: name.to_owned(),
        also: also.to_owned(),
        text: text.trim().to_owned(),
    };
    let mut all = Vec::new();
    for (place, meanings) in FIGURES {
        let of_struct = meanings.iter();
        all.extend(of_struct.map(|(name, text)| ours(Sort::Figure, place, name, "", text)));
    }
    for (title, figure) in COLUMNS {
        all.push(ours(
            Sort::Column,
            "",
            title,
            "",
            &column_text(title, figure),
        ));
    }
    for kind in Kind::ALL {
        let (name, act) = (kind.name(), kind.act());
        all.push(ours(Sort::Event, "", name, act, kind.meaning()));
    }
    for (name, text) in QUEUE_FILES {
        all.push(ours(Sort::File, "", name, "", text));
    }
    for (name, text) in HCTX_FILES {
        all.push(ours(Sort::File, "hctxN/", name, "", text));
    }
    all.push(ours(Sort::File, "hctxN/", HCTX_FILE.0, "", HCTX_FILE.1));
    all.push(ours(Sort::File, "hctxN/ctxN/", CTX_FILE.0, "", CTX_FILE.1));
    for (name, text) in DEVICE_FILES {
        all.push(ours(Sort::File, "", name, "", text));
    }
    all.extend(KERNEL.iter().map(|(sort, place, text)| Entry {
        side: Side::Kernel,
        name: place.rsplit(['/', ':']).next().unwrap_or(place).to_owned(),
        ..ours(*sort, "", place, "", text)
    }));
    all
}

/// What a column shows that its figure does not say by itself.
fn column_text(title: &str, figure: &str) -> String {
    let more = match title {
        "STATE" => "The bits of the hardware queue that are set: stopped, restart, inactive, quiesced, frozen.",
        "BUSY" => "How often a request was refused, whatever was wanting.",
        "INSIDE" => "Requests taken in and not ended: in flight, on a list, or parked.",
        "IN-FLIGHT" => "Requests that the driver or the transport has.",
        "ON-DISPATCH" => "Requests on the dispatch list.",
        "SLOTS-HELD" => "Requests that hold a slot of --slots.",
        "ON-CTX" => "Requests on the software queues.",
        "TIMED" => "How many requests were timed: each 16th arrival is, unless --latency-sample says otherwise.",
        "MEAN" => "The mean time from arrival to the moment the result is handed out.",
        "MAX" => "The longest time, at most 1/16 too large.",
        _ if title.starts_with('P') && title.as_bytes()[1].is_ascii_digit() => {
            "So many per cent of the timed requests took no longer; at most 1/16 too large."
        }
        _ => "",
    };
    format!("{more} JSON: {figure}")
}

/// What has this name, or is of the sort that this word asks for; capitals do not matter.
pub fn find(word: &str) -> Vec<Entry> {
    let same = |name: &str| !name.is_empty() && name.eq_ignore_ascii_case(word);
    let mut all = entries();
    all.retain(|entry| {
        same(&entry.name) || same(&entry.also) || same(&entry.place) || same(entry.sort.plural())
    });
    all
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    /// Every name in the JSON.
    fn names(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, member)| {
                found.insert(name.clone());
                names(member, found);
            }),
            Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            _ => {}
        }
    }

    #[test]
    fn k04_no_figure_lacks_an_explanation() {
        let stats = DeviceStats {
            id: 0,
            size: 0,
            allocated: 0,
            data_path: String::new(),
            pressure: Default::default(),
            space: SpaceStats::default(),
            latency_sample: 16,
            queues: vec![QueueStats::default()],
            kblockd: KblockdStats {
                pools: vec![PoolStats::default()],
                ..KblockdStats::default()
            },
        };
        let mut found = BTreeSet::new();
        names(&serde_json::to_value(&stats).expect("JSON"), &mut found);
        assert!(found.len() > 60, "{found:?}");
        for name in found {
            let explained = find(&name);
            assert!(
                explained.iter().any(|entry| entry.sort == Sort::Figure),
                "{name}: wrap its struct in explained! and add it to FIGURES"
            );
        }
    }

    #[test]
    fn k04_columns_name_figures_that_exist_and_every_text_is_one() {
        let all = entries();
        let is_figure = |place: &str| {
            let figures = all.iter().filter(|entry| entry.sort == Sort::Figure);
            place.ends_with("...") || figures.into_iter().any(|entry| entry.place == place)
        };
        for (title, figure) in COLUMNS {
            assert!(is_figure(figure), "{title}: {figure}");
        }
        for entry in &all {
            let ends = entry.text.ends_with(['.', '?']) || entry.sort == Sort::Column;
            assert!(ends && entry.text.len() > 4, "{entry:?}");
        }
        for word in [
            "events",
            "files",
            "figures",
            "columns",
            "parked",
            "D",
            "dispatch_busy",
        ] {
            assert!(!find(word).is_empty(), "{word}");
        }
        let both: Vec<_> = find("dispatch_busy").iter().map(|e| e.side).collect();
        assert!(both.contains(&Side::Kernel) && both.contains(&Side::Server));
        assert!(find("nonsense").is_empty() && find("").is_empty());
    }
}
