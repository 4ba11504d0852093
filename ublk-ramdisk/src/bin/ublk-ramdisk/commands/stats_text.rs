// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk's figures as tables of 80 columns: what `stats` prints, once or again and again.
//!
//! What is zero is left out, and so are figures that few need; `--all` has everything, and `-o` the
//! columns that are named. The JSON is always complete.

use ublk_ramdisk::config::fate_of_contents;
use ublk_ramdisk::error::Failure;
use ublk_ramdisk::histogram::Histogram;
use ublk_ramdisk::mq::{Op, Source};
use ublk_ramdisk::pressure::Settings;
use ublk_ramdisk::ramdisk::space::SpaceStats;
use ublk_ramdisk::ramdisk::Mode;
use ublk_ramdisk::rules::RuleStats;
use ublk_ramdisk::stats::{DeviceStats, KblockdStats, QueueStats};
use ublk_ramdisk::ublk::ctrl::block_path;
use ublk_ramdisk::units::Size;

use super::output::{self, human_time, rounded_size};

/// What of the figures is printed.
#[derive(Debug, Default)]
pub struct Selection {
    /// Everything, also what is zero.
    pub all: bool,
    /// These columns, in one table with a row for each hardware queue; none means the usual tables.
    pub columns: Vec<&'static output::Column<QueueStats>>,
}

impl Selection {
    /// Finds columns by name; capitals do not matter.
    pub fn new(all: bool, names: &[String]) -> Result<Selection, Failure> {
        let columns: Vec<_> = TABLES.iter().flat_map(|table| table.iter()).collect();
        let columns = output::named_columns(&columns, names)?;
        Ok(Selection { all, columns })
    }
}

/// A figure of a hardware queue.
type Column = output::Column<QueueStats>;

macro_rules! columns {
    // Name, shown without `--all` or `-o`, and how the cell is made.
    ($($name:literal $usual:literal $cell:expr;)*) => {
        &[$(Column { name: $name, usual: $usual, cell: |queue| Some($cell(queue)) },)*]
    };
}

/// A number of each hardware queue, by the table it is shown in.
const TABLES: [&[Column]; 4] = [NOW, DONE, BUSY, TOTAL];

/// The hardware queue as it is now.
const NOW: &[Column] = columns! {
    "STATE" true state;
    "ACTIVE" true |q: &QueueStats| q.now.usage.to_string();
    "IN-FLIGHT" true |q: &QueueStats| q.now.busy.len().to_string();
    "DISPATCH" true |q: &QueueStats| q.now.dispatch.len().to_string();
    "CTX" true |q: &QueueStats| q.now.ctx_lens.iter().sum::<u32>().to_string();
    "PARKED" true |q: &QueueStats| q.now.parked.to_string();
    "SLOTS" true |q: &QueueStats| q.now.slots_held.to_string();
    "DISPATCH-BUSY" true |q: &QueueStats| q.now.dispatch_busy.to_string();
};

/// What it has done.
const DONE: &[Column] = columns! {
    "INSERTED" true |q: &QueueStats| q.hctx.inserted.to_string();
    "ACCEPTED" true |q: &QueueStats| q.hctx.accepted.to_string();
    "BUSY" true |q: &QueueStats| q.hctx.refused_by.total().to_string();
    "REQUEUED" true |q: &QueueStats| q.hctx.requeued.to_string();
    "ERRORS" true |q: &QueueStats| q.errors.to_string();
    "TIMEOUTS" true |q: &QueueStats| q.hctx.timeouts.to_string();
    "RUNS" true |q: &QueueStats| (q.hctx.run_sync + q.hctx.run_async + q.hctx.run_delayed).to_string();
    "RESTARTS" true |q: &QueueStats| q.hctx.restarted.to_string();
    "QUEUED" false |q: &QueueStats| q.hctx.queued.to_string();
    "RUN-SYNC" false |q: &QueueStats| q.hctx.run_sync.to_string();
    "RUN-ASYNC" false |q: &QueueStats| q.hctx.run_async.to_string();
    "RUN-DELAYED" false |q: &QueueStats| q.hctx.run_delayed.to_string();
    "WAKEUPS" false |q: &QueueStats| q.wakeups.sent.to_string();
    "WAKEUPS-SAVED" false |q: &QueueStats| q.wakeups.saved.to_string();
    "REAPS" false |q: &QueueStats| q.reaps.to_string();
};

/// Why the driver was BUSY.
const BUSY: &[Column] = columns! {
    "BUSY-SLOTS" true |q: &QueueStats| q.hctx.refused_by.of(Source::Slots).to_string();
    "BUSY-MEMORY" true |q: &QueueStats| q.hctx.refused_by.of(Source::Memory).to_string();
    "BUSY-PSI" true |q: &QueueStats| q.hctx.refused_by.of(Source::Psi).to_string();
    "BUSY-BANDWIDTH" true |q: &QueueStats| q.hctx.refused_by.of(Source::Bandwidth).to_string();
    "BUSY-INJECTION" true |q: &QueueStats| q.hctx.refused_by.of(Source::Injection).to_string();
    "BUSY-DRIVER" true |q: &QueueStats| q.hctx.refused_by.of(Source::Driver).to_string();
};

/// All operations together, for `-o`; the usual table has a row for each.
const TOTAL: &[Column] = columns! {
    "READS" false |q: &QueueStats| q.read.requests.to_string();
    "WRITES" false |q: &QueueStats| q.write.requests.to_string();
    "READ-BYTES" false |q: &QueueStats| rounded_size(q.read.bytes);
    "WRITE-BYTES" false |q: &QueueStats| rounded_size(q.write.bytes);
    "P50" false |q: &QueueStats| percentile(&q.latency.total(), 500);
    "P90" false |q: &QueueStats| percentile(&q.latency.total(), 900);
    "P99" false |q: &QueueStats| percentile(&q.latency.total(), 990);
    "P99.9" false |q: &QueueStats| percentile(&q.latency.total(), 999);
    "MAX" false |q: &QueueStats| time(q.latency.total().max());
};

/// Prints one disk: a line of its size and data path, its pressure and memory, the tables, and
/// kblockd. With selected columns only their table.
pub fn as_text(stats: &DeviceStats, selection: &Selection) -> String {
    let mut path = block_path(stats.id);
    if let Some(name) = &stats.name {
        path += &format!(" ({name})");
    }
    if !selection.columns.is_empty() {
        let table = table(stats, &selection.columns, true);
        return format!("{path}\n{}", table.unwrap_or_default());
    }
    let all = selection.all;
    let mut head = format!(
        "{path}: {}, {} in memory, data path {}\n",
        Size(stats.size),
        rounded_size(stats.allocated),
        stats.data_path,
    );
    let (backing, fate) = (&stats.backing, fate_of_contents(stats.outlives_server));
    let restarts = match stats.restarts {
        0 => String::new(),
        times => format!("; restarts: {times}"),
    };
    let since = stats.since.as_ref();
    let since = since.map_or_else(String::new, |since| format!("; counted since {since}"));
    let backing = format!("backing: {backing}, which {fate}{restarts}{since}");
    head += &output::wrapped(&backing, WIDTH, "");
    let settings = &stats.pressure.settings;
    if all || *settings != Settings::default() {
        head += &output::wrapped(&format!("pressure: {settings}"), WIDTH, "");
    }
    head += &rules(&stats.pressure.rules);
    head += &output::wrapped(&space_line(&stats.space, all), WIDTH, "");
    head += &cache_line(&stats.space);
    let mut parts = vec![head];
    parts.extend(operations(stats, all));
    for columns in [NOW, DONE, BUSY] {
        let shown = columns.iter().filter(|column| all || column.usual);
        parts.extend(table(stats, &shown.collect::<Vec<_>>(), all));
    }
    parts.push(kblockd_line(&stats.kblockd));
    parts.join("\n")
}

/// Also true of a cell without a figure.
fn is_zero(cell: &str) -> bool {
    matches!(cell, "0" | "-")
}

/// Columns of a terminal.
const WIDTH: usize = 80;

/// Makes a table with a row for each hardware queue, or several below each other if the columns do not
/// fit into one. Unless `all` is set, queues and columns that have only zeros are left out. None if no
/// row is left.
fn table(stats: &DeviceStats, columns: &[&Column], all: bool) -> Option<String> {
    let cell = |queue: &QueueStats, column: &Column| (column.cell)(queue).unwrap_or_default();
    let row = |queue: &QueueStats| columns.iter().map(|column| cell(queue, column)).collect();
    let mut rows: Vec<(u16, Vec<String>)> = stats
        .queues
        .iter()
        .map(|q: &QueueStats| (q.queue, row(q)))
        .collect();
    rows.retain(|(_, cells)| all || !cells.iter().all(|cell| is_zero(cell)));
    if rows.is_empty() {
        return None;
    }
    let has_figures = |n: &usize| all || rows.iter().any(|(_, cells)| !is_zero(&cells[*n]));
    let width = |n: usize| {
        let cells = rows.iter().map(|(_, cells)| cells[n].len());
        cells.chain([columns[n].name.len()]).max().unwrap_or(0) + 2
    };
    // Fills one table after the other, in the order of the columns.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut left = 0;
    for n in (0..columns.len()).filter(has_figures) {
        match groups.last_mut() {
            Some(group) if width(n) <= left => group.push(n),
            _ => {
                groups.push(vec![n]);
                left = WIDTH - "QUEUE".len();
            }
        }
        left = left.saturating_sub(width(n));
    }
    let tables = groups.iter().map(|group| {
        let mut cells = vec![titles(group.iter().map(|&n| columns[n].name))];
        cells.extend(rows.iter().map(|(queue, row)| {
            let figures = group.iter().map(|&n| row[n].clone());
            [queue.to_string()].into_iter().chain(figures).collect()
        }));
        output::table(&cells)
    });
    Some(tables.collect::<Vec<_>>().join("\n"))
}

/// The first line of a table by queue.
fn titles<'n>(names: impl Iterator<Item = &'n str>) -> Vec<String> {
    let names = ["QUEUE"].into_iter().chain(names);
    names.map(str::to_owned).collect()
}

/// What each rule has done.
fn rules(rules: &[RuleStats]) -> String {
    let line = |rule: &RuleStats| {
        let held = match rule.held {
            0 => String::new(),
            held => format!(", {held} held"),
        };
        let left = rule
            .left
            .map_or(String::new(), |left| format!(", {left} left"));
        format!("rule {}: {} hits{left}{held}\n", rule.rule.name, rule.hits)
    };
    rules.iter().map(line).collect()
}

/// A row for each operation of each queue: how often, how much, and how long it took.
fn operations(stats: &DeviceStats, all: bool) -> Option<String> {
    let names = [
        "OPERATION",
        "REQUESTS",
        "BYTES",
        "MEAN",
        "P50",
        "P99",
        "P99.9",
        "MAX",
    ];
    let mut cells = vec![titles(names.into_iter())];
    for queue in &stats.queues {
        let operations = Op::NAMES.iter().zip(queue.ops());
        for ((name, operation), times) in operations.zip(queue.latency.each()) {
            if all || operation.requests > 0 {
                let mut row = vec![
                    queue.queue.to_string(),
                    (*name).to_owned(),
                    operation.requests.to_string(),
                    rounded_size(operation.bytes),
                ];
                row.extend(latencies(times));
                cells.push(row);
            }
        }
    }
    (cells.len() > 1).then(|| output::table(&cells))
}

/// The mean, three percentiles and the maximum.
fn latencies(times: &Histogram) -> [String; 5] {
    let mean = (times.count() > 0).then(|| times.mean());
    let [p50, p99, p999] = [500, 990, 999].map(|part| times.permille(part));
    [mean, p50, p99, p999, times.max()].map(time)
}

/// `-` if no request was timed.
fn time(nanos: Option<u64>) -> String {
    nanos.map_or("-".to_owned(), human_time)
}

fn percentile(times: &Histogram, permille: u64) -> String {
    time(times.permille(permille))
}

/// Memory used and its limit; if it is short, for how long writes wait, and how many have failed.
fn space_line(space: &SpaceStats, all: bool) -> String {
    let mut words = vec![format!("{} used", rounded_size(space.used))];
    words.push(match space.limit {
        0 => "no limit".to_owned(),
        limit => format!("limit {}", Size(limit)),
    });
    if let Some(available) = space.available {
        words.push(format!(
            "{} available above a reserve of {}",
            rounded_size(available),
            rounded_size(space.reserve)
        ));
    }
    if all || space.zero > 0 {
        words.push(format!("{} of zeros given back", rounded_size(space.zero)));
    }
    match (space.mode, space.no_space_in) {
        (Mode::Enough, _) => {}
        (Mode::Exhausted, None) => words.push("exhausted, writes wait".to_owned()),
        (Mode::Exhausted, Some(left)) => words.push(format!(
            "exhausted, writes end with ENOSPC in {} s",
            left.as_secs()
        )),
        // The time is over, or it was none (E22).
        (Mode::Error, _) => words.push("exhausted, writes end with ENOSPC".to_owned()),
    }
    if all || space.parked > 0 {
        words.push(format!("{} writes wait", space.parked));
    }
    let ended = space.no_space + space.above_cap;
    if all || ended > 0 {
        words.push(format!("{ended} ended with ENOSPC"));
    }
    format!("memory: {}", words.join(", "))
}

/// What a power cut would take away, of a disk with a volatile cache.
fn cache_line(space: &SpaceStats) -> String {
    let Some(pages) = space.unflushed else {
        return String::new();
    };
    let off = if space.off { "off, " } else { "" };
    let death = match space.death_flushes {
        true => "; the death of the server flushes all",
        false => "",
    };
    format!("volatile cache: {off}{pages} pages not flushed{death}\n")
}

/// The state of a hardware queue: the names of the bits that are set, with `+` between them, or `-`.
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

fn kblockd_line(kblockd: &KblockdStats) -> String {
    let workers: usize = kblockd.pools.iter().map(|pool| pool.workers).sum();
    let idle: usize = kblockd.pools.iter().map(|pool| pool.idle).sum();
    format!(
        "kblockd: {workers} workers, {idle} idle; {} runs, {} us CPU; {} maydays, {} rescued\n",
        kblockd.completed, kblockd.cpu_time, kblockd.mayday, kblockd.rescued
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_that_there_is_not_is_named_with_those_that_are() {
        let found = Selection::new(false, &["busy".to_owned(), "P99".to_owned()]);
        assert_eq!(found.expect("known").columns.len(), 2);
        let refused = Selection::new(false, &["dance".to_owned()]).expect_err("unknown");
        assert!(refused.message.contains("PARKED"), "{refused}");
    }
}
