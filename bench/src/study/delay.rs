// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study b: the delay after RESOURCE, and DEV_RESOURCE; on the real driver one request at a time, refused by RESOURCE
//! (injected, and for lack of memory) and by DEV_RESOURCE (bandwidth).

use super::device::act::{load, Fio, Group, Guest};
use super::reading::Reading;
use super::table::{column, measured, Block, Column, Draw, Picture, Spec};
use super::StudyError;
use serde_json::json;
use std::thread;
use std::time::Duration;

const REFUSES_ALL: &[Column] = &[
    measured("refusals", Reading::refused, "refusals in 100 ms, {}", ""),
    measured(
        "longest read, ms",
        |r| r.latency(4),
        "longest read, {}",
        "ms",
    ),
    column("reads in 200 ms", |r| r.ios),
];

/// In the simulation.
pub const SPEC: Spec = Spec {
    blocks: &[
        Block {
            vary: &[&["1", "32"], &["0", "1", "3", "10"]],
            make: "--call-cost 10us --service-time 100us --rw randread --at '10ms:busy on' --at '110ms:busy off' \
                   --duration 200ms --iodepth {0} --rerun-delay {1}ms",
            key: "delay {1} ms, {0} in flight",
            heads: &[("in flight", "{0}"), ("answer", "RESOURCE"), ("delay, ms", "{1}")],
            columns: REFUSES_ALL,
            ..Block::NEW
        },
        Block {
            vary: &[&["1", "32"]],
            make: "--call-cost 10us --service-time 100us --rw randread --at '10ms:busy dev' --at '110ms:busy off' \
                   --duration 200ms --iodepth {0}",
            key: "DEV_RESOURCE, {0} in flight",
            heads: &[("in flight", "{0}"), ("answer", "DEV_RESOURCE"), ("delay, ms", "3")],
            columns: REFUSES_ALL,
            ..Block::NEW
        },
        // The end of the busy time is announced, as a driver's own event would be; that of an injected refusal is not.
        Block {
            vary: &[&[
                "restarts alone|--at '10ms:busy on' --at '110ms:busy off' --duration 200ms",
                "restarts alone, half refused|--ops 1000 --inject requeue=1,50,0,-1",
            ]],
            make: "--call-cost 10us --service-time 100us --rw randread --iodepth 1 --rerun-delay never --patience 10s {0+}",
            key: "{0}, 1 in flight",
            columns: &[measured("stands still", |r| f64::from(u8::from(r.stands)), "stands still, {}", "")],
            may_stand: true,
            ..Block::NEW
        },
        Block {
            vary: &[&["1", "32"], &["0", "1", "3", "10"]],
            make: "--call-cost 10us --service-time 100us --rw randread --ops {n} --inject requeue=1,50,0,-1 --iodepth {0} \
                   --rerun-delay {1}ms",
            n: [4000, 1000],
            key: "delay {1} ms, {0} in flight",
            heads: &[("in flight", "{0}"), ("delay, ms", "{1}")],
            columns: &[
                column("reads/s", |r| r.iops),
                column("tries per I/O", Reading::calls),
                column("median, ms", |r| r.latency(0)),
                column("99 %, ms", |r| r.latency(2)),
                column("longest, ms", |r| r.latency(4)),
            ],
            ..Block::NEW
        },
    ],
    full: 0.0,
    ratios: &[
        [
            "3 ms over 0 ms, throughput, half refused, 1 in flight",
            "reads/s, delay 3 ms, 1 in flight",
            "reads/s, delay 0 ms, 1 in flight",
            "",
        ],
        [
            "10 ms over 3 ms, throughput, half refused, 1 in flight",
            "reads/s, delay 10 ms, 1 in flight",
            "reads/s, delay 3 ms, 1 in flight",
            "",
        ],
        [
            "3 ms over 0 ms, throughput, half refused, 32 in flight",
            "reads/s, delay 3 ms, 32 in flight",
            "reads/s, delay 0 ms, 32 in flight",
            "",
        ],
        [
            "10 ms over 3 ms, throughput, half refused, 32 in flight",
            "reads/s, delay 10 ms, 32 in flight",
            "reads/s, delay 3 ms, 32 in flight",
            "",
        ],
    ],
    sums: &[],
    pictures: &[
        Picture {
            id: "outage",
            title: "What the delay saves: calls of a driver that refuses everything for 100 ms",
            alt: "Calls of the driver during 100 ms in which it refuses everything, by decades, against delays of 0, 1, 3 \
                  and 10 ms: some 10000 without delay, 35 with 3 ms, with 1 request in flight and with 32.",
            draw: Draw::Lines(
                [("delay, ms", false), ("calls while everything is refused", true)],
                &[(0, "requests in flight: {0}", |r| r.words[1], Reading::refused)],
            ),
            rows: (&[0, 1], &[]),
        },
        Picture {
            id: "throughput",
            title: "Half of the tries refused: what the delay costs",
            alt: "Reads per second against the delay, with one request in flight and with 32.",
            draw: Draw::Lines(
                [("delay, ms", false), ("reads per second", true)],
                &[(3, "requests in flight: {0}", |r| r.words[1], |r| r.iops)],
            ),
            rows: (&[3], &[]),
        },
        Picture {
            id: "latency",
            title: "With one request in flight the tail is made of whole delays",
            alt: "Latency of reads by percentile for delays of 0, 1, 3 and 10 ms, one request in flight.",
            draw: Draw::Percentiles(
                3,
                "delay of {1} ms",
                &[
                    "delay 0 ms, 1 in flight",
                    "delay 1 ms, 1 in flight",
                    "delay 3 ms, 1 in flight",
                    "delay 10 ms, 1 in flight",
                ],
                2000,
            ),
            rows: (&[3], &[]),
        },
    ],
    finding: "A driver that refuses everything for 100 ms is called {refusals in 100 ms, delay 3 ms, 1 in flight} times with \
              the 3 ms delay, and {refusals in 100 ms, delay 0 ms, 1 in flight} times without delay. With half of the tries \
              refused and one request in flight, 10 ms instead of 3 leave \
              {10 ms over 3 ms, throughput, half refused, 1 in flight|%} of the throughput. With restarts alone and nothing \
              in flight, I/O stood still for ever in {stands still, restarts alone, half refused, 1 in flight} of 1 run.",
};

/// Refusals per second of those requests that waited.
fn while_waiting(r: &Reading) -> f64 {
    let waits = r.buckets.iter().filter(|b| b.0 > 1.0);
    let seconds: f64 = waits.map(|b| b.0 * b.1 as f64 / 1000.0).sum();
    r.refused() / seconds
}

/// On the device.
pub const DEVICE: Spec = Spec {
    blocks: &[Block {
        vary: &[&[
            "nothing refused|free",
            "RESOURCE and requeue, half refused|half",
            "DEV_RESOURCE, 1 MiB/s|bandwidth",
            "RESOURCE, no memory for 2 s|memory",
        ]],
        make: "{0+}",
        key: "{0}",
        heads: &[("what refuses", "{0}")],
        columns: &[
            column("requests", |r| r.ios),
            measured("calls of queue_rq per request", Reading::tries, "device: {}: calls per request", ""),
            column("answers RESOURCE", |r| r.counter("refused_resource")),
            column("answers DEV_RESOURCE", |r| r.counter("refused_dev_resource")),
            column("runs per request", Reading::runs),
            column("server's CPU per request, us", Reading::cpu),
            column("median, ms", |r| r.latency(0)),
            measured("mean, ms", Reading::mean, "device: {}: mean wait", "ms"),
            column("longest, ms", |r| r.latency(4)),
            measured(
                "refusals per second of waiting",
                while_waiting,
                "device: {}: refusals per second of waiting",
                "/s",
            ),
        ],
        ..Block::NEW
    }],
    full: 0.0,
    ratios: &[],
    sums: &[],
    pictures: &[Picture {
        id: "device-waits",
        title: "Real driver: how long one read at a time waits, by what refuses it",
        alt: "Latency of reads by percentile, one in flight: nothing refused, half of the tries refused, and a limit of \
              bandwidth.",
        draw: Draw::Percentiles(0, "{0}", &[], usize::MAX),
        rows: (&[0], &[]),
    }],
    finding: "On the real driver reads that wait for bandwidth (DEV_RESOURCE) are tried \
              {device: DEV_RESOURCE, 1 MiB/s: calls per request} times each, because a tick announces itself. With one \
              request in flight and half of the tries refused a read takes \
              {device: RESOURCE and requeue, half refused: mean wait} ms in the mean. A write that waits 2 s for memory \
              (RESOURCE) is tried {device: RESOURCE, no memory for 2 s: refusals per second of waiting} times a second.",
};

/// The half in the guest.
pub fn act(guest: &Guest) -> Result<(), StudyError> {
    let reads = "--name=b --rw=randread --iodepth=1 --number_ios=1000";
    for (name, options) in [
        ("free", ""),
        ("half", "--inject requeue=1,50,0,-1"),
        // Five requests to a tick of 20 ms.
        ("bandwidth", "--mbps 1"),
    ] {
        guest.experiment(name, || {
            load(
                &guest.disk(&format!("--size 16M --preallocate {options}"))?,
                reads,
            )
        })?;
    }
    guest.experiment("memory", || {
        let disk = guest.disk("--size 16M --memory-limit 4M --no-space-timeout 60")?;
        // All the memory there is, to the last page, and no write more: after one that fails all others fail at once,
        // and the last pages stay.
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
        // Not before it waits: while fio is loaded, a guest's clock may leap further than that.
        fio.until("its write waited for memory", || {
            let space = &disk.stats()?["space"];
            Ok(space["mode"] == "exhausted" && space["parked"].as_u64() > Some(0))
        })?;
        thread::sleep(Duration::from_secs(2));
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
