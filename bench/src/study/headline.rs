// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the report shows first: of each study one sentence, and one small picture that shows it.

use super::kept::Kept;
use super::outcome::{fill, value, Axis, Measure, Plot, Series};
use serde::Deserialize;

/// The finding of one study, as its table has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headline {
    /// A sentence for [`fill`].
    sentence: String,
    /// What the bars show.
    #[serde(default)]
    label: String,
    /// By what the measures are multiplied.
    #[serde(default = "one")]
    scale: f64,
    /// The names of the bars, and their measures.
    #[serde(default)]
    bars: Vec<[String; 2]>,
    /// Instead of bars: the figure whose first band is shown.
    band: Option<String>,
    /// The figures that the report shows unfolded; the first of a part if none of it is named.
    pub key: Vec<String>,
}

/// The usual scale: measures are shown as they are.
fn one() -> f64 {
    1.0
}

/// The small picture beside a sentence.
pub enum Picture {
    /// One that [`crate::page::draw`] draws.
    Plot(Plot),
    /// The states of a course, with the names of the states.
    States(Axis, Vec<String>, Series),
}

impl Headline {
    /// The sentence and the picture, unless the study was not run.
    pub fn show(&self, kept: &Kept) -> Option<(String, Picture)> {
        let parts = kept.parts.iter();
        let measures: Vec<Measure> = parts.flat_map(|part| part.measures.clone()).collect();
        let picture = match &self.band {
            Some(id) => states(kept, id)?,
            None => {
                let bars = self.bars.iter();
                let bars = bars.map(|[name, of]| (name.clone(), value(&measures, of) * self.scale));
                let bars: Vec<_> = bars.collect();
                // Without a single value there is nothing to show. One that is missing shows as a dash.
                bars.iter().find(|bar| bar.1.is_finite())?;
                let value = Axis::linear(&self.label);
                Picture::Plot(Plot::Bars { value, bars })
            }
        };
        Some((fill(&self.sentence, &measures), picture))
    }
}

/// The first band of a figure.
fn states(kept: &Kept, id: &str) -> Option<Picture> {
    let mut figures = kept.parts.iter().flat_map(|part| &part.figures);
    let figure = figures.find(|figure| figure.id == id)?;
    let Plot::Stack {
        x, panels, bands, ..
    } = &figure.plot
    else {
        return None;
    };
    let (panel, states) = bands.first()?;
    let course = panels.get(*panel)?.1.clone();
    Some(Picture::States(x.clone(), states.clone(), course))
}
