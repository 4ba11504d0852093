// SPDX-License-Identifier: MIT OR Apache-2.0
//! A prediction in a form that a program can decide, and its verdict.

use super::outcome::Measure;
use std::fmt;

/// What is expected of one measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The measure's name.
    pub measure: String,
    /// The relation it should be in.
    pub relation: Relation,
    /// The unit of the figures in the relation.
    pub unit: String,
    /// Why it is expected.
    pub why: String,
}

/// What a value is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Relation {
    /// `= a`: to within rounding.
    Equal(f64),
    /// `<= a`.
    AtMost(f64),
    /// `>= a`.
    AtLeast(f64),
    /// `a .. b`, ends included.
    Between(f64, f64),
}

/// How a prediction came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// The value is as predicted.
    Holds(f64),
    /// It is not.
    Contradicted(f64),
    /// The part of the study that gives the measure was not run.
    NotRun,
}

impl Relation {
    /// True if a value is in the relation.
    /// Never for a value that is not a number.
    fn holds(self, value: f64) -> bool {
        match self {
            // A billionth: measures are rounded to six digits, so any real difference is larger.
            Self::Equal(a) => (value - a).abs() <= 1e-9 * a.abs().max(1.0),
            Self::AtMost(a) => value <= a,
            Self::AtLeast(a) => value >= a,
            Self::Between(a, b) => (a..=b).contains(&value),
        }
    }
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.relation {
            Relation::Equal(a) => write!(f, "= {a}")?,
            Relation::AtMost(a) => write!(f, "≤ {a}")?,
            Relation::AtLeast(a) => write!(f, "≥ {a}")?,
            Relation::Between(a, b) => write!(f, "{a} … {b}")?,
        }
        if self.unit.is_empty() {
            return Ok(());
        }
        write!(f, " {}", self.unit)
    }
}

impl Prediction {
    /// Reads `= 5 ms`, `<= 3`, `>= 2 %` or `1 .. 4 us`. Fails with what is wrong with the row.
    pub fn parse(measure: &str, relation: &str, why: &str) -> Result<Self, String> {
        let wrong = || {
            format!("'{relation}' is none of '= A', '<= A', '>= A', 'A .. B', each with an optional unit")
        };
        let words: Vec<&str> = relation.split_whitespace().collect();
        let number = |text: &str| text.parse::<f64>().map_err(|_| wrong());
        let (relation, unit) = match words[..] {
            ["=", a, ref unit @ ..] => (Relation::Equal(number(a)?), unit),
            ["<=", a, ref unit @ ..] => (Relation::AtMost(number(a)?), unit),
            [">=", a, ref unit @ ..] => (Relation::AtLeast(number(a)?), unit),
            [a, "..", b, ref unit @ ..] => (Relation::Between(number(a)?, number(b)?), unit),
            _ => return Err(wrong()),
        };
        // A prediction without a reason would be a guess, and a unit of two words a typing mistake.
        if measure.is_empty() || why.is_empty() || unit.len() > 1 {
            return Err(
                "a measure, a relation with at most one word of unit, and a reason are needed"
                    .into(),
            );
        }
        Ok(Self {
            measure: measure.into(),
            relation,
            unit: unit.concat(),
            why: why.into(),
        })
    }

    /// Decides by what was measured.
    pub fn decide<'a>(&self, measures: impl IntoIterator<Item = &'a Measure>) -> Verdict {
        let found = measures
            .into_iter()
            // A measure in another unit is not converted: it does not decide, and the report shows "not run".
            .find(|m| m.name == self.measure && m.unit == self.unit);
        match found.map(|m| m.value) {
            None => Verdict::NotRun,
            Some(value) if self.relation.holds(value) => Verdict::Holds(value),
            Some(value) => Verdict::Contradicted(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(relation: &str, value: f64) -> Verdict {
        let prediction = Prediction::parse("m", relation, "why").unwrap();
        decide_all(&prediction, value)
    }

    fn decide_all(prediction: &Prediction, value: f64) -> Verdict {
        prediction.decide(&[
            Measure::new("other", 1.0, "ms"),
            Measure::new("m", value, "ms"),
        ])
    }

    #[test]
    fn each_relation_can_hold_and_can_be_contradicted() {
        for (relation, inside, outside) in [
            ("= 5 ms", 5.0, 5.1),
            ("<= 5 ms", 5.0, 5.1),
            (">= 5 ms", 5.0, 4.9),
            ("2 .. 5 ms", 2.0, 5.1),
        ] {
            assert_eq!(decide(relation, inside), Verdict::Holds(inside));
            assert_eq!(decide(relation, outside), Verdict::Contradicted(outside));
        }
    }

    #[test]
    fn a_measure_that_was_not_taken_or_has_another_unit_decides_nothing() {
        assert_eq!(decide("= 5 us", 5.0), Verdict::NotRun);
        let prediction = Prediction::parse("absent", "= 5 ms", "why").unwrap();
        assert_eq!(decide_all(&prediction, 5.0), Verdict::NotRun);
        // Nor does a value that is no number agree with anything.
        assert!(matches!(
            decide("<= 5 ms", f64::NAN),
            Verdict::Contradicted(_)
        ));
    }
}
