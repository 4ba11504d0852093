// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study a on the device: slots and refusals, and the kernel's null_blk beside ours under the same limit of bandwidth.

use super::act::{load, Fio, Guest, NullBlk};
use super::raw::{Experiment, Raw};
use crate::study::outcome::{
    quantile, show, Axis, Figure, Kind, Measure, Part, Plot, Samples, Series, Table,
};
use crate::study::StudyError;
use serde_json::json;

const SLOTS: [u32; 6] = [1, 2, 4, 8, 16, 32];
const SHARES: [u32; 4] = [0, 10, 50, 90];
/// Whose latencies are drawn.
const DRAWN: [u32; 4] = [32, 16, 4, 1];
const DEPTH: u32 = 32;
/// How long the disk takes over a request, in milliseconds.
const SERVICE: u32 = 4;
const MBPS: u64 = 20;
/// The loads of the comparison with null_blk: size of a request, in flight, bytes in all.
const LIMITED: [(&str, u32, &str); 2] = [("4k", 32, "40m"), ("64k", 8, "40m")];
const ROUNDS: u32 = 2;
const KEPT: usize = 1500;

/// The half in the guest.
pub fn act(guest: &Guest) -> Result<(), StudyError> {
    let options = format!("--size 64M --preallocate --inject delay={SERVICE}ms");
    for slots in SLOTS {
        guest.experiment(&format!("slots-{slots}"), || {
            let disk = guest.disk(&format!("{options} --slots {slots}"))?;
            let ios = 400 + 100 * slots;
            load(
                &disk,
                &format!("--name=a --rw=randread --iodepth={DEPTH} --number_ios={ios}"),
            )
        })?;
    }
    for share in SHARES {
        guest.experiment(&format!("refused-{share}"), || {
            let disk = guest.disk(&format!("{options} --inject requeue=1,{share},0,-1"))?;
            load(
                &disk,
                &format!("--name=a --rw=randread --iodepth={DEPTH} --number_ios=3200"),
            )
        })?;
    }
    for round in 1..=ROUNDS {
        for (bs, depth, bytes) in LIMITED {
            let job = format!(
                "--name=a --rw=randread --bs={bs} --iodepth={depth} --io_size={bytes} --size=64m"
            );
            guest.experiment(&format!("null_blk-{bs}-{round}"), || {
                let disk = NullBlk::new(64, MBPS)?;
                Ok(json!({ "fio": Fio::start(&disk.path, &job)?.end()? }))
            })?;
            guest.experiment(&format!("ours-{bs}-{round}"), || {
                let disk = guest.disk(&format!("--size 64M --preallocate --mbps {MBPS}"))?;
                load(&disk, &job)
            })?;
        }
    }
    Ok(())
}

const HEAD: [&str; 8] = [
    "reads/s",
    "of the most",
    "BUSY, % of the answers",
    "tries per I/O",
    "runs per I/O",
    "CPU per I/O, us",
    "median, ms",
    "99 %, ms",
];

fn cells(of: &Experiment, full: f64) -> [f64; 8] {
    [
        of.iops(),
        of.iops() / full,
        of.busy(),
        of.tries(),
        of.runs(),
        of.cpu_us(),
        of.latency(0.5),
        of.latency(0.99),
    ]
}

fn table(first: &str) -> Table {
    let head: Vec<&str> = [first].into_iter().chain(HEAD).collect();
    Table::new(&head)
}

/// The half outside.
pub fn read(raw: &Raw, kind: Kind) -> Result<Part, StudyError> {
    let mut measures = Vec::new();
    // As much as the time of service allows.
    let full = f64::from(DEPTH * 1000 / SERVICE);
    let (mut slot_rows, mut share_rows) = (table("slots"), table("refused, %"));
    let mut curve = Vec::new();
    let (mut sets, mut costs) = (Vec::new(), [Vec::new(), Vec::new()]);
    for slots in SLOTS {
        let of = raw.get(&format!("slots-{slots}"))?;
        let found = cells(&of, full);
        let mut measure = |name: &str, value, unit| {
            measures.push(Measure::new(
                format!("device: {name}, {slots} of {DEPTH} slots"),
                value,
                unit,
            ));
        };
        let allowed = full * f64::from(slots) / f64::from(DEPTH);
        measure(
            "throughput, of what the slots allow",
            found[0] / allowed,
            "",
        );
        measure("CPU per I/O", found[5], "us");
        measure("runs per I/O", found[4], "");
        measure("p99 latency", found[7], "ms");
        slot_rows.row([slots.to_string()].into_iter().chain(found.map(show)));
        curve.push((f64::from(slots), found[0]));
        costs[1].push((found[2], found[5]));
        if DRAWN.contains(&slots) {
            sets.push(Samples {
                name: format!("{slots} slots"),
                values: of.latencies(KEPT),
            });
        }
    }
    sets.reverse();
    for share in SHARES {
        let of = raw.get(&format!("refused-{share}"))?;
        let found = cells(&of, full);
        let mut measure = |name: &str, value, unit| {
            measures.push(Measure::new(
                format!("device: {name}, {share} % refused"),
                value,
                unit,
            ));
        };
        measure("share of full throughput", found[1], "");
        measure("tries per I/O", found[3], "");
        measure("CPU per I/O", found[5], "us");
        share_rows.row([share.to_string()].into_iter().chain(found.map(show)));
        costs[0].push((found[2], found[5]));
    }
    costs
        .iter_mut()
        .for_each(|c| c.sort_by(|a, b| a.0.total_cmp(&b.0)));
    let [by_chance, by_slots] = costs;
    let mut figures = vec![
        Figure {
            id: "device-slots".into(),
            title: format!("Real driver: throughput by the number of slots, {DEPTH} in flight, {SERVICE} ms each"),
            alt: "Reads per second against the number of slots from 1 to 32, both by decades, on the device.".into(),
            plot: Plot::Lines {
                x: Axis::log("slots"),
                y: Axis::log("reads per second"),
                series: vec![
                    Series {
                        name: "measured".into(),
                        points: curve,
                    },
                    Series {
                        name: "slots / time".into(),
                        points: SLOTS
                            .map(|n| (f64::from(n), f64::from(n * 1000 / SERVICE)))
                            .into(),
                    },
                ],
                dots: false,
            },
            table: slot_rows.clone(),
        },
        Figure {
            id: "device-slots-latency".into(),
            title: "Real driver: latency by percentile with 1 to 32 slots for 32 requests".into(),
            alt: "Latency of reads by percentile with 1, 4, 16 and 32 slots for 32 requests, on the device.".into(),
            plot: Plot::Percentiles {
                value: Axis::log("latency, ms"),
                sets,
            },
            table: slot_rows,
        },
        Figure {
            id: "device-cpu".into(),
            title: "Real driver: the server's CPU time per I/O by the share of BUSY".into(),
            alt: "CPU time of the server per I/O in microseconds against the share of BUSY among the driver's answers, for \
                  refusals by chance and for slots."
                .into(),
            plot: Plot::Lines {
                x: Axis::linear("answers that were BUSY, %"),
                y: Axis::linear("CPU time per I/O, us"),
                series: vec![
                    Series {
                        name: "by chance".into(),
                        points: by_chance,
                    },
                    Series {
                        name: "no slot is free".into(),
                        points: by_slots,
                    },
                ],
                dots: false,
            },
            table: share_rows,
        },
    ];
    let (differential, ratio) = differential(raw, &mut measures)?;
    figures.push(differential);
    let value = |name: &str| {
        let found = measures.iter().find(|m| m.name == name);
        found.map_or(f64::NAN, |m| m.value)
    };
    let finding = format!(
        "On the real driver 16 of 32 slots give {} of what they allow and 1 gives {}; an I/O costs the server {} us of CPU \
         without BUSY, {} with 1 slot and {} with nine in ten tries refused. Beside null_blk under the same {MBPS} MiB/s \
         ours passes {} times as much.",
        show(value("device: throughput, of what the slots allow, 16 of 32 slots")),
        show(value("device: throughput, of what the slots allow, 1 of 32 slots")),
        show(value("device: CPU per I/O, 32 of 32 slots")),
        show(value("device: CPU per I/O, 1 of 32 slots")),
        show(value("device: CPU per I/O, 90 % refused")),
        show(ratio),
    );
    Ok(Part {
        kind,
        finding,
        measures,
        figures,
    })
}

/// Ours and null_blk under the same limit and the same job.
fn differential(raw: &Raw, measures: &mut Vec<Measure>) -> Result<(Figure, f64), StudyError> {
    let mut rows = Table::new(&[
        "disk, job",
        "MiB/s, each round",
        "of the limit",
        "median, ms",
        "90 %, ms",
        "99 %, ms",
        "longest, ms",
    ]);
    let mut sets = Vec::new();
    let mut ratio = f64::NAN;
    for (bs, depth, _) in LIMITED {
        let mut rates = [f64::NAN; 2];
        for (n, (who, name)) in [("null_blk", "null_blk"), ("ours", "ours")]
            .into_iter()
            .enumerate()
        {
            let rounds: Vec<Experiment> = (1..=ROUNDS)
                .map(|round| raw.get(&format!("{who}-{bs}-{round}")))
                .collect::<Result<_, _>>()?;
            let rate = |of: &Experiment| -> f64 {
                let jobs = of.jobs();
                jobs.iter().map(|j| j.bytes_per_second()).sum::<f64>() / 1024.0 / 1024.0
            };
            let each: Vec<f64> = rounds.iter().map(rate).collect();
            rates[n] = each.iter().sum::<f64>() / each.len() as f64;
            let times = rounds[0].latencies(KEPT);
            let all = rounds[0].latencies(usize::MAX);
            let quantiles = [0.5, 0.9, 0.99, 1.0].map(|q| show(quantile(&all, q)));
            let texts: Vec<String> = each.iter().map(|r| format!("{r:.2}")).collect();
            let of_limit = rates[n] / MBPS as f64;
            rows.row(
                [
                    format!("{name}, {bs}, {depth} in flight"),
                    texts.join(", "),
                    show(of_limit),
                ]
                .into_iter()
                .chain(quantiles),
            );
            measures.push(Measure::new(
                format!("device: {name}, rate of the limit, {bs}"),
                of_limit,
                "",
            ));
            sets.push(Samples {
                name: format!("{name}, {bs}"),
                values: times,
            });
        }
        let found = rates[1] / rates[0];
        if bs == "4k" {
            ratio = found;
        }
        measures.push(Measure::new(
            format!("device: ours over null_blk, rate, {bs}"),
            found,
            "",
        ));
    }
    let figure = Figure {
        id: "device-null-blk".into(),
        title: format!("Real driver: null_blk and ours, both at most {MBPS} MiB/s, under the same fio job"),
        alt: "Latency by percentile of null_blk and of our disk under the same limit of bandwidth, with requests of 4 and \
              of 64 KiB."
            .into(),
        plot: Plot::Percentiles {
            value: Axis::log("latency, ms"),
            sets,
        },
        table: rows,
    };
    Ok((figure, ratio))
}
