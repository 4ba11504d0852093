// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page: the summary, then each study with its plan, its verdicts, its figures and its doubts.

use super::{draw, NARROW, WIDE};
use crate::study::kept::Kept;
use crate::study::outcome::{show, Figure, Kind, Part, Table};
use crate::study::prediction::Verdict;
use crate::study::text::Plan;
use std::fmt::Write;

/// Text as it must stand in HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// A plan's text: paragraphs, and `code`.
fn prose(text: &str) -> String {
    let mut out = String::new();
    for paragraph in text.split("\n\n") {
        let mut html = String::new();
        for (n, piece) in escape(paragraph).split('`').enumerate() {
            match n % 2 {
                0 => html.push_str(piece),
                _ => html += &format!("<code>{piece}</code>"),
            }
        }
        out += &format!("<p>{html}</p>\n");
    }
    out
}

/// How a study's predictions came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// As predicted.
    pub held: usize,
    /// Not as predicted.
    pub contradicted: usize,
    /// Not run.
    pub open: usize,
}

/// Decides all predictions of a study.
pub fn score(plan: &Plan, kept: &Kept) -> Score {
    let mut score = Score::default();
    for prediction in &plan.predictions {
        match prediction.decide(kept.parts.iter().flat_map(|p| &p.measures)) {
            Verdict::Holds(_) => score.held += 1,
            Verdict::Contradicted(_) => score.contradicted += 1,
            Verdict::NotRun => score.open += 1,
        }
    }
    score
}

fn tag(score: Score) -> String {
    let all = score.held + score.contradicted + score.open;
    let (class, text) = match score {
        Score {
            contradicted: 0,
            held: 0,
            ..
        } => ("muted", "not decided".to_owned()),
        Score {
            contradicted: 0,
            open: 0,
            ..
        } => ("good", format!("as predicted, {all} of {all}")),
        Score {
            contradicted: 0, ..
        } => (
            "good",
            format!(
                "as predicted, {} of {all}, {} not run",
                score.held, score.open
            ),
        ),
        Score { contradicted, .. } => (
            "bad",
            format!("contradicts {contradicted} of its {all} predictions"),
        ),
    };
    format!("<span class=\"tag {class}\">{text}</span>")
}

fn table(table: &Table, class: &str) -> String {
    let mut out = format!("<div class=\"scroll\"><table{class}><thead><tr>");
    table
        .head
        .iter()
        .for_each(|h| out += &format!("<th scope=\"col\">{}</th>", escape(h)));
    out += "</tr></thead><tbody>\n";
    for row in &table.rows {
        out += "<tr>";
        row.iter()
            .for_each(|cell| out += &format!("<td>{}</td>", escape(cell)));
        out += "</tr>\n";
    }
    out + "</tbody></table></div>\n"
}

/// A picture for the page: with a role and a text, and a size that gives way.
fn inline(figure: &Figure, width: i32, class: &str) -> String {
    let svg = draw(figure, width);
    let alt = escape(&figure.alt);
    svg.replacen(
        "<svg ",
        &format!("<svg class=\"{class}\" role=\"img\" aria-label=\"{alt}\" "),
        1,
    )
}

fn figure(study: &str, kind: Kind, figure: &Figure) -> String {
    let (id, title, place) = (&figure.id, escape(&figure.title), kind.place());
    format!(
        "<figure id=\"{study}-{id}\">\n<figcaption>{title} <span class=\"bed\">{place}</span></figcaption>\n{}{}{}\
         </figure>\n",
        inline(figure, WIDE, "wide"),
        inline(figure, NARROW, "narrow"),
        table(&figure.table, ""),
    )
}

fn verdicts(plan: &Plan, kept: &Kept) -> String {
    let mut out = String::from(
        "<div class=\"scroll\"><table class=\"words\"><thead><tr><th scope=\"col\">what</th>\
         <th scope=\"col\">predicted</th><th scope=\"col\">found</th><th scope=\"col\">why predicted</th></tr></thead><tbody>\n",
    );
    for prediction in &plan.predictions {
        let verdict = prediction.decide(kept.parts.iter().flat_map(|p| &p.measures));
        let found = match verdict {
            Verdict::Holds(value) => format!("<span class=\"tag good\">{}</span>", show(value)),
            Verdict::Contradicted(value) => {
                format!("<span class=\"tag bad\">{}</span>", show(value))
            }
            Verdict::NotRun => "<span class=\"tag muted\">not run</span>".into(),
        };
        let _never_fails = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{found}</td><td class=\"muted\">{}</td></tr>",
            escape(&prediction.measure),
            escape(&prediction.to_string()),
            escape(&prediction.why),
        );
    }
    out + "</tbody></table></div>\n"
}

fn part(study: &str, part: &Part) -> String {
    let figures = part.figures.iter();
    let figures: String = figures.map(|f| figure(study, part.kind, f)).collect();
    format!(
        "<p>{}</p>\n<p class=\"muted\">{}</p>\n{figures}",
        escape(&part.finding),
        part.kind.worth()
    )
}

fn setting(kept: &Kept) -> String {
    let mut rows = Table::new(&["setting", "value"]);
    for (name, value) in &kept.setting {
        rows.row([name.clone(), value.clone()]);
    }
    let quick = if kept.quick { " --quick" } else { "" };
    let beds: Vec<&str> = kept.beds.iter().map(String::as_str).collect();
    let beds = match beds[..] {
        [] => String::new(),
        _ => format!(" --bed {}", beds.join(",")),
    };
    format!(
        "<h3>How to repeat it</h3>\n<pre>scripts/study --only {}{quick}{beds}</pre>\n{}",
        kept.id,
        table(&rows, " class=\"words\"")
    )
}

/// The page.
pub fn page(all: &[(Plan, &Kept)]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Studies of requeue and rescuer behaviour</title>\n<link rel=\"icon\" href=\"data:,\">\n\
         <style>\n{}</style>\n</head>\n<body>\n<main>\n\
         <h1>Studies of requeue and rescuer behaviour</h1>\n",
        include_str!("style.css")
    );
    let total = all.iter().map(|(plan, kept)| score(plan, kept));
    let (held, contradicted, open) = total.fold((0, 0, 0), |sum, s| {
        (sum.0 + s.held, sum.1 + s.contradicted, sum.2 + s.open)
    });
    let _never_fails = writeln!(
        out,
        "<p>Each study asks a question and predicts the answer before it runs. Of {} predictions {held} hold, \
         {contradicted} are contradicted, {open} were not run. What is contradicted is marked <span class=\"tag bad\">so\
         </span>; it is a finding, and stays.</p>\n<ul class=\"findings\">",
        held + contradicted + open,
    );
    for (plan, kept) in all {
        let findings = kept.parts.iter().map(|p| escape(&p.finding));
        let absent = kept.absent.iter().chain(&kept.not_run);
        let absent =
            absent.map(|why| format!("<span class=\"muted\">Not run: {}</span>", escape(why)));
        let findings: Vec<String> = findings.chain(absent).collect();
        let _never_fails = writeln!(
            out,
            "<li><a href=\"#{0}\"><b>{0}. {1}</b></a> {2}<br>{3}</li>",
            kept.id,
            escape(&plan.title),
            tag(score(plan, kept)),
            findings.join("<br>"),
        );
    }
    out += "</ul>\n";
    for (plan, kept) in all {
        let parts: String = kept.parts.iter().map(|p| part(&kept.id, p)).collect();
        let _never_fails = write!(
            out,
            "<section id=\"{0}\">\n<h2>{0}. {1}</h2>\n<h3>Question</h3>\n{2}<h3>Method</h3>\n{3}\
             <h3>Predictions</h3>\n{4}<p>{5}</p>\n{6}<h3>Result</h3>\n{7}<h3>Doubts</h3>\n{8}{9}</section>\n",
            kept.id,
            escape(&plan.title),
            prose(&plan.question),
            prose(&plan.method),
            prose(&plan.basis),
            tag(score(plan, kept)),
            verdicts(plan, kept),
            parts,
            prose(&plan.doubts),
            setting(kept),
        );
    }
    out + "</main>\n</body>\n</html>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::outcome::Measure;

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
            parts: vec![Part {
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
        assert_eq!(score(&plan, &kept), expected);
        let page = page(&[(plan, &kept)]);
        assert!(
            page.contains("contradicts 1 of its 3 predictions"),
            "{page}"
        );
        assert!(page.contains("Of 3 predictions 1 hold, 1 are contradicted, 1 were not run"));
        assert!(
            page.contains("<code>x</code>")
                && page.contains("1 &lt; 2")
                && page.contains("A &lt;b&gt;")
        );
        assert!(page.contains("Not run: on a &lt;disk&gt;"), "{page}");
        assert!(!page.contains("http"), "nothing is fetched");
    }
}
