// SPDX-License-Identifier: MIT OR Apache-2.0
//! A study as a table, in `bench/studies/NAME.toml`: cases, what is measured of each, and the pictures of it.
//!
//! Texts of a table may name the words of a case. `{0}` is the first one; of a word `NAME|VALUE|MORE`, `{0}` is the name,
//! `{0+}` the value, and `{0++}` what is more. `{n}` is the number of requests, which is smaller in a quick run.

use super::draft::Texts;
use super::headline::Headline;
use super::outcome::{add_point, fill, show, Axis, Figure, Kind, Measure};
use super::outcome::{Part, Plot, Samples, Series};
use super::reading::Reading;
use super::settings::{Settings, StudyError};
use crate::table::Table;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The file of a study.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyFile {
    /// What the report shows first.
    pub headline: Headline,
    /// The part in process, by the simulator.
    pub process: Option<Spec>,
    /// The part on the device.
    pub device: Option<Spec>,
    /// The texts of the parts that are code, by name.
    #[serde(default)]
    pub own: BTreeMap<String, Texts>,
}

/// Cases that differ in one or more words, and what is measured of each.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// The words: every combination is a case, the last list varies fastest.
    #[serde(default)]
    pub vary: Vec<Vec<String>>,
    /// How a case is made: arguments of `sim`, or the name of an experiment on the device.
    make: String,
    /// On the device: the options of `add`, or `null_blk MIB MBPS`.
    #[serde(default)]
    disk: String,
    /// On the device: the options of fio.
    #[serde(default)]
    fio: String,
    /// `{n}` in a full run and in a quick one.
    #[serde(default)]
    n: [usize; 2],
    /// What a case is called in the name of a measure.
    key: String,
    /// The columns that say which case a row is about: head and text.
    #[serde(default)]
    heads: Vec<[String; 2]>,
    /// The other columns: head, quantity (see [`Reading::quantity`]), the name of the measure that it is, in which `{}` is
    /// the case's key, and the measure's unit. The last two may be absent.
    columns: Vec<Vec<String>>,
    /// A run that comes to no end is a result.
    #[serde(default)]
    may_stand: bool,
}

/// A picture of a part. What it draws is one of `percentiles` and `curves`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Picture {
    id: String,
    title: String,
    alt: String,
    /// Latencies: block, name of each curve, samples of each that are kept at most.
    percentiles: Option<(usize, String, usize)>,
    /// The keys of the cases that are drawn; all if none is named.
    #[serde(default)]
    of: Vec<String>,
    /// Label of the axis, and `log` if it goes by decades.
    #[serde(default)]
    x: Vec<String>,
    #[serde(default)]
    y: Vec<String>,
    /// Block, name, quantities of x and y. Cases with the same name are one curve.
    #[serde(default)]
    curves: Vec<(usize, String, String, String)>,
    /// The blocks whose rows are the picture's table.
    rows: Vec<usize>,
    /// The columns of that, by their places; all if none is named.
    #[serde(default)]
    columns: Vec<usize>,
}

/// A part of a study.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Its cases.
    pub blocks: Vec<Block>,
    /// What "full" is, in requests per second; absent: what the first case has.
    full: Option<f64>,
    /// Measures made of others: name, dividend, divisor, unit if any. `HEAD, KEY` names any figure; `A + B` is a sum.
    #[serde(default)]
    ratios: Vec<Vec<String>>,
    /// Measures that are sums of a column over all cases: name and head.
    #[serde(default)]
    sums: Vec<[String; 2]>,
    pictures: Vec<Picture>,
    /// The finding, for [`fill`].
    finding: String,
}

/// The words of a case.
type Words = Vec<String>;

/// A case and what it gave.
struct Case {
    words: Words,
    key: String,
    reading: Reading,
}

impl Case {
    /// A text with the words of this case.
    fn named(&self, text: &str) -> String {
        fill_words(text, &self.words)
    }

    /// A quantity; a name that is none is a fault of the table, which a test finds.
    fn quantity(&self, name: &str) -> f64 {
        self.reading.quantity(name).unwrap_or(f64::NAN)
    }
}

/// Puts the words of a case into a text, as the module says.
fn fill_words(text: &str, words: &[String]) -> String {
    let mut out = text.to_owned();
    for (n, word) in words.iter().enumerate() {
        let mut pieces = word.split('|');
        let mut piece = pieces.next().unwrap_or_default();
        // A word with fewer pieces repeats its last one.
        for place in ["", "+", "++"] {
            out = out.replace(&format!("{{{n}{place}}}"), piece);
            piece = pieces.next().unwrap_or(piece);
        }
    }
    out
}

impl Block {
    /// The words of all cases.
    pub fn cases(&self) -> Vec<Words> {
        self.vary.iter().fold(vec![Words::new()], |cases, words| {
            let longer = |case: Words| {
                let longer = words.iter();
                let longer = longer.map(move |word| [case.clone(), vec![word.clone()]].concat());
                longer.collect::<Vec<_>>()
            };
            cases.into_iter().flat_map(longer).collect()
        })
    }

    /// How a case is made: the arguments of `sim`, or the name of an experiment, which is also that
    /// of a file.
    /// Spaces and commas become hyphens in the name of an experiment, never in arguments of `sim`.
    fn making(&self, words: &[String], settings: &Settings) -> String {
        let n = settings.scaled(self.n[0], self.n[1]).to_string();
        match fill_words(&self.make, words).replace("{n}", &n) {
            arguments if arguments.starts_with("--") => arguments,
            name => name.replace([' ', ','], "-").replace("--", "-"),
        }
    }

    /// On the device: the name of a case's experiment, the options of `add`, and those of fio.
    pub fn on_device(&self, words: &[String]) -> [String; 3] {
        let settings = Settings::GUEST;
        let name = self.making(words, &settings);
        // Behind the colon are the jobs of fio that are read, of the same experiment.
        let name = name.split(':').next().unwrap_or_default().to_owned();
        [
            name,
            fill_words(&self.disk, words),
            fill_words(&self.fio, words),
        ]
    }

    /// The rows of the cases, with these columns.
    fn table(&self, cases: &[Case], columns: &[usize]) -> Table {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let columns = if columns.is_empty() { &all } else { columns };
        let shown = || columns.iter().map(|&n| &self.columns[n]);
        let rows = cases.iter().map(|case| {
            let names = self.heads.iter().map(|head| case.named(&head[1]));
            let figures = shown().map(|column| show(case.quantity(&column[1])));
            names.chain(figures).collect()
        });
        let heads = self.heads.iter().map(|head| head[0].clone());
        Table {
            head: heads
                .chain(shown().map(|column| column[0].clone()))
                .collect(),
            rows: rows.collect(),
        }
    }
}

/// Every figure of a part by `HEAD, KEY`, and its measures.
#[derive(Default)]
struct Found {
    all: Vec<(String, f64)>,
    measures: Vec<Measure>,
}

impl Found {
    /// A figure, a sum of figures with ` + ` between, or a number as it is written.
    fn value(&self, name: &str) -> f64 {
        if let Some((one, others)) = name.split_once(" + ") {
            return self.value(one) + self.value(others);
        }
        let found = self.all.iter().find(|found| found.0 == name);
        let number = || name.parse().unwrap_or(f64::NAN);
        found.map_or_else(number, |found| found.1)
    }

    /// Takes in what a case gave.
    fn take(&mut self, block: &Block, case: &Case) {
        for column in &block.columns {
            let value = case.quantity(&column[1]);
            self.all
                .push((format!("{}, {}", column[0], case.key), value));
            if let Some(name) = column.get(2) {
                let unit = column.get(3).map_or("", String::as_str);
                let name = name.replace("{}", &case.key);
                self.measures.push(Measure::new(name, value, unit));
            }
        }
    }
}

impl Spec {
    /// Makes or reads all cases, and describes what they gave. `read` is given the arguments of
    /// `sim`, or the name of an experiment. Fails if a case does, or comes to no end where that is
    /// not expected.
    pub fn part(
        &self,
        kind: Kind,
        settings: &Settings,
        read: impl Fn(&str) -> Result<Reading, StudyError>,
    ) -> Result<Part, StudyError> {
        let (mut full, mut found, mut blocks) = (self.full, Found::default(), Vec::new());
        for block in &self.blocks {
            let mut cases = Vec::new();
            for words in block.cases() {
                let made = block.making(&words, settings);
                let mut reading = read(&made)?;
                // Most cases must end: a figure of a load that hangs would be that of its beginning.
                if reading.stands && !block.may_stand {
                    return Err(StudyError::Refused(format!("{made}: it came to no end")));
                }
                // The first case of the first block is the load at ease, so a table begins with it.
                reading.full = *full.get_or_insert(reading.iops);
                let names = words.iter().filter_map(|word| word.split('|').next());
                // A word that is no number is NaN: a curve over it has no points.
                reading.words = names.map(|name| name.parse().unwrap_or(f64::NAN)).collect();
                let key = fill_words(&block.key, &words);
                let case = Case {
                    words,
                    key,
                    reading,
                };
                found.take(block, &case);
                cases.push(case);
            }
            blocks.push(cases);
        }
        for ratio in &self.ratios {
            let value = found.value(&ratio[1]) / found.value(&ratio[2]);
            let unit = ratio.get(3).map_or("", String::as_str);
            found.measures.push(Measure::new(&ratio[0], value, unit));
        }
        for [name, head] in &self.sums {
            // With the comma: no other head that begins with the same words.
            let head = format!("{head}, ");
            let of_head = found.all.iter().filter(|value| value.0.starts_with(&head));
            let sum = of_head.map(|value| value.1).sum();
            found.measures.push(Measure::new(name, sum, ""));
        }
        let figures = self
            .pictures
            .iter()
            .map(|picture| self.figure(picture, &blocks));
        Ok(Part {
            kind,
            finding: fill(&self.finding, &found.measures),
            figures: figures.collect(),
            measures: found.measures,
        })
    }

    /// Draws a picture of the cases.
    fn figure(&self, picture: &Picture, blocks: &[Vec<Case>]) -> Figure {
        // Blocks of one picture have the same heads; the first one gives them.
        let tables = picture
            .rows
            .iter()
            .map(|&n| self.blocks[n].table(&blocks[n], &picture.columns));
        let table = tables.reduce(|mut table, more| {
            table.rows.extend(more.rows);
            table
        });
        Figure {
            id: picture.id.clone(),
            title: picture.title.clone(),
            alt: picture.alt.clone(),
            plot: picture.plot(blocks),
            table: table.unwrap_or_default(),
        }
    }
}

impl Picture {
    /// What a picture draws.
    fn plot(&self, blocks: &[Vec<Case>]) -> Plot {
        if let Some((n, name, most)) = &self.percentiles {
            return self.percentiles(&blocks[*n], name, *most);
        }
        let curves = self.curves.iter();
        let series = curves.flat_map(|(n, name, x, y)| series(&blocks[*n], name, x, y));
        Plot::Lines {
            x: Axis::of_words(&self.x),
            y: Axis::of_words(&self.y),
            series: series.collect(),
            dots: false,
        }
    }

    /// Latencies by percentile, a curve for each case.
    fn percentiles(&self, cases: &[Case], name: &str, most: usize) -> Plot {
        let named = self
            .of
            .iter()
            .filter_map(|key| cases.iter().find(|case| case.key == *key));
        let drawn: Vec<&Case> = match self.of.is_empty() {
            true => cases.iter().collect(),
            false => named.collect(),
        };
        let sets = drawn.into_iter().map(|case| Samples {
            name: case.named(name),
            values: case.reading.latencies(most),
        });
        Plot::Percentiles {
            value: Axis::log("latency, ms"),
            // A single sample has no percentiles.
            sets: sets.filter(|set| set.values.len() > 1).collect(),
        }
    }
}

/// A point for each case; those of the same name are one curve.
fn series(cases: &[Case], name: &str, x: &str, y: &str) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for case in cases {
        let point = (case.quantity(x), case.quantity(y));
        add_point(&mut all, case.named(name), point);
    }
    // A case list goes in the order of its words, a curve from left to right.
    for series in &mut all {
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        ratios = [["gain", "reads/s, fast 1", "reads/s, slow 1"]]
        sums = [["all lost", "lost"]]
        finding = "{gain} times"
        [[blocks]]
        vary = [["1", "2"], ["slow|s", "fast|f|ff"]]
        make = "--{0}{1+} {1++} {n}"
        n = [10, 1]
        key = "{1} {0}"
        heads = [["depth", "{0}"], ["who", "{1}"]]
        columns = [["reads/s", "iops", "rate, {}", "/s"], ["lost", "lost"]]
        [[pictures]]
        id = "p"
        title = "t"
        alt = "a"
        x = ["x"]
        y = ["y", "log"]
        curves = [[0, "{1}", "word_0", "of_full"]]
        rows = [0]
        columns = [0]
    "#;

    #[test]
    fn a_table_becomes_measures_rows_and_curves() {
        let spec: Spec = toml::from_str(TEXT).unwrap();
        let settings = Settings {
            quick: true,
            measure: false,
        };
        let read = |made: &str| {
            let iops = match made {
                "--1s s 1" | "--2s s 1" => 10.0,
                "--1f ff 1" | "--2f ff 1" => 30.0,
                other => panic!("{other}"),
            };
            let counters = [("inserted".to_owned(), 1.0)].into();
            Ok(Reading {
                iops,
                counters,
                ..Reading::default()
            })
        };
        let part = spec.part(Kind::Deterministic, &settings, read).unwrap();
        assert_eq!(part.finding, "3 times");
        let measures = part.measures.iter().map(|m| (m.name.as_str(), m.value));
        let measures: Vec<_> = measures.collect();
        let rates = [("rate, slow 1", 10.0), ("rate, fast 1", 30.0)];
        assert_eq!(measures[..2], rates);
        assert_eq!(measures[4..], [("gain", 3.0), ("all lost", 4.0)]);
        let Plot::Lines { series, .. } = &part.figures[0].plot else {
            panic!("curves")
        };
        assert_eq!(series[1].name, "fast");
        assert_eq!(series[1].points, [(1.0, 3.0), (2.0, 3.0)]);
        assert_eq!(part.figures[0].table.rows[3], ["2", "fast", "30"]);
    }

    #[test]
    fn every_study_has_a_table_whose_quantities_exist() {
        for study in &crate::study::ALL {
            let file = study
                .table()
                .unwrap_or_else(|e| panic!("{}: {e}", study.id));
            for spec in file.process.iter().chain(&file.device) {
                let columns = spec.blocks.iter().flat_map(|block| &block.columns);
                let curves = spec.pictures.iter().flat_map(|picture| &picture.curves);
                let names = columns.map(|column| &column[1]);
                for name in names.chain(curves.flat_map(|curve| [&curve.2, &curve.3])) {
                    let found = Reading::default().quantity(name);
                    assert!(found.is_some(), "{}: {name}", study.id);
                }
            }
        }
    }
}
