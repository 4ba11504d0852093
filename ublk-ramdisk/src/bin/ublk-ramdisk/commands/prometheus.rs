// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stats --prometheus`: the figures in the text format of Prometheus, as its textfile collector reads it.
//!
//! Names end with their unit. Times are summaries: their quantiles are those of all requests that were
//! timed since the server began.

use std::fmt::Write;

use ublk_ramdisk::mq::{Op, Source};
use ublk_ramdisk::stats::{DeviceStats, OpStats, QueueStats};

/// One metric of all disks, with what it means.
struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl<'a> Family<'a> {
    fn begin(out: &'a mut String, name: &'static str, kind: &str, help: &str) -> Self {
        // Writing to a text never fails.
        let _ = write!(
            out,
            "# HELP ublk_ramdisk_{name} {help}\n# TYPE ublk_ramdisk_{name} {kind}\n"
        );
        Self { out, name }
    }

    /// A value; `suffix` follows the name. Labels are names of ours, which need no escapes.
    fn value(&mut self, suffix: &str, labels: &str, value: impl std::fmt::Display) {
        let name = self.name;
        let _ = writeln!(self.out, "ublk_ramdisk_{name}{suffix}{{{labels}}} {value}");
    }
}

/// Writes the figures of all disks.
pub fn text(disks: &[DeviceStats]) -> String {
    let mut out = String::new();
    let mut of_disk = |name, kind: &str, help: &str, value: &dyn Fn(&DeviceStats) -> u64| {
        let mut family = Family::begin(&mut out, name, kind, help);
        for disk in disks {
            family.value("", &format!("disk=\"ublkb{}\"", disk.id), value(disk));
        }
    };
    of_disk("size_bytes", "gauge", "Size of the disk.", &|d| d.size);
    of_disk(
        "memory_bytes",
        "gauge",
        "Memory that its contents take.",
        &|d| d.space.used,
    );
    of_disk(
        "restarts_total",
        "counter",
        "Servers that took the disk up after a death.",
        &|d| d.restarts.into(),
    );
    of_disk(
        "kblockd_runs_total",
        "counter",
        "Items that kblockd has run.",
        &|d| d.kblockd.completed,
    );
    of_disk(
        "kblockd_maydays_total",
        "counter",
        "Calls for kblockd's rescuer.",
        &|d| d.kblockd.mayday,
    );
    of_disk(
        "kblockd_rescued_total",
        "counter",
        "Items that the rescuer has run.",
        &|d| d.kblockd.rescued,
    );

    let queues = |disk: &DeviceStats| -> Vec<(String, QueueStats)> {
        let labels =
            |queue: &QueueStats| format!("disk=\"ublkb{}\",queue=\"{}\"", disk.id, queue.queue);
        disk.queues
            .iter()
            .map(|queue| (labels(queue), queue.clone()))
            .collect()
    };
    let all: Vec<(String, QueueStats)> = disks.iter().flat_map(queues).collect();
    let mut of_op = |name, help: &str, value: &dyn Fn(OpStats) -> u64| {
        let mut family = Family::begin(&mut out, name, "counter", help);
        for (labels, queue) in &all {
            for (op, stats) in Op::NAMES.into_iter().zip(queue.ops()) {
                family.value("", &format!("{labels},operation=\"{op}\""), value(stats));
            }
        }
    };
    of_op("requests_total", "Requests that ended well.", &|stats| {
        stats.requests
    });
    of_op("bytes_total", "Bytes that these covered.", &|stats| {
        stats.bytes
    });
    let mut errors = Family::begin(
        &mut out,
        "errors_total",
        "counter",
        "Requests that ended with an error.",
    );
    for (labels, queue) in &all {
        errors.value("", labels, queue.errors);
    }
    let help = "Tries that were refused (BUSY), by what was lacking.";
    let mut refused = Family::begin(&mut out, "refused_total", "counter", help);
    for (labels, queue) in &all {
        for source in Source::ALL {
            let count = queue.hctx.refused_by.of(source);
            refused.value("", &format!("{labels},source=\"{}\"", source.name()), count);
        }
    }
    let help = "Time from arrival to the end of the requests that were timed.";
    let mut times = Family::begin(&mut out, "latency_seconds", "summary", help);
    for (labels, queue) in &all {
        for (op, histogram) in Op::NAMES.into_iter().zip(queue.latency.each()) {
            let labels = format!("{labels},operation=\"{op}\"");
            for (quantile, of_1000) in [("0.5", 500), ("0.9", 900), ("0.99", 990), ("0.999", 999)] {
                if let Some(nanos) = histogram.permille(of_1000) {
                    times.value(
                        "",
                        &format!("{labels},quantile=\"{quantile}\""),
                        seconds(nanos),
                    );
                }
            }
            times.value("_sum", &labels, seconds(histogram.sum));
            times.value("_count", &labels, histogram.count());
        }
    }
    let mut hits = Family::begin(
        &mut out,
        "rule_hits_total",
        "counter",
        "Requests that a rule did something to.",
    );
    for disk in disks {
        for rule in &disk.pressure.rules {
            let labels = format!("disk=\"ublkb{}\",rule=\"{}\"", disk.id, rule.rule.name);
            hits.value("", &labels, rule.hits);
        }
    }
    out
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k02_each_metric_is_described_once_and_has_its_unit() {
        let queue = QueueStats {
            read: OpStats {
                requests: 3,
                bytes: 12288,
            },
            ..QueueStats::default()
        };
        let disks = [0, 7].map(|id| DeviceStats {
            id,
            size: 1 << 20,
            queues: vec![queue.clone()],
            ..DeviceStats::default()
        });
        let text = text(&disks);
        for line in [
            "ublk_ramdisk_size_bytes{disk=\"ublkb7\"} 1048576",
            "ublk_ramdisk_bytes_total{disk=\"ublkb0\",queue=\"0\",operation=\"read\"} 12288",
            "ublk_ramdisk_latency_seconds_count{disk=\"ublkb7\",queue=\"0\",operation=\"read\"} 0",
        ] {
            assert!(
                text.lines().any(|is| is == line),
                "{line} is not in\n{text}"
            );
        }
        let mut described: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .collect();
        let all = described.len();
        described.sort_unstable();
        described.dedup();
        assert_eq!((described.len(), all), (12, 12));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(
                value.parse::<f64>().is_ok() && name.ends_with('}'),
                "{line}"
            );
        }
    }
}
