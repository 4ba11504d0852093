// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads a rule: `[NAME:] SELECTORS: ACTION`. An error names the column and what was expected there.

use std::str::FromStr;
use std::time::Duration;

use winnow::combinator::{
    alt, cut_err, delimited, eof, fail, opt, preceded, separated, terminated,
};
use winnow::error::{StrContext, StrContextValue};
use winnow::prelude::*;
use winnow::stream::Stream;
use winnow::token::{rest, take_while};

use super::rule::{errno_name, ANY};
use super::{Action, Distribution, Rule, Selectors, MAX_DELAY, SHARE_ALL};
use crate::mq::{Op, Status};
use crate::units;

/// Longest name.
const MOST_NAME: usize = 32;
/// Longest list of delays.
const MOST_DELAYS: usize = 1000;

const SELECTOR: &str =
    "a selector: read, write, flush, discard, write-zeroes, any, a size such as \
    4K..64K, a place such as '@ 1G-2G' or '@ sector 8-15', a share such as 10%, after N, every N, \
    next N, once, times N, 'for TIME' or 'when inflight > N'";
const ACTION: &str = "an action: delay, error, busy, busy dev, requeue, busy or requeue, hang, \
    timeout, corrupt bit or ignore";
const DELAY: &str = "a delay up to 20s: TIME, uniform(TIME, TIME) with the shorter first, \
    exponential(TIME), lognormal(TIME, SIGMA) with SIGMA from 0 to 10, list(TIME, ...) or list FILE";
const ERRNO: &str = "an errno that a disk can end a request with, such as EIO, ENOSPC or EREMOTEIO";
const PLACE: &str = "START-END, in bytes with END not included or in sectors with both ends, and \
    START before END";
const DATA: &str = "write alone in front of 'corrupt bit'";
const NO_READ: &str = "operations in front of 'ignore', and no read among them: there would be \
    nothing to return";

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        read(text, |_| Err(format!("expected {DELAY}")))
    }
}

impl Rule {
    /// Reads a rule of the command line, which may name a file of delays.
    pub fn typed(text: &str) -> Result<Self, String> {
        read(text, delays_of)
    }

    /// Reads a file of rules, one in each line.
    pub fn of_file(path: &str) -> Result<Vec<Self>, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let lines = (1..).zip(text.lines().map(str::trim));
        lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(n, line)| Rule::typed(line).map_err(|why| format!("line {n}, {why}")))
            .collect()
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
    delimited(spaces, take_while(0.., is_part), spaces).parse_next(input)
}

/// A token that `read` makes a value of. A failure stands at its beginning.
fn value<T>(input: &mut &str, read: impl Fn(&str) -> Result<T, String>) -> ModalResult<T> {
    spaces(input)?;
    cut_err(token.try_map(|text| read(text).map_err(Bad))).parse_next(input)
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || c == '.')
}

fn rule(input: &mut &str, files: Files) -> ModalResult<Rule> {
    spaces(input)?;
    let name = opt(terminated(name, (spaces, ':', spaces))).parse_next(input)?;
    let (selectors, selected) = selectors.with_taken().parse_next(input)?;
    let start = input.checkpoint();
    let action = |input: &mut &str| action(input, files);
    let (action, done) = { action }.with_taken().parse_next(input)?;
    let done = match &action {
        // The file may be another one by the time at which the rule is read again.
        Action::Delay(Distribution::List(delays)) => {
            let delays = delays
                .iter()
                .map(|ns| units::Time(Duration::from_nanos(*ns)));
            let delays: Vec<_> = delays.map(|delay| delay.to_string()).collect();
            format!("delay list({})", delays.join(", "))
        }
        _ => done.to_owned(),
    };
    let forbidden = match action {
        Action::Corrupt if selectors.ops != Selectors::WRITE => Some(DATA),
        Action::Ignore if selectors.ops & Selectors::READ != 0 => Some(NO_READ),
        _ => None,
    };
    if let Some(why) = forbidden {
        input.reset(&start);
        refuse(input, why)?;
    }
    cut_err((spaces, eof).context(expected("the end of the rule"))).parse_next(input)?;
    let text = format!("{selected} {done}");
    let words: Vec<_> = text.split_whitespace().collect();
    Ok(Rule {
        name: name.unwrap_or_default().to_owned(),
        text: words.join(" "),
        selectors,
        action,
    })
}

/// A name is no word that selects.
fn name<'i>(input: &mut &'i str) -> ModalResult<&'i str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_name = |text: &&str| {
        let selects = Op::NAMES.contains(text) || ["any", "once"].contains(text);
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && !selects
    };
    let name = take_while(1..=MOST_NAME, is_part);
    name.verify(is_name).parse_next(input)
}

/// The selectors, and the colon behind them.
fn selectors(input: &mut &str) -> ModalResult<Selectors> {
    let mut found = Selectors::default();
    let (mut ops, mut share, mut after, mut every) = (0, None, None, None);
    loop {
        let start = input.checkpoint();
        let is_twice = if opt('@').parse_next(input)?.is_some() {
            let place = place(input)?;
            found.place.replace(place).is_some()
        } else {
            let word = token(input)?;
            let count = |least| move |text: &str| units::number(least, u64::MAX)(text);
            match word {
                "once" => found.times.replace(1).is_some(),
                "times" => found.times.replace(value(input, count(0))?).is_some(),
                "next" => found.next.replace(value(input, count(1))?).is_some(),
                "after" => after.replace(value(input, count(0))?).is_some(),
                "every" => every.replace(value(input, count(1))?).is_some(),
                "for" => found.window.replace(value(input, units::time)?).is_some(),
                "when" => {
                    let more = ("inflight", spaces, '>').context(expected("inflight > N"));
                    cut_err(more).parse_next(input)?;
                    found.in_flight.replace(value(input, count(0))?).is_some()
                }
                word if starts_with_digit(word) => {
                    input.reset(&start);
                    match word.ends_with('%') {
                        true => share.replace(value(input, share_of)?).is_some(),
                        false => found.size.replace(value(input, size)?).is_some(),
                    }
                }
                word => {
                    let op = Op::NAMES.iter().position(|op| *op == word);
                    ops |= match (word, op) {
                        ("any", _) => ANY,
                        (_, Some(op)) => 1 << op,
                        _ => {
                            input.reset(&start);
                            refuse(input, SELECTOR)?
                        }
                    };
                    false
                }
            }
        };
        if is_twice {
            input.reset(&start);
            refuse(input, "each selector once")?;
        }
        spaces(input)?;
        if opt((':', spaces)).parse_next(input)?.is_some() {
            break;
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

/// Reads a decimal fraction as a number of billionths.
fn billionths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let number = |text: &str| units::number::<u64>(0, SHARE_ALL)(text).ok();
    let part = number(part).and(number(&format!("{part:0<9}")).filter(|_| part.len() <= 9))?;
    Some(number(whole)?.saturating_mul(1_000_000_000) + part)
}

fn share_of(text: &str) -> Result<u64, String> {
    let share = billionths(text.trim_end_matches('%')).filter(|share| *share <= SHARE_ALL);
    share.ok_or_else(|| "expected a share from 0% to 100%, with 9 places at most".to_owned())
}

fn size(text: &str) -> Result<(u64, u64), String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let bound = |text: &str, open| match text {
        "" => Ok(open),
        text => units::size(text),
    };
    let range = (bound(least, 0)?, bound(most, u64::MAX)?);
    match range.0 <= range.1 {
        true => Ok(range),
        false => Err("expected a range of sizes that begins with the smaller".to_owned()),
    }
}

/// A place, behind its `@`.
fn place(input: &mut &str) -> ModalResult<(u64, u64)> {
    spaces(input)?;
    let in_sectors = opt("sector").parse_next(input)?.is_some();
    // The first byte of a larger one has no number.
    let sector = |text: &str| units::number::<u64>(0, (1 << 54) - 1)(text);
    let ends = |text: &str| -> Result<_, String> {
        let (start, end) = text.split_once('-').ok_or(String::new())?;
        Ok(match in_sectors {
            true => (sector(start)? << 9, (sector(end)? + 1) << 9),
            false => (units::size(start)?, units::size(end)?),
        })
    };
    value(input, |text: &str| {
        let place = ends(text).ok().filter(|(start, end)| start < end);
        place.ok_or_else(|| format!("expected {PLACE}"))
    })
}

fn action(input: &mut &str, files: Files) -> ModalResult<Action> {
    if opt("delay").parse_next(input)?.is_some() {
        return delay(input, files).map(Action::Delay);
    }
    if opt("error").parse_next(input)?.is_some() {
        let errno = |text: &str| {
            let mut all = Status::all().filter(|status| status.may_be_final());
            let status = all.find(|status| errno_name(*status) == text);
            status.ok_or_else(|| format!("expected {ERRNO}"))
        };
        let status = value(input, errno)?;
        let partial = opt("partial").parse_next(input)?.is_some();
        if partial && status != Status::IoErr {
            refuse(input, "no 'partial', which goes with EIO alone")?;
        }
        return Ok(Action::Error(status, partial));
    }
    let actions = alt((
        "busy dev".value(Action::BusyDev),
        "busy or requeue".value(Action::BusyOrRequeue),
        "busy".value(Action::Busy),
        "requeue".value(Action::Requeue),
        "hang".value(Action::Hang),
        "timeout".value(Action::Timeout),
        "corrupt bit".value(Action::Corrupt),
        "ignore".value(Action::Ignore),
    ));
    cut_err(actions.context(expected(ACTION))).parse_next(input)
}

/// Reads one time of a delay.
fn delay_time(text: &str) -> Result<u64, String> {
    let time = units::time(text).ok().filter(|time| *time <= MAX_DELAY);
    let time =
        time.ok_or_else(|| format!("'{text}' is no time of up to 20s, such as 50us or 2ms"))?;
    Ok(time.as_nanos() as u64)
}

fn delay(input: &mut &str, files: Files) -> ModalResult<Distribution> {
    spaces(input)?;
    let file = |path: &str| files(path.trim()).map_err(Bad);
    let named = preceded(("list", take_while(1.., ' ')), cut_err(rest.try_map(file)));
    if let Some(delays) = opt(named).parse_next(input)? {
        return Ok(Distribution::List(delays));
    }
    let values = delimited('(', separated(1..=MOST_DELAYS, token, ','), ')');
    let drawn = (token, opt(values)).try_map(|(word, values): (_, Option<Vec<_>>)| {
        distribution(word, &values.unwrap_or_default()).map_err(Bad)
    });
    cut_err(drawn).parse_next(input)
}

fn distribution(word: &str, values: &[&str]) -> Result<Distribution, String> {
    Ok(match (word, values) {
        ("uniform", [least, most]) if delay_time(least)? <= delay_time(most)? => {
            Distribution::Uniform(delay_time(least)?, delay_time(most)?)
        }
        ("exponential", [mean]) => Distribution::Exponential(delay_time(mean)?),
        ("lognormal", [median, sigma]) => {
            let sigma = billionths(sigma).filter(|sigma| *sigma <= 10_000_000_000);
            let sigma = sigma.ok_or_else(|| format!("expected {DELAY}"))?;
            Distribution::LogNormal(delay_time(median)?, sigma)
        }
        ("list", [_, ..]) => {
            let delays = values.iter().map(|text| delay_time(text));
            Distribution::List(delays.collect::<Result<_, _>>()?)
        }
        (time, []) if starts_with_digit(time) => Distribution::Constant(delay_time(time)?),
        _ => return Err(format!("expected {DELAY}")),
    })
}

/// Reads a file of delays: times with spaces or line ends between them.
fn delays_of(path: &str) -> Result<Vec<u64>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("'{path}': {error}"))?;
    let delays = text.split_whitespace().map(delay_time);
    let delays = delays.collect::<Result<Vec<_>, _>>();
    let delays = delays.map_err(|why| format!("'{path}': {why}"))?;
    match delays.len() {
        1..=MOST_DELAYS => Ok(delays),
        n => Err(format!(
            "'{path}' has {n} delays: expected 1 to {MOST_DELAYS}"
        )),
    }
}
