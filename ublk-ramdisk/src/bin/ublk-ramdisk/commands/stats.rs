// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stats`: the counters of running disks, asked of their servers.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use serde::Serialize;
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::stats::DeviceStats;

use super::stats_text::{as_text, Selection};
use super::{machine, output, prometheus};
use crate::cli::StatsArgs;
use crate::server;
use crate::server::protocol::{Reply, Request};
use crate::server::run_dir::RunDir;

/// Shows the counters of one disk, or of all that are served by this program.
pub fn run(args: &StatsArgs) -> Result<Exit, Failure> {
    let run_dir = RunDir::of_this_machine()?;
    let selection = Selection::new(args.table.all, &args.table.columns)?;
    if let Some(period) = args.watch.watch {
        let show = (!args.table.json).then_some(&selection);
        return watch(&run_dir, args.id, period, show);
    }
    let Asked { disks, mut silent } = ask_all(&run_dir, args.id)?;
    // If the only disk asked is silent, there is nothing to show but the failure.
    if args.id.is_none() || silent.is_empty() {
        output::show(args.table.json, &disks, |disks| {
            match args.watch.prometheus {
                true => prometheus::text(disks),
                false => texts(disks, &selection),
            }
        })?;
    }
    let last = silent.pop();
    silent.iter().for_each(warn_of);
    last.map_or(Ok(Exit::Done), |(_, failure)| Err(failure))
}

fn warn_of((id, failure): &(u32, Failure)) {
    output::warn(&format!("no figures of device {id}: {}", failure.message));
}

fn texts(all: &[DeviceStats], selection: &Selection) -> String {
    // An empty line between two disks.
    let text: Vec<String> = all.iter().map(|disk| as_text(disk, selection)).collect();
    text.join("\n")
}

/// The figures of the disks that were asked.
#[derive(Debug, Default)]
pub struct Asked {
    /// Of those that answered, lowest id first.
    pub disks: Vec<DeviceStats>,
    /// The others whose server is alive: their ids, and why there are no figures.
    pub silent: Vec<(u32, Failure)>,
}

/// Asks one disk for its figures, or all that this program serves.
///
/// # Errors
/// The one disk that was named has no server. A server that ends while all are asked is left out.
pub fn ask_all(run_dir: &RunDir, id: Option<u32>) -> Result<Asked, Failure> {
    let mut asked = Asked::default();
    for each in id.map_or_else(|| run_dir.ids(), |id| vec![id]) {
        let answer = match id {
            Some(id) => Some(machine::ask_of(run_dir, id, Request::Stats)),
            None => machine::ask_server(run_dir, each, Request::Stats),
        };
        match answer.map(|answer| answer.and_then(counters)) {
            Some(Ok(stats)) => asked.disks.push(stats),
            Some(Err(failure)) if run_dir.has_server(each) => asked.silent.push((each, failure)),
            Some(Err(failure)) if id.is_some() => return Err(failure),
            _ => {}
        }
    }
    Ok(asked)
}

/// Reads the figures out of a reply.
fn counters(reply: Reply) -> Result<DeviceStats, Failure> {
    match reply {
        Reply::Stats(stats) => Ok(*stats),
        _ => Err(machine::another_question()),
    }
}

/// Returns the figures there are. Warns of each disk that has begun to be silent since the last call;
/// `silent` keeps their ids.
///
/// # Errors
/// The only disk that was asked is silent.
fn heard(
    asked: Asked,
    id: Option<u32>,
    silent: &mut BTreeSet<u32>,
) -> Result<Vec<DeviceStats>, Failure> {
    let before = std::mem::take(silent);
    for one in asked.silent {
        if id.is_some() {
            return Err(one.1);
        }
        if !before.contains(&one.0) {
            warn_of(&one);
        }
        silent.insert(one.0);
    }
    Ok(asked.disks)
}

/// A line of `--watch --json`.
#[derive(Serialize)]
struct Interval<'a> {
    /// Raised when a figure gets another name or meaning.
    schema: u32,
    /// Its end.
    time: String,
    seconds: f64,
    /// Rates per second; states as they are at its end.
    disks: &'a [DeviceStats],
}

/// Shows rates per second until it is ended, or until the one disk is gone: what is selected, or else
/// everything as JSON.
fn watch(
    run_dir: &RunDir,
    id: Option<u32>,
    period: Duration,
    selection: Option<&Selection>,
) -> Result<Exit, Failure> {
    // On a terminal each picture takes the place of the last.
    let clear = std::io::stdout().is_terminal();
    let mut silent = BTreeSet::new();
    let mut ask = || -> Result<_, Failure> {
        let asked = ask_all(run_dir, id)?;
        Ok((Instant::now(), heard(asked, id, &mut silent)?))
    };
    let mut before = ask()?;
    loop {
        std::thread::sleep(period);
        let now = ask()?;
        let seconds = now.0.duration_since(before.0).as_secs_f64();
        let earlier = |id| before.1.iter().find(|stats| stats.id == id);
        // A disk that has just come, or was silent, has no rates yet.
        let rates: Vec<_> = now
            .1
            .iter()
            .filter_map(|stats| Some(stats.per_second(earlier(stats.id)?, seconds)))
            .collect();
        let text = match selection {
            Some(selection) => format!(
                "{}per second, over {seconds:.1} s; STATE to DISPATCH-BUSY: now\n{}\n",
                if clear { "\x1b[H\x1b[2J" } else { "" },
                texts(&rates, selection)
            ),
            None => {
                let interval = Interval {
                    schema: 1,
                    time: server::now(),
                    seconds,
                    disks: &rates,
                };
                let text = serde_json::to_string(&interval);
                text.map_err(|error| Failure::runtime(error.to_string()))? + "\n"
            }
        };
        if !output::print_while_heard(&text)? {
            return Ok(Exit::Done);
        }
        before = now;
    }
}
