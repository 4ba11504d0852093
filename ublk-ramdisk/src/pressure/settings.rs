// SPDX-License-Identifier: MIT OR Apache-2.0
//! What pressure is asked for: as a device begins with it, and as it is changed while it lives.

use std::fmt;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::inject::place_of;
use super::{FaultAttr, Injection, Injections, PsiTrigger};
use crate::error::Failure;
use crate::rules::{Action, Rule, Selectors, MOST_RULES};
use crate::units::{number, or_off, OrOff};

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
    /// E16: which hardware queues cannot be set up.
    pub init_hctx: Option<FaultAttr>,
    /// E29: the rules, in the order in which a request meets them.
    pub rules: Vec<Rule>,
}

impl Settings {
    /// Checks that the settings do not contradict each other.
    pub fn check(&self) -> Result<(), Failure> {
        let names = self.rules.iter().map(|rule| &rule.name);
        let is_twice =
            |(n, name): &(usize, &String)| names.clone().skip(n + 1).any(|of| of == *name);
        if let Some((_, name)) = names.clone().enumerate().find(is_twice) {
            return Err(Failure::usage(format!(
                "--rule: two rules are called {name}: choose another name for one of them"
            )));
        }
        if self.rules.len() > MOST_RULES {
            return Err(Failure::usage(format!(
                "--rule: {} rules are more than the {MOST_RULES} that a disk can have: take some away",
                self.rules.len()
            )));
        }
        let takes_all =
            |rule: &Rule| rule.action == Action::Timeout && rule.selectors == Selectors::default();
        let always = self.rules.iter().any(takes_all);
        if always && names.clone().any(|name| name == "delay") {
            return Err(Failure::usage(
                "--inject delay contradicts --inject timeout for every request: none would be left \
                 to be delayed",
            ));
        }
        Ok(())
    }

    /// Adds rules. One of a name that is there already takes its place; one without a name gets one.
    fn add(&mut self, rules: &[Rule]) {
        let old = self.rules.len();
        for rule in rules {
            let mut rule = rule.clone();
            if rule.name.is_empty() {
                let taken =
                    |name: &String| self.rules.iter().chain(rules).any(|of| of.name == *name);
                let mut names = (1..).map(|n| format!("rule{n}"));
                rule.name = names.find(|name| !taken(name)).expect("there are more");
            }
            match self.rules[..old].iter_mut().find(|of| of.name == rule.name) {
                Some(former) => *former = rule,
                None => self.rules.push(rule),
            }
        }
    }

    /// Puts the rules of an `--inject` in force, in null_blk's order.
    fn inject(&mut self, name: &str, rules: &[Rule]) {
        let place = place_of(name);
        self.rules.retain(|rule| place_of(&rule.name) != place);
        let later = |rule: &Rule| place_of(&rule.name) > place;
        let at = self.rules.iter().position(later);
        let at = at.unwrap_or(self.rules.len());
        self.rules.splice(at..at, rules.iter().cloned());
    }
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
    /// A rule: which requests, and what becomes of them: [NAME:] SELECTORS: ACTION
    ///
    /// Selectors: read, write, flush, discard, write-zeroes or any; a size (4K..64K); a place
    /// (@ 1G-2G, @ sector 8-15); a share (10%); after N, every N, next N, once, times N;
    /// for TIME; when inflight > N.
    /// Actions: delay TIME, uniform(TIME, TIME), exponential(MEAN), lognormal(MEDIAN, SIGMA) or
    /// list FILE; error ERRNO [partial]; busy, busy dev, requeue, busy or requeue; hang; timeout;
    /// corrupt bit; ignore.
    /// May be given more than once: a request meets the rules in their order, up to the first
    /// that does not let it through. A rule of a name that is there takes its place. Example:
    /// --rule 'slow: write 4K..64K @ 1G-2G: delay lognormal(2ms, 0.5)'
    #[arg(long, value_name = "RULE", value_parser = Rule::typed, verbatim_doc_comment)]
    pub rule: Vec<Rule>,
    /// The rules of a file, one in each line, as `ublk-ramdisk rules ID` prints them
    ///
    /// They come before those of --rule. Empty lines, and those that begin with #, are left out.
    #[arg(long = "rules", value_name = "FILE", value_parser = Rule::of_file)]
    pub rule_files: Vec<Vec<Rule>>,
    /// Names of rules that are taken away before.
    #[arg(skip)]
    pub drop_rules: Vec<String>,
    /// All rules are.
    #[arg(skip)]
    pub clear_rules: bool,
}

const LARGEST: u64 = u32::MAX as u64;

impl PressureOptions {
    /// The faults that are named, in their order.
    pub fn injections(&self) -> impl Iterator<Item = &Injection> {
        self.inject.iter().flat_map(|list| &list.0)
    }

    /// True if one of the rules gets its name from the disk.
    pub fn adds_unnamed(&self) -> bool {
        self.rules().any(|rule| rule.name.is_empty())
    }

    /// The rules of files and command line.
    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rule_files.iter().flatten().chain(&self.rule)
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
        new.rules
            .retain(|rule| !self.clear_rules && !self.drop_rules.contains(&rule.name));
        for injection in self.injections() {
            match injection {
                Injection::InitHctx(attr) => new.init_hctx = *attr,
                Injection::Rules(name, rules) => new.inject(name, rules),
            }
        }
        new.add(&self.rules().cloned().collect::<Vec<_>>());
        new
    }

    /// Checks what can be said only of a disk with these settings.
    pub fn check_for(&self, settings: &Settings) -> Result<(), Failure> {
        let has = |name: &String| settings.rules.iter().any(|rule| rule.name == *name);
        match self.drop_rules.iter().find(|name| !has(name)) {
            None => Ok(()),
            Some(name) => Err(no_rule(name)),
        }
    }

    /// True for a rule that is named, and so counts from the beginning, even if it was there before.
    pub(super) fn begins_anew(&self, name: &str) -> bool {
        let injected = self.injections().any(|injection| match injection {
            Injection::Rules(_, rules) => rules.iter().any(|rule| rule.name == name),
            Injection::InitHctx(_) => false,
        });
        injected || self.rules().any(|rule| rule.name == name)
    }
}

/// There is no rule of this name.
pub(super) fn no_rule(name: &str) -> Failure {
    Failure::usage(format!(
        "no rule is called {name}: `ublk-ramdisk rules ID` lists them"
    ))
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
        say("init_hctx=", self.init_hctx.map(|attr| attr.to_string()));
        words.extend(self.rules.iter().map(|rule| format!("rule '{rule}'")));
        if words.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&words.join(", "))
    }
}
