// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may be changed of a disk's memory rules while it lives: its limit, and how long writes wait
//! when there is no memory (E6, E22).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::space::{check_limit, check_timeout, Reclaim, SpaceConfig};
use super::Backing;
use crate::error::Failure;
use crate::mq::TIMED_OF;
use crate::pressure::{Change, Settings};

/// What is to be changed, judged as far as it can be without the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpaceChanges {
    /// Bytes the disk may use.
    pub memory_limit: Change<u64>,
    /// Seconds that writes wait when there is no memory: 0 not at all, off for ever.
    pub no_space_timeout: Change<u64>,
    /// What is taken back.
    pub reclaim: Option<Reclaim>,
}

impl SpaceChanges {
    /// Judges what was typed: the limit, `--no-space-timeout`, `--error-if-no-space` and `--force`.
    pub fn check(
        memory_limit: Option<Change<u64>>,
        timeout: Option<u64>,
        error_if_no_space: bool,
        force: bool,
    ) -> Result<Self, Failure> {
        let no_space_timeout = match (timeout, error_if_no_space) {
            (None, false) => Change::Keep,
            _ => match check_timeout(timeout, error_if_no_space, force)? {
                Some(seconds) => Change::To(seconds),
                None => Change::Off,
            },
        };
        Ok(Self {
            memory_limit: match memory_limit {
                None => Change::Keep,
                Some(Change::To(0)) => Change::Off,
                Some(change) => change,
            },
            no_space_timeout,
            ..Self::default()
        })
    }

    /// Is there nothing to change?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The rules that come of it for a disk of this size. Those of `config` hold until then.
    pub fn applied_to(
        &self,
        config: &SpaceConfig,
        size: u64,
        backing: &Backing,
    ) -> Result<SpaceConfig, Failure> {
        let mut new = config.clone();
        let reclaim = self.reclaim.unwrap_or(config.reclaim);
        if config.preallocate && reclaim != Reclaim::Off && self.reclaim.is_some() {
            return Err(Failure::usage(
                "--reclaim contradicts --preallocate, with which this disk was made: it would give \
                 back what that has taken",
            ));
        }
        new.reclaim = reclaim;
        match self.memory_limit {
            Change::Keep => {}
            Change::Off => new.memory_limit = 0,
            Change::To(limit) => {
                new.memory_limit = check_limit(limit, size, backing)?;
                if config.preallocate && new.memory_limit != 0 && new.memory_limit < size {
                    return Err(Failure::usage(format!(
                        "--memory-limit {limit} contradicts --preallocate, which has taken all \
                         {size} bytes of this disk"
                    )));
                }
            }
        }
        match self.no_space_timeout {
            Change::Keep => {}
            Change::Off => new.no_space_timeout = None,
            Change::To(seconds) => new.no_space_timeout = Some(seconds),
        }
        Ok(new)
    }
}

/// What `set` shows: everything that it can change, as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The pressure.
    #[serde(flatten)]
    pub pressure: Settings,
    /// Bytes the disk may use, its tables included; none for no limit.
    pub memory_limit: Option<u64>,
    /// Seconds that writes wait when there is no memory: 0 not at all, none for ever.
    pub no_space_timeout: Option<u64>,
    /// What is taken back.
    pub reclaim: Reclaim,
    /// Of so many requests one is timed, 0 for none.
    pub latency_sample: u32,
}

impl InForce {
    /// Of a disk with these.
    pub fn new(pressure: Settings, space: &SpaceConfig, latency_sample: u32) -> Self {
        Self {
            pressure,
            memory_limit: Some(space.memory_limit).filter(|limit| *limit > 0),
            no_space_timeout: space.no_space_timeout,
            reclaim: space.reclaim,
            latency_sample,
        }
    }
}

impl fmt::Display for InForce {
    /// As options, in one line; `none` if nothing differs from a disk that was given none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if self.pressure != Settings::default() {
            words.push(self.pressure.to_string());
        }
        if let Some(limit) = self.memory_limit {
            words.push(format!("memory-limit {limit}"));
        }
        if self.no_space_timeout != SpaceConfig::default().no_space_timeout {
            words.push(match self.no_space_timeout {
                Some(0) => "error-if-no-space".to_owned(),
                Some(seconds) => format!("no-space-timeout {seconds}"),
                None => "no-space-timeout 0".to_owned(),
            });
        }
        if self.reclaim == Reclaim::Off {
            words.push("reclaim off".to_owned());
        }
        if self.latency_sample != TIMED_OF {
            words.push(format!("latency-sample {}", self.latency_sample));
        }
        if words.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    const GIB: u64 = 1 << 30;

    fn checked(limit: Option<Change<u64>>, timeout: Option<u64>, error: bool) -> SpaceChanges {
        SpaceChanges::check(limit, timeout, error, false).expect("nothing is wrong")
    }

    #[test]
    fn e06_changes_keep_what_they_do_not_name() {
        let config = SpaceConfig {
            memory_limit: GIB / 2,
            ..SpaceConfig::default()
        };
        let apply = |changes: &SpaceChanges| changes.applied_to(&config, GIB, &Backing::Memfd);
        assert!(checked(None, None, false).is_empty());
        assert_eq!(apply(&SpaceChanges::default()).unwrap(), config);
        let new = apply(&checked(None, Some(5), false)).unwrap();
        assert_eq!((new.memory_limit, new.no_space_timeout), (GIB / 2, Some(5)));
        let new = apply(&checked(Some(Change::To(0)), None, true)).unwrap();
        assert_eq!((new.memory_limit, new.no_space_timeout), (0, Some(0)));
        let new = apply(&checked(Some(Change::Off), Some(0), false)).unwrap();
        assert_eq!((new.memory_limit, new.no_space_timeout), (0, None));
        let new = apply(&checked(Some(Change::To(5 * GIB)), None, false)).unwrap();
        assert_eq!(new.memory_limit, GIB + GIB / 1024, "all of it");
    }

    #[test]
    fn l1_what_the_disk_cannot_have_is_refused() {
        let refused = |config: &SpaceConfig, limit| {
            let changes = checked(Some(Change::To(limit)), None, false);
            let refused = changes.applied_to(config, GIB, &Backing::Memfd);
            let failure = refused.unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            failure.message
        };
        assert!(refused(&SpaceConfig::default(), 4096).contains("--memory-limit 4096"));
        let all = SpaceConfig {
            preallocate: true,
            ..SpaceConfig::default()
        };
        let message = refused(&all, GIB / 2);
        assert!(message.contains("--preallocate") && message.contains("--memory-limit"));
        let zeros = SpaceChanges {
            reclaim: Some(Reclaim::Zero),
            ..SpaceChanges::default()
        };
        let failure = zeros.applied_to(&all, GIB, &Backing::Memfd).unwrap_err();
        assert!(failure.message.contains("--preallocate"), "{failure}");
        for (timeout, error, part) in [(121, false, "--force"), (5, true, "--error-if-no-space")] {
            let failure = SpaceChanges::check(None, Some(timeout), error, false).unwrap_err();
            assert!(failure.message.contains(part), "{failure}");
        }
    }

    #[test]
    fn e19_reclaim_begins_and_ends_on_a_live_disk() {
        let mut config = SpaceConfig::default();
        for (reclaim, said) in [(Reclaim::Off, "reclaim off"), (Reclaim::Zero, "none")] {
            let changes = SpaceChanges {
                reclaim: Some(reclaim),
                ..SpaceChanges::default()
            };
            assert!(!changes.is_empty());
            config = changes.applied_to(&config, GIB, &Backing::Memfd).unwrap();
            assert_eq!(config.options().reclaim, reclaim == Reclaim::Zero);
            let in_force = InForce::new(Settings::default(), &config, TIMED_OF);
            assert_eq!(in_force.to_string(), said);
        }
    }

    #[test]
    fn what_is_in_force_is_said_in_a_line_and_read_back() {
        let timed = |limit, timeout, sample| {
            let space = SpaceConfig {
                memory_limit: limit,
                no_space_timeout: timeout,
                ..SpaceConfig::default()
            };
            let in_force = InForce::new(Settings::default(), &space, sample);
            let line = serde_json::to_string(&in_force).expect("an object");
            assert_eq!(serde_json::from_str::<InForce>(&line).unwrap(), in_force);
            in_force.to_string()
        };
        let said = |limit, timeout| timed(limit, timeout, TIMED_OF);
        assert_eq!(said(0, Some(60)), "none");
        assert_eq!(timed(0, Some(60), 0), "latency-sample 0");
        assert_eq!(said(4096, Some(5)), "memory-limit 4096, no-space-timeout 5");
        assert_eq!(said(0, None), "no-space-timeout 0");
        assert_eq!(said(0, Some(0)), "error-if-no-space");
    }
}
