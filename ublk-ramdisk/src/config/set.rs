// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be changed on a running disk, and how the settings in force are printed (E6, E22).

use std::fmt;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::latency_sample;
use super::space::{MemoryOptions, Reclaim, SpaceConfig};
use crate::mq::TIMED_OF;
use crate::pressure::{PressureOptions, Settings};
use crate::units::Size;

/// The options of `set`. What is none stays as it is.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetOptions {
    /// What refuses, slows down or fails requests.
    #[command(flatten)]
    pub pressure: PressureOptions,
    /// The rules for memory.
    #[command(flatten, next_help_heading = "Memory")]
    pub memory: MemoryOptions,
    /// Time one of N requests, for the latencies in `stats`: a power of two up to 65536, or `off`
    #[arg(long, value_name = "N|off", value_parser = latency_sample, allow_hyphen_values = true,
        help_heading = "Seeing it")]
    pub latency_sample: Option<u32>,
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
    /// One of N requests is timed, 0 for none.
    pub latency_sample: u32,
}

impl InForce {
    /// The settings in force of a disk with these values.
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
    /// In one line, each as it can be typed; `none` if nothing differs from a disk without options.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        // Only what differs from a disk without options is worth a word.
        if self.pressure != Settings::default() {
            words.push(self.pressure.to_string());
        }
        if let Some(limit) = self.memory_limit {
            words.push(format!("memory-limit {}", Size(limit)));
        }
        if self.no_space_timeout != SpaceConfig::default().no_space_timeout {
            words.push(match self.no_space_timeout {
                Some(0) => "error-if-no-space".to_owned(),
                Some(seconds) => format!("no-space-timeout {seconds}s"),
                None => "no-space-timeout off".to_owned(),
            });
        }
        if self.reclaim == Reclaim::Off {
            words.push("reclaim off".to_owned());
        }
        match self.latency_sample {
            TIMED_OF => {}
            0 => words.push("latency-sample off".to_owned()),
            of => words.push(format!("latency-sample {of}")),
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
    use crate::config::Backing;

    fn said(space: &SpaceConfig, sample: u32) -> String {
        let in_force = InForce::new(Settings::default(), space, sample);
        let line = serde_json::to_string(&in_force).expect("an object");
        assert_eq!(serde_json::from_str::<InForce>(&line).unwrap(), in_force);
        in_force.to_string()
    }

    #[test]
    fn what_is_in_force_is_said_in_a_line_and_read_back() {
        let with = |limit, timeout| SpaceConfig {
            memory_limit: limit,
            no_space_timeout: timeout,
            ..SpaceConfig::default()
        };
        assert_eq!(said(&SpaceConfig::default(), TIMED_OF), "none");
        assert_eq!(said(&SpaceConfig::default(), 0), "latency-sample off");
        let both = with(4096, Some(5));
        assert_eq!(
            said(&both, TIMED_OF),
            "memory-limit 4K, no-space-timeout 5s"
        );
        assert_eq!(said(&with(0, None), TIMED_OF), "no-space-timeout off");
        assert_eq!(said(&with(0, Some(0)), TIMED_OF), "error-if-no-space");
    }

    #[test]
    fn e19_reclaim_begins_and_ends_on_a_live_disk() {
        let mut config = SpaceConfig::default();
        for (reclaim, line) in [(Reclaim::Off, "reclaim off"), (Reclaim::Zero, "none")] {
            let options = MemoryOptions {
                reclaim: Some(reclaim),
                ..MemoryOptions::default()
            };
            config = options
                .applied_to(&config, 1 << 30, &Backing::Memfd)
                .unwrap();
            assert_eq!(config.options().reclaim, reclaim == Reclaim::Zero);
            assert_eq!(said(&config, TIMED_OF), line);
        }
    }
}
