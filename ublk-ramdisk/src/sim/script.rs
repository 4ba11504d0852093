// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens at which time of a simulation: `--at TIME:EVENT`.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Command, FromArgMatches};

use crate::config::set::SetOptions;
use crate::error::Failure;
use crate::pressure::Settings;
use crate::rules::Rule;
use crate::units;

/// What the driver returns for every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It refuses nothing: the disk decides.
    Off,
    /// RESOURCE.
    Resource,
    /// DEV_RESOURCE, with a promise to run the queues when this ends.
    DevResource,
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// No worker can be created, or they can again.
    FailWorkerCreation(bool),
    /// The driver refuses everything, or nothing again.
    Busy(Refusal),
    /// The jobs make requests, or pause.
    Load(bool),
    /// The jobs' rate changes, in requests per second.
    Rate(u32),
    /// A range is discarded.
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// A byte of the store is damaged.
    Corrupt(u64),
    /// The pressure on the disk changes, as `ublk-ramdisk set` changes it.
    Set(Box<SetOptions>),
    /// The requests go on that the rule of this name holds.
    Release(String),
    /// Memory pressure begins or ends, as PSI would report it. Without `--psi` nothing comes of it.
    Psi(bool),
}

const EVENTS: &str =
    "an event is one of: fail-worker-creation on|off, busy on|dev|off, stop-load, \
                      start-load, rate N, discard OFFSET,LENGTH, corrupt OFFSET, \
                      set slots=N|off, set mbps=N|off, set inject KIND=VALUE, set rule RULE, \
                      rules add RULE, rules del NAME, rules clear, rules release NAME, \
                      set memory-limit=SIZE|off, set no-space-timeout=TIME|off, \
                      set reclaim=off|zero, psi on|off";

/// Reads what follows `set`: one option of `ublk-ramdisk set`, without its dashes.
fn options(text: &str) -> Result<SetOptions, String> {
    if text.is_empty() {
        return Err(EVENTS.to_owned());
    }
    let option = match text.split_once(' ') {
        Some((word @ ("inject" | "rule"), value)) => format!("{word}={value}"),
        _ => text.to_owned(),
    };
    // Nothing hangs in a long wait here, so it needs no --force.
    // The parser of `ublk-ramdisk set` itself reads it, so both take the same.
    let words = ["set", "--force", &format!("--{option}")];
    let command = SetOptions::augment_args(Command::new("set"));
    let options = command
        .disable_help_flag(true)
        .try_get_matches_from(words)
        .and_then(|matches| SetOptions::from_arg_matches(&matches))
        .map_err(|error| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("set: {}", line.trim_start_matches("error: "))
        })?;
    let checked = options.memory.check();
    checked.map_err(|failure| format!("set: {failure}"))?;
    Ok(options)
}

/// Reads what follows `rules`, as `ublk-ramdisk rules` does it.
fn rules(text: &str) -> Result<Event, String> {
    let mut set = SetOptions::default();
    let pressure = &mut set.pressure;
    match text.split_once(' ').unwrap_or((text, "")) {
        ("release", name) if !name.is_empty() => return Ok(Event::Release(name.to_owned())),
        ("add", rule) => pressure.rule.push(Rule::typed(rule)?),
        ("del", name) if !name.is_empty() => pressure.drop_rules.push(name.to_owned()),
        ("clear", "") => pressure.clear_rules = true,
        _ => return Err(EVENTS.to_owned()),
    }
    Ok(Event::Set(Box::new(set)))
}

impl FromStr for Event {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let on = || units::on_or_off(rest).map_err(|why| format!("{word}: {why}"));
        let number = |text: &str| {
            let number = units::number::<u64>(0, u64::MAX)(text);
            number.map_err(|_| format!("{word}: '{text}' is not a whole number"))
        };
        match word {
            "fail-worker-creation" => on().map(Self::FailWorkerCreation),
            "busy" => match rest {
                "on" => Ok(Self::Busy(Refusal::Resource)),
                "dev" => Ok(Self::Busy(Refusal::DevResource)),
                "off" => Ok(Self::Busy(Refusal::Off)),
                _ => Err("busy: expected on, dev or off".to_owned()),
            },
            "stop-load" | "start-load" if rest.is_empty() => Ok(Self::Load(word == "start-load")),
            "rate" => match u32::try_from(number(rest)?) {
                Ok(rate) if rate > 0 => Ok(Self::Rate(rate)),
                _ => Err(format!("rate: '{rest}' is outside 1..={}", u32::MAX)),
            },
            "discard" => {
                let (offset, len) = rest
                    .split_once(',')
                    .ok_or("discard: expected OFFSET,LENGTH")?;
                Ok(Self::Discard {
                    offset: number(offset)?,
                    len: number(len)?,
                })
            }
            "corrupt" => number(rest).map(Self::Corrupt),
            "set" => options(rest).map(|options| Self::Set(Box::new(options))),
            "rules" => rules(rest),
            "psi" => on().map(Self::Psi),
            _ => Err(EVENTS.to_owned()),
        }
    }
}

/// An event and its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Since the beginning.
    pub at: Duration,
    /// What happens.
    pub event: Event,
    /// The same as it was typed.
    pub text: String,
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (at, event) = text
            .split_once(':')
            .ok_or_else(|| format!("expected TIME:EVENT; {EVENTS}"))?;
        Ok(Self {
            at: units::time(at)?,
            event: event.parse()?,
            text: event.to_owned(),
        })
    }
}

impl Step {
    /// Checks that it fits the disk.
    pub fn check(&self, size: u64) -> Result<(), Failure> {
        if let Event::Set(options) = &self.event {
            options.pressure.applied_to(&Settings::default()).check()?;
        }
        let end = match self.event {
            Event::Discard { offset, len } => offset.checked_add(len),
            Event::Corrupt(offset) => offset.checked_add(1),
            _ => Some(0),
        };
        let aligned = match self.event {
            Event::Discard { offset, len } => (offset | len).is_multiple_of(512),
            _ => true,
        };
        match end {
            Some(end) if end <= size && aligned => Ok(()),
            Some(end) if end <= size => Err(Failure::usage(format!(
                "--at '{}': offset and length are to be multiples of 512",
                self.text
            ))),
            _ => Err(Failure::usage(format!(
                "--at '{}': beyond the end of the disk, {size}",
                self.text
            ))),
        }
    }
}
