// SPDX-License-Identifier: MIT OR Apache-2.0
//! What pressure is asked for: as a device begins with it, and as it is changed while it lives.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{BadBlocks, FaultAttr, PsiTrigger};

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

/// What becomes of one setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is in force no more.
    Off,
    /// It is this.
    To(T),
}

impl<T: Clone> Change<T> {
    fn apply(&self, setting: &mut Option<T>) {
        match self {
            Change::Keep => {}
            Change::Off => *setting = None,
            Change::To(value) => *setting = Some(value.clone()),
        }
    }
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
            "delay" => Self::Delay(Some(nanoseconds(value)?)),
            "badblocks" => Self::BadBlocks(read(value)?),
            _ => return Err(KINDS.to_owned()),
        })
    }
}

/// Reads a list of injections: they are separated by commas, which they also have within.
pub fn injections(text: &str) -> Result<Vec<Injection>, String> {
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
    parts.iter().map(|part| part.parse()).collect()
}

/// The longest delay, in nanoseconds: a request that takes longer has timed out.
const MAX_DELAY: u64 = 20_000_000_000;

fn nanoseconds(text: &str) -> Result<u64, String> {
    let form = || {
        "expected a delay of up to 20s: nanoseconds, or a whole number with us, ms or s".to_owned()
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "" | "ns" => 1,
        "us" => 1000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return Err(form()),
    };
    let number: u64 = number.parse().map_err(|_| form())?;
    let ns = number.checked_mul(unit).filter(|ns| *ns <= MAX_DELAY);
    ns.ok_or_else(form)
}

/// What is to be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Changes {
    /// E1.
    pub slots: Change<u32>,
    /// E4.
    pub mbps: Change<u32>,
    /// E3.
    pub psi: Change<PsiTrigger>,
    /// E5, E16, E17, one after the other.
    pub inject: Vec<Injection>,
}

impl Changes {
    /// Is there nothing to change?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The settings that come of it.
    pub fn applied_to(&self, settings: &Settings) -> Settings {
        let mut new = settings.clone();
        self.slots.apply(&mut new.slots);
        self.mbps.apply(&mut new.mbps);
        self.psi.apply(&mut new.psi);
        for injection in &self.inject {
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
        say("delay=", self.delay_ns.map(|ns| ns.to_string()));
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
        let list = injections("requeue=10,50,0,-1,delay=5us,badblocks=0-7,9-9:once,timeout=off")
            .expect("a list");
        assert_eq!(list.len(), 4);
        assert_eq!(list[1], Injection::Delay(Some(5000)));
        assert_eq!(list[3], Injection::Timeout(None));
        let all = Changes {
            inject: list,
            ..Changes::default()
        };
        let settings = all.applied_to(&Settings::default());
        assert_eq!(
            settings.to_string(),
            "requeue=10,50,0,-1, delay=5000, badblocks=0-7,9-9:once"
        );
        for bad in [
            "",
            "requeue",
            "requeue=1,2",
            "requeue=1,100,0,-1",
            "delay=",
            "delay=21s",
            "delay=1m",
            "explode=1,2,3,4",
            "delay=1us,,",
        ] {
            assert!(injections(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn changes_keep_what_they_do_not_name() {
        let first = Settings {
            slots: Some(4),
            mbps: Some(10),
            ..Settings::default()
        };
        let changes = Changes {
            slots: Change::Off,
            ..Changes::default()
        };
        let then = changes.applied_to(&first);
        assert_eq!((then.slots, then.mbps), (None, Some(10)));
        assert!(!changes.is_empty() && Changes::default().is_empty());
    }
}
