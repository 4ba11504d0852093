// SPDX-License-Identifier: MIT OR Apache-2.0
//! How sizes, times and numbers are written: one grammar for the command line, for the script of
//! `sim`, and for what is echoed, so that it can be typed again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use parse_size::{ByteSuffix, Config};
use serde::{Deserialize, Serialize};

/// The largest size of a disk, in bytes: no file has 2^63 or more.
pub const MAX_SIZE: u64 = (1 << 63) - 512;

const SIZE_FORM: &str =
    "expected a size, such as 512, 4K or 1.5G: K, M, G, T, P, E are powers of 1024, KB, MB, ... of 1000";
const TIME_FORM: &str = "expected a time, such as 5us, 10ms, 1.5s or 2m";

/// Reads a size. `K` and `KiB` are 1024 bytes, `KB` is 1000.
pub fn size(text: &str) -> Result<u64, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = &text[..text.len() - unit.len()];
    // The crate below takes more, such as signs, spaces and exponents.
    let is_unit = unit.bytes().all(|byte| byte.is_ascii_alphabetic());
    if number.is_empty() || !is_unit || unit.is_empty() && number.contains('.') {
        return Err(SIZE_FORM.to_owned());
    }
    let config = match unit.to_ascii_lowercase().strip_suffix('b') {
        // KB is 1000; KiB says 1024 itself.
        Some(_) => Config::new().with_decimal(),
        None => Config::new().with_binary(),
    };
    let read = config.with_byte_suffix(ByteSuffix::Allow).parse_size(text);
    match read {
        Ok(bytes) if bytes <= MAX_SIZE => Ok(bytes),
        Ok(_) | Err(parse_size::Error::PosOverflow) => Err("2^63 bytes (8E) or more".to_owned()),
        Err(_) => Err(SIZE_FORM.to_owned()),
    }
}

/// Reads a time: a number with `ns`, `us`, `ms`, `s`, `m` or `h`. Only 0 needs no unit.
pub fn time(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        _ if text.contains(char::is_whitespace) => Err(TIME_FORM.to_owned()),
        _ => humantime::parse_duration(text).map_err(|_| TIME_FORM.to_owned()),
    }
}

/// As [`time`]; a plain number counts seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    if text.bytes().all(plain) {
        return time(&format!("{text}s"));
    }
    time(text)
}

/// As [`seconds`], without a part of a second.
pub fn whole_seconds(text: &str) -> Result<u64, String> {
    let time = seconds(text).map_err(|_| "expected whole seconds, such as 30, 30s or 2m")?;
    match time.subsec_nanos() {
        0 => Ok(time.as_secs()),
        _ => Err(format!("{text} is not a whole number of seconds")),
    }
}

/// A reader of whole numbers from `least` to `most`.
pub fn number<T>(least: u64, most: u64) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: TryFrom<u64>,
{
    move |text| {
        // Rust also reads a sign in front.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number
            .filter(|number| (least..=most).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("expected a whole number from {least} to {most}"))
    }
}

/// Reads `on` or `off`.
pub fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

/// A setting as it is typed: a value, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrOff<T> {
    /// Nothing is in force.
    Off,
    /// This is.
    To(T),
}

impl<T> OrOff<T> {
    /// The value; none for off.
    pub fn value(self) -> Option<T> {
        match self {
            OrOff::Off => None,
            OrOff::To(value) => Some(value),
        }
    }
}

/// A reader of `off`, or of what `read` reads.
pub fn or_off<T>(
    read: impl Fn(&str) -> Result<T, String> + Clone,
) -> impl Fn(&str) -> Result<OrOff<T>, String> + Clone {
    move |text| match text {
        "off" => Ok(OrOff::Off),
        _ => read(text)
            .map(OrOff::To)
            .map_err(|why| format!("{why}; or off")),
    }
}

impl<T: FromStr<Err = String>> FromStr for OrOff<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        or_off(T::from_str)(text)
    }
}

/// Bytes as they can be typed: exact, in the largest unit that divides them.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            (60, "E"),
            (50, "P"),
            (40, "T"),
            (30, "G"),
            (20, "M"),
            (10, "K"),
        ];
        // The largest comes first, so the first that divides is the one.
        let fits = |(shift, _): &&(u32, &str)| self.0 != 0 && self.0.trailing_zeros() >= *shift;
        match units.iter().find(fits) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A time as it can be typed: exact, in the largest unit that divides it.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let units = [
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1_000, "us"),
            (1, "ns"),
        ];
        let fits = |(unit, _): &&(u128, &str)| nanos.is_multiple_of(*unit);
        match units.iter().find(fits) {
            Some((unit, name)) => write!(f, "{}{name}", nanos / unit),
            None => unreachable!("each number is a multiple of 1"),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn l1_sizes_are_bytes_or_have_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("4K", 4096),
            ("4k", 4096),
            ("4kib", 4096),
            ("1KB", 1000),
            ("1.5G", 3 << 29),
            ("2GiB", 2 << 30),
            ("1T", 1 << 40),
            ("1p", 1 << 50),
            ("9223372036854775296", (1 << 63) - 512),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(size(&Size(bytes).to_string()), Ok(bytes), "{text}");
        }
        for text in [
            "", "-1", "-5G", "+1", "1.5", "1,5G", "G", "1 G", "0x10", "1GG", "1e3x", "eins",
        ] {
            let why = size(text).expect_err(text);
            assert!(why.contains("1.5G"), "{text}: {why}");
        }
        for text in [
            "8E",
            "8388608T",
            "9223372036854775807",
            "99999999999999999999",
        ] {
            let why = size(text).expect_err(text);
            assert!(why.contains("2^63"), "{text}: {why}");
        }
    }

    #[test]
    fn l1_times_have_a_unit_and_are_written_as_they_are_read() {
        for (text, nanos) in [
            ("0", 0),
            ("7ns", 7),
            ("5us", 5_000),
            ("10ms", 10_000_000),
            ("1.5s", 1_500_000_000),
            ("2m", 120_000_000_000),
        ] {
            let read = time(text).expect(text);
            assert_eq!(read, Duration::from_nanos(nanos), "{text}");
            assert_eq!(time(&Time(read).to_string()), Ok(read), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1 s", "5x", "1.2.3s"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(
            (whole_seconds("30"), whole_seconds("2m")),
            (Ok(30), Ok(120))
        );
        assert!(whole_seconds("500ms").is_err() && whole_seconds("x").is_err());
    }

    #[test]
    fn l1_a_setting_is_a_value_or_off() {
        assert_eq!(or_off(size)("4K"), Ok(OrOff::To(4096)));
        assert_eq!(or_off(size)("off"), Ok(OrOff::Off));
        let why = or_off(number::<u32>(1, 9))("10").expect_err("too large");
        assert!(why.contains("1 to 9") && why.ends_with("or off"), "{why}");
    }
}
