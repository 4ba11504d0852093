// SPDX-License-Identifier: MIT OR Apache-2.0
//! The time line: both kinds of records, in the order of time.

use std::collections::HashMap;

use workqueue::trace::{Record, Timed, Value};

use super::event::Event;
use super::Trace;

/// One record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry<'a> {
    Block(&'a Event),
    Work(&'a Record),
}

impl Entry<'_> {
    pub(super) fn time(&self) -> u64 {
        match self {
            Self::Block(event) => event.time(),
            Self::Work(record) => record.time(),
        }
    }

    /// Time, then order. Both kinds of records take it from one place, the workqueue crate's
    /// `moment`.
    fn key(&self) -> (u64, u32) {
        match self {
            Self::Block(event) => (event.time(), event.order()),
            Self::Work(record) => (record.time(), record.order()),
        }
    }
}

impl Trace {
    /// All records in the order in which they were made, each with the number of its thread.
    pub(super) fn timeline(&self) -> Vec<(i32, Entry<'_>)> {
        let blocks = self.events.records.iter();
        let works = self.works.records.iter();
        let mut all: Vec<_> = blocks
            .map(|(tid, event)| (*tid, Entry::Block(event)))
            .chain(works.map(|(tid, record)| (*tid, Entry::Work(record))))
            .collect();
        all.sort_by_key(|(_, entry)| entry.key());
        all
    }

    /// Hides what differs between equal runs: the numbers of threads and the addresses of items become
    /// 1, 2, 3 and so on, in the order in which they come.
    pub(super) fn renumber(&mut self) {
        let mut tids = HashMap::new();
        for (tid, _) in self.timeline() {
            let next = tids.len() as i32 + 1;
            tids.entry(tid).or_insert(next);
        }
        let threads = self.events.threads.iter_mut();
        for (tid, _) in threads.chain(&mut self.works.threads) {
            *tid = tids[tid];
        }
        self.events
            .records
            .iter_mut()
            .for_each(|(tid, _)| *tid = tids[tid]);
        let mut addresses = HashMap::new();
        for (tid, record) in &mut self.works.records {
            *tid = tids[tid];
            *record = record.map_values(|value| match value {
                Value::Address(address) => {
                    let next = addresses.len() + 1;
                    Value::Address(*addresses.entry(address).or_insert(next))
                }
                value => value,
            });
        }
    }
}
