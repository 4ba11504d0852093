// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stats`: the counters of running disks, asked of their servers.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::stats::DeviceStats;

use super::stats_text::as_text;
use super::{machine, output};
use crate::cli::StatsArgs;
use crate::server::protocol::{Reply, Request};
use crate::server::run_dir::RunDir;

/// Shows the counters of one disk, or of all that are served by this program.
pub fn run(args: &StatsArgs) -> Result<Exit, Failure> {
    let run_dir = RunDir::of_this_machine();
    if let Some(period) = args.watch.watch {
        return watch(&run_dir, args.id, period);
    }
    let all = ask_all(&run_dir, args.id)?;
    if args.json {
        output::print_json(&all)?;
    } else {
        output::print(&texts(&all))?;
    }
    Ok(Exit::Done)
}

fn texts(all: &[DeviceStats]) -> String {
    let text: Vec<String> = all.iter().map(as_text).collect();
    text.join("\n")
}

/// The figures of one disk, which must be there, or of all there are.
pub fn ask_all(run_dir: &RunDir, id: Option<u32>) -> Result<Vec<DeviceStats>, Failure> {
    if let Some(id) = id {
        return Ok(vec![counters(machine::ask_of(
            run_dir,
            id,
            Request::Stats,
        )?)?]);
    }
    let answers = run_dir
        .ids()
        .into_iter()
        .filter_map(|id| machine::ask_server(run_dir, id, Request::Stats));
    answers.map(|answer| counters(answer?)).collect()
}

/// What those say who were asked again and again.
#[derive(Debug, Default)]
pub struct Asked {
    /// The figures of those that answered, lowest id first.
    pub disks: Vec<DeviceStats>,
    /// Whose server is there but did not answer well, and what was wrong.
    pub silent: Vec<(u32, Failure)>,
}

/// As [`ask_all`], for whoever goes on asking: a server that ends meanwhile is no error, unless it
/// is the only one asked; one that is there and gives no answer is named.
pub fn ask_again(run_dir: &RunDir, id: Option<u32>) -> Result<Asked, Failure> {
    let mut asked = Asked::default();
    for each in id.map_or_else(|| run_dir.ids(), |id| vec![id]) {
        match machine::ask_server(run_dir, each, Request::Stats) {
            Some(answer) => match answer.and_then(counters) {
                Ok(stats) => asked.disks.push(stats),
                Err(failure) if run_dir.has_server(each) => asked.silent.push((each, failure)),
                Err(failure) if id.is_some() => return Err(failure),
                Err(_) => {}
            },
            None if id.is_some() => return Err(machine::unserved(each)),
            None => {}
        }
    }
    Ok(asked)
}

fn counters(reply: Reply) -> Result<DeviceStats, Failure> {
    match reply {
        Reply::Stats(stats) => Ok(*stats),
        Reply::Failed(failure) => Err(failure),
        _ => Err(machine::another_question()),
    }
}

/// Shows what happens per second, until somebody ends it or the one disk is gone.
fn watch(run_dir: &RunDir, id: Option<u32>, period: Duration) -> Result<Exit, Failure> {
    // On a terminal each picture takes the place of the last.
    let clear = std::io::stdout().is_terminal();
    let mut before = (Instant::now(), ask_all(run_dir, id)?);
    loop {
        std::thread::sleep(period);
        let now = (Instant::now(), ask_all(run_dir, id)?);
        let seconds = now.0.duration_since(before.0).as_secs_f64();
        let earlier = |id| before.1.iter().find(|stats| stats.id == id);
        // A disk that has just come has no rates yet.
        let rates: Vec<_> = now
            .1
            .iter()
            .filter_map(|stats| Some(stats.per_second(earlier(stats.id)?, seconds)))
            .collect();
        let head = if clear { "\x1b[H\x1b[2J" } else { "" };
        let text = format!(
            "{head}per second, over {seconds:.1} s; INSIDE to BUSY-LEVEL: now\n{}\n",
            texts(&rates)
        );
        if !output::print_while_heard(&text)? {
            return Ok(Exit::Done);
        }
        before = now;
    }
}
