// SPDX-License-Identifier: MIT OR Apache-2.0
//! How single values of the commands are read; each refusal names the accepted form. Those of a
//! disk are read by `config.rs`.

use std::ops::RangeInclusive;
use std::time::Duration;

use ublk_ramdisk::config::{disk_name, MAX_ID};
use ublk_ramdisk::error::Failure;
use ublk_ramdisk::units::{number, seconds, time};

use crate::server::protocol::StateVerb;
use crate::server::run_dir::RunDir;

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

/// Where udev puts links to disks with a name.
const LINKS: &str = "/dev/ublk-ramdisk/";

/// Reads a device id: a number, inside the name of one of its nodes, or that of the disk with this name.
pub fn device_id(text: &str) -> Result<u32, Failure> {
    let name = text.strip_prefix("/dev/").unwrap_or(text);
    // A bare number must not have `/dev/` in front, so the fallback is the text as typed.
    let id = name
        .strip_prefix("ublkb")
        .or_else(|| name.strip_prefix("ublkc"))
        .unwrap_or(text);
    if let Ok(id) = number(0, MAX_ID)(id) {
        return Ok(id);
    }
    let name = disk_name(text.strip_prefix(LINKS).unwrap_or(text)).map_err(|_| {
        Failure::usage(format!(
            "expected a disk: its name, or N, ublkbN or /dev/ublkbN, N from 0 to {MAX_ID}"
        ))
    })?;
    let run_dir = RunDir::of_this_machine()?;
    run_dir.id_of(&name).ok_or_else(|| {
        Failure::runtime(format!(
            "there is no disk named {name}: see `ublk-ramdisk list -o DISK,NAME`"
        ))
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
        let unknown = device_id("/dev/ublk-ramdisk/no-such-disk").expect_err("none has it");
        assert!(unknown.message.contains("named no-such-disk"), "{unknown}");
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
