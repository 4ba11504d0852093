// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows that all tables of a run share: its jobs, in one order, with the target that each has.

use crate::matrix::Job;
use crate::run::Run;

/// The jobs that have targets, in the order of the tables, and how many times a rival's IOPS the RAM disk is to reach.
pub const TARGETS: [(&str, f64); 6] = [
    ("randread-4k-qd32", 1.05),
    ("randwrite-4k-qd32", 1.05),
    ("randread-4k-qd1", 1.05),
    ("randwrite-4k-qd1", 1.05),
    ("read-128k-qd8", 1.6),
    ("write-128k-qd8", 1.6),
];

/// A row of every table of a run.
pub(crate) struct Row {
    /// The job's name, by which its samples are found.
    pub(crate) name: String,
    /// The same for people. A kept run may have a name that is no job today: it stands here as it is.
    pub(crate) title: String,
    /// The multiple of a rival's IOPS that is aimed at.
    pub(crate) target: Option<f64>,
}

/// Returns the jobs of a run: first those with targets, then by pattern, size and depth.
pub(crate) fn rows(run: &Run) -> Vec<Row> {
    let place = |name: &str| TARGETS.iter().position(|(job, _)| *job == name);
    let mut names = run.jobs();
    names.sort_by_key(|name| {
        let place = place(name).unwrap_or(TARGETS.len());
        (place, name.parse::<Job>().ok())
    });
    let row = |name: String| Row {
        title: name.parse::<Job>().map_or(name.clone(), |job| job.title()),
        target: place(&name).map(|at| TARGETS[at].1),
        name,
    };
    names.into_iter().map(row).collect()
}
