// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report of a run of studies: one HTML file that needs nothing else.
//!
//! [`html`] writes the page; a picture is drawn twice, for a wide and for a narrow screen ([`curves`], [`blocks`], on
//! the axes of [`frame`] and the [`canvas`]), and the style sheet shows the one that fits.

pub mod canvas;

pub mod frame;

pub mod curves;

pub mod blocks;

pub mod html;

use crate::study::outcome::{Figure, Plot};

/// The width of a picture on a desk or on paper.
pub const WIDE: i32 = 800;
/// The width of a picture on a phone.
pub const NARROW: i32 = 360;

/// Draws a figure's picture.
pub fn draw(figure: &Figure, width: i32) -> String {
    match &figure.plot {
        Plot::Percentiles { value, sets } => curves::percentiles(width, value, sets),
        Plot::Lines { x, y, series, dots } => curves::lines(width, x, y, series, *dots),
        Plot::Stack {
            x,
            panels,
            levels,
            marks,
        } => curves::stack(width, x, panels, levels, marks),
        Plot::Timeline { x, kinds, rows } => blocks::timeline(width, x, kinds, rows),
        Plot::Heat {
            x,
            y,
            value,
            columns,
            rows,
            values,
        } => blocks::heat(width, [x, y, value], columns, rows, values),
    }
}
