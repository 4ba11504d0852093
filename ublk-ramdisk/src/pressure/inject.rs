// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--inject`: faults as null_blk spells them. Each becomes rules, named after it (E5, E16, E17).
//!
//! Kernel counterpart: the fault-injection framework, as null_blk uses it for its attributes `requeue`
//! and `timeout`, with the same four numbers, and null_blk's `badblocks` with `badblocks_once` and
//! `badblocks_partial_io`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::rules::{Rule, Selectors, MAX_DELAY, PER_CENT};
use crate::units::{self, number};

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultAttr {
    /// Only every `interval`-th call may fail; at least 1.
    pub interval: u64,
    /// The share of those that fail, in per cent.
    pub probability: u64,
    /// Calls at the beginning that never fail.
    pub space: u64,
    /// Calls that fail at most; none for no end.
    pub times: Option<u64>,
}

impl FromStr for FaultAttr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split(',').map(|part| number(0, u64::MAX)(part).ok());
        match numbers.collect::<Vec<Option<u64>>>()[..] {
            [Some(interval @ 1..), Some(probability @ 0..=100), Some(space), times]
                if times.is_some() || text.ends_with(",-1") =>
            {
                Ok(Self {
                    interval,
                    probability,
                    space,
                    times,
                })
            }
            _ => Err(
                "expected INTERVAL,PROBABILITY,SPACE,TIMES: an interval from 1, a probability \
                      from 0 to 100, and TIMES -1 for no end"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for FaultAttr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (interval, probability, space) = (self.interval, self.probability, self.space);
        let times = self.times.map_or("-1".to_owned(), |n| n.to_string());
        write!(f, "{interval},{probability},{space},{times}")
    }
}

impl FaultAttr {
    /// The same as a rule's selectors.
    pub(super) fn selectors(&self) -> Selectors {
        Selectors {
            share: PER_CENT * self.probability,
            after: self.space,
            every: self.interval,
            times: self.times,
            ..Selectors::default()
        }
    }

    /// Does every call fail, without end?
    fn fails_always(&self) -> bool {
        (self.interval, self.probability, self.times) == (1, 100, None)
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

/// The place of a name in [`NAMES`]; a number may follow it, as in the names of rules.
pub(super) fn place_of(name: &str) -> Option<usize> {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    NAMES.iter().position(|of| *of == name)
}

const KINDS: &str = "expected requeue=, timeout= or init_hctx=INTERVAL,PROBABILITY,SPACE,TIMES, \
                     delay=TIME or badblocks=START-END, or one of these names with =off";

impl FromStr for Injection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or(KINDS)?;
        let by_attr = |action: &str| {
            let attr: FaultAttr = value.parse()?;
            if name == "requeue" && attr.fails_always() {
                return Err(
                    "no request would ever be served: raise the interval, lower the \
                            probability, or give TIMES"
                        .to_owned(),
                );
            }
            let times = attr.times.map_or(String::new(), |n| format!(" times {n}"));
            let (share, after, every) = (attr.probability, attr.space, attr.interval);
            let rule = format!("{name}: {share}% after {after} every {every}{times}: {action}");
            rule.parse().map(|rule| vec![rule])
        };
        let rules = match name {
            "init_hctx" if value == "off" => return Ok(Self::InitHctx(None)),
            "init_hctx" => return value.parse().map(|attr| Self::InitHctx(Some(attr))),
            _ if value == "off" && NAMES.contains(&name) => Vec::new(),
            "requeue" => by_attr("busy or requeue")?,
            "timeout" => by_attr("timeout")?,
            "delay" => delay(value)?,
            "badblocks" => bad_blocks(value)?,
            _ => return Err(KINDS.to_owned()),
        };
        Ok(Self::Rules(name.to_owned(), rules))
    }
}

fn delay(text: &str) -> Result<Vec<Rule>, String> {
    let time = units::time(text).ok().filter(|time| *time <= MAX_DELAY);
    let time = time.ok_or("expected a delay of up to 20s, such as 50us or 2ms")?;
    let rule = format!("delay: any: delay {}", units::Time(time)).parse()?;
    Ok(Some(rule).into_iter().filter(|_| !time.is_zero()).collect())
}

/// A rule for each range, the first range first: a request meets no more than one.
fn bad_blocks(text: &str) -> Result<Vec<Rule>, String> {
    const FORM: &str =
        "expected START-END[,START-END]...[:once][:partial], sectors of 512 bytes with \
                        START not after END";
    let (ranges, words) = text.split_once(':').unwrap_or((text, ""));
    let (mut once, mut partial) = ("", "");
    for word in words.split(':').filter(|_| text.contains(':')) {
        match word {
            "once" => once = " once",
            "partial" => partial = " partial",
            _ => return Err(FORM.to_owned()),
        }
    }
    let rule = |range: &str| {
        let rule = format!("read write @ sector {range}{once}: error EIO{partial}");
        rule.parse::<Rule>().map_err(|_| FORM.to_owned())
    };
    let rules = ranges.split([',', '+']).map(rule);
    let mut rules = rules.collect::<Result<Vec<_>, _>>()?;
    rules.sort_by_key(|rule| rule.selectors.place);
    for (n, rule) in (1..).zip(&mut rules) {
        let number = if n == 1 {
            String::new()
        } else {
            format!("{n}")
        };
        rule.name = format!("badblocks{number}");
    }
    Ok(rules)
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
                Some(last) if !piece.contains('=') => *last += &format!(",{piece}"),
                _ => parts.push(piece.to_owned()),
            }
        }
        let each = parts.iter().map(|part| part.parse());
        each.collect::<Result<_, _>>().map(Self)
    }
}
