// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values of the simulation's options as they are written: rates, service times, hogs.

use std::time::Duration;

use crate::mq::Rules;
use crate::units;

/// A delay that stands for "never".
pub const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Reads a time, or `never`.
pub fn duration_or_never(text: &str) -> Result<Duration, String> {
    match text {
        "never" => Ok(NEVER),
        other => units::time(other).map_err(|why| format!("{why}, or never")),
    }
}

/// When requests arrive, if they do not wait for others to end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// At even distances; requests per second.
    Even(f64),
    /// At random; requests per second on average.
    Poisson(f64),
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, make): (_, fn(f64) -> Self) = match text.strip_prefix("poisson:") {
            Some(number) => (number, Self::Poisson),
            None => (text, Self::Even),
        };
        match number.parse::<u32>() {
            Ok(rate) if rate > 0 => Ok(make(f64::from(rate))),
            _ => Err("expected requests per second from 1, or poisson:RATE".to_owned()),
        }
    }
}

/// How long a request takes once the driver has accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Always the same; zero for no time at all.
    Fixed(Duration),
    /// Exponentially distributed with this mean.
    Exponential(Duration),
    /// Evenly distributed from the first to the second.
    Between(Duration, Duration),
}

impl std::str::FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(mean) = text.strip_prefix("exp:") {
            return Ok(Self::Exponential(units::time(mean)?));
        }
        if let Some((least, most)) = text.split_once("..") {
            let (least, most) = (units::time(least)?, units::time(most)?);
            if least > most {
                return Err(format!("{text}: the first time is longer than the second"));
            }
            return Ok(Self::Between(least, most));
        }
        units::time(text)
            .map(Self::Fixed)
            .map_err(|why| format!("{why}, exp:TIME or TIME..TIME"))
    }
}

/// Reads the version of blk-mq whose rules are followed.
pub fn rules(text: &str) -> Result<Rules, String> {
    match text {
        "7.2" => Ok(Rules::Linux7),
        "3.x" => Ok(Rules::Linux3),
        _ => Err("expected 7.2 or 3.x".to_owned()),
    }
}

/// Reads hogs: how many, and how long each keeps its CPU.
pub fn hogs(text: &str) -> Result<(u16, Duration), String> {
    const FORM: &str = "expected COUNT:TIME, such as 4:10ms";
    let (count, time) = text.split_once(':').ok_or(FORM)?;
    let count = count
        .parse()
        .ok()
        .filter(|count| (1..=1024).contains(count));
    let time = units::time(time)?;
    if time.is_zero() {
        return Err("a hog that takes no time is none".to_owned());
    }
    Ok((count.ok_or("expected 1 to 1024 hogs, as COUNT:TIME")?, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_rates_service_times_and_hogs_are_read_or_refused() {
        assert_eq!("100".parse(), Ok(Rate::Even(100.0)));
        assert_eq!("poisson:5".parse(), Ok(Rate::Poisson(5.0)));
        for bad in ["0", "poisson:", "-1", "fast"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        let us = Duration::from_micros;
        assert_eq!("100us".parse(), Ok(Service::Fixed(us(100))));
        assert_eq!("exp:1ms".parse(), Ok(Service::Exponential(us(1000))));
        assert_eq!("1us..2us".parse(), Ok(Service::Between(us(1), us(2))));
        for bad in ["2us..1us", "exp:", "100", "1us.."] {
            assert!(bad.parse::<Service>().is_err(), "{bad}");
        }
        assert_eq!(duration_or_never("never"), Ok(NEVER));
        assert_eq!(hogs("4:10ms"), Ok((4, us(10_000))));
        for bad in ["4", "0:1ms", "4:0", "x:1ms", "2000:1ms"] {
            assert!(hogs(bad).is_err(), "{bad}");
        }
    }
}
