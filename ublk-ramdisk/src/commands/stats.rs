// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stats`: the counters of running disks, asked of their servers.

use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::mq::Source;
use ublk_ramdisk::ramdisk::space::SpaceStats;
use ublk_ramdisk::ramdisk::Mode;
use ublk_ramdisk::stats::{DeviceStats, OpStats, QueueStats};
use ublk_ramdisk::ublk::ctrl::{block_path, Control};

use super::{machine, output};
use crate::cli::StatsArgs;
use crate::server::protocol::{Reply, Request};
use crate::server::run_dir::RunDir;

/// Shows the counters of one disk, or of all that are served by this program.
pub fn run(args: &StatsArgs) -> Result<Exit, Failure> {
    let mut control = Control::open()?;
    let run_dir = RunDir::of_this_machine();
    let mut all = Vec::new();
    match args.id {
        Some(id) => match machine::ask_server(&run_dir, id, Request::Stats) {
            Some(answer) => all.push(counters(answer?)?),
            None => return Err(machine::not_served(&mut control, id)),
        },
        None => {
            for id in run_dir.ids() {
                if let Some(answer) = machine::ask_server(&run_dir, id, Request::Stats) {
                    all.push(counters(answer?)?);
                }
            }
        }
    }
    if args.json {
        output::print_json(&all)?;
    } else {
        let text: Vec<String> = all.iter().map(as_text).collect();
        output::print(&text.join("\n"))?;
    }
    Ok(Exit::Done)
}

fn counters(reply: Reply) -> Result<DeviceStats, Failure> {
    match reply {
        Reply::Stats(stats) => Ok(*stats),
        Reply::Failed(failure) => Err(failure),
        Reply::Done => Err(Failure::runtime("the server answered another question")),
    }
}

fn as_text(stats: &DeviceStats) -> String {
    let titles = [
        "QUEUE",
        "OPERATION",
        "REQUESTS",
        "BYTES",
        "ARRIVED",
        "FAILED",
        "WAKE-UPS",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(stats.queues.iter().flat_map(queue_rows));
    format!(
        "{}: {}, of which {} in memory, data path {}\n{}\n{}\n{}\n{}",
        block_path(stats.id),
        output::human_size(stats.size),
        output::human_size(stats.allocated),
        stats.data_path,
        space_line(&stats.space),
        output::table(&rows),
        output::table(&hctx_rows(stats)),
        output::table(&busy_rows(stats))
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
        "memory: {} used, {limit}, {} of zeros given back; {state}, {} writes wait, {} ended \
         with ENOSPC",
        output::human_size(space.used),
        output::human_size(space.zero),
        space.parked,
        space.no_space + space.above_cap
    )
}

/// What became of the requests on their way to the driver, one line per hardware queue. The JSON
/// has more figures.
fn hctx_rows(stats: &DeviceStats) -> Vec<Vec<String>> {
    let titles = [
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
    let row = |queue: &QueueStats| {
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
    };
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(stats.queues.iter().map(row));
    rows
}

/// How often a request was not taken, by what was wanting, one line per hardware queue.
fn busy_rows(stats: &DeviceStats) -> Vec<Vec<String>> {
    let names = Source::ALL.iter().map(|source| source.name());
    let titles = ["queue", "busy"].into_iter().chain(names);
    let mut rows = vec![titles.map(str::to_uppercase).collect()];
    rows.extend(stats.queues.iter().map(|queue| {
        let by = &queue.hctx.refused_by;
        let mut row = vec![queue.queue.to_string(), by.total().to_string()];
        row.extend(Source::ALL.iter().map(|source| by.of(*source).to_string()));
        row
    }));
    rows
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_has_a_line_per_operation() {
        let queue = QueueStats {
            queue: 1,
            inserted: 7,
            write: OpStats {
                requests: 5,
                bytes: 20480,
            },
            ..QueueStats::default()
        };
        let text = as_text(&DeviceStats {
            id: 3,
            size: 1 << 30,
            allocated: 20480,
            data_path: "batch".to_owned(),
            space: SpaceStats::default(),
            queues: vec![QueueStats::default(), queue],
        });
        assert!(text.starts_with("/dev/ublkb3: 1 GiB, of which 20 KiB in memory, data path batch"));
        assert_eq!(text.lines().count(), 13 + 1 + 3 + 1 + 3);
        let written = text
            .lines()
            .filter(|line| line.ends_with("5         20480"));
        assert_eq!(written.count(), 1, "{text}");
    }
}
