// SPDX-License-Identifier: MIT OR Apache-2.0
//! A job: makes requests, and is told how they have ended. It reads no clock: it is told the time,
//! in nanoseconds since the beginning.

use std::collections::VecDeque;
use std::sync::Arc;

use super::buffers::{self, Buffers};
use super::config::SimConfig;
use super::figures::{status_name, Tally};
use super::parse::Rate;
use super::script::Event;
use super::workload::{Access, Region};
use crate::mq::{Limits, Op, Request};
use crate::random::Random;

/// Requests of each job if neither --ops nor --duration is given.
const DEFAULT_OPS: u64 = 10_000;

/// A request in flight.
#[derive(Clone, Copy, Debug)]
struct Flight {
    access: Access,
    /// When it was due.
    since: u64,
    /// Is it part of the check at the end?
    check: bool,
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Load,
    /// Reads everything again.
    Check,
    Done,
}

/// See the module.
pub(super) struct Job {
    pub(super) number: u16,
    pub(super) hctx: u16,
    /// Its first tag of that queue.
    first_tag: u16,
    bs: u64,
    /// Requests that are inserted together.
    batch: usize,
    verify: bool,
    /// False if the content of its writes does not matter.
    fills: bool,
    limits: Limits,
    buffers: Arc<Buffers>,
    random: Random,
    region: Region,
    /// By own tag, from 0 on.
    flights: Vec<Option<Flight>>,
    /// Own tags without a request.
    free: Vec<u16>,
    phase: Phase,
    /// By the script. Requests in flight still end.
    paused: bool,
    /// Requests still to be made; none for no end.
    left: Option<u64>,
    /// When no more requests are made.
    end: Option<u64>,
    rate: Option<Rate>,
    /// When the next request is due, with a rate.
    next_arrival: u64,
    /// Due times of requests that found no tag, the oldest first.
    late: VecDeque<u64>,
    pub(super) tally: Tally,
}

impl Job {
    pub(super) fn new(config: &SimConfig, number: u16, buffers: Arc<Buffers>) -> Self {
        let (device, load) = (&config.device, &config.load);
        let default_ops = load.duration.is_none().then_some(DEFAULT_OPS);
        let mut job = Self {
            number,
            hctx: number % device.queues,
            first_tag: number / device.queues * load.iodepth,
            bs: load.bs,
            batch: usize::from(load.batch),
            verify: load.verify,
            fills: load.verify || load.zeros.is_some(),
            limits: config.limits(),
            buffers,
            random: Random::new(load.seed, u64::from(number)),
            region: Region::new(config, number),
            flights: vec![None; usize::from(load.iodepth)],
            free: (0..load.iodepth).rev().collect(),
            phase: Phase::Load,
            paused: false,
            left: load.ops.or(default_ops),
            end: load.duration.map(|end| end.as_nanos() as u64),
            rate: load.rate,
            next_arrival: 0,
            late: VecDeque::new(),
            tally: Tally::default(),
        };
        if job.rate.is_some() {
            job.next_arrival = job.arrival_distance();
        }
        job
    }

    /// Nanoseconds from one arrival to the next.
    fn arrival_distance(&mut self) -> u64 {
        let ns = match self.rate {
            None => 0.0,
            Some(Rate::Even(rate)) => 1e9 / rate,
            Some(Rate::Poisson(rate)) => self.random.exponential(1e9 / rate),
        };
        // Never 0: arrivals at one moment would have no end.
        (ns as u64).max(1)
    }

    /// The script does something.
    pub(super) fn script_event(&mut self, event: &Event, now: u64) {
        match *event {
            Event::Load(on) => {
                self.paused = !on;
                if on {
                    // What was due during the pause is left out, not made up for.
                    self.next_arrival = self.next_arrival.max(now);
                }
            }
            Event::Rate(rate) => {
                self.rate = Some(Rate::Even(f64::from(rate)));
                self.next_arrival = now + self.arrival_distance();
            }
            Event::Discard { offset, len } => self.region.discard_begins(offset, len),
            _ => {}
        }
    }

    /// All discards of the script have ended.
    pub(super) fn script_discards_ended(&mut self) {
        self.region.discards_ended();
    }

    pub(super) fn is_loading(&self) -> bool {
        self.phase == Phase::Load
    }

    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    pub(super) fn in_flight(&self) -> u64 {
        (self.flights.len() - self.free.len()) as u64
    }

    /// When it may make requests, or has to stop, though none of its requests has ended.
    /// None if only the end of a request can bring it on.
    pub(super) fn next_time(&self) -> Option<u64> {
        let arrival = (self.rate.is_some() && !self.paused).then_some(self.next_arrival);
        let next = arrival.into_iter().chain(self.end).min();
        next.filter(|_| self.is_loading())
    }

    /// Ends the load phase if all of its requests have been made and have ended.
    fn end_load(&mut self, now: u64) {
        let over = self.left == Some(0) || self.end.is_some_and(|end| end <= now);
        if self.is_loading() && over && self.in_flight() == 0 {
            self.phase = if self.verify {
                Phase::Check
            } else {
                Phase::Done
            };
        }
    }

    /// Fills `out` with the requests to be inserted now, together; with none if there is nothing to
    /// do at present.
    pub(super) fn next_batch(&mut self, now: u64, out: &mut Vec<Request>) {
        out.clear();
        self.end_load(now);
        match self.phase {
            Phase::Load => self.next_load(now, out),
            Phase::Check => self.next_checks(now, out),
            Phase::Done => {}
        }
    }

    /// Reads back as many blocks as there are tags. Done when all blocks are read and all reads
    /// have ended.
    fn next_checks(&mut self, now: u64, out: &mut Vec<Request>) {
        while !self.free.is_empty() {
            let Some(access) = self.region.choose_check() else {
                if self.in_flight() == 0 {
                    self.phase = Phase::Done;
                }
                return;
            };
            let request = self.make(access, now, true);
            out.push(request);
        }
    }

    fn next_load(&mut self, now: u64, out: &mut Vec<Request>) {
        if self.end.is_some_and(|end| end <= now) || self.paused {
            return;
        }
        let mut available = self.left.map_or(usize::MAX, |left| left as usize);
        if self.rate.is_some() {
            while self.next_arrival <= now && self.late.len() < available {
                self.late.push_back(self.next_arrival);
                self.next_arrival += self.arrival_distance();
            }
            available = available.min(self.late.len());
        }
        // A batch waits until it is whole, unless it never will be.
        let batch = self.batch.min(available);
        if self.free.len() < batch {
            return;
        }
        while out.len() < batch {
            let Some(access) = self.region.choose(&mut self.random) else {
                return;
            };
            // A latency counts from the time the request was due, not from the time it found a tag.
            let since = self.late.pop_front().unwrap_or(now);
            if let Some(left) = &mut self.left {
                *left -= 1;
            }
            let request = self.make(access, since, false);
            out.push(request);
        }
    }

    /// Makes a request with a free tag.
    fn make(&mut self, access: Access, since: u64, check: bool) -> Request {
        let tag = self.free.pop().expect("the caller has looked");
        self.flights[usize::from(tag)] = Some(Flight {
            access,
            since,
            check,
        });
        let tag = self.first_tag + tag;
        let (sector, sectors) = match access.block {
            None => (0, 0),
            Some(block) => (self.region.offset(block) / 512, (self.bs / 512) as u32),
        };
        if self.fills && access.op == Op::Write {
            // SAFETY: the tag is ours, and its request is not in the mirror yet.
            let buffer = unsafe { self.buffers.of(self.hctx, tag) };
            buffers::fill(
                &mut buffer[..self.bs as usize],
                sector * 512,
                access.generation,
            );
        }
        Request::check(tag, access.op, sector, sectors, &self.limits)
            .expect("the region lies within the disk")
    }

    /// One of its requests has ended.
    pub(super) fn request_ended(&mut self, tag: u16, result: i32, at: u64) {
        // A job has --iodepth tags of its hardware queue, from `first_tag` on.
        let own_tag = tag - self.first_tag;
        let flight = self.flights[usize::from(own_tag)].take();
        let Flight {
            access,
            since,
            check,
        } = flight.expect("a request ends once");
        let known = self.region.ended(access, result >= 0);
        if !check {
            let bytes = if access.block.is_some() { self.bs } else { 0 };
            self.tally
                .count(access.op, bytes, result, at.saturating_sub(since));
        } else if !known && result < 0 {
            let name = status_name(result);
            self.tally
                .count_wrong(|| format!("a block could not be read at the end: {name}"));
        }
        if self.verify && known {
            self.verify(access, tag);
        }
        self.free.push(own_tag);
    }

    fn verify(&mut self, access: Access, tag: u16) {
        let Some(block) = access.block else {
            return;
        };
        // SAFETY: the request has ended, and the tag has not been given to another one yet.
        let buffer = unsafe { self.buffers.of(self.hctx, tag) };
        self.tally.checked += 1;
        let buffer = &buffer[..self.bs as usize];
        if let Some(why) = buffers::fault(buffer, self.region.offset(block), access.generation) {
            self.tally.count_wrong(|| why);
        }
    }
}
