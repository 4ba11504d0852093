// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study a: the load, and what an I/O of it costs.

use crate::study::outcome::Table;
use crate::study::sim::Said;

/// What is done to the disk.
pub(super) const LOAD: &str = "--iodepth 32 --service-time 100us --rw randread";
/// How many samples of a distribution are kept.
pub(super) const KEPT: usize = 2000;

/// Of a run: what it did and what it cost, in the order of [`HEAD`].
pub(super) fn cells(said: &Said, full: f64) -> [f64; 6] {
    let runs = said.sum("run_sync") + said.sum("run_async") + said.sum("run_delayed");
    [
        said.at("total.iops"),
        said.at("total.iops") / full,
        said.tries() / said.ops(),
        runs / said.ops(),
        said.latency("p50"),
        said.latency("p99"),
    ]
}

const HEAD: [&str; 6] = [
    "reads/s",
    "of the most",
    "tries per I/O",
    "runs per I/O",
    "median, ms",
    "99 %, ms",
];

/// A table of such rows.
pub(super) fn table(first: &str) -> Table {
    let head: Vec<&str> = [first].into_iter().chain(HEAD).collect();
    Table::new(&head)
}

/// The share of the answers that were BUSY, in per cent, and what an I/O cost: the driver's calls and runs of the queue.
pub(super) fn cost(said: &Said) -> (f64, f64) {
    let runs = said.sum("run_sync") + said.sum("run_async") + said.sum("run_delayed");
    let busy = said.tries() + said.sum("no_budget") - said.sum("accepted");
    let share = 100.0 * busy / (busy + said.sum("accepted"));
    (share, (said.tries() + runs) / said.ops())
}
