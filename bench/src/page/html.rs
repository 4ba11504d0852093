// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page: the findings, then each study with its figures, its verdicts and what was written
//! before it ran.
//!
//! `report.html` is the template and has all words of the page itself; here is what it is filled
//! with.

use super::{curves, draw, HALF, NARROW};
use crate::study::headline::Picture;
use crate::study::kept::{Kept, Score};
use crate::study::outcome::{show, Figure, Kind, Part};
use crate::study::prediction::{Prediction, Verdict};
use crate::study::text::Plan;
use crate::study::ALL;
use minijinja::{context, Environment, HtmlEscape, Value};

/// The width of the small picture beside a finding.
const SMALL: i32 = 270;

impl Score {
    /// The class of the style sheet, and the words beside a study.
    fn words(self) -> (&'static str, String) {
        let Self {
            held,
            contradicted,
            open,
        } = self;
        let all = held + contradicted + open;
        match (held, contradicted, open) {
            // Neither good nor bad: there was nothing to decide by.
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

/// A figure, drawn for both widths of a screen.
fn figure(study: &str, kind: Kind, figure: &Figure) -> Value {
    context! {
        id => format!("{study}-{}", figure.id),
        title => figure.title,
        alt => figure.alt,
        place => kind.place(),
        wide => draw(&figure.plot, HALF),
        narrow => draw(&figure.plot, NARROW),
        table => figure.table,
    }
}

/// A part of a study: the figure that is shown with the finding, and those that are folded away.
fn part(study: &str, part: &Part, key: &[String]) -> Value {
    let at = part.figures.iter().position(|f| key.contains(&f.id));
    // Without a key the first figure is shown.
    let at = at.unwrap_or(0);
    let all = part.figures.iter().enumerate();
    let (shown, folded): (Vec<_>, Vec<_>) = all.partition(|(n, _)| *n == at);
    let drawn = |figures: Vec<(usize, &Figure)>| -> Vec<Value> {
        let figures = figures.into_iter();
        figures
            .map(|(_, one)| figure(study, part.kind, one))
            .collect()
    };
    context! {
        finding => part.finding,
        worth => part.kind.worth(),
        key => drawn(shown),
        more => drawn(folded),
    }
}

/// A prediction, and what was found.
fn row(prediction: &Prediction, verdict: Verdict) -> Value {
    let (class, found) = match verdict {
        Verdict::Holds(value) => ("good", show(value)),
        Verdict::Contradicted(value) => ("bad", show(value)),
        Verdict::NotRun => ("muted", "not run".into()),
    };
    context! {
        measure => prediction.measure,
        predicted => prediction.to_string(),
        class,
        found,
        why => prediction.why,
    }
}

/// A study, as the template shows it.
fn study(plan: &Plan, kept: &Kept) -> Value {
    // Every table can be read: a test holds that.
    let study = ALL.iter().find(|study| study.id == kept.id);
    let table = study.and_then(|study| study.table().ok());
    let headline = table.map(|table| table.headline);
    let key = headline.as_ref().map_or(&[][..], |headline| &headline.key);
    let shown = headline.as_ref().and_then(|headline| headline.show(kept));
    let (sentence, picture) = match shown {
        Some((sentence, Picture::Plot(plot))) => (sentence, draw(&plot, SMALL)),
        Some((sentence, Picture::States(x, states, course))) => {
            (sentence, curves::states(SMALL, &x, &states, &course.points))
        }
        None => (String::new(), String::new()),
    };
    let parts = kept.parts.iter().map(|one| part(&kept.id, one, key));
    let rows = plan.predictions.iter();
    let rows = rows.map(|prediction| row(prediction, kept.verdict(prediction)));
    let (class, score) = kept.score(plan).words();
    let quick = if kept.quick { " --quick" } else { "" };
    let beds = match kept.beds.is_empty() {
        true => String::new(),
        false => format!(" --bed {}", kept.beds.join(",")),
    };
    context! {
        id => kept.id,
        plan,
        kept,
        sentence,
        picture,
        class,
        score,
        parts => parts.collect::<Vec<_>>(),
        rows => rows.collect::<Vec<_>>(),
        command => format!("scripts/study --only {}{quick}{beds}", kept.id),
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
                // Every second piece was between backquotes.
                _ => format!("<code>{piece}</code>"),
            };
        }
        out += "</p>\n";
    }
    Value::from_safe_string(out)
}

/// The page. An error is a fault of the template. All figures and texts are inside: nothing is
/// fetched.
pub fn page(all: &[(Plan, &Kept)]) -> Result<String, minijinja::Error> {
    let studies: Vec<Value> = all.iter().map(|(plan, kept)| study(plan, kept)).collect();
    let mut total = Score::default();
    for (plan, kept) in all {
        total.add(kept.score(plan));
    }
    let mut environment = Environment::new();
    // Everything else is escaped by the template: its name ends in .html.
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
            not_run: vec!["on a <disk>".into()],
            parts: vec![outcome::Part {
                kind: Kind::Deterministic,
                finding: "1 < 2".into(),
                measures: vec![Measure::new("one", 1.0, ""), Measure::new("two", 3.0, "")],
                figures: Vec::new(),
            }],
            ..Kept::default()
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
