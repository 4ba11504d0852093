// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all kinds of picture are drawn with: an SVG of a given width, colors, scales, axes.
//!
//! Colors are those of Okabe and Ito, which people with the usual kinds of color blindness can tell
//! apart, darkened where they would not show on white. [`dark_rules`] replaces each on a dark
//! screen. No meaning is in the color alone: curves differ by their marks, too.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Text and axes.
pub const INK: RGBColor = RGBColor(0x1a, 0x1a, 0x1a);
/// Less important text.
pub const MUTED: RGBColor = RGBColor(0x66, 0x66, 0x66);
/// Grid lines.
pub const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
/// One for each series.
pub const SERIES: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xaa, 0x44, 0x99),
    RGBColor(0xb3, 0x77, 0x00),
    RGBColor(0x2b, 0x86, 0xc0),
];
/// Each color above and what stands for it on a dark screen.
const DARK: [(RGBColor, &str); 9] = [
    (INK, "#e8e8e8"),
    (MUTED, "#a8a8a8"),
    (GRID, "#3a3f45"),
    (SERIES[0], "#5ab4f0"),
    (SERIES[1], "#ff8a3d"),
    (SERIES[2], "#3fd6a8"),
    (SERIES[3], "#e58fd6"),
    (SERIES[4], "#f5c242"),
    (SERIES[5], "#9ad5ff"),
];

/// The style sheet that makes pictures readable on a dark screen.
/// By selectors on the colors themselves, as plotters gives its shapes no classes.
pub fn dark_rules() -> String {
    let rules = DARK.iter().map(|(RGBColor(r, g, b), dark)| {
        let light = format!("#{r:02X}{g:02X}{b:02X}");
        format!("svg [fill=\"{light}\"] {{ fill: {dark}; }} svg [stroke=\"{light}\"] {{ stroke: {dark}; }}\n")
    });
    let rules: String = rules.collect();
    format!("@media screen and (prefers-color-scheme: dark) {{\n{rules}}}\n")
}

/// The size of all text; the library makes 13 pixels of it.
pub const TEXT: u32 = 16;
/// About the width of a letter of that size.
pub const LETTER: i32 = 8;

/// A point in pixels, from the upper left corner.
pub type Point = (i32, i32);

/// How a text stands to its point.
pub type Anchor = (HPos, VPos);
/// It begins there.
pub const BEGINS: Anchor = (HPos::Left, VPos::Center);
/// It ends there.
pub const ENDS: Anchor = (HPos::Right, VPos::Center);
/// It hangs from there.
pub const BELOW: Anchor = (HPos::Center, VPos::Top);

/// A picture being drawn. Drawing on a string cannot fail.
pub struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
}

/// Draws a picture of this size.
pub fn svg(width: u32, height: u32, draw: impl FnOnce(&Canvas<'_>)) -> String {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        let canvas = Canvas { area };
        draw(&canvas);
        let _to_a_string = canvas.area.present();
    }
    text
}

impl Canvas<'_> {
    /// The whole width.
    pub fn width(&self) -> i32 {
        self.area.dim_in_pixel().0 as i32
    }

    /// A line through these points.
    pub fn line(&self, points: &[Point], color: RGBColor, width: u32) {
        let path = PathElement::new(points.to_vec(), color.stroke_width(width));
        let _to_a_string = self.area.draw(&path);
    }

    /// A filled rectangle.
    pub fn bar(&self, from: Point, to: Point, color: RGBColor) {
        let _to_a_string = self.area.draw(&Rectangle::new([from, to], color.filled()));
    }

    /// Text that stands to a point as the anchor says.
    pub fn text(&self, at: Point, text: &str, anchor: Anchor, color: RGBColor) {
        let style = ("sans-serif", TEXT).into_font().color(&color);
        let style = style.pos(Pos::new(anchor.0, anchor.1));
        let _to_a_string = self.area.draw(&Text::new(text.to_owned(), at, style));
    }

    /// Text that reads upwards, centered at a point.
    pub fn text_upwards(&self, at: Point, text: &str) {
        let font = ("sans-serif", TEXT).into_font();
        let font = font.transform(FontTransform::Rotate270);
        let style = font.color(&INK).pos(Pos::new(HPos::Center, VPos::Center));
        let _to_a_string = self.area.draw(&Text::new(text.to_owned(), at, style));
    }

    /// The mark of the nth series: shapes differ as colors do.
    pub fn mark(&self, at: Point, series: usize, size: i32) {
        let color = SERIES[series % SERIES.len()];
        let (x, y) = at;
        match series % 4 {
            0 => {
                let _to_a_string = self.area.draw(&Circle::new(at, size, color.filled()));
            }
            1 => self.bar((x - size, y - size), (x + size, y + size), color),
            2 => {
                let corners = [
                    (x, y - size - 1),
                    (x + size + 1, y + size),
                    (x - size - 1, y + size),
                ];
                let shape = Polygon::new(corners.to_vec(), color.filled());
                let _to_a_string = self.area.draw(&shape);
            }
            _ => {
                let s = size + 1;
                let corners = [(x, y - s), (x + s, y), (x, y + s), (x - s, y)];
                let shape = Polygon::new(corners.to_vec(), color.filled());
                let _to_a_string = self.area.draw(&shape);
            }
        }
    }

    /// A key above the picture: mark and name, in as many rows as the width asks for. Gives the height it took.
    pub fn key(&self, width: i32, names: &[&str], swatch: bool) -> i32 {
        let (mut x, mut y) = (8, 10);
        for (n, name) in names.iter().enumerate() {
            // Mark, name and a gap.
            let need = 20 + name.chars().count() as i32 * LETTER + 14;
            if x > 8 && x + need > width {
                (x, y) = (8, y + 19);
            }
            if swatch {
                self.bar((x, y - 6), (x + 13, y + 6), SERIES[n % SERIES.len()]);
            } else {
                self.mark((x + 6, y), n, 4);
            }
            self.text((x + 20, y), name, BEGINS, INK);
            x += need;
        }
        y + 16
    }
}

/// From values to pixels.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    low: f64,
    high: f64,
    log: bool,
    from: i32,
    to: i32,
}

impl Scale {
    /// A scale that shows all the values, over these pixels.
    pub fn over(values: impl IntoIterator<Item = f64>, log: bool, from: i32, to: i32) -> Self {
        let usable = values
            .into_iter()
            .filter(|v| v.is_finite() && (!log || *v > 0.0));
        let (mut low, mut high) = usable
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                (low.min(v), high.max(v))
            });
        // No usable value: any scale will do.
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        if log {
            // To the next 1, 2 or 5 of a decade on both sides.
            low = *steps(low)
                .iter()
                .rfind(|s| **s <= low * 1.0001)
                .unwrap_or(&low);
            high = *steps(high)
                .iter()
                .find(|s| **s >= high * 0.9999)
                .unwrap_or(&high);
            if low == high {
                (low, high) = (low / 2.0, high * 2.0);
            }
        } else {
            // A linear axis begins at 0: lengths can then be compared.
            if low > 0.0 {
                low = 0.0;
            }
            if high <= low {
                high = low + 1.0;
            }
            // A whole number of steps, so that the axis ends at a tick. The tiny shares absorb rounding.
            let step = even_step(high - low);
            high = (high / step - 1e-9).ceil() * step;
            low = (low / step + 1e-9).floor() * step;
        }
        Self {
            low,
            high,
            log,
            from,
            to,
        }
    }

    /// The pixel of a value.
    pub fn at(&self, value: f64) -> i32 {
        let share = if self.log {
            // A value below the scale (0 on an axis by decades) is drawn at its edge.
            (value.max(self.low) / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + (share * f64::from(self.to - self.from)).round() as i32
    }

    /// Values that get a number at the axis, about `most` of them. They are round numbers: steps of
    /// 1, 2 or 5 times a power of ten, or fewer of them where there is no room.
    pub fn ticks(&self, most: usize) -> Vec<f64> {
        if !self.log {
            let mut step = even_step(self.high - self.low);
            while (self.high - self.low) / step > most as f64 + 0.01 {
                step = next_step(step);
            }
            let count = ((self.high - self.low) / step + 1e-9).floor() as usize;
            return (0..=count).map(|n| self.low + step * n as f64).collect();
        }
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let inside = |v: &f64| *v >= self.low * 0.999 && *v <= self.high * 1.001;
        // Fewer per decade until there is room; then not every decade.
        for factors in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]] {
            let ticks = decades
                .clone()
                .flat_map(|d| factors.iter().map(move |f| f * 10f64.powi(d)));
            let ticks: Vec<f64> = ticks.filter(inside).collect();
            if ticks.len() <= most {
                return ticks;
            }
        }
        let every = decades.clone().count().div_ceil(most.max(1));
        let ticks = decades.step_by(every).map(|d| 10f64.powi(d));
        ticks.filter(inside).collect()
    }
}

/// The values 1, 2 and 5 of the decades around a value.
fn steps(value: f64) -> Vec<f64> {
    let decade = value.log10().floor() as i32;
    let decades = decade - 1..=decade + 1;
    decades
        .flat_map(|d| [1.0, 2.0, 5.0].map(|f| f * 10f64.powi(d)))
        .collect()
}

/// A step of 1, 2 or 5 that cuts the range in about five.
fn even_step(range: f64) -> f64 {
    let rough = range / 5.0;
    *steps(rough)
        .iter()
        .find(|s| **s >= rough * 0.999)
        .unwrap_or(&rough)
}

/// The next larger of 1, 2 and 5 times a power of ten.
fn next_step(step: f64) -> f64 {
    *steps(step)
        .iter()
        .find(|s| **s > step * 1.001)
        .unwrap_or(&(step * 10.0))
}

/// A figure at an axis.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1e9 {
        return format!("{} G", plain(value / 1e9));
    }
    if size >= 1e6 {
        return format!("{} M", plain(value / 1e6));
    }
    if size >= 1e4 {
        return format!("{} k", plain(value / 1e3));
    }
    plain(value)
}

/// A number without zeros at its end.
fn plain(value: f64) -> String {
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

/// Moves labels apart that would overlap, keeping their order; gives the new places.
pub fn spread(wanted: &[i32], apart: i32, low: i32, high: i32) -> Vec<i32> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&n| wanted[n]);
    let mut places = wanted.to_vec();
    // First from the lowest upwards, then from the highest back: the second pass keeps them within bounds.
    let mut next = low;
    for &n in &order {
        places[n] = places[n].max(next);
        next = places[n] + apart;
    }
    let mut last = high;
    for &n in order.iter().rev() {
        places[n] = places[n].min(last);
        last = places[n] - apart;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_even_and_within_the_scale() {
        let scale = Scale::over([0.0, 35.0], false, 0, 100);
        assert_eq!(scale.ticks(10), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!((scale.at(0.0), scale.at(40.0)), (0, 100));
        let scale = Scale::over([3.0, 400.0], true, 0, 100);
        assert_eq!(
            scale.ticks(10),
            [2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]
        );
        assert_eq!(scale.ticks(3), [10.0, 100.0]);
    }

    #[test]
    fn a_scale_of_nothing_or_of_one_value_can_be_drawn() {
        for log in [false, true] {
            for values in [&[][..], &[0.0], &[7.0, 7.0], &[f64::NAN]] {
                let scale = Scale::over(values.iter().copied(), log, 0, 100);
                assert!(!scale.ticks(6).is_empty(), "{values:?}");
                assert!(
                    (0..=100).contains(&scale.at(7.0)) || values.is_empty() || values[0] != 7.0
                );
            }
        }
    }

    #[test]
    fn labels_are_moved_apart_within_bounds() {
        assert_eq!(spread(&[10, 12, 50], 15, 0, 100), [10, 25, 50]);
        assert_eq!(spread(&[95, 99], 15, 0, 100), [85, 100]);
    }

    #[test]
    fn numbers_have_no_tail() {
        assert_eq!(number(0.5), "0.5");
        assert_eq!(number(2_500_000.0), "2.5 M");
        assert_eq!(
            (number(9000.0), number(50_000.0)),
            ("9000".into(), "50 k".into())
        );
        assert_eq!(number(-0.0), "0");
    }
}
