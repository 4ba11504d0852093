// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk's figures as tables: what `stats` prints, once or again and again.

use ublk_ramdisk::mq::Source;
use ublk_ramdisk::ramdisk::space::SpaceStats;
use ublk_ramdisk::ramdisk::Mode;
use ublk_ramdisk::stats::{DeviceStats, KblockdStats, OpStats, QueueStats};
use ublk_ramdisk::ublk::ctrl::block_path;

use super::output;

/// Everything about one disk. What is empty is left out: no times before a request was timed, no
/// reasons of BUSY before there was one.
pub fn as_text(stats: &DeviceStats) -> String {
    let mut tables = vec![
        rows(OPERATIONS, stats.queues.iter().flat_map(queue_rows)),
        rows(HCTX, stats.queues.iter().map(hctx_row)),
        rows(NOW, stats.queues.iter().map(now_row)),
    ];
    if stats.queues.iter().any(|q| q.hctx.refused_by.total() > 0) {
        let names = Source::ALL.iter().map(|source| source.name());
        let titles: Vec<_> = ["queue", "busy"].into_iter().chain(names).collect();
        let titles: Vec<_> = titles.iter().map(|name| name.to_uppercase()).collect();
        let titles: Vec<_> = titles.iter().map(String::as_str).collect();
        tables.push(rows(&titles, stats.queues.iter().map(busy_row)));
    }
    let timed: Vec<_> = stats.queues.iter().flat_map(latency_rows).collect();
    if !timed.is_empty() {
        tables.push(rows(LATENCY, timed.into_iter()));
    }
    let tables: Vec<_> = tables.iter().map(|rows| output::table(rows)).collect();
    format!(
        "{}: {}, of which {} in memory, data path {}, pressure {}\n{}\n{}\n{}",
        block_path(stats.id),
        output::human_size(stats.size),
        output::human_size(stats.allocated),
        stats.data_path,
        stats.pressure.settings,
        space_line(&stats.space),
        tables.join("\n"),
        kblockd_line(&stats.kblockd)
    )
}

/// What the disk has of memory, and what it lacks.
fn space_line(space: &SpaceStats) -> String {
    let limit = match space.limit {
        0 => "no limit".to_owned(),
        limit => format!("limit {}", output::human_size(limit)),
    };
    let state = match (space.mode, space.no_space_in) {
        (Mode::Enough, _) => "enough".to_owned(),
        (Mode::Exhausted, None) => "exhausted, writes wait".to_owned(),
        (Mode::Exhausted, Some(left)) => {
            format!("exhausted, writes end with ENOSPC in {} s", left.as_secs())
        }
        (Mode::Error, _) => "exhausted, writes end with ENOSPC".to_owned(),
    };
    format!(
        "memory: {} used, {limit}, {} of zeros given back; {state}, {} writes wait, \
         {} ended with ENOSPC",
        output::human_size(space.used),
        output::human_size(space.zero),
        space.parked,
        space.no_space + space.above_cap
    )
}

fn rows(titles: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<Vec<String>> {
    let titles = titles.iter().map(|title| (*title).to_owned()).collect();
    std::iter::once(titles).chain(rows).collect()
}

const OPERATIONS: &[&str] = &[
    "QUEUE",
    "OPERATION",
    "REQUESTS",
    "BYTES",
    "ARRIVED",
    "FAILED",
    "WAKE-UPS",
];

/// One line per operation; the figures of the queue as a whole stand in its first line.
fn queue_rows(queue: &QueueStats) -> Vec<Vec<String>> {
    let operations: [(&str, OpStats); 5] = [
        ("read", queue.read),
        ("write", queue.write),
        ("flush", queue.flush),
        ("discard", queue.discard),
        ("write-zeroes", queue.write_zeroes),
    ];
    let mut rows: Vec<Vec<String>> = operations
        .iter()
        .map(|(name, operation)| {
            vec![
                String::new(),
                (*name).to_owned(),
                operation.requests.to_string(),
                operation.bytes.to_string(),
            ]
        })
        .collect();
    rows[0][0] = queue.queue.to_string();
    let of_queue = [queue.inserted, queue.errors, queue.reaps];
    rows[0].extend(of_queue.map(|figure| figure.to_string()));
    rows
}

const HCTX: &[&str] = &[
    "QUEUE",
    "INSERTED",
    "ACCEPTED",
    "BUSY",
    "REQUEUED",
    "LISTED",
    "RUNS-HERE",
    "RUNS-ASYNC",
    "RUNS-DELAYED",
    "RESTARTS",
    "TIMEOUTS",
];

/// What became of the requests on their way to the driver. The JSON has more figures.
fn hctx_row(queue: &QueueStats) -> Vec<String> {
    let hctx = &queue.hctx;
    let figures = [
        queue.queue.into(),
        hctx.inserted,
        hctx.accepted,
        hctx.refused(),
        hctx.requeued,
        hctx.queued,
        hctx.run_sync,
        hctx.run_async,
        hctx.run_delayed,
        hctx.restarted,
        hctx.timeouts,
    ];
    figures.map(|figure| figure.to_string()).to_vec()
}

const NOW: &[&str] = &[
    "QUEUE",
    "STATE",
    "INSIDE",
    "IN-FLIGHT",
    "ON-DISPATCH",
    "ON-CTX",
    "PARKED",
    "SLOTS-HELD",
    "BUSY-LEVEL",
    "BELLS",
    "BELLS-SAVED",
];

/// The hardware queue as it is now, and how its thread was told of what workers did for it.
fn now_row(queue: &QueueStats) -> Vec<String> {
    let now = &queue.now;
    let on_ctx: u32 = now.ctx_lens.iter().sum();
    vec![
        queue.queue.to_string(),
        state(queue),
        now.usage.to_string(),
        now.busy.len().to_string(),
        now.dispatch.len().to_string(),
        on_ctx.to_string(),
        now.parked.to_string(),
        now.slots_held.to_string(),
        now.dispatch_busy.to_string(),
        queue.wakeups.sent.to_string(),
        queue.wakeups.saved.to_string(),
    ]
}

/// The bits of a hardware queue in few words.
pub fn state(queue: &QueueStats) -> String {
    let now = &queue.now;
    let bits = [
        (now.stopped, "stopped"),
        (now.restart, "restart"),
        (now.inactive, "inactive"),
        (now.quiesced, "quiesced"),
        (now.frozen, "frozen"),
    ];
    let set: Vec<_> = bits.iter().filter(|bit| bit.0).map(|bit| bit.1).collect();
    if set.is_empty() {
        "-".to_owned()
    } else {
        set.join("+")
    }
}

fn busy_row(queue: &QueueStats) -> Vec<String> {
    let by = &queue.hctx.refused_by;
    let mut row = vec![queue.queue.to_string(), by.total().to_string()];
    row.extend(Source::ALL.iter().map(|source| by.of(*source).to_string()));
    row
}

const LATENCY: &[&str] = &[
    "QUEUE", "LATENCY", "TIMED", "MEAN", "P50", "P90", "P99", "P99.9", "MAX",
];

fn latency_rows(queue: &QueueStats) -> Vec<Vec<String>> {
    let timed = queue.latency.each();
    let timed = timed.iter().filter(|(_, times)| times.count() > 0);
    timed
        .map(|(name, times)| {
            let mut row = vec![
                queue.queue.to_string(),
                (*name).to_owned(),
                times.count().to_string(),
                human_time(times.mean()),
            ];
            let parts = [500, 900, 990, 999].map(|part| times.permille(part));
            let times = parts.into_iter().chain([times.max()]);
            row.extend(times.map(|nanos| human_time(nanos.unwrap_or(0))));
            row
        })
        .collect()
}

fn kblockd_line(kblockd: &KblockdStats) -> String {
    let workers: usize = kblockd.pools.iter().map(|pool| pool.workers).sum();
    let idle: usize = kblockd.pools.iter().map(|pool| pool.idle).sum();
    format!(
        "kblockd: {workers} workers, {idle} idle; {} runs, {} us CPU; rescuer called {} times, {} \
         items rescued\n",
        kblockd.completed, kblockd.cpu_time, kblockd.mayday, kblockd.rescued
    )
}

/// A time with three digits.
pub fn human_time(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => (nanos as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s"),
    };
    let digits = match value {
        0.0..9.995 => 2,
        9.995..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ublk_ramdisk::histogram::Histogram;

    #[test]
    fn k02_every_queue_has_a_line_per_operation_and_one_per_table() {
        let mut queue = QueueStats {
            queue: 1,
            inserted: 7,
            write: OpStats {
                requests: 5,
                bytes: 20480,
            },
            ..QueueStats::default()
        };
        let mut stats = DeviceStats {
            id: 3,
            size: 1 << 30,
            allocated: 20480,
            data_path: "batch".to_owned(),
            pressure: Default::default(),
            space: SpaceStats::default(),
            latency_sample: 16,
            queues: vec![QueueStats::default(), queue.clone()],
            kblockd: KblockdStats::default(),
        };
        let text = as_text(&stats);
        assert!(text.starts_with("/dev/ublkb3: 1 GiB, of which 20 KiB in memory, data path batch"));
        assert_eq!(text.lines().count(), 13 + 1 + 3 + 1 + 3 + 2, "{text}");
        let written = text
            .lines()
            .filter(|line| line.ends_with("5         20480"));
        assert_eq!(written.count(), 1, "{text}");

        queue.hctx.refused_by.psi = 4;
        queue.latency.write = Histogram {
            buckets: vec![(1500, 9), (2_000_000, 1)],
            sum: 0,
        };
        queue.now.restart = true;
        stats.queues[1] = queue;
        let text = as_text(&stats);
        for part in ["PSI", "restart", "1.50us", "2.00ms", "P99.9"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn times_have_three_digits() {
        let times = [0, 999, 1000, 12_345, 999_999, 3_000_000, 61_000_000_000];
        let shown = times.map(human_time);
        let expected = [
            "0ns", "999ns", "1.00us", "12.3us", "1000us", "3.00ms", "61.0s",
        ];
        assert_eq!(shown, expected);
    }
}
