// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a study found: measures to decide predictions by, and figures with all their samples.

use crate::table::Table;
use serde::{Deserialize, Serialize};

/// How far a part's figures repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// In virtual time: the same on every machine, to the last digit.
    Deterministic,
    /// On this machine's clock and scheduler.
    Measured,
    /// On the real driver, in a guest whose clock counts instructions.
    Counted,
    /// On the real driver, in a guest that runs free.
    Guest,
}

impl Kind {
    /// Where that is, in a few words.
    pub fn place(self) -> &'static str {
        match self {
            Self::Deterministic => "in process, virtual time",
            Self::Measured => "in process, this machine's clock",
            Self::Counted => "real driver, instruction-counting guest",
            Self::Guest => "real driver, free-running guest",
        }
    }

    /// What a figure from there is worth.
    pub fn worth(self) -> &'static str {
        match self {
            Self::Deterministic => "In virtual time: repeats to the last digit on any machine.",
            Self::Measured => "Measured: depends on the machine and on what else it did.",
            Self::Counted => {
                "On the real ublk driver, in a guest whose clock counts instructions (2 ns each) and leaps over idle \
                 time: repeats closely on any machine, but knows no caches and no parallel CPUs."
            }
            Self::Guest => "On the real ublk driver, in a guest that runs free: times depend on the machine.",
        }
    }
}

/// One part of a study's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// How far it repeats.
    pub kind: Kind,
    /// The main finding in one line, with its figures.
    pub finding: String,
    /// What predictions are decided by.
    pub measures: Vec<Measure>,
    /// Its pictures, in the order of the report.
    pub figures: Vec<Figure>,
}

/// One figure with a name and a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// As the predictions name it.
    pub name: String,
    /// How much; not a number if what is measured did not happen, which JSON has no word for.
    #[serde(deserialize_with = "number_or_none")]
    pub value: f64,
    /// Of what; empty for a count or a ratio.
    pub unit: String,
}

/// Reads what JSON has for a number that is none.
fn number_or_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

impl Measure {
    /// A measure, rounded to what is worth reading.
    pub fn new(name: impl Into<String>, value: f64, unit: &str) -> Self {
        Self {
            name: name.into(),
            value: round(value),
            unit: unit.into(),
        }
    }
}

/// Puts measures into a sentence: `{NAME}` becomes the value, `{NAME|%}` the value in per cent. So
/// a finding never says another figure than the one that was measured.
pub fn fill(sentence: &str, measures: &[Measure]) -> String {
    let mut out = String::new();
    for (n, piece) in sentence.split(['{', '}']).enumerate() {
        // Every second piece was between braces.
        if n.is_multiple_of(2) {
            out.push_str(piece);
            continue;
        }
        let (name, scale, unit) = match piece.strip_suffix("|%") {
            Some(name) => (name, 100.0, " %"),
            None => (piece, 1.0, ""),
        };
        out += &(show(value(measures, name) * scale) + unit);
    }
    out
}

/// The measure of this name; not a number if there is none.
pub fn value(measures: &[Measure], name: &str) -> f64 {
    let found = measures.iter().find(|m| m.name == name);
    found.map_or(f64::NAN, |m| m.value)
}

/// To six significant digits. More would differ from one machine to the next in the last place, and
/// nobody reads them.
pub fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    // Digits after the point; below zero for numbers of more than six digits.
    let digits = 5 - value.abs().log10().floor() as i32;
    let scale = 10f64.powi(digits.abs());
    if digits >= 0 {
        (value * scale).round() / scale
    } else {
        (value / scale).round() * scale
    }
}

/// A picture and the table under it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Unique within the study; part of file names.
    pub id: String,
    /// What it shows, as a sentence.
    pub title: String,
    /// The same for readers who do not see it.
    pub alt: String,
    /// The picture.
    pub plot: Plot,
    /// The figures to it.
    pub table: Table,
}

/// An axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// What it shows, with the unit.
    pub label: String,
    /// By decades?
    pub log: bool,
}

impl Axis {
    /// An axis with equal steps.
    pub fn linear(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            log: false,
        }
    }

    /// An axis by decades; only values above 0 can be shown.
    pub fn log(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            log: true,
        }
    }

    /// An axis as a study's table has it: its label, and `log` if it goes by decades.
    pub fn of_words(words: &[String]) -> Self {
        Self {
            label: words.first().cloned().unwrap_or_default(),
            log: words.get(1).is_some_and(|word| word == "log"),
        }
    }
}

/// A named series of points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// x and y.
    pub points: Vec<(f64, f64)>,
}

/// Adds a point to the series of this name, which is made if there is none.
pub fn add_point(all: &mut Vec<Series>, name: impl Into<String>, point: (f64, f64)) {
    let name = name.into();
    match all.iter_mut().find(|series| series.name == name) {
        Some(series) => series.points.push(point),
        None => all.push(Series {
            name,
            points: vec![point],
        }),
    }
}

/// A named set of samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// Its name.
    pub name: String,
    /// In the order they were taken.
    pub values: Vec<f64>,
}

/// A stretch of a timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Its beginning.
    pub from: f64,
    /// Its end.
    pub to: f64,
    /// What goes on: an index into the timeline's kinds.
    pub kind: usize,
}

/// A line of a timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Does a new group begin with it? Then the group's name.
    pub group: Option<String>,
    /// What goes on when.
    pub spans: Vec<Span>,
}

/// The kinds of picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plot {
    /// Values by percentile, the last percents widened (as HDR plots do).
    Percentiles {
        /// The values' axis.
        value: Axis,
        /// A curve each.
        sets: Vec<Samples>,
    },
    /// Curves, or dots alone.
    Lines {
        /// From left to right.
        x: Axis,
        /// From bottom to top.
        y: Axis,
        /// A curve each.
        series: Vec<Series>,
        /// Dots alone: the points are samples and not a course.
        dots: bool,
    },
    /// What each row did when.
    Timeline {
        /// The time axis.
        x: Axis,
        /// What can go on.
        kinds: Vec<String>,
        /// From top to bottom.
        rows: Vec<Row>,
    },
    /// Several courses over one time, each with its own scale, one above the other.
    Stack {
        /// The axis they share.
        x: Axis,
        /// From top to bottom: its own axis and the course.
        panels: Vec<(Axis, Series)>,
        /// Thin lines beside the course of a panel, such as its limit.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        levels: Vec<(usize, Series)>,
        /// Panels whose values are states and not amounts, with the names of states 0, 1, and so on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        bands: Vec<(usize, Vec<String>)>,
        /// Moments worth a line through all panels.
        marks: Vec<(f64, String)>,
    },
    /// A bar for each of a few values.
    Bars {
        /// What a bar's length means.
        value: Axis,
        /// From top to bottom: what it is of, and how much.
        bars: Vec<(String, f64)>,
    },
}

/// A figure for a table: three significant digits, no exponent.
pub fn show(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let size = value.abs();
    // A count stays a count: 12 and not 12.0.
    if value == value.trunc() && size < 1e6 {
        return format!("{value}");
    }
    match size {
        s if s >= 100.0 => format!("{value:.0}"),
        s if s >= 10.0 => format!("{value:.1}"),
        s if s >= 1.0 => format!("{value:.2}"),
        s if s >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_of_what_did_not_happen_is_kept_as_such() {
        let text = serde_json::to_string(&Measure::new("m", f64::NAN, "s")).unwrap();
        let again: Measure = serde_json::from_str(&text).unwrap();
        assert!(again.value.is_nan() && again.unit == "s");
    }

    #[test]
    fn a_sentence_is_filled_with_measures() {
        let measures = [
            Measure::new("a: b", 0.25, ""),
            Measure::new("c", 12.0, "ms"),
        ];
        let text = fill("{a: b|%} of it after {c} ms, {d} lost", &measures);
        assert_eq!(text, "25 % of it after 12 ms, – lost");
    }

    #[test]
    fn measures_keep_six_digits() {
        assert_eq!(round(1234567.0), 1234570.0);
        assert_eq!(round(0.123456789), 0.123457);
        assert_eq!(round(0.0), 0.0);
    }
}
