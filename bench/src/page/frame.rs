// SPDX-License-Identifier: MIT OR Apache-2.0
//! Axes with grid, numbers and names; the curves' own names at their ends or in a key.

use super::canvas::{
    number, spread, Canvas, Point, Scale, BEGINS, BELOW, ENDS, GRID, INK, LETTER, MUTED, SERIES,
};
use crate::study::outcome::Axis;
use std::collections::HashSet;

/// How wide a picture must be for names beside the curves.
pub const WIDE: i32 = 600;

/// The part of a picture inside the axes.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Left edge.
    pub left: i32,
    /// Right edge.
    pub right: i32,
    /// Upper edge.
    pub top: i32,
    /// Lower edge.
    pub bottom: i32,
}

impl Frame {
    /// Room for axes at left and below, and for names at the right if the picture is wide enough. Draws the key above
    /// if it is not.
    pub fn new(canvas: &Canvas<'_>, width: i32, height: i32, names: &[&str]) -> Self {
        let longest = names.iter().map(|n| n.chars().count()).max().unwrap_or(0) as i32;
        let beside = longest * LETTER + 24;
        // Names beside the curves take up to a third of the width. Else they go into the key.
        let wide = width >= WIDE && beside <= width / 3;
        let top = match names.len() {
            0 | 1 => 8,
            _ if wide => 8,
            _ => canvas.key(width, names, false) + 4,
        };
        Self {
            left: 62,
            right: width - if wide && names.len() > 1 { beside } else { 14 },
            top,
            bottom: height - 42,
        }
    }

    /// Draws the axis at the left with a line for each number.
    pub fn y_axis(&self, canvas: &Canvas<'_>, axis: &Axis, scale: &Scale) {
        // 28 pixels for a line of text with a gap.
        let room = ((self.bottom - self.top) / 28).max(2) as usize;
        for tick in scale.ticks(room) {
            let y = scale.at(tick);
            canvas.line(&[(self.left, y), (self.right, y)], GRID, 1);
            canvas.text((self.left - 6, y), &number(tick), ENDS, INK);
        }
        canvas.text_upwards((9, (self.top + self.bottom) / 2), &axis.label);
    }

    /// Draws the axis below, at these numbers.
    pub fn x_axis(&self, canvas: &Canvas<'_>, label: &str, ticks: &[(i32, String)]) {
        let mut free = i32::MIN;
        for (x, text) in ticks {
            canvas.line(&[(*x, self.top), (*x, self.bottom)], GRID, 1);
            let half = text.chars().count() as i32 * LETTER / 2 + 2;
            // A number that would touch the one before is left out, its line in the grid stays.
            if x - half >= free {
                canvas.text((*x, self.bottom + 6), text, BELOW, INK);
                free = x + half;
            }
        }
        canvas.line(
            &[(self.left, self.bottom), (self.right, self.bottom)],
            MUTED,
            1,
        );
        let middle = (self.left + self.right) / 2;
        canvas.text((middle, self.bottom + 24), label, BELOW, INK);
    }

    /// The numbers of a scale with their places.
    pub fn ticks(&self, scale: &Scale) -> Vec<(i32, String)> {
        let room = ((self.right - self.left) / 70).max(2) as usize;
        let ticks = scale.ticks(room);
        ticks.iter().map(|&t| (scale.at(t), number(t))).collect()
    }

    /// Draws curves, each with a mark here and there, and their names at their ends where there is
    /// room. A mark at each point would hide the curve; a few tell the curves apart without their
    /// colors.
    pub fn curves(&self, canvas: &Canvas<'_>, curves: &[Vec<Point>], names: &[&str], dots: bool) {
        for (n, points) in curves.iter().enumerate() {
            let color = SERIES[n % SERIES.len()];
            if dots {
                // One dot where several would cover each other.
                let mut seen = HashSet::new();
                let apart = points.iter().filter(|p| seen.insert((p.0 / 2, p.1 / 2)));
                apart.for_each(|&p| canvas.mark(p, n, 2));
                continue;
            }
            canvas.line(points, color, 2);
            // Far enough apart to tell the shapes, and never on top of those of the next curve.
            let every = (points.len() / 8).max(1);
            let offset = (n * every / curves.len().max(1)).min(points.len().saturating_sub(1));
            let few = points.len() <= 12;
            for &p in points
                .iter()
                .skip(if few { 0 } else { offset })
                .step_by(if few { 1 } else { every })
            {
                canvas.mark(p, n, 4);
            }
        }
        if names.len() < 2 {
            return;
        }
        let ends: Vec<i32> = curves
            .iter()
            .map(|c| c.last().map_or(self.bottom, |p| p.1))
            .collect();
        let places = spread(&ends, 17, self.top + 6, self.bottom);
        let room = |name: &str| name.chars().count() as i32 * LETTER + 20;
        // The same condition as in `new`: what has a key needs no names.
        if curves
            .iter()
            .zip(names)
            .all(|(_, name)| room(name) <= self.beside(canvas))
        {
            for (n, name) in names.iter().enumerate() {
                let color = SERIES[n % SERIES.len()];
                canvas.mark((self.right + 10, places[n]), n, 3);
                canvas.text((self.right + 18, places[n]), name, BEGINS, color);
            }
        }
    }

    /// The room at the right of the frame.
    fn beside(&self, canvas: &Canvas<'_>) -> i32 {
        canvas.width() - self.right
    }
}
