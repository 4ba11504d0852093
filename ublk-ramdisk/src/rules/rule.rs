// SPDX-License-Identifier: MIT OR Apache-2.0
//! One rule: what it selects and what it does. It is printed as it was typed, and kept in files and
//! messages in that form.

use std::fmt;
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::Distribution;
use crate::mq::{Op, Request, Status};

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// Its name; empty until the disk gives it one.
    pub name: String,
    /// As it was typed, without the name.
    pub(super) text: String,
    /// The requests it is about.
    pub selectors: Selectors,
    /// What it does with them.
    pub action: Action,
}

/// The bits of all operations.
pub(super) const ANY: u8 = (1 << Op::NAMES.len()) - 1;

/// The bit of an operation.
pub(super) fn bit(op: Op) -> u8 {
    1 << op.index()
}

/// A share of one per cent.
pub const PER_CENT: u64 = 1_000_000_000;
/// A share of 100 per cent.
pub const SHARE_ALL: u64 = 100 * PER_CENT;

/// Which requests a rule is about. A request must fit all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selectors {
    /// A bit for each operation.
    pub ops: u8,
    /// Least and largest size in bytes.
    pub size: Option<(u64, u64)>,
    /// First byte of the place, and the first behind it.
    pub place: Option<(u64, u64)>,
    /// The share of them, in parts of [`SHARE_ALL`].
    pub share: u64,
    /// Requests at the beginning that are left alone.
    pub after: u64,
    /// Only each of this number.
    pub every: u64,
    /// Only the first of them.
    pub next: Option<u64>,
    /// The rule is used up after this many.
    pub times: Option<u64>,
    /// The rule ends when it has been in force for so long.
    pub window: Option<Duration>,
    /// Only while the driver has more requests than this.
    pub in_flight: Option<u64>,
}

impl Default for Selectors {
    /// Every request.
    fn default() -> Self {
        Self {
            ops: ANY,
            size: None,
            place: None,
            share: SHARE_ALL,
            after: 0,
            every: 1,
            next: None,
            times: None,
            window: None,
            in_flight: None,
        }
    }
}

impl Selectors {
    /// The bit of READ.
    pub const READ: u8 = 1;
    /// The bit of WRITE.
    pub const WRITE: u8 = 1 << 1;

    /// Does the request fit by itself, apart from counts, time and what else is in flight?
    pub(super) fn fit(&self, request: &Request) -> bool {
        let (offset, len) = (request.offset(), request.len());
        let is_inside = |(start, end)| offset < end && start < offset + len;
        self.ops & bit(request.op()) != 0
            && self
                .size
                .is_none_or(|(least, most)| (least..=most).contains(&len))
            && self.place.is_none_or(is_inside)
    }
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The request takes at least this long. Later rules are looked at, too.
    Delay(Distribution),
    /// It fails with the status. `partial`: what lies before the place is transferred.
    Error(Status, bool),
    /// RESOURCE.
    Busy,
    /// DEV_RESOURCE.
    BusyDev,
    /// It is accepted and requeued.
    Requeue,
    /// `busy` and `requeue` in turn, for each hardware queue.
    BusyOrRequeue,
    /// It is accepted and held, until the rule lets go of it.
    Hang,
    /// It is accepted and lost, until its timeout.
    Timeout,
    /// A bit of what it writes is stored wrong. Later rules are looked at, too.
    Corrupt,
    /// It is acknowledged, and nothing is done.
    Ignore,
}

/// The errno of a status by name, such as `EIO`.
pub(super) fn errno_name(status: Status) -> String {
    format!("{:?}", Errno::from_raw(status.errno()))
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() {
            write!(f, "{}: ", self.name)?;
        }
        f.write_str(&self.text)
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> String {
        rule.to_string()
    }
}

impl TryFrom<String> for Rule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
