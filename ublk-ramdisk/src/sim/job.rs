// SPDX-License-Identifier: MIT OR Apache-2.0
//! A job: makes requests, and is told how they have ended. Knows no clock: it is told the time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::buffers::Buffers;
use super::config::SimConfig;
use super::content;
use super::figures::Tally;
use super::places::{Places, Want};
use super::random::Random;
use super::script::Event;
use super::values::Rate;
use crate::mq::{Limits, Op, Request, Status};

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    want: Want,
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
    batch: usize,
    verify: bool,
    /// Does it matter what its writes write?
    fills: bool,
    limits: Limits,
    buffers: Arc<Buffers>,
    random: Random,
    places: Places,
    flights: Vec<Option<Flight>>,
    free: Vec<u16>,
    phase: Phase,
    paused: bool,
    left: Option<u64>,
    end: Option<u64>,
    rate: Option<Rate>,
    next_arrival: u64,
    /// Due times of requests that found no tag, the oldest first.
    late: VecDeque<u64>,
    pub(super) tally: Tally,
}

impl Job {
    pub(super) fn new(config: &SimConfig, number: u16, buffers: Arc<Buffers>) -> Self {
        let first_tag = number / config.device.queues * config.iodepth;
        let limits = Limits {
            size: config.device.size,
            block_size: config.device.block_size,
            max_data: config.device.io_buffer,
            read_only: config.device.read_only,
        };
        let default_ops = config.duration.is_none().then_some(10_000);
        let mut job = Self {
            number,
            hctx: number % config.device.queues,
            first_tag,
            bs: config.bs,
            batch: usize::from(config.batch),
            verify: config.verify,
            fills: config.verify || config.zeros.is_some(),
            limits,
            buffers,
            random: Random::new(config.seed, u64::from(number)),
            places: Places::new(config, number),
            flights: vec![None; usize::from(config.iodepth)],
            free: (0..config.iodepth).rev().collect(),
            phase: Phase::Load,
            paused: false,
            left: config.ops.or(default_ops),
            end: config.duration.map(|end| end.as_nanos() as u64),
            rate: config.rate,
            next_arrival: 0,
            late: VecDeque::new(),
            tally: Tally::new(),
        };
        if job.rate.is_some() {
            job.next_arrival = job.distance();
        }
        job
    }

    /// Nanoseconds from one arrival to the next.
    fn distance(&mut self) -> u64 {
        let ns = match self.rate {
            None => 0.0,
            Some(Rate::Even(rate)) => 1e9 / rate,
            Some(Rate::Poisson(rate)) => self.random.exponential(1e9 / rate),
        };
        (ns as u64).max(1)
    }

    /// Something has happened that concerns the jobs.
    pub(super) fn hear(&mut self, event: &Event, now: u64) {
        match *event {
            Event::Load(on) => self.pause(!on, now),
            Event::Rate(rate) => self.set_rate(rate, now),
            Event::Discard { offset, len } => self.places.forget(offset, len),
            _ => {}
        }
    }

    /// What a script has asked for has ended.
    pub(super) fn calm(&mut self) {
        self.places.calm();
    }

    fn set_rate(&mut self, rate: u32, now: u64) {
        self.rate = Some(Rate::Even(f64::from(rate)));
        self.next_arrival = now + self.distance();
    }

    fn pause(&mut self, paused: bool, now: u64) {
        self.paused = paused;
        if !paused && self.next_arrival < now {
            self.next_arrival = now;
        }
    }

    /// Does it load the device, still?
    pub(super) fn is_loading(&self) -> bool {
        self.phase == Phase::Load
    }

    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    pub(super) fn in_flight(&self) -> u64 {
        (self.flights.len() - self.free.len()) as u64
    }

    /// When it wants to be asked again, though nothing has ended.
    pub(super) fn next_time(&self) -> Option<u64> {
        let arrival = (self.rate.is_some() && !self.paused).then_some(self.next_arrival);
        let time = match (arrival, self.end) {
            (Some(arrival), Some(end)) => Some(arrival.min(end)),
            (arrival, end) => arrival.or(end),
        };
        time.filter(|_| self.is_loading())
    }

    /// Goes on to the next phase if there is nothing left to do in this one.
    fn move_on(&mut self, now: u64) {
        if self.phase == Phase::Load {
            let over = self.left == Some(0) || self.end.is_some_and(|end| end <= now);
            if over && self.in_flight() == 0 {
                self.phase = if self.verify {
                    Phase::Check
                } else {
                    Phase::Done
                };
            }
        }
    }

    /// The requests to be made now, together; none if there is nothing to be done at present.
    pub(super) fn take(&mut self, now: u64, out: &mut Vec<Request>) {
        out.clear();
        self.move_on(now);
        match self.phase {
            Phase::Load => self.take_load(now, out),
            Phase::Check => {
                while let Some(&tag) = self.free.last() {
                    let Some(want) = self.places.choose_check() else {
                        if self.in_flight() == 0 {
                            self.phase = Phase::Done;
                        }
                        return;
                    };
                    self.free.pop();
                    out.push(self.make(tag, want, now, true));
                }
            }
            Phase::Done => {}
        }
    }

    fn take_load(&mut self, now: u64, out: &mut Vec<Request>) {
        if self.end.is_some_and(|end| end <= now) || self.paused {
            return;
        }
        if self.rate.is_some() {
            while self.next_arrival <= now
                && self.left.is_none_or(|left| left > self.late.len() as u64)
            {
                self.late.push_back(self.next_arrival);
                self.next_arrival += self.distance();
            }
        }
        let available = match self.rate {
            Some(_) => self.late.len(),
            None => usize::MAX,
        };
        let available = self
            .left
            .map_or(available, |left| available.min(left as usize));
        // A batch waits until it is whole, unless it never will be.
        if self.free.len().min(available) < self.batch.min(available) {
            return;
        }
        while out.len() < self.batch && out.len() < available {
            let Some(&tag) = self.free.last() else {
                return;
            };
            let Some(want) = self.places.choose(&mut self.random) else {
                return;
            };
            let since = match self.rate {
                Some(_) => self.late.pop_front().unwrap_or(now),
                None => now,
            };
            self.free.pop();
            if let Some(left) = &mut self.left {
                *left -= 1;
            }
            out.push(self.make(tag, want, since, false));
        }
    }

    fn make(&mut self, tag: u16, want: Want, since: u64, check: bool) -> Request {
        self.flights[usize::from(tag)] = Some(Flight { want, since, check });
        let real_tag = self.first_tag + tag;
        let (sector, sectors) = match want.block {
            None => (0, 0),
            Some(block) => (self.places.offset(block) / 512, (self.bs / 512) as u32),
        };
        if self.fills && want.op == Op::Write {
            let offset = sector * 512;
            // SAFETY: the tag is ours, and its request is not in the mirror yet.
            let buffer = unsafe { self.buffers.of(self.hctx, real_tag) };
            content::fill(&mut buffer[..self.bs as usize], offset, want.generation);
        }
        Request::check(real_tag, want.op, sector, sectors, &self.limits)
            .expect("the places lie within the disk")
    }

    /// One of its requests has ended.
    pub(super) fn ended(&mut self, real_tag: u16, result: i32, at: u64) {
        let tag = real_tag - self.first_tag;
        let flight = self.flights[usize::from(tag)].take();
        let flight = flight.expect("a request ends once");
        let want = flight.want;
        let known = self.places.ended(want, result >= 0);
        if flight.check {
            self.count_check(flight, real_tag, result, known);
        } else {
            let bytes = if want.block.is_some() { self.bs } else { 0 };
            let kind = self.tally.kind(want.op);
            if result >= 0 {
                kind.ops += 1;
                kind.bytes += bytes;
                self.tally.times.record(at.saturating_sub(flight.since));
            } else {
                kind.errors += 1;
                *self.tally.errors.entry(status_name(result)).or_default() += 1;
            }
            if self.verify && known {
                self.check(want, real_tag);
            }
        }
        self.free.push(tag);
    }

    fn count_check(&mut self, flight: Flight, real_tag: u16, result: i32, known: bool) {
        if known {
            self.check(flight.want, real_tag);
        } else if result < 0 {
            self.tally.failed += 1;
            let name = status_name(result);
            let why = || format!("a block could not be read at the end: {name}");
            self.tally.first_failure.get_or_insert_with(why);
        }
    }

    fn check(&mut self, want: Want, real_tag: u16) {
        let Some(block) = want.block else {
            return;
        };
        // SAFETY: the request has ended, and the tag has not been given to another one yet.
        let buffer = unsafe { self.buffers.of(self.hctx, real_tag) };
        let offset = self.places.offset(block);
        self.tally.checked += 1;
        if let Some(why) = content::fault(&buffer[..self.bs as usize], offset, want.generation) {
            self.tally.failed += 1;
            self.tally.first_failure.get_or_insert(why);
        }
    }
}

/// The name of the status behind a result.
fn status_name(result: i32) -> &'static str {
    Status::all()
        .find(|status| status.errno() == -result)
        .map_or("unknown", Status::name)
}
