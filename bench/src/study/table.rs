// SPDX-License-Identifier: MIT OR Apache-2.0
//! A part of a study as a table: cases, what is measured of each, and the pictures of it.
//!
//! Texts of a table may name the words of a case: `{0}` is its first word. A word `NAME|VALUE` is named by `{0}` and has
//! its value in `{0+}`. `{n}` is the number of requests, which is smaller in a quick run.

use super::outcome::{fill, show, Axis, Figure, Kind, Measure, Part, Plot, Samples, Series, Table};
use super::reading::Reading;
use super::{Settings, StudyError};

/// A quantity of one case.
pub type Quantity = fn(&Reading) -> f64;

/// Cases that differ in one or more words, and what is measured of each.
pub struct Block {
    /// The words: every combination is a case, the last list varies fastest.
    pub vary: &'static [&'static [&'static str]],
    /// How a case is made: arguments of `sim`, or the name of an experiment on the device.
    pub make: &'static str,
    /// On the device: the options of `add`, and those of fio.
    pub device: [&'static str; 2],
    /// `{n}` in a full run and in a quick one.
    pub n: [usize; 2],
    /// What a case is called in the name of a measure.
    pub key: &'static str,
    /// The columns that say which case a row is about: head and text.
    pub heads: &'static [(&'static str, &'static str)],
    /// The other columns.
    pub columns: &'static [Column],
    /// A run that comes to no end is a result.
    pub may_stand: bool,
}

impl Block {
    /// To be completed with `..Block::NEW`.
    pub const NEW: Self = Self {
        vary: &[],
        make: "",
        device: [""; 2],
        n: [0; 2],
        key: "",
        heads: &[],
        columns: &[],
        may_stand: false,
    };
}

/// A column of figures, and the measure that each figure is.
#[derive(Clone, Copy)]
pub struct Column {
    /// Its head.
    pub head: &'static str,
    /// The figure.
    pub of: Quantity,
    /// The name of the measure, in which `{}` is the case's key; empty if it is none.
    pub measure: &'static str,
    /// The measure's unit.
    pub unit: &'static str,
}

/// A column that is no measure.
pub const fn column(head: &'static str, of: Quantity) -> Column {
    measured(head, of, "", "")
}

/// A column that is a measure, too.
pub const fn measured(
    head: &'static str,
    of: Quantity,
    measure: &'static str,
    unit: &'static str,
) -> Column {
    Column {
        head,
        of,
        measure,
        unit,
    }
}

/// What is drawn.
pub enum Draw {
    /// Latencies by percentile: of a block, the name of each curve, and the cases that are drawn, by their keys; all if
    /// none is named. At most this many samples of each are kept.
    Percentiles(usize, &'static str, &'static [&'static str], usize),
    /// Curves: both axes, and of each curve block, name, x and y. Cases with the same name are one curve.
    Lines(
        [(&'static str, bool); 2],
        &'static [(usize, &'static str, Quantity, Quantity)],
    ),
    /// Each job's share of the mean, by case.
    Shares(usize, &'static str),
}

/// A picture of a part.
pub struct Picture {
    /// The figure's id.
    pub id: &'static str,
    /// Its title.
    pub title: &'static str,
    /// Its description.
    pub alt: &'static str,
    /// What is drawn.
    pub draw: Draw,
    /// The blocks whose rows are its table, and the columns by their places; all if none is named.
    pub rows: (&'static [usize], &'static [usize]),
}

/// A part of a study.
pub struct Spec {
    /// Its cases.
    pub blocks: &'static [Block],
    /// What "full" is, in requests per second; 0: what the first case has.
    pub full: f64,
    /// Measures made of others: name, dividend, divisor, unit. `HEAD, KEY` names any figure; `A + B` is a sum of two.
    pub ratios: &'static [[&'static str; 4]],
    /// Measures that are sums of a column over all cases: name and head.
    pub sums: &'static [[&'static str; 2]],
    /// Its pictures.
    pub pictures: &'static [Picture],
    /// The finding, for [`fill`].
    pub finding: &'static str,
}

/// A case and what it gave.
struct Case {
    words: Vec<&'static str>,
    key: String,
    reading: Reading,
}

fn fill_words(text: &str, words: &[&str]) -> String {
    let mut out = text.to_owned();
    for (n, word) in words.iter().enumerate() {
        let (name, value) = word.split_once('|').unwrap_or((word, word));
        out = out.replace(&format!("{{{n}}}"), name);
        out = out.replace(&format!("{{{n}+}}"), value);
    }
    out
}

impl Block {
    /// The words of all cases.
    pub fn cases(&self) -> Vec<Vec<&'static str>> {
        self.vary.iter().fold(vec![Vec::new()], |cases, words| {
            let longer = |case: Vec<&'static str>| {
                let longer = words
                    .iter()
                    .map(move |&word| [case.clone(), vec![word]].concat());
                longer.collect::<Vec<_>>()
            };
            cases.into_iter().flat_map(longer).collect()
        })
    }

    fn making(&self, words: &[&str], settings: &Settings) -> String {
        let n = settings.scaled(self.n[0], self.n[1]).to_string();
        match fill_words(self.make, words).replace("{n}", &n) {
            arguments if arguments.starts_with("--") => arguments,
            _ => self.experiment(words),
        }
    }

    /// The name of the experiment that a case is, on the device.
    pub fn experiment(&self, words: &[&str]) -> String {
        let name = fill_words(self.make, words);
        name.replace([' ', ','], "-").replace("--", "-")
    }

    /// The options of `add` and of fio.
    pub fn on_device(&self, words: &[&str]) -> [String; 2] {
        self.device.map(|text| fill_words(text, words))
    }

    fn table(&self, cases: &[Case], columns: &[usize]) -> Table {
        let shown = || {
            let columns: Vec<usize> = match columns {
                [] => (0..self.columns.len()).collect(),
                some => some.to_vec(),
            };
            columns.into_iter().map(|n| &self.columns[n])
        };
        let mut table = Table::default();
        table.head = self.heads.iter().map(|head| head.0.to_owned()).collect();
        table
            .head
            .extend(shown().map(|column| column.head.to_owned()));
        for case in cases {
            let names = self
                .heads
                .iter()
                .map(|head| fill_words(head.1, &case.words));
            let figures = shown().map(|column| show((column.of)(&case.reading)));
            table.rows.push(names.chain(figures).collect());
        }
        table
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
        if let Ok(number) = name.parse() {
            return number;
        }
        let all = self.all.iter().find(|found| found.0 == name);
        let measure = || {
            self.measures
                .iter()
                .find(|measure| measure.name == name)
                .map(|m| m.value)
        };
        all.map(|found| found.1)
            .or_else(measure)
            .unwrap_or(f64::NAN)
    }

    fn take(&mut self, block: &Block, case: &Case) {
        for column in block.columns {
            let value = (column.of)(&case.reading);
            self.all
                .push((format!("{}, {}", column.head, case.key), value));
            if !column.measure.is_empty() {
                let name = column.measure.replace("{}", &case.key);
                self.measures.push(Measure::new(name, value, column.unit));
            }
        }
    }
}

impl Spec {
    /// Makes or reads all cases, and describes what they gave. `read` is given the
    /// arguments of `sim`, or the name of an experiment.
    pub fn part(
        &self,
        kind: Kind,
        settings: &Settings,
        read: impl Fn(&str) -> Result<Reading, StudyError>,
    ) -> Result<Part, StudyError> {
        let (mut full, mut found, mut blocks) = (self.full, Found::default(), Vec::new());
        for block in self.blocks {
            let mut cases = Vec::new();
            for words in block.cases() {
                let made = block.making(&words, settings);
                let mut reading = read(&made)?;
                if reading.stands && !block.may_stand {
                    return Err(StudyError::Refused(format!("{made}: it came to no end")));
                }
                if full == 0.0 {
                    full = reading.iops;
                }
                reading.full = full;
                let number =
                    |word: &&str| word.split('|').next().and_then(|name| name.parse().ok());
                reading.words = words
                    .iter()
                    .map(|word| number(word).unwrap_or(f64::NAN))
                    .collect();
                let key = fill_words(block.key, &words);
                cases.push(Case {
                    words,
                    key,
                    reading,
                });
            }
            cases.iter().for_each(|case| found.take(block, case));
            blocks.push(cases);
        }
        for [name, dividend, divisor, unit] in self.ratios {
            let value = found.value(dividend) / found.value(divisor);
            found.measures.push(Measure::new(*name, value, unit));
        }
        for [name, head] in self.sums {
            let of_head = found
                .all
                .iter()
                .filter(|value| value.0.starts_with(&format!("{head}, ")));
            let sum = of_head.map(|value| value.1).sum();
            found.measures.push(Measure::new(*name, sum, ""));
        }
        let figures = self
            .pictures
            .iter()
            .map(|picture| self.figure(picture, &blocks));
        Ok(Part {
            kind,
            finding: fill(self.finding, &found.measures),
            figures: figures.collect(),
            measures: found.measures,
        })
    }

    fn figure(&self, picture: &Picture, blocks: &[Vec<Case>]) -> Figure {
        let (rows, columns) = picture.rows;
        let mut tables = rows
            .iter()
            .map(|&n| self.blocks[n].table(&blocks[n], columns));
        let mut table = tables.next().unwrap_or_default();
        tables.for_each(|more| table.rows.extend(more.rows));
        let plot = match &picture.draw {
            Draw::Percentiles(n, name, drawn, most) => percentiles(&blocks[*n], name, drawn, *most),
            Draw::Lines([x, y], curves) => {
                let axis = |(label, log): (&str, bool)| {
                    if log {
                        Axis::log(label)
                    } else {
                        Axis::linear(label)
                    }
                };
                let curves = curves.iter();
                let series = curves.flat_map(|&(n, name, x, y)| series(&blocks[n], name, x, y));
                Plot::Lines {
                    x: axis(*x),
                    y: axis(*y),
                    series: series.collect(),
                    dots: false,
                }
            }
            Draw::Shares(n, name) => shares(&blocks[*n], name),
        };
        Figure {
            id: picture.id.into(),
            title: picture.title.into(),
            alt: picture.alt.into(),
            plot,
            table,
        }
    }
}

fn percentiles(cases: &[Case], name: &str, drawn: &[&str], most: usize) -> Plot {
    let named = drawn
        .iter()
        .filter_map(|key| cases.iter().find(|case| case.key == *key));
    let drawn: Vec<&Case> = match drawn {
        [] => cases.iter().collect(),
        _ => named.collect(),
    };
    let sets = drawn.into_iter().map(|case| Samples {
        name: fill_words(name, &case.words),
        values: case.reading.latencies(most),
    });
    Plot::Percentiles {
        value: Axis::log("latency, ms"),
        // A single sample has no percentiles.
        sets: sets.filter(|set| set.values.len() > 1).collect(),
    }
}

fn series(cases: &[Case], name: &str, x: Quantity, y: Quantity) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for case in cases {
        let name = fill_words(name, &case.words);
        let point = (x(&case.reading), y(&case.reading));
        match all.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => all.push(Series {
                name,
                points: vec![point],
            }),
        }
    }
    for series in &mut all {
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    all
}

fn shares(cases: &[Case], name: &str) -> Plot {
    let jobs = cases.first().map_or(0, |case| case.reading.jobs.len());
    Plot::Heat {
        x: Axis::linear("job"),
        y: Axis::linear("tries refused"),
        value: Axis::linear("requests, of the mean of all jobs"),
        columns: (0..jobs).map(|job| job.to_string()).collect(),
        rows: cases
            .iter()
            .map(|case| fill_words(name, &case.words))
            .collect(),
        values: cases.iter().map(|case| case.reading.shares()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Spec = Spec {
        blocks: &[Block {
            vary: &[&["1", "2"], &["slow|s", "fast|f"]],
            make: "--{0}{1+} {n}",
            n: [10, 1],
            key: "{1} {0}",
            heads: &[("depth", "{0}"), ("who", "{1}")],
            columns: &[
                measured("reads/s", |r| r.iops, "rate, {}", "/s"),
                column("lost", Reading::lost),
            ],
            ..Block::NEW
        }],
        full: 0.0,
        ratios: &[["gain", "reads/s, fast 1", "reads/s, slow 1", ""]],
        sums: &[["all lost", "lost"]],
        pictures: &[Picture {
            id: "p",
            title: "t",
            alt: "a",
            draw: Draw::Lines(
                [("x", false), ("y", false)],
                &[(0, "{1}", |r| r.words[0], |r| r.iops / r.full)],
            ),
            rows: (&[0], &[0]),
        }],
        finding: "{gain} times",
    };

    #[test]
    fn a_table_becomes_measures_rows_and_curves() {
        let settings = Settings {
            quick: true,
            measure: false,
        };
        let read = |made: &str| {
            assert!(made.ends_with(" 1"), "{made}");
            let iops = if made.contains('f') { 30.0 } else { 10.0 };
            let counters = [("inserted".to_owned(), 1.0)].into();
            Ok(Reading {
                iops,
                counters,
                ..Reading::default()
            })
        };
        let part = SPEC.part(Kind::Deterministic, &settings, read).unwrap();
        assert_eq!(part.finding, "3 times");
        let measures: Vec<_> = part
            .measures
            .iter()
            .map(|m| (m.name.as_str(), m.value))
            .collect();
        assert_eq!(
            measures,
            [
                ("rate, slow 1", 10.0),
                ("rate, fast 1", 30.0),
                ("rate, slow 2", 10.0),
                ("rate, fast 2", 30.0),
                ("gain", 3.0),
                ("all lost", 4.0)
            ]
        );
        let Plot::Lines { series, .. } = &part.figures[0].plot else {
            panic!("curves")
        };
        assert_eq!(series[1].name, "fast");
        assert_eq!(series[1].points, [(1.0, 3.0), (2.0, 3.0)]);
        assert_eq!(part.figures[0].table.rows[3], ["2", "fast", "30"]);
    }
}
