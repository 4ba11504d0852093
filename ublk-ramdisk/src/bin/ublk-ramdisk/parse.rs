// SPDX-License-Identifier: MIT OR Apache-2.0
//! How single values of the command line are read; each refusal names the accepted form.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::server::protocol::StateVerb;
pub use ublk_ramdisk::config::size::size;
use ublk_ramdisk::config::{Backing, MAX_ID};
use ublk_ramdisk::mq::LEAST_TIMED_OF;
use ublk_ramdisk::pressure::{injections, Change, Injection, PsiTrigger};

/// `--log` as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// The datagram socket at /dev/log.
    Syslog,
    /// A file, appended to.
    File(PathBuf),
}

/// Reads a whole number; numbers beyond 64 bits count as the largest one.
pub fn whole(text: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("expected a whole number, such as 4".to_owned());
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

const DURATION_FORM: &str = "expected a time from 1ms to 10m, such as 500ms, 2s or 1m";

/// Reads a length of time: digits, then ms, s or m.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(DURATION_FORM.to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| DURATION_FORM.to_owned())?;
    let millis = number.checked_mul(millis);
    millis
        .filter(|millis| (1..=600_000).contains(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| DURATION_FORM.to_owned())
}

/// Reads how often something is redrawn: seconds, perhaps with a fraction.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let form = "expected seconds from 0.1 to 3600, such as 1 or 0.5";
    let is_number = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    let number: Option<f64> = text.parse().ok().filter(|_| text.bytes().all(is_number));
    number
        .filter(|seconds| (0.1..=3600.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| form.to_owned())
}

/// Reads how many events each thread keeps.
pub fn records(text: &str) -> Result<u32, String> {
    let form = "expected a whole number from 64 to 1048576";
    let number = whole(text).ok().and_then(|n| u32::try_from(n).ok());
    number
        .filter(|n| (64..=1 << 20).contains(n))
        .ok_or_else(|| form.to_owned())
}

/// Reads `--latency-sample`.
pub fn sample(text: &str) -> Result<u32, String> {
    let form = format!(
        "expected a power of two up to {LEAST_TIMED_OF}: one of so many requests is timed, with 1 \
         each; 0 or off for none"
    );
    if text == "off" {
        return Ok(0);
    }
    let number = whole(text).ok().and_then(|n| u32::try_from(n).ok());
    number
        .filter(|&n| n == 0 || n.is_power_of_two() && n <= LEAST_TIMED_OF)
        .ok_or(form)
}

/// Reads a device id, as a number or inside the name of one of its nodes.
pub fn device_id(text: &str) -> Result<u32, String> {
    let form = "expected a device id: N, ublkbN or /dev/ublkbN, N from 0 to 1048575";
    let name = text.strip_prefix("/dev/").unwrap_or(text);
    let number = name
        .strip_prefix("ublkb")
        .or_else(|| name.strip_prefix("ublkc"))
        .unwrap_or(text);
    whole(number)
        .ok()
        .filter(|id| *id <= MAX_ID)
        .map(|id| id as u32)
        .ok_or_else(|| form.to_owned())
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

/// Reads `--backing`.
pub fn backing(text: &str) -> Result<Backing, String> {
    match text.split_once(':') {
        None if text == "memfd" => Ok(Backing::Memfd),
        None if text == "hugetlb" => Ok(Backing::Hugetlb),
        Some(("tmpfs", path)) if !path.is_empty() => Ok(Backing::Tmpfs(path.into())),
        _ => Err("expected memfd, tmpfs:PATH or hugetlb".to_owned()),
    }
}

/// Reads a number from 1, or `off`.
pub fn count_or_off(text: &str) -> Result<Change<u32>, String> {
    if text == "off" {
        return Ok(Change::Off);
    }
    let number = whole(text).ok().and_then(|number| number.try_into().ok());
    let number = number.ok_or("expected a whole number up to 4294967295, or off")?;
    Ok(Change::To(number))
}

/// Reads a size, or `off`.
pub fn size_or_off(text: &str) -> Result<Change<u64>, String> {
    if text == "off" {
        return Ok(Change::Off);
    }
    let bytes = size(text).map_err(|why| format!("{why}, or off"))?;
    Ok(Change::To(bytes))
}

/// Reads `--psi`.
pub fn psi_or_off(text: &str) -> Result<Change<PsiTrigger>, String> {
    match text {
        "off" => Ok(Change::Off),
        text => text.parse().map(Change::To),
    }
}

/// Reads `--inject`.
pub fn injection_list(text: &str) -> Result<Arc<[Injection]>, String> {
    injections(text).map(Arc::from)
}

/// Reads a switch.
pub fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

/// Reads `--log`.
pub fn log_target(text: &str) -> Result<LogTarget, String> {
    match text {
        "" => Err("expected syslog or the path of a file".to_owned()),
        "syslog" => Ok(LogTarget::Syslog),
        path => Ok(LogTarget::File(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_sizes_are_bytes_or_binary_units() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("4K", 4096),
            ("4kib", 4096),
            ("3M", 3 << 20),
            ("2GiB", 2 << 30),
            ("1T", 1 << 40),
            ("1p", 1 << 50),
            ("8E", 1 << 63),
            ("9223372036854775808", 1 << 63),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "", "-1", "-5G", "+1", "1.5G", "1,5G", "G", "1KB", "1 G", "0x10", "1GG", "eins", "1Ki",
        ] {
            let why = size(text).expect_err(text);
            assert!(why.contains("512M"), "{text}: {why}");
        }
        for text in [
            "9E",
            "8388609T",
            "9223372036854775809",
            "99999999999999999999",
        ] {
            let why = size(text).expect_err(text);
            assert!(why.contains("2^63"), "{text}: {why}");
        }
    }

    #[test]
    fn l1_one_of_a_power_of_two_requests_is_timed() {
        for (text, of) in [("0", 0), ("off", 0), ("1", 1), ("16", 16), ("65536", 65536)] {
            assert_eq!(sample(text), Ok(of), "{text}");
        }
        for text in ["", "-1", "3", "131072", "4294967296", "1/16", "on"] {
            let why = sample(text).expect_err(text);
            assert!(why.contains("power of two up to 65536"), "{text}: {why}");
        }
    }

    #[test]
    fn a_device_is_named_by_number_or_node() {
        for name in ["12", "ublkb12", "ublkc12", "/dev/ublkb12", "/dev/ublkc12"] {
            assert_eq!(device_id(name), Ok(12), "{name}");
        }
        for name in ["", "-1", "ublkb", "/dev/sda", "/dev/12x", "1048576"] {
            assert!(device_id(name).is_err(), "{name}");
        }
    }
}
