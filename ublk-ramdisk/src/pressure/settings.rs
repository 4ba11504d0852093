// SPDX-License-Identifier: MIT OR Apache-2.0
//! What pressure is asked for: as a device begins with it, and as it is changed while it lives.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{BadBlocks, FaultAttr, PsiTrigger};
use crate::units::{self, number, or_off, OrOff, Time};

/// The pressure on a disk. What is none is not in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// E1: requests in flight, of all queues together.
    pub slots: Option<u32>,
    /// E4: bytes per second, in MiB.
    pub mbps: Option<u32>,
    /// E3: when memory counts as short.
    pub psi: Option<PsiTrigger>,
    /// E5: which tries are refused.
    pub requeue: Option<FaultAttr>,
    /// E16: which requests are accepted and lost.
    pub timeout: Option<FaultAttr>,
    /// E16: which hardware queues cannot be set up.
    pub init_hctx: Option<FaultAttr>,
    /// E16: how long an accepted request takes at least, in nanoseconds.
    pub delay_ns: Option<u64>,
    /// E17: which blocks are bad.
    pub badblocks: Option<BadBlocks>,
}

/// One `--inject`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Injection {
    /// `requeue=INTERVAL,PROBABILITY,SPACE,TIMES`
    Requeue(Option<FaultAttr>),
    /// `timeout=INTERVAL,PROBABILITY,SPACE,TIMES`
    Timeout(Option<FaultAttr>),
    /// `init_hctx=INTERVAL,PROBABILITY,SPACE,TIMES`
    InitHctx(Option<FaultAttr>),
    /// `delay=TIME`
    Delay(Option<u64>),
    /// `badblocks=START-END...`
    BadBlocks(Option<BadBlocks>),
}

const KINDS: &str = "expected requeue=, timeout= or init_hctx=INTERVAL,PROBABILITY,SPACE,TIMES, \
                     delay=TIME or badblocks=START-END, or one of these names with =off";

impl FromStr for Injection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or(KINDS)?;
        fn read<T: FromStr<Err = String>>(value: &str) -> Result<Option<T>, String> {
            match value {
                "off" => Ok(None),
                value => value.parse().map(Some),
            }
        }
        Ok(match name {
            "requeue" => {
                let attr: Option<FaultAttr> = read(value)?;
                if attr.is_some_and(|attr| attr.fails_always()) {
                    return Err(
                        "no request would ever be served: raise the interval, lower the \
                                probability, or give TIMES"
                            .to_owned(),
                    );
                }
                Self::Requeue(attr)
            }
            "timeout" => Self::Timeout(read(value)?),
            "init_hctx" => Self::InitHctx(read(value)?),
            "delay" if value == "off" => Self::Delay(None),
            "delay" => Self::Delay(Some(delay(value)?)),
            "badblocks" => Self::BadBlocks(read(value)?),
            _ => return Err(KINDS.to_owned()),
        })
    }
}

/// What one `--inject` says: several faults with commas between them, and commas within them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Injections(pub Vec<Injection>);

impl FromStr for Injections {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts: Vec<String> = Vec::new();
        for piece in text.split(',') {
            match parts.last_mut() {
                Some(last) if !piece.contains('=') => {
                    last.push(',');
                    last.push_str(piece);
                }
                _ => parts.push(piece.to_owned()),
            }
        }
        let each = parts.iter().map(|part| part.parse());
        each.collect::<Result<_, _>>().map(Self)
    }
}

/// The longest delay: a request that takes longer has timed out.
const MAX_DELAY: Duration = Duration::from_secs(20);

fn delay(text: &str) -> Result<u64, String> {
    let time = units::time(text).ok().filter(|time| *time <= MAX_DELAY);
    let time = time.ok_or("expected a delay of up to 20s, such as 50us or 2ms")?;
    Ok(time.as_nanos() as u64)
}

/// Sources of BUSY, and faults: what `add`, `set` and `sim` can change. What is none stays as it is.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[command(next_help_heading = "Pressure and faults")]
#[serde(default)]
pub struct PressureOptions {
    /// Limit the requests in flight, of all queues together; `off` for no limit
    ///
    /// A request that finds no slot waits on its hardware queue's dispatch list, and is run again
    /// when a slot comes back. Flushes need none.
    #[arg(long, value_name = "N|off", value_parser = or_off(number::<u32>(1, LARGEST)),
        allow_hyphen_values = true)]
    pub slots: Option<OrOff<u32>>,
    /// Limit the MiB read and written per second; `off` for no limit
    ///
    /// Fifty times a second a fiftieth may pass; a larger request passes too and is paid off by the
    /// next ticks. Meanwhile every queue is stopped.
    #[arg(long, value_name = "N|off", value_parser = or_off(number::<u32>(1, LARGEST)),
        allow_hyphen_values = true)]
    pub mbps: Option<OrOff<u32>>,
    /// Refuse writes that need memory while memory is short: [host:|cgroup:]some|full STALL WINDOW
    ///
    /// The kernel's pressure stall information, in its own form with times in microseconds, such as
    /// "some 150000 1000000": tasks stalled for 150 ms within a second. Of the whole machine, or of
    /// the server's control group. No request is refused for longer than a second. `off` ends it.
    #[arg(long, value_name = "TRIGGER|off")]
    pub psi: Option<OrOff<PsiTrigger>>,
    /// Faults on purpose, a list: KIND=VALUE[,KIND=VALUE]...
    ///
    /// null_blk has the same. KIND=off ends one. May be given more than once.
    ///
    /// requeue=INTERVAL,PROBABILITY,SPACE,TIMES: of the tries to serve a request, after the first
    /// SPACE ones, each INTERVAL-th is refused with PROBABILITY per cent, at most TIMES times (-1:
    /// without end). It is tried again: the disk becomes slower, no request fails.
    /// timeout=INTERVAL,PROBABILITY,SPACE,TIMES: such a request is accepted and lost; it fails with
    /// ETIMEDOUT after --timeout.
    /// init_hctx=INTERVAL,PROBABILITY,SPACE,TIMES: such a hardware queue cannot be set up, and no
    /// disk is made.
    /// delay=TIME: each request takes at least this long (such as 50us, 2ms; up to 20s).
    /// badblocks=START-END[,START-END]...[:once][:partial]: sectors of 512 bytes that fail with
    /// EIO; `once`: a range is repaired by its first hit; `partial`: what lies before the first bad
    /// sector is transferred.
    #[arg(
        long,
        value_name = "FAULTS",
        allow_hyphen_values = true,
        verbatim_doc_comment
    )]
    pub inject: Vec<Injections>,
}

const LARGEST: u64 = u32::MAX as u64;

impl PressureOptions {
    /// The faults that are named, in their order.
    pub fn injections(&self) -> impl Iterator<Item = &Injection> {
        self.inject.iter().flat_map(|list| &list.0)
    }

    /// The settings that come of it.
    pub fn applied_to(&self, settings: &Settings) -> Settings {
        let mut new = settings.clone();
        if let Some(slots) = self.slots {
            new.slots = slots.value();
        }
        if let Some(mbps) = self.mbps {
            new.mbps = mbps.value();
        }
        if let Some(psi) = self.psi.clone() {
            new.psi = psi.value();
        }
        for injection in self.injections() {
            match injection.clone() {
                Injection::Requeue(attr) => new.requeue = attr,
                Injection::Timeout(attr) => new.timeout = attr,
                Injection::InitHctx(attr) => new.init_hctx = attr,
                Injection::Delay(ns) => new.delay_ns = ns.filter(|ns| *ns > 0),
                Injection::BadBlocks(bad) => new.badblocks = bad,
            }
        }
        new
    }
}

impl fmt::Display for Settings {
    /// As options, in one line; `none` if nothing is in force.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = Vec::new();
        let mut say = |option: &str, value: Option<String>| {
            words.extend(value.map(|value| format!("{option}{value}")));
        };
        say("slots ", self.slots.map(|n| n.to_string()));
        say("mbps ", self.mbps.map(|n| n.to_string()));
        say("psi ", self.psi.as_ref().map(PsiTrigger::to_string));
        say("requeue=", self.requeue.map(|attr| attr.to_string()));
        say("timeout=", self.timeout.map(|attr| attr.to_string()));
        say("init_hctx=", self.init_hctx.map(|attr| attr.to_string()));
        let delay = self.delay_ns.map(Duration::from_nanos);
        say("delay=", delay.map(|delay| Time(delay).to_string()));
        say(
            "badblocks=",
            self.badblocks.as_ref().map(BadBlocks::to_string),
        );
        if words.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_injections_are_lists_with_commas_within() {
        let list: Injections = "requeue=10,50,0,-1,delay=5us,badblocks=0-7,9-9:once,timeout=off"
            .parse()
            .expect("a list");
        assert_eq!(list.0.len(), 4);
        assert_eq!(list.0[1], Injection::Delay(Some(5000)));
        assert_eq!(list.0[3], Injection::Timeout(None));
        let all = PressureOptions {
            inject: vec![list],
            ..PressureOptions::default()
        };
        let settings = all.applied_to(&Settings::default());
        assert_eq!(
            settings.to_string(),
            "requeue=10,50,0,-1, delay=5us, badblocks=0-7,9-9:once"
        );
        for bad in [
            "",
            "requeue",
            "requeue=1,2",
            "requeue=1,100,0,-1",
            "delay=",
            "delay=5",
            "delay=21s",
            "delay=1m",
            "explode=1,2,3,4",
            "delay=1us,,",
        ] {
            assert!(bad.parse::<Injections>().is_err(), "{bad}");
        }
    }

    #[test]
    fn options_keep_what_they_do_not_name() {
        let first = Settings {
            slots: Some(4),
            mbps: Some(10),
            ..Settings::default()
        };
        let options = PressureOptions {
            slots: Some(OrOff::Off),
            ..PressureOptions::default()
        };
        let then = options.applied_to(&first);
        assert_eq!((then.slots, then.mbps), (None, Some(10)));
    }
}
