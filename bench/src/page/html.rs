// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page: the findings, then each study with its figures, its verdicts and what was written before it ran.
//!
//! `report.html` is the template; here is what it is filled with.

use super::{curves, draw, HALF, NARROW};
use crate::study::headline::Picture;
use crate::study::kept::{Kept, Score};
use crate::study::outcome::{show, Figure, Kind};
use crate::study::prediction::Verdict;
use crate::study::text::Plan;
use crate::study::ALL;
use crate::table::Table;
use minijinja::{context, Environment, HtmlEscape, Value};
use serde::Serialize;

/// The width of the small picture beside a finding.
const SMALL: i32 = 270;

/// A figure of the page.
#[derive(Serialize)]
struct Shown<'a> {
    id: String,
    title: &'a str,
    alt: &'a str,
    place: &'static str,
    wide: String,
    narrow: String,
    table: &'a Table,
}

impl<'a> Shown<'a> {
    fn new(study: &str, kind: Kind, figure: &'a Figure) -> Self {
        Self {
            id: format!("{study}-{}", figure.id),
            title: &figure.title,
            alt: &figure.alt,
            place: kind.place(),
            wide: draw(&figure.plot, HALF),
            narrow: draw(&figure.plot, NARROW),
            table: &figure.table,
        }
    }
}

/// A part of a study: its key figure with the finding, and the others.
#[derive(Serialize)]
struct Part<'a> {
    finding: &'a str,
    worth: &'static str,
    key: Vec<Shown<'a>>,
    more: Vec<Shown<'a>>,
}

/// A prediction and what was found.
#[derive(Serialize)]
struct Row<'a> {
    measure: &'a str,
    predicted: String,
    class: &'static str,
    found: String,
    why: &'a str,
}

/// A study of the page.
#[derive(Serialize)]
struct Study<'a> {
    id: &'a str,
    plan: &'a Plan,
    kept: &'a Kept,
    sentence: String,
    picture: String,
    class: &'static str,
    score: String,
    parts: Vec<Part<'a>>,
    rows: Vec<Row<'a>>,
    command: String,
}

impl Score {
    fn words(self) -> (&'static str, String) {
        let Self {
            held,
            contradicted,
            open,
        } = self;
        let all = held + contradicted + open;
        match (held, contradicted, open) {
            (0, 0, _) => ("muted", "not decided".into()),
            (_, 0, 0) => ("good", format!("all {all} predictions hold")),
            (_, 0, _) => (
                "good",
                format!("{held} of {all} predictions hold, {open} not run"),
            ),
            _ => (
                "bad",
                format!("contradicts {contradicted} of its {all} predictions"),
            ),
        }
    }
}

fn row<'a>(plan: &'a Plan, kept: &Kept) -> Vec<Row<'a>> {
    let rows = plan.predictions.iter().map(|prediction| {
        let (class, found) = match kept.verdict(prediction) {
            Verdict::Holds(value) => ("good", show(value)),
            Verdict::Contradicted(value) => ("bad", show(value)),
            Verdict::NotRun => ("muted", "not run".into()),
        };
        Row {
            measure: &prediction.measure,
            predicted: prediction.to_string(),
            class,
            found,
            why: &prediction.why,
        }
    });
    rows.collect()
}

fn study<'a>(plan: &'a Plan, kept: &'a Kept) -> Study<'a> {
    // Every table can be read: a test holds that.
    let study = ALL.iter().find(|study| study.id == kept.id);
    let headline = study
        .and_then(|study| study.table().ok())
        .map(|table| table.headline);
    let key = headline.as_ref().map_or(&[][..], |headline| &headline.key);
    let shown = headline.as_ref().and_then(|headline| headline.show(kept));
    let (sentence, picture) = match shown {
        Some((sentence, Picture::Plot(plot))) => (sentence, draw(&plot, SMALL)),
        Some((sentence, Picture::States(x, states, course))) => {
            (sentence, curves::states(SMALL, &x, &states, &course.points))
        }
        None => (String::new(), String::new()),
    };
    let parts = kept.parts.iter().map(|part| {
        let all = || part.figures.iter();
        let at = all().position(|f| key.contains(&f.id)).unwrap_or(0);
        let figure = |n: usize| Shown::new(&kept.id, part.kind, &part.figures[n]);
        let others = (0..part.figures.len()).filter(|&n| n != at);
        Part {
            finding: &part.finding,
            worth: part.kind.worth(),
            key: all().nth(at).map(|_| figure(at)).into_iter().collect(),
            more: others.map(figure).collect(),
        }
    });
    let (class, score) = kept.score(plan).words();
    let quick = if kept.quick { " --quick" } else { "" };
    let beds = match kept.beds.is_empty() {
        true => String::new(),
        false => format!(" --bed {}", kept.beds.join(",")),
    };
    Study {
        id: &kept.id,
        plan,
        kept,
        sentence,
        picture,
        class,
        score,
        parts: parts.collect(),
        rows: row(plan, kept),
        command: format!("scripts/study --only {}{quick}{beds}", kept.id),
    }
}

/// A plan's text as HTML: paragraphs, and `code`.
fn prose(text: &str) -> Value {
    let mut out = String::new();
    for paragraph in text.split("\n\n") {
        out += "<p>";
        for (n, piece) in paragraph.split('`').enumerate() {
            let piece = HtmlEscape(piece);
            out += &match n % 2 {
                0 => piece.to_string(),
                _ => format!("<code>{piece}</code>"),
            };
        }
        out += "</p>\n";
    }
    Value::from_safe_string(out)
}

/// The page. An error is a fault of the template.
pub fn page(all: &[(Plan, &Kept)]) -> Result<String, minijinja::Error> {
    let studies: Vec<Study<'_>> = all.iter().map(|(plan, kept)| study(plan, kept)).collect();
    let mut total = Score::default();
    for (plan, kept) in all {
        total.add(kept.score(plan));
    }
    let mut environment = Environment::new();
    environment.add_filter("prose", |text: String| prose(&text));
    environment.add_template("report.html", include_str!("report.html"))?;
    let style = format!(
        "{}{}",
        include_str!("style.css"),
        super::canvas::dark_rules()
    );
    let page = environment.get_template("report.html")?;
    page.render(context! { studies, total, style })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::outcome::{self, Measure};

    const TEXT: &str = "# A <b>\n## Question\nq\n## Method\nm `x`\n## Predictions\nbefore\n\n| m | r | w |\n|---|---|---|\n\
        | one | = 1 | a |\n| two | = 2 | b |\n| three | = 3 | c |\n## Doubts\nd\n";

    fn kept() -> Kept {
        Kept {
            id: "x".into(),
            setting: vec![("kernel".into(), "1 & 2".into())],
            quick: false,
            absent: None,
            beds: Vec::new(),
            not_run: vec!["on a <disk>".into()],
            parts: vec![outcome::Part {
                kind: Kind::Deterministic,
                finding: "1 < 2".into(),
                measures: vec![Measure::new("one", 1.0, ""), Measure::new("two", 3.0, "")],
                figures: Vec::new(),
            }],
        }
    }

    #[test]
    fn a_contradiction_is_said_and_what_was_not_run_too() {
        let plan = Plan::parse(TEXT).unwrap();
        let kept = kept();
        let expected = Score {
            held: 1,
            contradicted: 1,
            open: 1,
        };
        assert_eq!(kept.score(&plan), expected);
        let page = page(&[(plan, &kept)]).unwrap();
        for part in [
            "contradicts 1 of its 3 predictions",
            "Of 3 predictions, 1 hold, 1 are contradicted, 1 were not run",
            "<code>x</code>",
            "1 &lt; 2",
            "A &lt;b&gt;",
            "Not run: on a &lt;disk&gt;",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("http"), "nothing is fetched");
    }
}
