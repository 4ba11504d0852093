// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of `rules`.

use clap::{Args, Subcommand};
use ublk_ramdisk::rules::Rule;

use crate::parse::device_id;

pub const RULES_LONG: &str = "\
Show, add or take away the rules of a running disk, or let go of what one holds.

Prints the rules that are in force then, one in a line, each as it can be typed again. A request
meets them in this order. `stats` counts what they do, and `trace` shows it for each request. A rule
that is added under the name of another takes its place. `add --help` says what a rule is made of.";

pub const RULES_EXAMPLES: &str = "\
Examples:
  ublk-ramdisk rules 0 add 'slow: read 10%: delay 5ms'
  ublk-ramdisk rules 0 add 'write @ sector 2048-4095 once: error EIO'
  ublk-ramdisk rules 0 add 'stall: flush: hang'
  ublk-ramdisk rules 0 release stall                 what it holds goes on, the rule stays
  ublk-ramdisk rules 0 del stall                     the same, and the rule is gone";

/// `rules`
#[derive(Debug, Args)]
pub struct RulesArgs {
    /// Disk with the rules: its name, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: u32,
    #[command(subcommand)]
    pub verb: Option<RulesVerb>,
}

/// What is done with the rules.
#[derive(Debug, Subcommand)]
pub enum RulesVerb {
    /// Print them
    List,
    /// Add rules behind the others
    Add {
        /// Rules: [NAME:] SELECTORS: ACTION
        #[arg(value_name = "RULE", value_parser = Rule::typed, required = true)]
        rules: Vec<Rule>,
    },
    /// Take rules away; what they hold goes on
    Del {
        /// Their names
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Take all rules away
    Clear,
    /// Let go of the requests that a rule holds
    Release {
        /// Its name
        name: String,
    },
}
