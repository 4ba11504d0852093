// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules for a disk's memory: its limit, how long writes wait for some, and what is taken back
//! (E2, E14, E22, E26).

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{Backing, HUGE_PAGE};
use crate::error::Failure;
use crate::ramdisk::space::SpaceOptions;
use crate::ramdisk::{NoSpaceTimeout, DEFAULT_NO_SPACE_TIMEOUT};
use crate::units::{or_off, size, whole_seconds, OrOff};

/// Linux reports tasks that hang for longer than this many seconds (E26).
pub const HUNG_TASK: u64 = 120;
/// No time is longer, in seconds: a year.
const LONGEST: u64 = 365 * 24 * 3600;
/// Memory of a server beside the disk and the buffers of its requests, generously.
const SERVER: u64 = 16 << 20;

/// Which memory the store gives back to the system by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reclaim {
    /// None; only what a client discards is given back.
    Off,
    /// Pages that hold only zeros.
    Zero,
}

/// What the first write to a page does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FirstWrite {
    /// It makes the page while there is plenty of memory.
    #[default]
    Inline,
    /// It is BUSY until a work item has made the page.
    Busy,
}

/// What a user is told who asks for compression.
const NO_COMPRESSION: &str =
    "compression was removed: use the kernel's zram for a compressed RAM disk";

/// The rules for a disk's memory that can be changed while it lives: typed at `add`, `set` and
/// `sim`. What is none stays as it is.
#[derive(Args, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryOptions {
    /// Memory the disk may use, its tables included; `off` for no limit
    ///
    /// A disk may be larger than its limit. A write that would need more waits, while reads,
    /// overwrites, discards and flushes go on; see --no-space-timeout for how long. A lower limit
    /// of a running disk takes nothing away; with a higher one, writes that wait go on.
    ///
    /// Whatever the limit, twice min_free_kbytes and 16M are left to the machine and 4M to each
    /// control group of the server; a write that would need some of that waits as well. `stats`
    /// shows what is available above this reserve. A `sim` does not look at it.
    #[arg(long, value_name = "SIZE|off", value_parser = or_off(size), allow_hyphen_values = true)]
    pub memory_limit: Option<OrOff<u64>>,
    /// How long writes wait when there is no memory and nothing can be freed; `off` for ever
    /// [default: 60s]
    ///
    /// After that they end with "No space left on device", and so do new ones at once, until
    /// memory is free again. Changed on a running disk, it counts from when memory ran out. More
    /// than 120s needs --force: Linux reports tasks that hang so long.
    #[arg(long, value_name = "TIME|off", value_parser = or_off(whole_seconds),
        allow_hyphen_values = true)]
    pub no_space_timeout: Option<OrOff<u64>>,
    /// Do not let writes wait when there is no memory: end them with "No space left on device"
    #[arg(long)]
    pub error_if_no_space: bool,
    /// What is taken back when memory is short: pages that hold only zeros (zero), or nothing (off)
    /// [default: zero; off with --preallocate]
    #[arg(long, value_name = "WHAT", value_parser = reclaim)]
    pub reclaim: Option<Reclaim>,
    /// Accept a --no-space-timeout above 120s
    #[arg(long)]
    pub force: bool,
}

/// The rules for a new disk's memory.
#[derive(Args, Debug, Clone, Default, PartialEq, Eq)]
pub struct NewMemoryOptions {
    /// Those that can be changed later.
    #[command(flatten)]
    pub rules: MemoryOptions,
    /// Take all memory of the disk before it is there
    ///
    /// Otherwise a page is made by the first write to it.
    #[arg(long)]
    pub preallocate: bool,
    /// What the first write to a page does: it makes the page while there is plenty of memory
    /// (inline), or always waits until a work item has made it (busy)
    ///
    /// There is plenty while a twentieth of the machine's memory and 64M are available, and 64M to
    /// each control group of the server. A `sim` and a disk of --backing hugetlb always wait.
    #[arg(long, value_name = "HOW", default_value = "inline")]
    pub first_write: FirstWrite,
    /// Look for what --reclaim says at this interval too, not only when memory is short
    ///
    /// Each look reads all memory of the disk.
    #[arg(long, value_name = "TIME", value_parser = whole_seconds, allow_hyphen_values = true)]
    pub reclaim_every: Option<u64>,
}

fn reclaim(text: &str) -> Result<Reclaim, String> {
    match text {
        "off" => Ok(Reclaim::Off),
        "zero" => Ok(Reclaim::Zero),
        "compress" => Err(NO_COMPRESSION.to_owned()),
        _ => Err("expected zero or off".to_owned()),
    }
}

/// The rules in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpaceConfig {
    /// Bytes the disk may use, its tables included; 0 for no limit.
    pub memory_limit: u64,
    /// All memory is made before the disk is there.
    pub preallocate: bool,
    /// What the first write to a page does.
    pub first_write: FirstWrite,
    /// Seconds that requests wait when there is no memory; 0 not at all, none for ever.
    pub no_space_timeout: Option<u64>,
    /// What is taken back.
    pub reclaim: Reclaim,
    /// Seconds between two searches for memory to give back, beside those when memory is short.
    pub reclaim_every: Option<u64>,
}

impl Default for SpaceConfig {
    fn default() -> Self {
        Self {
            memory_limit: 0,
            preallocate: false,
            first_write: FirstWrite::Inline,
            no_space_timeout: default_timeout(),
            reclaim: Reclaim::Zero,
            reclaim_every: None,
        }
    }
}

/// In seconds; none for ever.
fn default_timeout() -> Option<u64> {
    match DEFAULT_NO_SPACE_TIMEOUT {
        NoSpaceTimeout::After(time) => Some(time.as_secs()),
        NoSpaceTimeout::Never => None,
    }
}

/// How long writes wait, by `--no-space-timeout`.
pub fn timeout_of(no_space_timeout: Option<u64>) -> NoSpaceTimeout {
    no_space_timeout.map_or(NoSpaceTimeout::Never, |seconds| {
        NoSpaceTimeout::After(Duration::from_secs(seconds))
    })
}

/// Bytes of a disk's tables, and of one page, which it needs beside them.
fn tables_and_page(size: u64, backing: &Backing) -> (u64, u64) {
    let page = match backing {
        Backing::Hugetlb => HUGE_PAGE,
        Backing::Private(_) | Backing::Memfd | Backing::Tmpfs(_) => 4096,
    };
    // Four bytes of table for each page.
    (size.div_ceil(page) * 4, page)
}

/// Checks that a disk of this size can live with a limit in bytes, 0 for none. A limit above the size
/// stays as it is: it counts once the disk is larger (H8).
pub fn check_limit(limit: u64, size: u64, backing: &Backing) -> Result<(), Failure> {
    let (tables, page) = tables_and_page(size, backing);
    if limit != 0 && limit < tables + page {
        return Err(Failure::usage(format!(
            "--memory-limit {limit} is too little for a disk of {size} bytes: its tables take \
             {tables} bytes and a page {page}; give {} or more",
            tables + page
        )));
    }
    Ok(())
}

fn contradicts_preallocate(option: &str) -> Failure {
    Failure::usage(format!(
        "{option} contradicts --preallocate, which takes all memory of the disk"
    ))
}

impl MemoryOptions {
    /// Judges what can be judged without the disk.
    pub fn check(&self) -> Result<(), Failure> {
        let Some(OrOff::To(seconds)) = self.no_space_timeout else {
            return Ok(());
        };
        let refused = |why: String| Err(Failure::usage(format!("--no-space-timeout {why}")));
        if self.error_if_no_space {
            return refused(format!(
                "{seconds} contradicts --error-if-no-space, which does not wait"
            ));
        }
        if seconds > LONGEST {
            return refused(format!(
                "{seconds} is more than a year; give off to wait for ever"
            ));
        }
        if seconds > HUNG_TASK && !self.force {
            return refused(format!(
                "{seconds} is more than {HUNG_TASK} seconds, after which Linux reports tasks as \
                 hung; give --force if that is meant"
            ));
        }
        Ok(())
    }

    /// The rules for a disk of this size (bytes) with these options on top of `config`, those in
    /// force.
    pub fn applied_to(
        &self,
        config: &SpaceConfig,
        size: u64,
        backing: &Backing,
    ) -> Result<SpaceConfig, Failure> {
        self.check()?;
        let mut new = config.clone();
        if let Some(reclaim) = self.reclaim {
            if config.preallocate && reclaim == Reclaim::Zero {
                return Err(contradicts_preallocate("--reclaim zero"));
            }
            new.reclaim = reclaim;
        }
        // Judged only when it is changed: what is in force has been judged.
        if let Some(limit) = self.memory_limit {
            new.memory_limit = limit.value().unwrap_or(0);
            new.check_size(size, backing)?;
        }
        match self.no_space_timeout {
            // A 0 that is typed means for ever (E22). In the config 0 stands for --error-if-no-space.
            _ if self.error_if_no_space => new.no_space_timeout = Some(0),
            None => {}
            Some(OrOff::Off | OrOff::To(0)) => new.no_space_timeout = None,
            Some(OrOff::To(seconds)) => new.no_space_timeout = Some(seconds),
        }
        Ok(new)
    }
}

impl SpaceConfig {
    /// Judges what was asked for a new disk of this size.
    pub fn check(asked: &NewMemoryOptions, size: u64, backing: &Backing) -> Result<Self, Failure> {
        let every = asked.reclaim_every;
        if asked.preallocate && every.is_some() {
            return Err(contradicts_preallocate("--reclaim-every"));
        }
        if asked.rules.reclaim == Some(Reclaim::Off) && every.is_some() {
            return Err(Failure::usage("--reclaim-every contradicts --reclaim off"));
        }
        if let Some(seconds) = every.filter(|seconds| !(1..=LONGEST).contains(seconds)) {
            return Err(Failure::usage(format!(
                "--reclaim-every {seconds} is outside 1..={LONGEST} seconds; leave it out"
            )));
        }
        let new = Self {
            preallocate: asked.preallocate,
            first_write: asked.first_write,
            // Memory that was taken in advance is not given back by itself.
            reclaim: match asked.preallocate {
                true => Reclaim::Off,
                false => Reclaim::Zero,
            },
            reclaim_every: every,
            ..Self::default()
        };
        asked.rules.applied_to(&new, size, backing)
    }

    /// Judges a size of the disk by the limit: at `add`, when the limit is set, and at `resize`.
    pub fn check_size(&self, size: u64, backing: &Backing) -> Result<(), Failure> {
        let limit = self.memory_limit;
        check_limit(limit, size, backing)?;
        if self.preallocate && limit != 0 && limit < size {
            return Err(contradicts_preallocate(&format!(
                "--memory-limit {limit}, less than the size of {size} bytes,"
            )));
        }
        Ok(())
    }

    /// What the driver is made with.
    pub fn options(&self) -> SpaceOptions {
        SpaceOptions {
            no_space_timeout: timeout_of(self.no_space_timeout),
            reclaim: self.reclaim != Reclaim::Off,
            reclaim_every: self.reclaim_every.map(Duration::from_secs),
            at_once: self.first_write == FirstWrite::Inline,
        }
    }

    /// Checks that the disk's limit and the server's own memory fit into the cgroup (E14): else the
    /// server would be killed before a write is refused. A disk with neither limit nor
    /// --preallocate is not checked. `buffers`: bytes of the requests' buffers.
    pub fn fits(
        &self,
        size: u64,
        backing: &Backing,
        buffers: u64,
        memory_max: Option<u64>,
    ) -> Result<(), Failure> {
        let (option, budget) = match self.memory_limit {
            _ if self.preallocate => ("--preallocate", size),
            0 => return Ok(()),
            // No disk uses more than all of its pages and tables.
            limit => {
                let (tables, _) = tables_and_page(size, backing);
                ("--memory-limit", limit.min(size.saturating_add(tables)))
            }
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

    fn check(asked: &NewMemoryOptions) -> Result<SpaceConfig, Failure> {
        SpaceConfig::check(asked, GIB, &Backing::Memfd)
    }

    fn new(rules: MemoryOptions) -> NewMemoryOptions {
        NewMemoryOptions {
            rules,
            ..NewMemoryOptions::default()
        }
    }

    fn limit(bytes: u64) -> MemoryOptions {
        MemoryOptions {
            memory_limit: Some(OrOff::To(bytes)),
            ..MemoryOptions::default()
        }
    }

    fn timeout(seconds: u64) -> MemoryOptions {
        MemoryOptions {
            no_space_timeout: Some(OrOff::To(seconds)),
            ..MemoryOptions::default()
        }
    }

    fn reclaim(reclaim: Reclaim) -> MemoryOptions {
        MemoryOptions {
            reclaim: Some(reclaim),
            ..MemoryOptions::default()
        }
    }

    fn preallocated(rules: MemoryOptions) -> NewMemoryOptions {
        NewMemoryOptions {
            preallocate: true,
            ..new(rules)
        }
    }

    #[track_caller]
    fn refused<T: std::fmt::Debug>(judged: Result<T, Failure>, parts: &[&str]) {
        let failure = judged.unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{failure}");
        for part in parts {
            assert!(failure.message.contains(part), "{part}: {failure}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_a_config_without_them() {
        let config = check(&NewMemoryOptions::default()).unwrap();
        assert_eq!(config, SpaceConfig::default());
        assert_eq!(config.options(), SpaceOptions::default());
    }

    #[test]
    fn l1_h08_a_limit_is_at_least_a_page_and_stays_as_it_was_typed() {
        let least = GIB / 1024 + 4096;
        for bytes in [1, 4096, least - 1] {
            let parts = ["--memory-limit", &bytes.to_string(), &least.to_string()];
            refused(check(&new(limit(bytes))), &parts);
        }
        let checked = |bytes| check(&new(limit(bytes))).unwrap().memory_limit;
        assert_eq!((checked(least), checked(0)), (least, 0));
        assert_eq!(checked(5 * GIB), 5 * GIB, "it counts at every size");
        assert!(check_limit(GIB / 2, GIB, &Backing::Hugetlb).is_ok());
        assert!(check_limit(HUGE_PAGE, GIB, &Backing::Hugetlb).is_err());
        // At another size, as `resize` asks.
        let limited = check(&new(limit(GIB / 16))).unwrap();
        assert!(limited.check_size(32 * GIB, &Backing::Memfd).is_ok());
        let tables = (512 * GIB / 1024).to_string();
        let parts = [&(GIB / 16).to_string()[..], &tables];
        refused(limited.check_size(512 * GIB, &Backing::Memfd), &parts);
        let all = check(&preallocated(limit(2 * GIB))).unwrap();
        assert!(all.check_size(2 * GIB, &Backing::Memfd).is_ok());
        let parts = [
            "--preallocate",
            &(2 * GIB).to_string(),
            &(3 * GIB).to_string(),
        ];
        refused(all.check_size(3 * GIB, &Backing::Memfd), &parts);
    }

    #[test]
    fn l1_what_contradicts_is_named_in_pairs() {
        for (asked, other) in [
            (preallocated(limit(GIB / 2)), "--memory-limit"),
            (preallocated(reclaim(Reclaim::Zero)), "--reclaim zero"),
            (
                NewMemoryOptions {
                    reclaim_every: Some(5),
                    ..preallocated(MemoryOptions::default())
                },
                "--reclaim-every",
            ),
        ] {
            refused(check(&asked), &["--preallocate", other]);
        }
        let every = |seconds, rules| NewMemoryOptions {
            reclaim_every: Some(seconds),
            ..new(rules)
        };
        let never = every(5, reclaim(Reclaim::Off));
        refused(check(&never), &["--reclaim off", "--reclaim-every"]);
        refused(
            check(&every(0, MemoryOptions::default())),
            &["--reclaim-every 0"],
        );
        let both = MemoryOptions {
            error_if_no_space: true,
            ..timeout(5)
        };
        refused(both.check(), &["--no-space-timeout", "--error-if-no-space"]);
    }

    #[test]
    fn e26_more_than_two_minutes_have_to_be_meant() {
        assert!(timeout(120).check().is_ok());
        refused(timeout(121).check(), &["--force"]);
        let forced = |seconds| MemoryOptions {
            force: true,
            ..timeout(seconds)
        };
        assert!(forced(121).check().is_ok());
        refused(forced(u64::MAX).check(), &["a year"]);
        assert_eq!(timeout_of(None), NoSpaceTimeout::Never);
    }

    #[test]
    fn e06_options_keep_what_they_do_not_name() {
        let config = SpaceConfig {
            memory_limit: GIB / 2,
            ..SpaceConfig::default()
        };
        let apply = |options: MemoryOptions| {
            let new = options.applied_to(&config, GIB, &Backing::Memfd).unwrap();
            (new.memory_limit, new.no_space_timeout)
        };
        let kept = config.no_space_timeout;
        assert_eq!(apply(MemoryOptions::default()), (GIB / 2, kept));
        assert_eq!(apply(timeout(5)), (GIB / 2, Some(5)));
        assert_eq!(apply(timeout(0)), (GIB / 2, None), "for ever");
        assert_eq!(apply(limit(0)), (0, kept));
        let at_once = MemoryOptions {
            memory_limit: Some(OrOff::Off),
            error_if_no_space: true,
            ..MemoryOptions::default()
        };
        assert_eq!(apply(at_once), (0, Some(0)));
    }

    #[test]
    fn e14_a_budget_above_the_cgroup_is_refused_with_both_numbers() {
        let fits = |config: &SpaceConfig, buffers, memory_max| {
            config.fits(4 * GIB, &Backing::Memfd, buffers, memory_max)
        };
        let config = SpaceConfig {
            memory_limit: GIB,
            ..SpaceConfig::default()
        };
        assert!(fits(&config, 0, None).is_ok());
        assert!(fits(&config, 0, Some(2 * GIB)).is_ok());
        let failure = fits(&config, 64 << 20, Some(GIB)).unwrap_err();
        assert_eq!(failure.exit, Exit::Environment);
        for part in ["--memory-limit", "memory.max", &GIB.to_string()] {
            assert!(failure.message.contains(part), "{part}: {failure}");
        }
        let ample = SpaceConfig {
            memory_limit: 64 * GIB,
            ..SpaceConfig::default()
        };
        assert!(
            fits(&ample, 0, Some(5 * GIB)).is_ok(),
            "never uses that much memory"
        );
        let thin = SpaceConfig::default();
        assert!(fits(&thin, 0, Some(GIB)).is_ok(), "nothing is promised");
        let all = SpaceConfig {
            preallocate: true,
            ..thin
        };
        assert!(fits(&all, 0, Some(GIB)).is_err());
    }
}
