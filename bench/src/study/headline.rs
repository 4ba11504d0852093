// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the report shows first: of each study one sentence, and one small picture that shows it.

use super::kept::Kept;
use super::outcome::{fill, value, Axis, Measure, Plot, Series};

/// What is shown beside the sentence.
enum Shown {
    /// What the bars show, their names, the measures, and by what these are multiplied.
    Bars(&'static str, &'static [(&'static str, &'static str)], f64),
    /// The first band of a figure.
    Band(&'static str),
}

/// The finding of one study.
pub struct Headline {
    id: &'static str,
    /// A sentence for [`fill`].
    sentence: &'static str,
    shown: Shown,
    /// The figures that the report shows unfolded; the first of a part if none of it is named.
    pub key: &'static [&'static str],
}

const ALL: &[Headline] = &[
    Headline {
        id: "a",
        sentence: "If the driver refuses half of all tries by chance, {share of full throughput, 50 % refused|%} of the \
                   throughput is left. If it refuses because no slot is free, nothing is lost beyond what the slots allow.",
        shown: Shown::Bars(
            "throughput, %",
            &[
                ("nothing refused", "share of full throughput, 0 % refused"),
                ("16 slots for 32 requests", "share of full throughput, 16 of 32 slots"),
                ("half refused by chance", "share of full throughput, 50 % refused"),
                ("nine in ten refused by chance", "share of full throughput, 90 % refused"),
            ],
            100.0,
        ),
        key: &["busy-throughput", "device-cpu"],
    },
    Headline {
        id: "b",
        sentence: "A driver that refuses everything for 100 ms is called {refusals in 100 ms, delay 3 ms, 1 in flight} times \
                   with the delay of 3 ms, and {refusals in 100 ms, delay 0 ms, 1 in flight} times without a delay.",
        shown: Shown::Bars(
            "calls of the driver in 100 ms",
            &[
                ("no delay", "refusals in 100 ms, delay 0 ms, 1 in flight"),
                ("delay of 1 ms", "refusals in 100 ms, delay 1 ms, 1 in flight"),
                ("delay of 3 ms, as in blk-mq", "refusals in 100 ms, delay 3 ms, 1 in flight"),
                ("delay of 10 ms", "refusals in 100 ms, delay 10 ms, 1 in flight"),
            ],
            1.0,
        ),
        key: &["throughput", "device-waits"],
    },
    Headline {
        id: "c",
        sentence: "A driver that refuses everything for 100 ms is called {refusals in 100 ms, 3.x} times under the rules of \
                   the 3.x kernels, and {refusals in 100 ms, 7.2} times under those of 7.2.",
        shown: Shown::Bars(
            "calls of the driver in 100 ms",
            &[
                ("rules of the 3.x kernels", "refusals in 100 ms, 3.x"),
                ("rules of 7.2", "refusals in 100 ms, 7.2"),
            ],
            1.0,
        ),
        key: &["everyday"],
    },
    Headline {
        id: "d",
        sentence: "While no worker can be created, the first item of a queue with MEM_RECLAIM starts after \
                   {MEM_RECLAIM: first start} ms, in the rescuer. Without MEM_RECLAIM it starts after \
                   {without: first start} ms.",
        shown: Shown::Bars(
            "wait of the first item, ms",
            &[
                ("with MEM_RECLAIM", "MEM_RECLAIM: first start"),
                ("without MEM_RECLAIM", "without: first start"),
            ],
            1.0,
        ),
        key: &["outage", "device-limits"],
    },
    Headline {
        id: "e",
        sentence: "Beside an item that keeps the normal pool busy, 99 % of the reads that need kblockd end within \
                   {kblockd HIGHPRI, bound: p99 read} ms if kblockd is HIGHPRI, and within \
                   {kblockd normal, bound: p99 read} ms if it is not.",
        shown: Shown::Bars(
            "99 % of the reads, ms",
            &[
                ("kblockd HIGHPRI, bound", "kblockd HIGHPRI, bound: p99 read"),
                ("kblockd normal, bound", "kblockd normal, bound: p99 read"),
                ("kblockd normal, unbound", "kblockd normal, unbound: p99 read"),
            ],
            1.0,
        ),
        key: &["kblockd", "hogs", "device-hogs"],
    },
    Headline {
        id: "f",
        sentence: "If every tenth item sleeps for 50 ms, the workqueue of today does {throughput ratio, sleep 50 ms} times \
                   the work of the design of 2.6.35 on one CPU.",
        shown: Shown::Bars(
            "items done, times those of 2.6.35",
            &[
                ("no item sleeps", "throughput ratio, sleep 0 ms"),
                ("every tenth sleeps 10 ms", "throughput ratio, sleep 10 ms"),
                ("every tenth sleeps 50 ms", "throughput ratio, sleep 50 ms"),
            ],
            1.0,
        ),
        key: &["throughput"],
    },
    Headline {
        id: "g",
        sentence: "A disk that may use half of its size is filled: once it is exhausted, writes wait for \
                   {writes wait, from exhausted to the first NOSPC} s and then fail. A discard ends that by itself.",
        shown: Shown::Band("filling"),
        key: &["filling", "device-filling"],
    },
    Headline {
        id: "h",
        sentence: "If half of the tries are refused, the worst-served of eight jobs gets \
                   {slowest job's share, 50 % refused|%} of the mean; if nine in ten are refused, \
                   {slowest job's share, 90 % refused|%}.",
        shown: Shown::Bars(
            "worst-served job, % of the mean",
            &[
                ("nothing refused", "slowest job's share, nothing refused"),
                ("half refused", "slowest job's share, 50 % refused"),
                ("three in four refused", "slowest job's share, 75 % refused"),
                ("nine in ten refused", "slowest job's share, 90 % refused"),
            ],
            100.0,
        ),
        key: &["waits", "device-flush"],
    },
];

/// The small picture beside a sentence.
pub enum Picture {
    /// One that [`crate::page::draw`] draws.
    Plot(Plot),
    /// The states of a course, with the names of the states.
    States(Axis, Vec<String>, Series),
}

/// The headline of a study.
pub fn of(id: &str) -> Option<&'static Headline> {
    ALL.iter().find(|headline| headline.id == id)
}

impl Headline {
    /// The sentence and the picture, unless the study was not run.
    pub fn show(&self, kept: &Kept) -> Option<(String, Picture)> {
        let parts = kept.parts.iter();
        let measures: Vec<Measure> = parts.flat_map(|part| part.measures.clone()).collect();
        let picture = match &self.shown {
            Shown::Bars(label, bars, scale) => {
                let bars = bars
                    .iter()
                    .map(|&(name, of)| (name.to_owned(), value(&measures, of) * scale));
                let bars: Vec<_> = bars.collect();
                bars.iter().find(|bar| bar.1.is_finite())?;
                let value = Axis::linear(*label);
                Picture::Plot(Plot::Bars { value, bars })
            }
            Shown::Band(id) => {
                let mut figures = kept.parts.iter().flat_map(|part| &part.figures);
                let figure = figures.find(|figure| figure.id == *id)?;
                let Plot::Stack {
                    x, panels, bands, ..
                } = &figure.plot
                else {
                    return None;
                };
                let (panel, states) = bands.first()?;
                Picture::States(x.clone(), states.clone(), panels.get(*panel)?.1.clone())
            }
        };
        Some((fill(self.sentence, &measures), picture))
    }
}
