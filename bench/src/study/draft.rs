// SPDX-License-Identifier: MIT OR Apache-2.0
//! A part of a study that is measured by code of its own, because it needs real threads or a script.
//!
//! The code gives figures and measures. Every text that a reader of the report sees (finding, titles, axes, heads of
//! columns) stands in the study's table under `[own.NAME]`, beside the texts of the parts that need no code.

use super::outcome::{fill, Axis, Figure, Kind, Measure, Part, Plot, Row, Samples, Series};
use super::settings::StudyError;
use super::table::StudyFile;
use crate::table::Table;
use serde::Deserialize;

/// The texts of one part.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Texts {
    /// The finding, for [`fill`].
    finding: String,
    /// In the order of the report.
    pictures: Vec<Caption>,
}

/// The texts of one picture.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Caption {
    id: String,
    title: String,
    alt: String,
    /// Label of the axis, and `log` if it goes by decades.
    #[serde(default)]
    x: Vec<String>,
    #[serde(default)]
    y: Vec<String>,
    /// What the colors of a timeline mean.
    #[serde(default)]
    kinds: Vec<String>,
    /// The heads of the columns of the table below the picture.
    head: Vec<String>,
}

/// What a picture shows.
pub enum Drawn {
    /// Curves over x and y.
    Curves(Vec<Series>),
    /// The same as points that are not connected: samples and not a course.
    Dots(Vec<Series>),
    /// Values by percentile.
    Percentiles(Vec<Samples>),
    /// What went on when.
    Timeline(Vec<Row>),
    /// A picture that has its axes already.
    Plot(Plot),
}

/// A part that is being measured.
pub struct Draft {
    kind: Kind,
    texts: Texts,
    measures: Vec<Measure>,
    figures: Vec<Figure>,
}

impl Draft {
    /// Begins the part whose texts stand under `[own.NAME]` in the table of the study. Fails if
    /// there are none.
    pub fn new(file: &StudyFile, name: &str, kind: Kind) -> Result<Self, StudyError> {
        let texts = file.own.get(name).cloned();
        Ok(Self {
            kind,
            texts: texts.ok_or_else(|| no_text(name))?,
            measures: Vec::new(),
            figures: Vec::new(),
        })
    }

    /// Adds a measure, by the name that predictions and texts have for it.
    pub fn measure(&mut self, name: impl Into<String>, value: f64, unit: &str) {
        self.measures.push(Measure::new(name, value, unit));
    }

    /// Adds a picture and the rows of the table below it. Fails if the table of the study has no
    /// text for the picture.
    pub fn figure(&mut self, id: &str, drawn: Drawn, rows: Table) -> Result<(), StudyError> {
        let mut captions = self.texts.pictures.iter();
        let caption = captions.find(|caption| caption.id == id);
        let caption = caption.ok_or_else(|| no_text(id))?;
        let (x, y) = (Axis::of_words(&caption.x), Axis::of_words(&caption.y));
        let (drawn, dots) = match drawn {
            Drawn::Dots(series) => (Drawn::Curves(series), true),
            drawn => (drawn, false),
        };
        let plot = match drawn {
            Drawn::Curves(series) | Drawn::Dots(series) => Plot::Lines { x, y, series, dots },
            Drawn::Percentiles(sets) => Plot::Percentiles { value: y, sets },
            Drawn::Timeline(rows) => Plot::Timeline {
                x,
                kinds: caption.kinds.clone(),
                rows,
            },
            Drawn::Plot(plot) => plot,
        };
        self.figures.push(Figure {
            id: id.to_owned(),
            title: caption.title.clone(),
            alt: caption.alt.clone(),
            plot,
            // The heads are text and stand in the study's table; the code gives the rows.
            table: Table {
                head: caption.head.clone(),
                rows: rows.rows,
            },
        });
        Ok(())
    }

    /// Puts words for `{NAME}` into the finding, where a measure alone would say too much.
    pub fn word(&mut self, name: &str, text: &str) {
        let place = format!("{{{name}}}");
        self.texts.finding = self.texts.finding.replace(&place, text);
    }

    /// Ends the part.
    pub fn part(self) -> Part {
        Part {
            kind: self.kind,
            finding: fill(&self.texts.finding, &self.measures),
            measures: self.measures,
            figures: self.figures,
        }
    }
}

/// A fault of the table.
fn no_text(name: &str) -> StudyError {
    StudyError::Lacking(format!("the study's table has no text for '{name}'"))
}
