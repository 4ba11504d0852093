// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report of a run of studies: one HTML file that needs nothing else, and each picture as a file of its own.
//!
//! [`html`] fills the page's template. A picture is drawn twice, for a wide and for a narrow screen ([`curves`],
//! [`blocks`], on the axes of [`frame`] and the [`canvas`]), and the style sheet shows the one that fits.

pub mod canvas;

pub mod frame;

pub mod curves;

pub mod blocks;

pub mod html;

use crate::study::outcome::{Figure, Plot};
use minijinja::HtmlEscape;

/// The width of a picture that is a file of its own, in pixels.
pub const WIDE: i32 = 800;
/// The width of a picture beside another one on the page.
pub const HALF: i32 = 590;
/// The width of a picture on a phone.
pub const NARROW: i32 = 360;

/// Draws a figure's picture for a page that has the colors of a dark screen ([`canvas::dark_rules`]) and a text for
/// readers who do not see it.
pub fn draw(plot: &Plot, width: i32) -> String {
    match plot {
        Plot::Percentiles { value, sets } => curves::percentiles(width, value, sets),
        Plot::Lines { x, y, series, dots } => curves::lines(width, x, y, series, *dots),
        Plot::Stack { .. } => curves::stack(width, plot),
        Plot::Timeline { x, kinds, rows } => blocks::timeline(width, x, kinds, rows),
        Plot::Bars { value, bars } => blocks::bars(width, value, bars),
    }
}

/// A picture that stands alone: with title, description and the colors of a dark screen. Such a
/// file is committed with a run and shown by the documents.
pub fn alone(figure: &Figure) -> String {
    let picture = draw(&figure.plot, WIDE);
    let (title, text) = (HtmlEscape(&figure.title), HtmlEscape(&figure.alt));
    let style = canvas::dark_rules();
    let inside = format!(
        ">\n<title>{title}</title>\n<desc>{text}</desc>\n<style>text {{ font-family: sans-serif; }}\n{style}</style>"
    );
    picture
        .replacen("<svg ", "<svg role=\"img\" ", 1)
        .replacen('>', &inside, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::outcome::Axis;
    use crate::table::Table;

    #[test]
    fn a_picture_of_its_own_has_title_text_dark_colors_and_no_ground() {
        let figure = Figure {
            id: "x".into(),
            title: "a < b".into(),
            alt: "two bars".into(),
            plot: Plot::Bars {
                value: Axis::linear("ms"),
                bars: vec![("a".into(), 1.0), ("b".into(), f64::NAN)],
            },
            table: Table::default(),
        };
        let picture = alone(&figure);
        for part in [
            "role=\"img\"",
            "<title>a &lt; b</title>",
            "<desc>two bars</desc>",
            "prefers-color-scheme: dark",
        ] {
            assert!(picture.contains(part), "{part}: {picture}");
        }
        assert!(
            !picture.contains("width=\"800\" height=\"94\" fill"),
            "{picture}"
        );
    }
}
