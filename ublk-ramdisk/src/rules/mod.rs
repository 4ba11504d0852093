// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules: which requests a disk delays, fails, refuses, holds, corrupts or ignores on purpose (E29 to
//! E32).
//!
//! [`parse`] reads a rule as it is typed, [`rule`] is what it says and prints it again,
//! [`distribution`] draws delays, [`set`] looks up what the rules in force do with a request, and
//! [`kept`] has the counts of a rule outlive its server. [`crate::pressure`] carries out what a rule
//! says.
//!
//! | from the outside | other name |
//! |---|---|
//! | dm-delay | `delay` |
//! | dm-flakey, dm-dust, null_blk `badblocks` | `error` at a place |
//! | null_blk `requeue` | `busy or requeue` |
//! | null_blk `timeout` | `timeout` |

mod distribution;
mod kept;
mod parse;
mod rule;
mod set;

pub use distribution::{Distribution, MAX_DELAY};
pub use rule::{Action, Rule, Selectors, PER_CENT, SHARE_ALL};
pub use set::RuleStats;
pub(crate) use set::{Cells, Found, RuleSet};

/// Rules that a disk can have.
pub const MOST_RULES: usize = 64;
