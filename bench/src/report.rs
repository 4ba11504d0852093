// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables of a run: medians, spreads, and our data paths as multiples of the rivals.
//!
//! A report judges, but a slow figure is not a failure: the reader decides. What makes a figure
//! doubtful stands above the tables: who was absent, what failed, whose queue differs from the
//! others'.

use std::fmt::Write;

use crate::contender::{self, OURS};
use crate::fio::Sample;
use crate::matrix::{axes, Job};
use crate::run::Run;
use crate::stats::{median, spread};
use crate::table::Table;

/// The rivals that our data paths are shown as multiples of: the RAM disk that comes with libublk as
/// its example, and the quickest that we could write on the same crate.
const RIVALS: [&str; 2] = ["libublk-example", "libublk"];

/// Instructions in a second of the counting guest, whose clock goes on by 2 ns for each.
const PER_SECOND: f64 = 5e8;

/// Is the run from the counting guest?
fn counts_instructions(run: &Run) -> bool {
    let of_bed = |(name, text): &&(String, String)| name == "bed" && text.contains("instructions");
    run.setting.iter().any(|pair| of_bed(&pair))
}

/// Has the guest's CPU no erms? Then a copy from or to a process takes an instruction for eight bytes, and the
/// figures stand as they are.
fn is_without_erms(run: &Run) -> bool {
    let of_bed = |(name, text): &(String, String)| name == "bed" && text.contains("without erms");
    run.setting.iter().any(of_bed)
}

/// Instructions per byte of the kernel's copy in the counting guest: one for each byte of a copy from or to
/// a process (`rep movsb`), 1408 for the 4096 of one within the kernel. None where it is not known. A copy
/// that the server makes on its own, by `memcpy`, is no part of it.
fn copied_per_byte(contender: &str) -> Option<f64> {
    match contender {
        "loop" | "brd" | "null_blk" => Some(1408.0 / 4096.0),
        "rublk-loop" | "nbd" | "zram" => None,
        name => (OURS.contains(&name) || contender::RIVALS.contains(&name)).then_some(1.0),
    }
}

/// The whole summary of a run. The tables come after all that makes them doubtful.
/// A column is a contender and a row a job, in the same order in every table.
pub fn report(run: &Run) -> String {
    let mut out = String::new();
    for (name, value) in run.setting.iter() {
        let _ = writeln!(out, "{name:<14}{value}");
    }
    out.push('\n');
    for (what, pairs) in [
        ("set up", &run.setup),
        ("its queue", &run.devices),
        ("absent", &run.absent),
        ("cannot", &run.unfit),
        ("FAILED", &run.failed),
    ] {
        for (contender, text) in pairs {
            let _ = writeln!(out, "{what:<14}{contender}: {text}");
        }
    }
    for text in unequal(run) {
        let _ = writeln!(out, "{:<14}{text}", "not equal");
    }
    let mut names: Vec<String> = run.samples.keys().cloned().collect();
    contender::sort_names(&mut names);
    let columns: Vec<&str> = names.iter().map(String::as_str).collect();
    out.push('\n');
    let rows = rows(run);
    // All tables of a run differ in nothing but their title and how a cell is made.
    let table = |title: &str, cell: &dyn Fn(&str, &str) -> Option<String>, out: &mut String| {
        let mut table = Table::new([title].iter().chain(&columns));
        for row in &rows {
            let cells = columns.iter().map(|column| cell(column, &row.name));
            table.row_with_gaps(&row.title, cells);
        }
        table.print(out);
    };

    table(
        "IOPS, medians",
        &|column, job| median(&run.iops(column, job)).map(|iops| format!("{iops:.0}")),
        &mut out,
    );
    // One round has no spread.
    let rounds = run.samples.values().flat_map(|jobs| jobs.values());
    let rounds = rounds.map(Vec::len).max().unwrap_or(0);
    if rounds > 1 {
        table(
            &format!("spread of {rounds}, %"),
            &|column, job| spread(&run.iops(column, job)).map(|per| format!("{per:.1}")),
            &mut out,
        );
    }
    let times = |of: fn(&Sample) -> f64| {
        move |column: &str, job: &str| {
            median(&run.series(column, job, of)).map(|us| format!("{us:.0}"))
        }
    };
    table(
        "mean us, medians",
        &times(|sample| sample.mean_us),
        &mut out,
    );
    table("p99 us, medians", &times(|sample| sample.p99_us), &mut out);
    if counts_instructions(run) {
        let job_of = |job: &str| job.parse::<Job>().ok();
        let each = |column: &str, job: &str| {
            let iops = median(&run.iops(column, job))?;
            Some(PER_SECOND / iops).filter(|_| job_of(job).is_some_and(|job| job.numjobs == 1))
        };
        let of_copy = |column: &str, job: &str| {
            let bytes = job_of(job)?.bs as f64;
            Some((bytes * copied_per_byte(column)?, bytes))
        };
        let whole = |figure: f64| format!("{figure:.0}");
        let title = "instructions per request";
        table(title, &|who, job| each(who, job).map(whole), &mut out);
        if !is_without_erms(run) {
            let less = |who: &str, job: &str| Some(each(who, job)? - of_copy(who, job)?.0);
            let title = "the same, less the copy";
            table(title, &|who, job| less(who, job).map(whole), &mut out);
            let equal =
                |who: &str, job: &str| Some(PER_SECOND / (less(who, job)? + of_copy(who, job)?.1));
            let title = "IOPS if each copied as ublk";
            table(title, &|who, job| equal(who, job).map(whole), &mut out);
        }
    }
    let depth = |column: &str, job: &str| {
        let of = |sample: &Sample| sample.latency_depth.map_or(f64::NAN, f64::from);
        let depths = run.series(column, job, of);
        // A round without a depth makes the median meaningless, so the cell stays empty.
        let kept = depths.iter().all(|depth| depth.is_finite());
        median(&depths)
            .filter(|_| kept)
            .map(|depth| format!("{depth:.0}"))
    };
    // Most runs have no job with a latency target, and then no such table.
    if rows.iter().any(|row| {
        columns
            .iter()
            .any(|column| depth(column, &row.name).is_some())
    }) {
        table("depth that keeps the target", &depth, &mut out);
    }

    let ours = columns.iter().any(|column| OURS.contains(column));
    for rival in RIVALS {
        if ours && run.samples.contains_key(rival) {
            ratios(run, rival, &rows, &columns, &mut out);
        }
    }
    if let Some(check) = &run.cross_check {
        out += &check.text();
    }
    out
}

/// A figure from the line about a device, such as `queues=1`.
fn noted<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// The contenders with other queues than the run asked for, in words.
fn unequal(run: &Run) -> Vec<String> {
    let asked = |name: &str| {
        let found = run.setting.iter().find(|(setting, _)| setting == name);
        found.map(|(_, value)| value.as_str())
    };
    let mut texts = Vec::new();
    for (contender, line) in &run.devices {
        for (name, what) in [("queues", "hardware queues"), ("tags", "tags per queue")] {
            // A kept run of an older version may lack one of them.
            let (Some(is), Some(asked)) = (noted(line, name), asked(name)) else {
                continue;
            };
            match is {
                // brd, zram and others take bios without a request queue, which saves them a good deal of work.
                "0" if name == "queues" => {
                    texts.push(format!("{contender} has no {what} of its own"));
                }
                // No queues, so no tags either: said already.
                "0" => {}
                is if is != asked => {
                    texts.push(format!("{contender} has {is} {what}, not {asked}"))
                }
                _ => {}
            }
        }
    }
    texts
}

/// Our data paths as multiples of one rival.
fn ratios(run: &Run, rival: &str, rows: &[Row], columns: &[&str], out: &mut String) {
    let mut ours: Vec<&str> = columns.to_vec();
    ours.retain(|column| OURS.contains(column));
    let title = format!("times {rival}");
    let mut table = Table::new([title.as_str()].iter().chain(&ours));
    for row in rows {
        // Of medians, not a median of ratios: rounds of two contenders are no pairs.
        let ratio = |path: &&str| {
            let ratio = median(&run.iops(path, &row.name))? / median(&run.iops(rival, &row.name))?;
            Some(format!("{ratio:.3}"))
        };
        table.row_with_gaps(&row.title, ours.iter().map(ratio));
    }
    table.print(out);
}

/// A row of every table of a run.
struct Row {
    /// The job's name, by which its samples are found.
    name: String,
    /// The same for people. A kept run may have a name that is no job today: it stands here as it is.
    title: String,
}

/// Returns the jobs of a run: first those of the default preset, then by pattern, size and depth.
fn rows(run: &Run) -> Vec<Row> {
    let first = axes::preset("default").unwrap_or_default();
    let mut names = run.jobs();
    names.sort_by_key(|name| {
        let job = name.parse::<Job>().ok();
        let place = first.iter().position(|known| Some(known) == job.as_ref());
        (place.unwrap_or(first.len()), job)
    });
    let row = |name: String| Row {
        title: name.parse::<Job>().map_or(name.clone(), |job| job.title()),
        name,
    };
    names.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIVAL: &str = RIVALS[1];

    // Only the rate matters to these tests; a sample needs some requests and time to be one.
    fn sample(iops: f64) -> Sample {
        Sample {
            iops,
            ios: 1,
            runtime_ms: 1,
            mean_us: 1.0,
            p99_us: 1.0,
            ..Sample::default()
        }
    }

    fn run(series: &[(&str, &str, &[f64])]) -> Run {
        let mut run = Run::default();
        for (contender, job, values) in series {
            let samples = values.iter().map(|&iops| sample(iops)).collect();
            let jobs = run.samples.entry((*contender).into()).or_default();
            jobs.insert((*job).into(), samples);
        }
        run
    }

    #[test]
    fn our_paths_are_multiples_of_a_rival_in_the_order_of_the_default_jobs() {
        let jobs = ["randread-4k-qd32", "randread-64k-qd16"];
        let text = report(&run(&[
            (RIVAL, jobs[1], &[1000.0]),
            (RIVAL, jobs[0], &[1000.0, 1010.0, 990.0]),
            ("batch", jobs[1], &[1250.0]),
            ("batch", jobs[0], &[1050.0]),
            ("buffer", jobs[0], &[1049.9]),
        ]));
        let ratios =
            "4 KiB random read, QD 32    1.050  1.050\n64 KiB random read, QD 16       -  1.250\n";
        assert!(text.contains(ratios), "{text}");
        assert!(!text.contains("QD 8"), "only what was run: {text}");
    }

    #[test]
    fn a_run_without_the_rival_has_no_ratios() {
        let text = report(&run(&[("brd", "read-128k-qd8", &[6000.0])]));
        assert!(text.contains("6000"), "{text}");
        assert!(!text.contains("times"), "{text}");
    }

    #[test]
    fn the_rival_alone_has_no_ratios_and_a_missing_series_is_a_dash() {
        let text = report(&run(&[(RIVAL, "read-128k-qd8", &[1.0])]));
        assert!(!text.contains("times"), "{text}");
        let text = report(&run(&[
            (RIVAL, "read-128k-qd8", &[1000.0]),
            ("batch", "write-128k-qd8", &[2000.0]),
        ]));
        assert!(text.contains('-'), "{text}");
    }

    #[test]
    fn in_the_counting_guest_each_request_is_shown_as_if_all_copied_alike() {
        let job = "randread-4k-qd32";
        let mut run = run(&[("brd", job, &[50000.0]), ("batch", job, &[31250.0])]);
        assert!(!report(&run).contains("instructions"), "not on a free bed");
        run.setting = vec![("bed".into(), "a guest that counts instructions".into())];
        let text = report(&run);
        let row = |title: &str| {
            let below = &text[text.find(title).expect("a table")..];
            let row = below.lines().nth(1).expect("a row");
            let cells: Vec<_> = row.split_whitespace().rev().take(2).collect();
            format!("{} {}", cells[1], cells[0])
        };
        assert_eq!(row("instructions per request"), "16000 10000");
        assert_eq!(row("the same, less"), "11904 8592");
        assert_eq!(row("IOPS if each"), "31250 39407");
    }

    #[test]
    fn who_has_other_queues_than_the_rest_is_named() {
        let mut run = run(&[("brd", "read-128k-qd8", &[6000.0])]);
        run.setting = vec![("queues".into(), "1".into()), ("tags".into(), "128".into())];
        run.devices = vec![
            ("brd".into(), "/dev/ram0 queues=0 tags=0 nomerges=0".into()),
            ("batch".into(), "/dev/ublkb0 queues=1 tags=128".into()),
            ("nbd".into(), "/dev/nbd0 queues=1 tags=64".into()),
        ];
        let text = report(&run);
        assert!(
            text.contains("brd has no hardware queues of its own"),
            "{text}"
        );
        assert!(
            text.contains("nbd has 64 tags per queue, not 128"),
            "{text}"
        );
        assert!(!text.contains("batch has"), "{text}");
    }
}
