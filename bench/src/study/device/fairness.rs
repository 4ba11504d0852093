// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study h on the device: eight fio jobs and what each gets, and flushes that overtake.

use super::act::{load, Guest};
use super::raw::{expand, Raw};
use crate::study::outcome::{
    quantile, show, Axis, Figure, Kind, Measure, Part, Plot, Samples, Table,
};
use crate::study::StudyError;

const JOBS: usize = 8;
const SHARES: [u32; 3] = [0, 50, 90];
const KEPT: usize = 1500;

/// The half in the guest.
pub fn act(guest: &Guest) -> Result<(), StudyError> {
    for share in SHARES {
        guest.experiment(&format!("refused-{share}"), || {
            let disk = guest.disk(&format!(
                "--size 64M --preallocate --inject delay=4ms --inject requeue=1,{share},0,-1"
            ))?;
            load(
                &disk,
                &format!(
                    "--name=h --rw=randrw --iodepth=8 --numjobs={JOBS} --size=8m --offset_increment=8m --time_based \
                     --runtime=1500ms"
                ),
            )
        })?;
    }
    // libaio's times of a flush begin with the write before it.
    guest.experiment("flush", || {
        let disk = guest.disk("--size 64M --preallocate --volatile-cache --inject delay=2ms --slots 4")?;
        load(
            &disk,
            "--time_based --runtime=1500ms --size=4m --name=readers --rw=randread --iodepth=8 --numjobs=4 \
             --name=flusher --numjobs=1 --ioengine=psync --rw=randwrite --iodepth=1 --fsync=1 --offset=32m",
        )
    })
}

/// The half outside.
pub fn read(raw: &Raw, kind: Kind) -> Result<Part, StudyError> {
    let mut measures = Vec::new();
    let mut rows = Table::new(&[
        "refused, %",
        "requests/s",
        "least, of the mean",
        "most, of the mean",
        "median, ms",
        "99 %, ms",
        "longest, ms",
    ]);
    let (mut values, mut sets) = (Vec::new(), Vec::new());
    for share in SHARES {
        let of = raw.get(&format!("refused-{share}"))?;
        let ios: Vec<f64> = of.jobs().iter().map(|job| job.ios()).collect();
        let mean = ios.iter().sum::<f64>() / ios.len().max(1) as f64;
        let shares: Vec<f64> = ios.iter().map(|n| n / mean).collect();
        let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
        let most = shares.iter().copied().fold(0.0, f64::max);
        let [median, p99, longest] = [0.5, 0.99, 1.0].map(|q| of.latency(q));
        let mut measure = |what: &str, value, unit| {
            measures.push(Measure::new(
                format!("device: {what}, {share} % refused"),
                value,
                unit,
            ));
        };
        measure("slowest job's share", least, "");
        measure("longest latency over median", longest / median, "");
        measure(
            "requests that never ended",
            of.risen("inserted") - of.risen("ended"),
            "",
        );
        let cells = [of.iops(), least, most, median, p99, longest];
        rows.row([share.to_string()].into_iter().chain(cells.map(show)));
        values.push(shares);
        sets.push(Samples {
            name: format!("{share} % refused"),
            values: of.latencies(KEPT),
        });
    }
    let (flush, flush_rows, flush_sets) = flushes(raw, &mut measures)?;
    let value = |name: &str| {
        let found = measures
            .iter()
            .find(|m| m.name == format!("device: {name}"));
        found.map_or(f64::NAN, |m| m.value)
    };
    let finding = format!(
        "On the real driver the worst-served of eight fio jobs gets {} of the mean with half of the tries refused and {} with \
         nine in ten; a FLUSH waits {} of a read's median while all slots are taken.",
        show(value("slowest job's share, 50 % refused")),
        show(value("slowest job's share, 90 % refused")),
        show(flush),
    );
    Ok(Part {
        kind,
        finding,
        measures,
        figures: vec![
            Figure {
                id: "device-shares".into(),
                title: "Real driver: what each of eight fio jobs gets, as a share of the mean".into(),
                alt: "Heat map of the requests of eight fio jobs on the device, as shares of the mean, by the share of \
                      tries refused."
                    .into(),
                plot: Plot::Heat {
                    x: Axis::linear("job"),
                    y: Axis::linear("tries refused"),
                    value: Axis::linear("requests, of the mean of all jobs"),
                    columns: (0..JOBS).map(|job| job.to_string()).collect(),
                    rows: SHARES.iter().map(|share| format!("{share} %")).collect(),
                    values,
                },
                table: rows.clone(),
            },
            Figure {
                id: "device-waits".into(),
                title: "Real driver: how long a request waits, by percentile".into(),
                alt: "Latency by percentile for 0, 50 and 90 per cent of the tries refused, on the device.".into(),
                plot: Plot::Percentiles {
                    value: Axis::log("latency, ms"),
                    sets,
                },
                table: rows,
            },
            Figure {
                id: "device-flush".into(),
                title: "Real driver: flushes overtake what waits for a slot".into(),
                alt: "Latency by percentile of reads and writes that wait for one of four slots, and of flushes, which need \
                      none."
                    .into(),
                plot: Plot::Percentiles {
                    value: Axis::log("latency, ms"),
                    sets: flush_sets,
                },
                table: flush_rows,
            },
        ],
    })
}

/// The flush's median over that of the reads, and the table and sets of its figure.
fn flushes(
    raw: &Raw,
    measures: &mut Vec<Measure>,
) -> Result<(f64, Table, Vec<Samples>), StudyError> {
    let of = raw.get("flush")?;
    let jobs = of.jobs();
    let merged = |buckets: Vec<(f64, u64)>| {
        let mut buckets = buckets;
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        expand(&buckets, usize::MAX)
    };
    let readers = jobs.iter().filter(|job| job.name() == "readers");
    let reads = merged(readers.flat_map(|job| job.buckets()).collect());
    let flusher = || jobs.iter().filter(|job| job.name() == "flusher");
    let writes = merged(flusher().flat_map(|job| job.buckets()).collect());
    let flushes = merged(flusher().flat_map(|job| job.flushes()).collect());
    let mut rows = Table::new(&[
        "requests",
        "how many",
        "median, ms",
        "99 %, ms",
        "longest, ms",
    ]);
    let mut sets = Vec::new();
    for (name, times) in [
        ("reads", &reads),
        ("writes", &writes),
        ("flushes", &flushes),
    ] {
        let found = [0.5, 0.99, 1.0].map(|q| show(quantile(times, q)));
        rows.row(
            [name.to_owned(), times.len().to_string()]
                .into_iter()
                .chain(found),
        );
        sets.push(Samples {
            name: name.into(),
            values: times.clone(),
        });
    }
    let ratio = quantile(&flushes, 0.5) / quantile(&reads, 0.5);
    measures.push(Measure::new("device: flush over read, median", ratio, ""));
    measures.push(Measure::new(
        "device: flush over read, longest",
        quantile(&flushes, 1.0) / quantile(&reads, 1.0),
        "",
    ));
    Ok((ratio, rows, sets))
}
