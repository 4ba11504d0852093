// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--inject`: faults as null_blk spells them. Each becomes rules, named after it (E5, E16, E17).
//!
//! Kernel counterpart: the fault-injection framework, as null_blk uses it for its attributes `requeue`
//! and `timeout`, with the same four numbers, and null_blk's `badblocks` with `badblocks_once` and
//! `badblocks_partial_io`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::mq::Status;
use crate::rules::{Action, Distribution, Rule, Selectors, MAX_DELAY, SHARE_ALL};
use crate::units::{self, number};

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultAttr {
    /// Only every `interval`-th call may fail; at least 1.
    pub interval: u64,
    /// The share of those that fail, in per cent.
    pub probability: u8,
    /// Calls at the beginning that never fail.
    pub space: u64,
    /// Calls that fail at most; none for no end.
    pub times: Option<u64>,
}

const FORM: &str = "expected INTERVAL,PROBABILITY,SPACE,TIMES: an interval from 1, a probability \
                    from 0 to 100, and TIMES -1 for no end";

impl FromStr for FaultAttr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').collect();
        let &[interval, probability, space, times] = &parts[..] else {
            return Err(FORM.to_owned());
        };
        let whole = |text| number(0, u64::MAX)(text).map_err(|_| FORM);
        let attr = Self {
            interval: whole(interval)?,
            probability: u8::try_from(whole(probability)?).map_err(|_| FORM)?,
            space: whole(space)?,
            times: match times {
                "-1" => None,
                some => Some(whole(some)?),
            },
        };
        if attr.interval == 0 || attr.probability > 100 {
            return Err(FORM.to_owned());
        }
        Ok(attr)
    }
}

impl fmt::Display for FaultAttr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (interval, probability, space) = (self.interval, self.probability, self.space);
        let times = self
            .times
            .map_or("-1".to_owned(), |times| times.to_string());
        write!(f, "{interval},{probability},{space},{times}")
    }
}

impl FaultAttr {
    /// Does every call fail, without end?
    fn fails_always(&self) -> bool {
        self.interval == 1 && self.probability == 100 && self.times.is_none()
    }

    /// The same as a rule's selectors.
    pub(super) fn selectors(&self) -> Selectors {
        Selectors {
            share: SHARE_ALL / 100 * u64::from(self.probability),
            after: self.space,
            every: self.interval,
            times: self.times,
            ..Selectors::default()
        }
    }
}

/// One fault of `--inject`; none: it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Injection {
    /// `init_hctx=INTERVAL,PROBABILITY,SPACE,TIMES`
    InitHctx(Option<FaultAttr>),
    /// The others, by name. The rules take the place of those that the name has made before.
    Rules(String, Vec<Rule>),
}

/// The names that become rules, in the order in which a request meets them.
const NAMES: [&str; 4] = ["requeue", "badblocks", "timeout", "delay"];

/// The place in [`NAMES`] of the fault that has made a rule, by the rule's name.
pub(super) fn place_of(rule: &Rule) -> Option<usize> {
    let name = rule.name.trim_end_matches(|c: char| c.is_ascii_digit());
    NAMES.iter().position(|of| *of == name)
}

/// The name of the fault in this place.
pub(super) fn name_of(place: usize) -> &'static str {
    NAMES[place]
}

const KINDS: &str = "expected requeue=, timeout= or init_hctx=INTERVAL,PROBABILITY,SPACE,TIMES, \
                     delay=TIME or badblocks=START-END, or one of these names with =off";

impl FromStr for Injection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or(KINDS)?;
        let attr = || match value {
            "off" => Ok(None),
            value => value.parse::<FaultAttr>().map(Some),
        };
        let rule = |selectors, action| Rule {
            name: name.to_owned(),
            selectors,
            action,
        };
        let all = |attr: Option<FaultAttr>, action| {
            let rule = attr.map(|attr| rule(attr.selectors(), action));
            rule.into_iter().collect()
        };
        let rules = match name {
            "init_hctx" => return attr().map(Self::InitHctx),
            "requeue" => {
                let attr = attr()?;
                if attr.is_some_and(|attr| attr.fails_always()) {
                    return Err(
                        "no request would ever be served: raise the interval, lower the \
                                probability, or give TIMES"
                            .to_owned(),
                    );
                }
                all(attr, Action::BusyOrRequeue)
            }
            "timeout" => all(attr()?, Action::Timeout),
            "delay" if value == "off" => Vec::new(),
            "delay" => match delay(value)? {
                0 => Vec::new(),
                ns => {
                    let delay = Action::Delay(Distribution::Constant(ns));
                    vec![rule(Selectors::default(), delay)]
                }
            },
            "badblocks" if value == "off" => Vec::new(),
            "badblocks" => bad_blocks(value)?,
            _ => return Err(KINDS.to_owned()),
        };
        Ok(Self::Rules(name.to_owned(), rules))
    }
}

fn delay(text: &str) -> Result<u64, String> {
    let time = units::time(text).ok().filter(|time| *time <= MAX_DELAY);
    let time = time.ok_or("expected a delay of up to 20s, such as 50us or 2ms")?;
    Ok(time.as_nanos() as u64)
}

/// A rule for each range, the first range first: a request meets no more than one.
fn bad_blocks(text: &str) -> Result<Vec<Rule>, String> {
    const FORM: &str =
        "expected START-END[,START-END]...[:once][:partial], sectors of 512 bytes with \
                        START not after END";
    // The first byte of a larger one has no number.
    let sector = |text: &str| number::<u64>(0, (1 << 54) - 1)(text).map_err(|_| FORM);
    let mut words = text.split(':');
    let (mut ranges, mut once, mut partial) = (Vec::new(), None, false);
    for range in words.next().unwrap_or_default().split([',', '+']) {
        let (first, last) = range.split_once('-').ok_or(FORM)?;
        let (first, last) = (sector(first)?, sector(last)?);
        if first > last {
            return Err(FORM.to_owned());
        }
        ranges.push((first << 9, (last + 1) << 9));
    }
    for word in words {
        match word {
            "once" => once = Some(1),
            "partial" => partial = true,
            _ => return Err(FORM.to_owned()),
        }
    }
    ranges.sort_unstable();
    let rules = (1..).zip(ranges).map(|(n, range)| Rule {
        name: if n == 1 {
            "badblocks".to_owned()
        } else {
            format!("badblocks{n}")
        },
        selectors: Selectors {
            ops: Selectors::READ | Selectors::WRITE,
            place: Some(range),
            times: once,
            ..Selectors::default()
        },
        action: Action::Error(Status::IoErr, partial),
    });
    Ok(rules.collect())
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
