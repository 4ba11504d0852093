// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads a rule: `[NAME:] SELECTORS: ACTION`. An error names the column and what was expected there.

use std::str::FromStr;

use winnow::combinator::{
    alt, cut_err, delimited, eof, fail, opt, preceded, separated, terminated,
};
use winnow::error::{StrContext, StrContextValue};
use winnow::prelude::*;
use winnow::stream::Stream;
use winnow::token::{rest, take_while};

use super::rule::{errno_name, ANY, OPS};
use super::{Action, Distribution, Rule, Selectors, MAX_DELAY, SHARE_ALL};
use crate::mq::Status;
use crate::units;

/// Longest name.
const MOST_NAME: usize = 32;
/// Longest list of delays.
const MOST_DELAYS: usize = 1000;

const SELECTOR: &str =
    "a selector: read, write, flush, discard, write-zeroes, any, a size such as \
    4K..64K, a place such as '@ 1G-2G' or '@ sector 8-15', a share such as 10%, after N, every N, \
    next N, once, times N, 'for TIME' or 'when inflight > N'";
const ACTION: &str = "an action: delay, error, busy, requeue, hang, timeout, corrupt or ignore";
const DELAY: &str = "a delay: TIME up to 20s, uniform(TIME, TIME), exponential(TIME), \
    lognormal(TIME, SIGMA), list(TIME, ...) or list FILE";
const ERRNO: &str = "an errno that a disk can end a request with, such as EIO, ENOSPC or EREMOTEIO";
const NUMBER: &str = "a whole number";
const PLACE: &str = "START-END, in bytes with END not included or in sectors with both ends, and \
    START before END";
const TWICE: &str = "each selector once";
const DATA: &str = "write alone in front of 'corrupt bit'";
const NO_READ: &str = "operations in front of 'ignore', and no read among them: there would be \
    nothing to return";

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_files = |_: &str| Err("expected list(TIME, ...)".to_owned());
        read(text, no_files)
    }
}

impl Rule {
    /// Reads a rule of the command line, which may name a file of delays.
    pub fn typed(text: &str) -> Result<Self, String> {
        read(text, delays_of)
    }
}

/// Reads the delays of a file.
type Files = fn(&str) -> Result<Vec<u64>, String>;

fn read(text: &str, files: Files) -> Result<Rule, String> {
    let mut rule = |input: &mut &str| rule(input, files);
    rule.parse(text).map_err(|error| {
        let column = text[..error.offset()].chars().count() + 1;
        let expected = error.inner().context().find_map(|context| match context {
            StrContext::Expected(StrContextValue::Description(what)) => Some(*what),
            _ => None,
        });
        let cause = error.inner().cause().map(ToString::to_string);
        let why = cause.or(expected.map(|what| format!("expected {what}")));
        format!("column {column}: {}", why.unwrap_or_default())
    })
}

/// Why a value cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Bad(String);

fn expected(what: &'static str) -> StrContext {
    StrContext::Expected(StrContextValue::Description(what))
}

/// Fails where `input` stands.
fn refuse<T>(input: &mut &str, what: &'static str) -> ModalResult<T> {
    cut_err(fail.context(expected(what))).parse_next(input)
}

fn spaces(input: &mut &str) -> ModalResult<()> {
    take_while(0.., char::is_whitespace)
        .void()
        .parse_next(input)
}

/// What stands before the next space or mark.
fn token<'i>(input: &mut &'i str) -> ModalResult<&'i str> {
    let is_part = |c: char| !c.is_whitespace() && !":@,()>".contains(c);
    take_while(0.., is_part).parse_next(input)
}

/// A token that `read` makes a value of. A failure stands at its beginning.
fn value<T>(input: &mut &str, read: impl Fn(&str) -> Result<T, String>) -> ModalResult<T> {
    spaces(input)?;
    cut_err(token.try_map(|text| read(text).map_err(Bad))).parse_next(input)
}

fn number(input: &mut &str, least: u64) -> ModalResult<u64> {
    let read = |text: &str| {
        let number = units::number(least, u64::MAX)(text);
        number.map_err(|_| match least {
            0 => format!("expected {NUMBER}"),
            _ => format!("expected {NUMBER} from {least}"),
        })
    };
    value(input, read)
}

/// Reads a decimal fraction as a number of billionths.
fn billionths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 9 {
        return None;
    }
    let part: u64 = format!("{part:0<9}").parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(1_000_000_000)?.checked_add(part)
}

fn rule(input: &mut &str, files: Files) -> ModalResult<Rule> {
    spaces(input)?;
    let name = opt(terminated(name, (spaces, ':'))).parse_next(input)?;
    let selectors = selectors(input)?;
    spaces(input)?;
    let start = input.checkpoint();
    let action = action(input, files)?;
    let ops = selectors.ops;
    if action == Action::Corrupt && ops != Selectors::WRITE
        || action == Action::Ignore && ops & Selectors::READ != 0
    {
        input.reset(&start);
        refuse(
            input,
            if action == Action::Corrupt {
                DATA
            } else {
                NO_READ
            },
        )?;
    }
    spaces(input)?;
    cut_err(eof.context(expected("the end of the rule"))).parse_next(input)?;
    Ok(Rule {
        name: name.unwrap_or_default().to_owned(),
        selectors,
        action,
    })
}

/// A name is no word that selects.
fn name<'i>(input: &mut &'i str) -> ModalResult<&'i str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_name = |text: &&str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && !OPS.contains(text)
            && !["any", "once"].contains(text)
    };
    take_while(1..=MOST_NAME, is_part)
        .verify(is_name)
        .parse_next(input)
}

/// Keeps the value of a selector that may be given once.
fn once<T>(input: &mut &str, place: &mut Option<T>, value: T) -> ModalResult<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => refuse(input, TWICE),
    }
}

/// The selectors, and the colon behind them.
fn selectors(input: &mut &str) -> ModalResult<Selectors> {
    let mut found = Selectors::default();
    let (mut ops, mut share, mut after, mut every) = (0, None, None, None);
    let mut count = 0;
    loop {
        spaces(input)?;
        if count > 0 && opt(':').parse_next(input)?.is_some() {
            break;
        }
        count += 1;
        let start = input.checkpoint();
        if opt('@').parse_next(input)?.is_some() {
            let place = place(input)?;
            once(input, &mut found.place, place)?;
            continue;
        }
        match token(input)? {
            "any" => ops |= ANY,
            "once" => once(input, &mut found.times, 1)?,
            "times" => {
                let times = number(input, 0)?;
                once(input, &mut found.times, times)?;
            }
            "next" => {
                let next = number(input, 1)?;
                once(input, &mut found.next, next)?;
            }
            "after" => {
                let n = number(input, 0)?;
                once(input, &mut after, n)?;
            }
            "every" => {
                let n = number(input, 1)?;
                once(input, &mut every, n)?;
            }
            "for" => {
                let window = value(input, units::time)?;
                once(input, &mut found.window, window)?;
            }
            "when" => {
                let more = (spaces, "inflight", spaces, '>');
                cut_err(more.context(expected("inflight > N"))).parse_next(input)?;
                let n = number(input, 0)?;
                once(input, &mut found.in_flight, n)?;
            }
            word => match OPS.iter().position(|op| *op == word) {
                Some(op) => ops |= 1 << op,
                None if word.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
                    input.reset(&start);
                    size_or_share(input, &mut found.size, &mut share)?;
                }
                None => {
                    input.reset(&start);
                    refuse(input, SELECTOR)?;
                }
            },
        }
    }
    Ok(Selectors {
        ops: if ops == 0 { ANY } else { ops },
        share: share.unwrap_or(SHARE_ALL),
        after: after.unwrap_or(0),
        every: every.unwrap_or(1),
        ..found
    })
}

fn size_or_share(
    input: &mut &str,
    size: &mut Option<(u64, u64)>,
    share: &mut Option<u64>,
) -> ModalResult<()> {
    let read = |text: &str| match text.strip_suffix('%') {
        Some(percent) => {
            let share = billionths(percent).filter(|share| *share <= SHARE_ALL);
            let why = "expected a share from 0% to 100%, with 9 places at most";
            share.map(Err).ok_or_else(|| why.to_owned())
        }
        None => {
            let (least, most) = text.split_once("..").unwrap_or((text, text));
            let bound = |text: &str, open| match text {
                "" => Ok(open),
                text => units::size(text),
            };
            let (least, most) = (bound(least, 0)?, bound(most, u64::MAX)?);
            match least <= most {
                true => Ok(Ok((least, most))),
                false => Err("expected a range of sizes that begins with the smaller".to_owned()),
            }
        }
    };
    match value(input, read)? {
        Ok(range) => once(input, size, range),
        Err(parts) => once(input, share, parts),
    }
}

/// A place, behind its `@`.
fn place(input: &mut &str) -> ModalResult<(u64, u64)> {
    spaces(input)?;
    let sectors = opt("sector").parse_next(input)?.is_some();
    let read = |text: &str| {
        let place = text.split_once('-').and_then(|(start, end)| {
            if !sectors {
                return Some((units::size(start).ok()?, units::size(end).ok()?));
            }
            // The first byte of a larger one has no number.
            let sector = |text| units::number::<u64>(0, (1 << 54) - 1)(text).ok();
            Some((sector(start)? << 9, (sector(end)? + 1) << 9))
        });
        let place = place.filter(|(start, end)| start < end);
        place.ok_or_else(|| format!("expected {PLACE}"))
    };
    value(input, read)
}

fn action(input: &mut &str, files: Files) -> ModalResult<Action> {
    let start = input.checkpoint();
    Ok(match token(input)? {
        "delay" => Action::Delay(delay(input, files)?),
        "error" => {
            let read = |text: &str| {
                let mut all = Status::all().filter(|status| status.may_be_final());
                all.find(|status| errno_name(*status) == text)
                    .ok_or_else(|| format!("expected {ERRNO}"))
            };
            let status = value(input, read)?;
            spaces(input)?;
            let partial = opt("partial").parse_next(input)?.is_some();
            if partial && status != Status::IoErr {
                refuse(input, "no 'partial', which goes with EIO alone")?;
            }
            Action::Error(status, partial)
        }
        "busy" => {
            spaces(input)?;
            let how = opt(alt(("dev", "or requeue"))).parse_next(input)?;
            match how {
                None => Action::Busy,
                Some("dev") => Action::BusyDev,
                Some(_) => Action::BusyOrRequeue,
            }
        }
        "requeue" => Action::Requeue,
        "hang" => Action::Hang,
        "timeout" => Action::Timeout,
        "corrupt" => {
            let bit = preceded(spaces, "bit").context(expected("bit"));
            cut_err(bit).value(Action::Corrupt).parse_next(input)?
        }
        "ignore" => Action::Ignore,
        _ => {
            input.reset(&start);
            refuse(input, ACTION)?
        }
    })
}

/// Reads one time of a delay.
pub(super) fn delay_time(text: &str) -> Result<u64, String> {
    let time = units::time(text).ok().filter(|time| *time <= MAX_DELAY);
    let why = "expected a time of up to 20s, such as 50us or 2ms";
    time.map(|time| time.as_nanos() as u64)
        .ok_or_else(|| why.to_owned())
}

fn delay_value(input: &mut &str) -> ModalResult<u64> {
    value(input, delay_time)
}

fn delay(input: &mut &str, files: Files) -> ModalResult<Distribution> {
    spaces(input)?;
    let start = input.checkpoint();
    let word = token(input)?;
    let is_call = input.starts_with('(');
    let comma = || cut_err((spaces, ',').context(expected("a comma")));
    let close = || cut_err((spaces, ')').context(expected("a closing parenthesis")));
    Ok(match (word, is_call) {
        ("uniform", true) => {
            let times =
                (delay_value, comma(), delay_value).verify(|(least, _, most)| least <= most);
            let why = expected("the shorter time, a comma and the longer one");
            let times = cut_err(times).context(why);
            let (least, _, most) = delimited('(', times, close()).parse_next(input)?;
            Distribution::Uniform(least, most)
        }
        ("exponential", true) => {
            let mean = delimited('(', delay_value, close()).parse_next(input)?;
            Distribution::Exponential(mean)
        }
        ("lognormal", true) => {
            let sigma = |input: &mut &str| {
                let read = |text: &str| billionths(text).filter(|sigma| *sigma <= 10_000_000_000);
                let why = "expected a deviation from 0 to 10, such as 0.5";
                value(input, |text| read(text).ok_or_else(|| why.to_owned()))
            };
            let both = (delay_value, comma(), sigma);
            let (median, _, sigma) = delimited('(', both, close()).parse_next(input)?;
            Distribution::LogNormal(median, sigma)
        }
        ("list", true) => {
            let times = separated(1..=MOST_DELAYS, delay_value, (spaces, ','));
            Distribution::List(delimited('(', times, close()).parse_next(input)?)
        }
        ("list", false) => {
            let file = |path: &str| files(path.trim()).map_err(Bad);
            let mut list = cut_err(preceded(spaces, rest.try_map(file)));
            Distribution::List(list.parse_next(input)?)
        }
        (word, false) if word.starts_with(|c: char| c.is_ascii_digit()) => {
            input.reset(&start);
            Distribution::Constant(delay_value(input)?)
        }
        _ => {
            input.reset(&start);
            refuse(input, DELAY)?
        }
    })
}

/// Reads a file of delays: times with spaces or line ends between them.
fn delays_of(path: &str) -> Result<Vec<u64>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("'{path}': {error}"))?;
    let delays = text
        .split_whitespace()
        .map(|word| delay_time(word).map_err(|why| format!("'{path}': '{word}': {why}")));
    let delays = delays.collect::<Result<Vec<_>, _>>()?;
    match delays.len() {
        1..=MOST_DELAYS => Ok(delays),
        n => Err(format!(
            "'{path}' has {n} delays: expected 1 to {MOST_DELAYS}"
        )),
    }
}
