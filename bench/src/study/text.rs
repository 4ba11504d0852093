// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was written before a study ran: its question, method, predictions and doubts.
//!
//! Kept as `bench/studies/NAME.md`, so that it can be read, and its age be seen, without the program; compiled in,
//! so that a report always shows the predictions it was checked against. The table of predictions is what
//! [`super::prediction`] decides by.

use super::prediction::Prediction;
use serde::Serialize;

/// A study as it was planned.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The heading.
    pub title: String,
    /// What is asked.
    pub question: String,
    /// How it is found out.
    pub method: String,
    /// When the predictions were written, and by what reasoning.
    pub basis: String,
    /// What is expected.
    #[serde(skip)]
    pub predictions: Vec<Prediction>,
    /// Why the answer may be worth less than it looks.
    pub doubts: String,
}

/// What is wrong with the text of a study.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// A section is missing or empty.
    #[error("the section '{0}' is missing or empty")]
    NoSection(&'static str),
    /// A row of the predictions cannot be understood.
    #[error("prediction '{row}': {what}")]
    Prediction {
        /// The row.
        row: String,
        /// What is wrong with it.
        what: String,
    },
}

impl Plan {
    /// Reads the text of `bench/studies/NAME.md`.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let title = text.lines().find_map(|line| line.strip_prefix("# "));
        let section = |name| section(text, name).ok_or(PlanError::NoSection(name));
        let predictions = section("Predictions")?;
        let (rows, basis): (Vec<_>, Vec<_>) =
            predictions.lines().partition(|line| line.starts_with('|'));
        let predictions = rows.iter().skip(2).map(|row| prediction(row));
        let predictions = predictions.collect::<Result<Vec<_>, _>>()?;
        if predictions.is_empty() {
            return Err(PlanError::NoSection("Predictions"));
        }
        Ok(Self {
            title: title.ok_or(PlanError::NoSection("title"))?.trim().into(),
            question: section("Question")?,
            method: section("Method")?,
            basis: basis.join("\n").trim().into(),
            predictions,
            doubts: section("Doubts")?,
        })
    }
}

/// The text between a heading of the second level and the next one.
fn section(text: &str, name: &str) -> Option<String> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("## ") {
            Some(heading) => inside = heading.trim() == name,
            None if inside => lines.push(line),
            None => {}
        }
    }
    let body = lines.join("\n").trim().to_owned();
    (!body.is_empty()).then_some(body)
}

/// Reads a row of the table of predictions.
fn prediction(row: &str) -> Result<Prediction, PlanError> {
    let wrong = |what: &str| PlanError::Prediction {
        row: row.into(),
        what: what.into(),
    };
    let cells: Vec<&str> = row.trim().trim_matches('|').split('|').collect();
    let [measure, relation, why] = cells[..] else {
        return Err(wrong("not three cells: measure, relation, why"));
    };
    Prediction::parse(measure.trim(), relation.trim(), why.trim()).map_err(|what| wrong(&what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# x. A study\n\n## Question\nWhy?\n\n## Method\nSo.\n\n## Predictions\nBefore.\n\n\
        | measure | relation | why |\n|---|---|---|\n| a b | >= 2 ms | because |\n\n## Doubts\nMany.\n";

    #[test]
    fn a_plan_is_read_from_its_text() {
        let plan = Plan::parse(TEXT).unwrap();
        assert_eq!(
            (plan.title.as_str(), plan.question.as_str()),
            ("x. A study", "Why?")
        );
        assert_eq!(
            (plan.basis.as_str(), plan.doubts.as_str()),
            ("Before.", "Many.")
        );
        assert_eq!(plan.predictions.len(), 1);
        assert_eq!(plan.predictions[0].measure, "a b");
    }

    #[test]
    fn a_plan_without_doubts_or_with_a_bad_relation_is_refused() {
        let without = TEXT.replace("## Doubts\nMany.\n", "");
        assert_eq!(
            Plan::parse(&without).unwrap_err(),
            PlanError::NoSection("Doubts")
        );
        let bad = Plan::parse(&TEXT.replace(">= 2 ms", "about 2")).unwrap_err();
        assert!(bad.to_string().contains("about 2"), "{bad}");
    }
}
