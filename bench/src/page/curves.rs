// SPDX-License-Identifier: MIT OR Apache-2.0
//! Curves: percentiles, lines and dots, and several courses over one time.
//!
//! Percentiles are drawn as HDR plots do: each further nine takes as much room as the one before,
//! because refusals show in the tail.

use super::canvas::{svg, Canvas, Point, Scale, BEGINS, ENDS, INK, LETTER, MUTED, SERIES};
use super::frame::Frame;
use crate::stats::sorted;
use crate::study::outcome::{Axis, Plot, Samples, Series};
use plotters::style::RGBColor;

/// How far right a percentile stands: each further nine takes as much room as the one before.
fn nines(share: f64) -> f64 {
    -(1.0 - share).log10()
}

/// The points of a set: percentile and value, as many as can be told apart.
fn percentile_points(values: &[f64]) -> Vec<(f64, f64)> {
    let order = sorted(values);
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (n, &value) in order.iter().enumerate() {
        let x = nines(n as f64 / order.len() as f64);
        // Three nines over some 500 pixels: a step of 0.004 is less than a pixel. The largest value always stays.
        if points.last().is_none_or(|last| x - last.0 > 0.004) || n + 1 == order.len() {
            points.push((x, value));
        }
    }
    points
}

/// Draws values by percentile.
pub fn percentiles(width: i32, value: &Axis, sets: &[Samples]) -> String {
    let height = 340;
    svg(width as u32, height as u32, |canvas| {
        let names: Vec<&str> = sets.iter().map(|s| s.name.as_str()).collect();
        let frame = Frame::new(canvas, width, height, &names);
        let most = sets
            .iter()
            .map(|s| s.values.len())
            .max()
            .unwrap_or(1)
            .max(2);
        // The last sample of the longest set: n samples show percentiles up to 1 - 1/n.
        let end = nines(1.0 - 1.0 / most as f64);
        let x =
            |n: f64| frame.left + (n / end * f64::from(frame.right - frame.left)).round() as i32;
        let all = sets.iter().flat_map(|s| s.values.iter().copied());
        let y = Scale::over(all, value.log, frame.bottom, frame.top);
        frame.y_axis(canvas, value, &y);
        let ticks = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999];
        let ticks = ticks.into_iter().filter(|&p| nines(p) <= end * 1.001);
        // As many decimals as the number has, and no more.
        let text = |p: f64| ((p * 1e7).round() / 1e5).to_string();
        let ticks: Vec<_> = ticks.map(|p| (x(nines(p)), text(p))).collect();
        frame.x_axis(canvas, "percentile", &ticks);
        let curves = sets.iter().map(|set| {
            let points = percentile_points(&set.values);
            points.iter().map(|&(p, v)| (x(p), y.at(v))).collect()
        });
        frame.curves(canvas, &curves.collect::<Vec<_>>(), &names, false);
    })
}

/// Draws series over x and y.
pub fn lines(width: i32, x: &Axis, y: &Axis, series: &[Series], dots: bool) -> String {
    let height = 340;
    svg(width as u32, height as u32, |canvas| {
        let names: Vec<&str> = series.iter().map(|s| s.name.as_str()).collect();
        let frame = Frame::new(canvas, width, height, &names);
        let all = || series.iter().flat_map(|s| &s.points);
        let xs = Scale::over(all().map(|p| p.0), x.log, frame.left, frame.right);
        let ys = Scale::over(all().map(|p| p.1), y.log, frame.bottom, frame.top);
        frame.y_axis(canvas, y, &ys);
        frame.x_axis(canvas, &x.label, &frame.ticks(&xs));
        let place = |p: &(f64, f64)| (xs.at(p.0), ys.at(p.1));
        let curves = series
            .iter()
            .map(|s| thin(s.points.iter().map(place).collect()));
        frame.curves(canvas, &curves.collect::<Vec<_>>(), &names, dots);
    })
}

/// Leaves out points that fall on the pixel before.
fn thin(points: Vec<Point>) -> Vec<Point> {
    let mut points = points;
    points.dedup();
    points
}

/// The color of a state: as it should be, waiting, failing.
fn state_color(state: usize) -> RGBColor {
    [SERIES[2], SERIES[4], SERIES[1]][state.min(2)]
}

/// Draws the states of a course as stretches of color.
pub fn band(canvas: &Canvas<'_>, xs: &Scale, points: &[(f64, f64)], (top, bottom): (i32, i32)) {
    let end = points.last().map_or(0.0, |p| p.0);
    let mut stretches = points.chunk_by(|a, b| a.1 == b.1).peekable();
    while let Some(stretch) = stretches.next() {
        let (from, state) = stretch[0];
        // A state lasts until the sample with the next one.
        let to = stretches.peek().map_or(end, |next| next[0].0);
        if state.is_finite() {
            let color = state_color(state as usize);
            canvas.bar((xs.at(from), top), (xs.at(to), bottom), color);
        }
    }
}

/// Draws what the colors of a band mean, from `at` to the right.
pub fn band_key(canvas: &Canvas<'_>, at: Point, states: &[String]) {
    let (mut x, y) = at;
    for (state, name) in states.iter().enumerate() {
        canvas.bar((x, y - 6), (x + 12, y + 6), state_color(state));
        canvas.text((x + 17, y), name, BEGINS, INK);
        x += 17 + (name.chars().count() as i32 + 2) * LETTER;
    }
}

/// Draws panels of one course each, one above the other, and lines for moments of note.
pub fn stack(width: i32, plot: &Plot) -> String {
    let Plot::Stack {
        x,
        panels,
        levels,
        bands,
        marks,
    } = plot
    else {
        return String::new();
    };
    let states = |n: usize| bands.iter().find(|band| band.0 == n).map(|band| &band.1);
    // A band needs no room for an axis.
    let high = |n: usize| states(n).map_or(118, |_| 58);
    // A line of text for each mark, above the panels.
    let top = 8 + 17 * marks.len() as i32;
    let height = top + (0..panels.len()).map(high).sum::<i32>() + 42;
    svg(width as u32, height as u32, |canvas| {
        let (left, right) = (58, width - 14);
        let all = panels.iter().flat_map(|(_, s)| &s.points).map(|p| p.0);
        // The marks, too: an event may lie after the last sample.
        let xs = Scale::over(all.chain(marks.iter().map(|m| m.0)), x.log, left, right);
        let mut above = top;
        for (n, (axis, series)) in panels.iter().enumerate() {
            let frame = Frame {
                left,
                right,
                top: above + 22,
                bottom: above + high(n) - 6,
            };
            let at = (left, above + 10);
            canvas.text(at, &axis.label, BEGINS, INK);
            if let Some(states) = states(n) {
                let beside = left + (axis.label.chars().count() as i32 + 2) * LETTER;
                band_key(canvas, (beside, above + 10), states);
                band(canvas, &xs, &series.points, (frame.top, frame.bottom - 4));
            } else {
                let beside = || levels.iter().filter(|l| l.0 == n).map(|l| &l.1);
                let all = beside().chain([series]).flat_map(|s| &s.points);
                let ys = Scale::over(all.map(|p| p.1), axis.log, frame.bottom, frame.top);
                frame.y_axis(canvas, &Axis::linear(""), &ys);
                let place = |p: &(f64, f64)| (xs.at(p.0), ys.at(p.1));
                let course = |s: &Series| thin(s.points.iter().map(place).collect());
                beside().for_each(|level| canvas.line(&course(level), MUTED, 1));
                canvas.line(&course(series), SERIES[n % SERIES.len()], 2);
            }
            if n + 1 == panels.len() {
                frame.x_axis(canvas, &x.label, &frame.ticks(&xs));
            }
            above += high(n);
        }
        draw_marks(canvas, &xs, marks, (left, right), height - 48);
    })
}

/// Draws the states of a course alone, for a small picture.
pub fn states(width: i32, x: &Axis, states: &[String], points: &[(f64, f64)]) -> String {
    svg(width as u32, 92, |canvas| {
        let frame = Frame {
            left: 8,
            right: width - 12,
            top: 24,
            bottom: 52,
        };
        let ends = points.iter().map(|p| p.0);
        let xs = Scale::over(ends, x.log, frame.left, frame.right);
        band_key(canvas, (frame.left, 10), states);
        frame.x_axis(canvas, &x.label, &frame.ticks(&xs));
        band(canvas, &xs, points, (frame.top, frame.bottom));
    })
}

/// Draws moments of note as lines through all panels. Their texts stand above each other on top, on
/// the side where there is room.
fn draw_marks(
    canvas: &Canvas<'_>,
    xs: &Scale,
    marks: &[(f64, String)],
    edges: (i32, i32),
    bottom: i32,
) {
    for (n, (moment, text)) in marks.iter().enumerate() {
        let (x, y) = (xs.at(*moment), 8 + 17 * n as i32);
        canvas.line(&[(x, y), (x, bottom)], MUTED, 1);
        let (at, anchor) = match x > (edges.0 + edges.1) / 2 {
            true => (x - 5, ENDS),
            false => (x + 5, BEGINS),
        };
        canvas.text((at, y), text, anchor, MUTED);
    }
}
