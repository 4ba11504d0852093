// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wq-monitor`: the counters of a process's queues, once or again and again.
//!
//! Kernel counterpart: `wq_monitor`, with the same columns.

use super::{print, table, wanted, Address, Failure, NoReply, AFTER_HELP};
use crate::observe::control_socket::{Reply, Request};
use crate::{QueueSample, Sample};
use clap::Parser;
use std::thread;
use std::time::{Duration, Instant};

const COLUMNS: &str = "\
Columns:
  total    runs that have begun
  infl     runs that have begun and not ended
  CPUtime  CPU time of the runs that have ended, in seconds
  CPUitsv  runs that used the CPU for too long and stopped holding others back
  CMW/RPR  per-CPU queues: workers woken because a run slept; unbound queues: workers brought back
           to the CPUs they should begin on
  mayday   calls for the rescuer
  rescued  items the rescuer took
A - says that the queue's kind has no such thing.";

/// Shows the counters of the workqueues of a running process.
#[derive(Debug, Parser)]
#[command(name = "wq-monitor", version, after_help = AFTER_HELP, after_long_help = format!("{COLUMNS}\n\n{AFTER_HELP}"))]
pub struct Args {
    #[command(flatten)]
    address: Address,
    /// Seconds between two readings, 0 for one reading
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// Print each queue as one line of JSON
    #[arg(short, long)]
    json: bool,
    /// Which queues
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().map_err(|e| e.to_string())?;
    Duration::try_from_secs_f64(number)
        .ok()
        .filter(|d| d.as_secs() <= 1_000_000)
        .ok_or_else(|| "not a number of seconds from 0 to 1000000".to_owned())
}

/// One line of JSON.
#[derive(serde::Serialize)]
struct Line<'a> {
    timestamp: f64,
    #[serde(flatten)]
    queue: &'a QueueSample,
}

/// Prints samples until the reader, the process or the number of samples ends it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut next = Instant::now();
    let mut answered = false;
    loop {
        let sample = match args.address.ask(Request::Sample) {
            Ok(Reply::Sample(sample)) => sample,
            Ok(_) => return Err(args.address.nonsense()),
            Err(NoReply::Nobody(_)) if answered => return Err(args.address.ended()),
            Err(why) => return Err(why.into()),
        };
        answered = true;
        let text = if args.json {
            as_json(&sample, &args.patterns)?
        } else {
            as_text(&sample, &args.patterns)
        };
        if print(&text)?.is_break() || args.interval.is_zero() {
            return Ok(());
        }
        // From sample to sample, so that the time of a sample does not add up.
        next = (next + args.interval).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn chosen<'a>(sample: &'a Sample, patterns: &'a [String]) -> impl Iterator<Item = &'a QueueSample> {
    let queues = sample.queues.iter();
    queues.filter(move |q| wanted(&q.name, patterns))
}

fn as_json(sample: &Sample, patterns: &[String]) -> Result<String, Failure> {
    let mut text = String::new();
    for queue in chosen(sample, patterns) {
        let line = Line {
            timestamp: sample.timestamp,
            queue,
        };
        text += &serde_json::to_string(&line).map_err(Failure::lost)?;
        text.push('\n');
    }
    Ok(text)
}

fn as_text(sample: &Sample, patterns: &[String]) -> String {
    let titles = [
        "", "total", "infl", "CPUtime", "CPUitsv", "CMW/RPR", "mayday", "rescued",
    ];
    table(titles, chosen(sample, patterns).map(row)) + "\n"
}

fn row(q: &QueueSample) -> Vec<String> {
    let only = |applies: bool, figure: u64| match applies {
        true => figure.to_string(),
        false => "-".to_owned(),
    };
    let woken = if q.unbound {
        q.repatriated
    } else {
        q.cm_wakeup
    };
    vec![
        q.name.clone(),
        q.started.to_string(),
        q.started.saturating_sub(q.completed).to_string(),
        format!("{:.1}", Duration::from_micros(q.cpu_time).as_secs_f64()),
        only(!q.unbound, q.cpu_intensive),
        woken.to_string(),
        only(q.mem_reclaim, q.mayday),
        only(q.mem_reclaim, q.rescued),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn sample() -> Sample {
        let percpu = QueueSample {
            name: "events".to_owned(),
            started: 12,
            completed: 10,
            cpu_time: 6_150_000,
            cpu_intensive: 3,
            cm_wakeup: 5,
            ..QueueSample::default()
        };
        let unbound = QueueSample {
            name: "writeback".to_owned(),
            unbound: true,
            mem_reclaim: true,
            repatriated: 7,
            mayday: 2,
            rescued: 1,
            ..QueueSample::default()
        };
        Sample {
            timestamp: 1.5,
            queues: vec![percpu, unbound],
        }
    }

    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        Args::command().debug_assert();
    }

    #[test]
    fn w12_09_columns() {
        let expected = "           total  infl  CPUtime  CPUitsv  CMW/RPR  mayday  rescued
events        12     2      6.2        3        5       -        -
writeback      0     0      0.0        -        7       2        1

";
        let text = as_text(&sample(), &[]);
        assert_eq!(text, expected, "\n{text}");
        assert!(!as_text(&sample(), &["write*".to_owned()]).contains("events"));
    }

    #[test]
    fn w12_09_json_keys() {
        let text = as_json(&sample(), &["events".to_owned()]).unwrap();
        let expected = concat!(
            r#"{"timestamp":1.5,"name":"events","unbound":false,"mem_reclaim":false,"#,
            r#""started":12,"completed":10,"cpu_time":6150000,"cpu_intensive":3,"cm_wakeup":5,"#,
            r#""repatriated":0,"mayday":0,"rescued":0}"#,
            "\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn intervals_are_seconds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["-1", "x", "", "inf", "nan", "1e9"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
