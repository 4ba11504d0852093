// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules for a disk's memory: its limit, how long writes wait for some, and what is taken back
//! (E2, E14, E22, E26).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Backing, HUGE_PAGE};
use crate::error::Failure;
use crate::ramdisk::space::SpaceOptions;
use crate::ramdisk::{Patience, DEFAULT_PATIENCE};

/// Linux reports tasks that hang for longer than this many seconds (E26).
pub const HUNG_TASK: u64 = 120;
/// No time is longer, in seconds: a year.
const LONGEST: u64 = 365 * 24 * 3600;
/// Memory of a server beside the disk and the buffers of its requests, generously.
const SERVER: u64 = 16 << 20;

/// What is taken back from a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reclaim {
    /// What is discarded, and no more.
    Off,
    /// Pages that hold only zeros.
    Zero,
}

/// What a user is told who asks for compression.
pub const NO_COMPRESSION: &str =
    "compression was removed: use the kernel's zram for a compressed RAM disk";

/// As asked for: numbers are read, but not yet judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpaceRequest {
    /// Bytes the disk may use; 0 and none for no limit.
    pub memory_limit: Option<u64>,
    /// All memory is made before the disk is there.
    pub preallocate: bool,
    /// Seconds that requests wait; 0 for ever.
    pub no_space_timeout: Option<u64>,
    /// They do not wait.
    pub error_if_no_space: bool,
    /// What is taken back.
    pub reclaim: Option<Reclaim>,
    /// Seconds between two looks beside those when memory is short.
    pub reclaim_every: Option<u64>,
    /// A longer wait than [`HUNG_TASK`] is meant.
    pub force: bool,
}

/// Checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpaceConfig {
    /// Bytes the disk may use, its tables included; 0 for no limit.
    pub memory_limit: u64,
    /// All memory is made before the disk is there.
    pub preallocate: bool,
    /// Seconds that requests wait when there is no memory; 0 not at all, none for ever.
    pub no_space_timeout: Option<u64>,
    /// What is taken back.
    pub reclaim: Reclaim,
    /// Seconds between two looks beside those when memory is short.
    pub reclaim_every: Option<u64>,
}

impl Default for SpaceConfig {
    fn default() -> Self {
        Self {
            memory_limit: 0,
            preallocate: false,
            no_space_timeout: default_timeout(),
            reclaim: Reclaim::Zero,
            reclaim_every: None,
        }
    }
}

fn default_timeout() -> Option<u64> {
    match DEFAULT_PATIENCE {
        Patience::For(time) => Some(time.as_secs()),
        Patience::Forever => None,
    }
}

/// Seconds of `--no-space-timeout` and the flag beside it, judged (E22, E26).
pub fn check_timeout(
    timeout: Option<u64>,
    error_if_no_space: bool,
    force: bool,
) -> Result<Option<u64>, Failure> {
    match (timeout, error_if_no_space) {
        (Some(seconds), true) => Err(Failure::usage(format!(
            "--no-space-timeout {seconds} contradicts --error-if-no-space, which does not wait"
        ))),
        (None, true) => Ok(Some(0)),
        (Some(seconds), false) if seconds > LONGEST => Err(Failure::usage(format!(
            "--no-space-timeout {seconds} is more than a year; give 0 to wait for ever"
        ))),
        (Some(seconds), false) if seconds > HUNG_TASK && !force => Err(Failure::usage(format!(
            "--no-space-timeout {seconds} is more than {HUNG_TASK} seconds, after which Linux \
             reports tasks as hung; give --force if that is meant"
        ))),
        (Some(0), false) => Ok(None),
        (Some(seconds), false) => Ok(Some(seconds)),
        (None, false) => Ok(default_timeout()),
    }
}

/// The patience that a checked number of seconds stands for.
pub fn patience(no_space_timeout: Option<u64>) -> Patience {
    no_space_timeout.map_or(Patience::Forever, |seconds| {
        Patience::For(Duration::from_secs(seconds))
    })
}

/// Bytes of a disk's tables, and the least it can be given beside them.
fn tables_and_page(size: u64, backing: &Backing) -> (u64, u64) {
    let page = match backing {
        Backing::Hugetlb => HUGE_PAGE,
        Backing::Memfd | Backing::Tmpfs(_) => 4096,
    };
    (size.div_ceil(page) * 4, page)
}

/// The limit of a disk of this size, judged: 0 for none. One that is larger than the disk is as
/// good as the disk.
pub fn check_limit(limit: u64, size: u64, backing: &Backing) -> Result<u64, Failure> {
    let (tables, page) = tables_and_page(size, backing);
    if limit == 0 {
        return Ok(0);
    }
    if limit < tables + page {
        return Err(Failure::usage(format!(
            "--memory-limit {limit} is too little for a disk of {size} bytes: its tables take \
             {tables} bytes and a page {page}; give {} or more",
            tables + page
        )));
    }
    Ok(if limit >= size { size + tables } else { limit })
}

impl SpaceConfig {
    /// Judges what was asked for a disk of this size.
    pub fn check(asked: &SpaceRequest, size: u64, backing: &Backing) -> Result<Self, Failure> {
        let otherwise = match asked.preallocate {
            true => Reclaim::Off,
            false => Reclaim::Zero,
        };
        let reclaim = asked.reclaim.unwrap_or(otherwise);
        let limit = asked.memory_limit.unwrap_or(0);
        let memory_limit = check_limit(limit, size, backing)?;
        if asked.preallocate {
            if memory_limit != 0 && memory_limit < size {
                return Err(Failure::usage(format!(
                    "--preallocate takes {size} bytes, which contradicts --memory-limit \
                     {memory_limit}"
                )));
            }
            if reclaim != Reclaim::Off || asked.reclaim_every.is_some() {
                let other = match asked.reclaim_every {
                    Some(_) => "--reclaim-every",
                    None => "--reclaim zero",
                };
                return Err(Failure::usage(format!(
                    "{other} contradicts --preallocate: it would give back what that takes"
                )));
            }
        }
        if asked.reclaim == Some(Reclaim::Off) && asked.reclaim_every.is_some() {
            return Err(Failure::usage("--reclaim-every contradicts --reclaim off"));
        }
        if asked.reclaim_every == Some(0) {
            return Err(Failure::usage(
                "--reclaim-every 0: give a number of seconds, or leave it out",
            ));
        }
        if let Some(seconds) = asked.reclaim_every.filter(|seconds| *seconds > LONGEST) {
            return Err(Failure::usage(format!(
                "--reclaim-every {seconds} is more than a year; leave it out"
            )));
        }
        Ok(Self {
            memory_limit,
            preallocate: asked.preallocate,
            no_space_timeout: check_timeout(
                asked.no_space_timeout,
                asked.error_if_no_space,
                asked.force,
            )?,
            reclaim,
            reclaim_every: asked.reclaim_every,
        })
    }

    /// What the driver is made with.
    pub fn options(&self) -> SpaceOptions {
        SpaceOptions {
            patience: patience(self.no_space_timeout),
            reclaim: self.reclaim != Reclaim::Off,
            reclaim_every: self.reclaim_every.map(Duration::from_secs),
        }
    }

    /// What the disk may use and the server needs beside it must fit into the cgroup (E14): else
    /// it would be killed instead of a write being refused. Without a limit nothing is promised,
    /// unless all of it is taken at once. `buffers` are those of the requests.
    pub fn fits(&self, size: u64, buffers: u64, memory_max: Option<u64>) -> Result<(), Failure> {
        let (option, budget) = match self.memory_limit {
            _ if self.preallocate => ("--preallocate", size),
            0 => return Ok(()),
            limit => ("--memory-limit", limit),
        };
        let needed = budget.saturating_add(buffers).saturating_add(SERVER);
        match memory_max {
            Some(available) if needed > available => Err(Failure::environment(format!(
                "{option}: {needed} bytes needed, {budget} for the disk and {} for the server, \
                 {available} available: memory.max of this cgroup",
                needed - budget
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    const GIB: u64 = 1 << 30;

    fn check(asked: &SpaceRequest) -> Result<SpaceConfig, Failure> {
        SpaceConfig::check(asked, GIB, &Backing::Memfd)
    }

    #[track_caller]
    fn refused(asked: &SpaceRequest, parts: &[&str]) {
        let failure = check(asked).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{failure}");
        for part in parts {
            assert!(failure.message.contains(part), "{part}: {failure}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_a_config_without_them() {
        assert_eq!(
            check(&SpaceRequest::default()).unwrap(),
            SpaceConfig::default()
        );
        assert_eq!(SpaceConfig::default().options(), SpaceOptions::default());
    }

    #[test]
    fn l1_a_limit_is_at_least_a_page_and_at_most_the_disk() {
        let limit = |bytes| SpaceRequest {
            memory_limit: Some(bytes),
            ..SpaceRequest::default()
        };
        let least = GIB / 1024 + 4096;
        for bytes in [1, 4096, least - 1] {
            refused(
                &limit(bytes),
                &["--memory-limit", &bytes.to_string(), &least.to_string()],
            );
        }
        assert_eq!(check(&limit(least)).unwrap().memory_limit, least);
        assert_eq!(check(&limit(0)).unwrap().memory_limit, 0);
        // All of it, and the tables.
        assert_eq!(
            check(&limit(5 * GIB)).unwrap().memory_limit,
            GIB + GIB / 1024
        );
        let huge = check_limit(GIB / 2, GIB, &Backing::Hugetlb).unwrap();
        assert_eq!(huge, GIB / 2);
        assert!(check_limit(HUGE_PAGE, GIB, &Backing::Hugetlb).is_err());
    }

    #[test]
    fn l1_what_contradicts_is_named_in_pairs() {
        let base = SpaceRequest::default;
        refused(
            &SpaceRequest {
                preallocate: true,
                memory_limit: Some(GIB / 2),
                ..base()
            },
            &["--preallocate", "--memory-limit"],
        );
        refused(
            &SpaceRequest {
                preallocate: true,
                reclaim: Some(Reclaim::Zero),
                ..base()
            },
            &["--preallocate", "--reclaim zero"],
        );
        refused(
            &SpaceRequest {
                preallocate: true,
                reclaim_every: Some(5),
                ..base()
            },
            &["--preallocate", "--reclaim-every"],
        );
        refused(
            &SpaceRequest {
                reclaim: Some(Reclaim::Off),
                reclaim_every: Some(5),
                ..base()
            },
            &["--reclaim off", "--reclaim-every"],
        );
        refused(
            &SpaceRequest {
                no_space_timeout: Some(5),
                error_if_no_space: true,
                ..base()
            },
            &["--no-space-timeout", "--error-if-no-space"],
        );
        refused(
            &SpaceRequest {
                reclaim_every: Some(0),
                ..base()
            },
            &["--reclaim-every 0"],
        );
    }

    #[test]
    fn e26_more_than_two_minutes_have_to_be_meant() {
        assert_eq!(check_timeout(Some(120), false, false).unwrap(), Some(120));
        let failure = check_timeout(Some(121), false, false).unwrap_err();
        assert!(failure.message.contains("--force"), "{failure}");
        assert_eq!(check_timeout(Some(121), false, true).unwrap(), Some(121));
        assert!(check_timeout(Some(u64::MAX), false, true).is_err());
        assert_eq!(
            check_timeout(Some(0), false, false).unwrap(),
            None,
            "for ever"
        );
        assert_eq!(check_timeout(None, true, false).unwrap(), Some(0));
        assert_eq!(patience(None), Patience::Forever);
    }

    #[test]
    fn e14_a_budget_above_the_cgroup_is_refused_with_both_numbers() {
        let config = SpaceConfig {
            memory_limit: GIB,
            ..SpaceConfig::default()
        };
        assert!(config.fits(4 * GIB, 0, None).is_ok());
        assert!(config.fits(4 * GIB, 0, Some(2 * GIB)).is_ok());
        let failure = config.fits(4 * GIB, 64 << 20, Some(GIB)).unwrap_err();
        assert_eq!(failure.exit, Exit::Environment);
        for part in ["--memory-limit", "memory.max", &GIB.to_string()] {
            assert!(failure.message.contains(part), "{part}: {failure}");
        }
        let thin = SpaceConfig::default();
        assert!(
            thin.fits(4 * GIB, 0, Some(GIB)).is_ok(),
            "nothing is promised"
        );
        let all = SpaceConfig {
            preallocate: true,
            ..thin
        };
        assert!(all.fits(4 * GIB, 0, Some(GIB)).is_err());
    }
}
