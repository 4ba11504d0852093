// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options about the memory of a disk: how much, when, and what if there is none; of `add`, and
//! of `set` what can be changed while the disk lives.

use clap::Args;
use ublk_ramdisk::config::space::{Reclaim, SpaceRequest, NO_COMPRESSION};
use ublk_ramdisk::config::space_changes::SpaceChanges;
use ublk_ramdisk::error::Failure;
use ublk_ramdisk::pressure::Change;

use crate::parse::{size, size_or_off, whole};

/// How memory is made, limited and taken back.
#[derive(Debug, Args)]
pub struct SpaceArgs {
    /// Memory the disk may use, its tables included; 0 for no limit [default: no limit]
    ///
    /// A disk may be larger than its limit. A write that would need more waits, while reads,
    /// overwrites, discards and flushes go on; see --no-space-timeout for how long.
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    pub memory_limit: Option<u64>,
    /// Take all memory of the disk before it is there
    ///
    /// Otherwise the first write to a page waits until the page has been made.
    #[arg(long)]
    pub preallocate: bool,
    /// Seconds that writes wait when there is no memory and nothing can be freed, 0 for ever
    /// [default: 60]
    ///
    /// After that they end with "No space left on device", and so do new ones at once, until
    /// memory is free again. More than 120 needs --force: Linux reports tasks that hang so long.
    #[arg(long, value_name = "SECS", value_parser = whole, allow_hyphen_values = true)]
    pub no_space_timeout: Option<u64>,
    /// Do not let writes wait when there is no memory: end them with "No space left on device"
    #[arg(long)]
    pub error_if_no_space: bool,
    /// What is taken back when memory is short: `zero` for pages that hold only zeros, or `off`
    /// [default: zero; off with --preallocate]
    #[arg(long, value_name = "WHAT", value_parser = reclaim)]
    pub reclaim: Option<Reclaim>,
    /// Removed; refused with a line that says so
    #[arg(long = "compress-idle", hide = true, value_parser = gone)]
    #[arg(num_args = 0..=1, default_missing_value = "")]
    _compress_idle: Option<Reclaim>,
    /// Look for what --reclaim says every so many seconds too, not only when memory is short
    ///
    /// Each look reads all memory of the disk.
    #[arg(long, value_name = "SECS", value_parser = whole, allow_hyphen_values = true)]
    pub reclaim_every: Option<u64>,
    /// Accept a --no-space-timeout above 120
    #[arg(long)]
    pub force: bool,
}

/// Reads the value of `--reclaim`.
pub fn reclaim(text: &str) -> Result<Reclaim, String> {
    match text {
        "off" => Ok(Reclaim::Off),
        "zero" => Ok(Reclaim::Zero),
        "compress" => gone(text),
        _ => Err("expected off or zero".to_owned()),
    }
}

fn gone(_: &str) -> Result<Reclaim, String> {
    Err(NO_COMPRESSION.to_owned())
}

impl SpaceArgs {
    /// What was asked for, for `config/space.rs` to judge.
    pub fn request(&self) -> SpaceRequest {
        SpaceRequest {
            memory_limit: self.memory_limit,
            preallocate: self.preallocate,
            no_space_timeout: self.no_space_timeout,
            error_if_no_space: self.error_if_no_space,
            reclaim: self.reclaim,
            reclaim_every: self.reclaim_every,
            force: self.force,
        }
    }
}

/// What of it can be changed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Memory")]
pub struct SetSpaceArgs {
    /// Memory the disk may use, its tables included; `off` or 0 for no limit
    ///
    /// Less than what it uses takes nothing away: writes that need memory wait until use has fallen
    /// below the limit. With more, those that wait go on.
    #[arg(long, value_name = "SIZE|off", value_parser = size_or_off, allow_hyphen_values = true)]
    pub memory_limit: Option<Change<u64>>,
    /// Seconds that writes wait when there is no memory and nothing can be freed, 0 for ever
    ///
    /// Counts for those that wait already too, from when memory ran out. Where writes end with "No
    /// space left on device" they wait again. More than 120 needs --force.
    #[arg(long, value_name = "SECS", value_parser = whole, allow_hyphen_values = true)]
    pub no_space_timeout: Option<u64>,
    /// Do not let writes wait when there is no memory: end them with "No space left on device"
    #[arg(long)]
    pub error_if_no_space: bool,
    /// What is taken back when memory is short: `zero` for pages that hold only zeros, or `off`
    #[arg(long, value_name = "WHAT", value_parser = reclaim)]
    pub reclaim: Option<Reclaim>,
    /// Removed; refused with a line that says so
    #[arg(long = "compress-idle", hide = true, value_parser = gone)]
    #[arg(num_args = 0..=1, default_missing_value = "")]
    _compress_idle: Option<Reclaim>,
    /// Accept a --no-space-timeout above 120
    #[arg(long)]
    pub force: bool,
}

impl SetSpaceArgs {
    /// What is to be changed.
    pub fn changes(&self) -> Result<SpaceChanges, Failure> {
        let changes = SpaceChanges::check(
            self.memory_limit.clone(),
            self.no_space_timeout,
            self.error_if_no_space,
            self.force,
        )?;
        Ok(SpaceChanges {
            reclaim: self.reclaim,
            ..changes
        })
    }
}
