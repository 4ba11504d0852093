// SPDX-License-Identifier: MIT OR Apache-2.0
//! How single values of the commands are read; each refusal names the accepted form. Those of a
//! disk are read by `config.rs`.

use std::ops::RangeInclusive;
use std::time::Duration;

use ublk_ramdisk::config::MAX_ID;
use ublk_ramdisk::units::{number, seconds, time};

use crate::server::protocol::StateVerb;

/// Reads how long a trace is recorded: 1 ms to 10 minutes, as the records of all of it are kept.
pub fn trace_time(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(1)..=Duration::from_secs(600);
    within(time(text)?, range, "1ms to 10m")
}

/// Reads how often something is redrawn: 100 ms to an hour. A plain number counts seconds.
pub fn interval(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    within(seconds(text)?, range, "100ms to 1h")
}

fn within(time: Duration, range: RangeInclusive<Duration>, form: &str) -> Result<Duration, String> {
    match range.contains(&time) {
        true => Ok(time),
        false => Err(format!("expected {form}")),
    }
}

/// Reads a device id, as a number or inside the name of one of its nodes.
pub fn device_id(text: &str) -> Result<u32, String> {
    let name = text.strip_prefix("/dev/").unwrap_or(text);
    // A bare number must not have `/dev/` in front, so the fallback is the text as typed.
    let id = name
        .strip_prefix("ublkb")
        .or_else(|| name.strip_prefix("ublkc"))
        .unwrap_or(text);
    number(0, MAX_ID)(id).map_err(|_| {
        format!("expected a device id: N, ublkbN or /dev/ublkbN, N from 0 to {MAX_ID}")
    })
}

/// The last word of `debugfs` as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DebugfsPath {
    /// A file or a directory to show.
    Shown(String),
    /// What to write to `state`.
    State(StateVerb),
}

/// Reads a path of `debugfs`, or what is to be written to `state`.
pub fn debugfs_path(text: &str) -> Result<DebugfsPath, String> {
    Ok(DebugfsPath::State(match text.split_once('=') {
        None => return Ok(DebugfsPath::Shown(text.trim_matches('/').to_owned())),
        Some(("state", "run")) => StateVerb::Run,
        Some(("state", "start")) => StateVerb::Start,
        Some(("state", "kick")) => StateVerb::Kick,
        Some(_) => return Err("only state=run, state=start and state=kick can be written".into()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_by_number_or_node() {
        for name in ["12", "ublkb12", "ublkc12", "/dev/ublkb12", "/dev/ublkc12"] {
            assert_eq!(device_id(name), Ok(12), "{name}");
        }
        for name in ["", "-1", "ublkb", "/dev/sda", "/dev/12x", "1048576"] {
            assert!(device_id(name).is_err(), "{name}");
        }
    }

    #[test]
    fn l1_times_have_their_ranges() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "50ms", "2h", "x"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
        for bad in ["0", "2", "11m"] {
            assert!(trace_time(bad).is_err(), "{bad}");
        }
    }
}
