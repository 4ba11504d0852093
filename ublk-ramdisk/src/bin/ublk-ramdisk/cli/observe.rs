// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of the commands that look at running disks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ublk_ramdisk::trace::{Format, MOST_RECORDS, RECORDS};

use crate::parse::{debugfs_path, device_id, interval, trace_time, DebugfsPath};
use ublk_ramdisk::units::number;

pub const TRACE_LONG: &str = "\
Record what happens to each request of a running disk, for a while.

A file whose name ends with .html is a page that opens in any browser, without a network: lanes of
requests and threads, and a request's story in words when it is clicked. Any other is for Perfetto
(https://ui.perfetto.dev) and chrome://tracing: each request has a line of its own from arrival to
commit, with the times it was in flight, on a list, or parked after a refusal; each thread has one
with the same events as marks, between the bars of the workqueue's items: the run_work of kblockd,
and whatever else the server's workqueues do. Arrows lead from each bar of a refused request to its
next: arrival, timer, worker or rescuer, commit. --text prints lines
in the columns of blkparse instead. An event that the kernel's block layer has too has its name there;
the others are run (of a hardware queue), refuse (the driver or a limit said BUSY), park and unpark
(a refused request waits, and is tried again), restart, reclaim, memory and pressure.

Each thread keeps its newest events; how many older ones were overwritten is said at the end. Ctrl-C
ends it without a file, and nothing goes on in the server. While nobody records, an event costs the
disk one look at a flag.";

pub const TRACE_EXAMPLES: &str = "\
Examples:
  ublk-ramdisk trace 0 --duration 1s -o trace.html
  ublk-ramdisk trace 0 --duration 2s -o trace.json
  ublk-ramdisk trace 0 --duration 100ms --text | less";

pub const DEBUGFS_LONG: &str = "\
Show the state of a disk's hardware queues under the names of the kernel's debugfs.

What /sys/kernel/debug/block/ublkbN has for the kernel's queues is shown here for the mirror that
stands behind them: a request that waits for memory is on the mirror's dispatch list, never on the
kernel's. Beside these are the figures of `stats`, as files that a script can read: what each
hardware queue has done, and the disk's memory, pressure and kblockd.

state=VERB does by hand what the block layer does by itself, as writing to the kernel's file `state`
does. run: run all hardware queues on kblockd. start: start those that were stopped, and run them.
kick: work off the requeue list. No data is lost by any of them.";

pub const DEBUGFS_EXAMPLES: &str = "\
Examples:
  ublk-ramdisk debugfs 0                      every file with its name
  ublk-ramdisk debugfs 0 hctx0/dispatch       one file, as cat would print it
  ublk-ramdisk debugfs 0 hctx0                the files of one hardware queue
  ublk-ramdisk debugfs 0 --files              as files in the run directory; prints where
  ublk-ramdisk debugfs 0 state=run            run all hardware queues";

pub const EXPLAIN_LONG: &str = "\
Explain the words that this program uses: BUSY, dispatch list, parked, and others.

Without a word, the whole glossary. Names of events and files that are not in it are those of the
kernel's block tracepoints and of its debugfs.";

pub const EXPLAIN_EXAMPLES: &str = "\
Examples:
  ublk-ramdisk explain
  ublk-ramdisk explain dispatch list
  ublk-ramdisk explain parked hctx";

pub const TOP_LONG: &str = "\
Show running disks on the terminal, as they are now.

Above stand the disks; below, of the one that is chosen, its hardware queues, how often requests
were refused for want of what, kblockd with its rescuer, and how long requests took. Numbers are per
second unless they say what is: ACTIVE, DISP (on the dispatch list), CTX (on the software queues)
and PARK (refused, waiting for the next try). Made for 80 columns and 24 lines, also over ssh; on
fewer it leaves out what matters least. q ends it: the terminal is then as before, also after a
signal or when the one disk that was named goes away.";

/// `top`
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Only this disk: its name, N, ublkbN or /dev/ublkbN [default: every disk served by ublk-ramdisk]
    #[arg(value_name = "ID", value_parser = device_id)]
    pub disk: Option<u32>,
    /// The same
    #[arg(long, value_name = "ID", value_parser = device_id, conflicts_with = "disk")]
    pub id: Option<u32>,
    /// Time between two pictures, 100ms to 1h
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval,
        allow_hyphen_values = true)]
    pub interval: Duration,
}

/// `explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// What to explain; several words may be one term [default: everything]
    #[arg(value_name = "WORD")]
    pub words: Vec<String>,
    /// Print an array of objects
    #[arg(long)]
    pub json: bool,
}

/// `trace`
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Disk to follow: its name, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: u32,
    /// How long, 1ms to 10m
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = trace_time,
        allow_hyphen_values = true)]
    pub duration: Duration,
    /// File to write, replaced if it is there: a page if its name ends with .html, else for Perfetto
    /// [default: ublkbN.html]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Lines instead; to standard output unless -o is given
    #[arg(long)]
    pub text: bool,
    /// Events that each thread keeps, of 48 bytes, from 64 to 1048576
    #[arg(long, value_name = "N", default_value_t = RECORDS as u32, value_parser = number::<u32>(64, MOST_RECORDS as u64),
        allow_hyphen_values = true)]
    pub records: u32,
}

const _: () = assert!(MOST_RECORDS == 1 << 20);

impl TraceArgs {
    /// Where it is written; none: standard output.
    pub fn file(&self) -> Option<PathBuf> {
        let usual = || (!self.text).then(|| format!("ublkb{}.html", self.id).into());
        self.output.clone().or_else(usual)
    }

    /// As what the trace is written.
    pub fn format(&self) -> Format {
        let file = self.file();
        let ends = file.as_deref().and_then(Path::extension);
        match (self.text, ends) {
            (true, _) => Format::Text,
            (false, Some(ends)) if ends == "html" => Format::Html,
            (false, _) => Format::Chrome,
        }
    }
}

/// `debugfs`
#[derive(Debug, Args)]
pub struct DebugfsArgs {
    /// Disk to look at: its name, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: u32,
    /// Only this file, or the files below this directory; or state=run, state=start, state=kick
    #[arg(value_name = "PATH|state=VERB", value_parser = debugfs_path)]
    pub path: Option<DebugfsPath>,
    /// Have the server write them into its run directory, as they are now, and print where
    #[arg(long, conflicts_with_all = ["path", "json"])]
    pub files: bool,
    /// Print an object with a member per file
    #[arg(long)]
    pub json: bool,
}

/// `--watch` of `stats`
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Rates per second at this interval, until Ctrl-C; with --json a line each [default: 1s]
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s",
        value_parser = interval, allow_hyphen_values = true)]
    pub watch: Option<Duration>,
    /// Print the figures for Prometheus's textfile collector
    #[arg(long, conflicts_with_all = ["json", "all", "columns", "watch"])]
    pub prometheus: bool,
}
