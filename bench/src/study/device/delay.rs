// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study b on the device: one request at a time, refused by RESOURCE (injected, and for lack of memory) and by
//! DEV_RESOURCE (bandwidth).

use super::act::{load, Fio, Group, Guest};
use super::raw::Raw;
use crate::study::outcome::{
    quantile, show, Axis, Figure, Kind, Measure, Part, Plot, Samples, Table,
};
use crate::study::StudyError;
use serde_json::json;
use std::thread;
use std::time::Duration;

/// How long a write waits for memory, in seconds.
const SHORT: u64 = 2;
/// MiB per second of the disk whose bandwidth is limited: five requests to a tick of 20 ms.
const MBPS: u32 = 1;
const NAMES: [(&str, &str); 4] = [
    ("free", "nothing refused"),
    ("half", "RESOURCE and requeue, half refused"),
    ("bandwidth", "DEV_RESOURCE, 1 MiB/s"),
    ("memory", "RESOURCE, no memory for 2 s"),
];

/// The half in the guest.
pub fn act(guest: &Guest) -> Result<(), StudyError> {
    let reads = |ios: u32| format!("--name=b --rw=randread --iodepth=1 --number_ios={ios}");
    guest.experiment("free", || {
        load(&guest.disk("--size 16M --preallocate")?, &reads(1000))
    })?;
    guest.experiment("half", || {
        let disk = guest.disk("--size 16M --preallocate --inject requeue=1,50,0,-1")?;
        load(&disk, &reads(1000))
    })?;
    guest.experiment("bandwidth", || {
        let disk = guest.disk(&format!("--size 16M --preallocate --mbps {MBPS}"))?;
        load(&disk, &reads(1000))
    })?;
    guest.experiment("memory", || {
        let disk = guest.disk("--size 16M --memory-limit 4M --no-space-timeout 60")?;
        // All the memory there is, to the last page, and no write too much: after one all others fail at once, and
        // the last pages stay.
        let fill = |options: String| {
            Fio::start(&disk.path, &format!("--name=fill --rw=write {options}"))?.end()
        };
        fill("--bs=64k --size=3840k".into())?;
        let space = disk.stats()?["space"].clone();
        let bytes = |name: &str| space[name].as_u64().unwrap_or(0);
        let left = bytes("limit").saturating_sub(bytes("used")) / 4096;
        fill(format!("--bs=4k --offset=4m --size={}k", 4 * left))?;
        let group = Group::around("memory", &[&disk])?;
        let before = (disk.stats()?, group.cpu()?);
        let write = "--name=b --rw=write --offset=8m --size=4k --number_ios=1";
        let mut fio = Fio::start(&disk.path, write)?;
        // Not before it waits: until fio is there a guest's clock may have leapt further than that.
        fio.until("its write waited for memory", || {
            let space = &disk.stats()?["space"];
            Ok(space["mode"] == "exhausted" && space["parked"].as_u64() > Some(0))
        })?;
        thread::sleep(Duration::from_secs(SHORT));
        disk.set("--memory-limit off")?;
        let fio = fio.end()?;
        let after = (disk.stats()?, group.cpu()?);
        Ok(json!({
            "fio": fio,
            "before": before.0,
            "after": after.0,
            "cpu_us": after.1 - before.1,
        }))
    })
}

/// The half outside.
pub fn read(raw: &Raw, kind: Kind) -> Result<Part, StudyError> {
    let mut measures = Vec::new();
    let mut rows = Table::new(&[
        "what refuses",
        "requests",
        "calls of queue_rq per request",
        "answers RESOURCE",
        "answers DEV_RESOURCE",
        "runs per request",
        "server's CPU per request, us",
        "median, ms",
        "longest, ms",
    ]);
    let mut sets = Vec::new();
    for (file, name) in NAMES {
        let of = raw.get(file)?;
        let times = of.latencies(usize::MAX);
        let [resource, told] = ["refused_resource", "refused_dev_resource"].map(|c| of.risen(c));
        let mut measure = |what: &str, value, unit| {
            measures.push(Measure::new(format!("device: {name}: {what}"), value, unit));
        };
        let mean = times.iter().sum::<f64>() / times.len().max(1) as f64;
        let longest = quantile(&times, 1.0);
        measure("calls per request", of.tries(), "");
        measure("mean wait", mean, "ms");
        measure(
            "refusals per second of waiting",
            {
                let waited: f64 = times.iter().filter(|&&t| t > 1.0).sum();
                (resource + told) / (waited / 1000.0)
            },
            "/s",
        );
        rows.row(
            [name.to_owned()].into_iter().chain(
                [
                    of.ios(),
                    of.tries(),
                    resource,
                    told,
                    of.runs(),
                    of.cpu_us(),
                    quantile(&times, 0.5),
                    longest,
                ]
                .map(show),
            ),
        );
        if times.len() > 1 {
            sets.push(Samples {
                name: name.split(',').next().unwrap_or(name).into(),
                values: times,
            });
        }
    }
    let value = |name: &str| {
        let found = measures
            .iter()
            .find(|m| m.name == format!("device: {name}"));
        found.map_or(f64::NAN, |m| m.value)
    };
    let polled = value("RESOURCE, no memory for 2 s: refusals per second of waiting");
    let finding = format!(
        "On the real driver reads that wait for bandwidth (DEV_RESOURCE) are tried {} times each, as a tick announces \
         itself. With one request in flight and half of the tries refused a read takes {} ms in the mean. A write \
         that waits {SHORT} s for memory (RESOURCE) is tried {} times a second.",
        show(value("DEV_RESOURCE, 1 MiB/s: calls per request")),
        show(value("RESOURCE and requeue, half refused: mean wait")),
        show(polled.round()),
    );
    Ok(Part {
        kind,
        finding,
        measures,
        figures: vec![Figure {
            id: "device-waits".into(),
            title: "Real driver: how long one read at a time waits, by what refuses it".into(),
            alt: "Latency of reads by percentile, one in flight: nothing refused, half of the tries refused, and a limit of \
                  bandwidth."
                .into(),
            plot: Plot::Percentiles {
                value: Axis::log("latency, ms"),
                sets,
            },
            table: rows,
        }],
    })
}
