// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rectangles: timelines and bars. Each row of them is as high as a line of text, so the height
//! follows from the number of rows.

use super::canvas::{svg, Scale, BEGINS, GRID, INK, LETTER, MUTED, SERIES};
use super::frame::Frame;
use crate::study::outcome::{show, Axis, Row};

/// Draws a timeline: what each row did when.
pub fn timeline(width: i32, x: &Axis, kinds: &[String], rows: &[Row]) -> String {
    let groups = rows.iter().filter(|r| r.group.is_some()).count() as i32;
    let names: Vec<&str> = kinds.iter().map(String::as_str).collect();
    // Pixels: key, axis, each row, each heading of a group.
    let height = 40 + 42 + 24 * rows.len() as i32 + 26 * groups;
    svg(width as u32, height as u32, |canvas| {
        let top = canvas.key(width, &names, true);
        let longest = rows
            .iter()
            .map(|r| r.name.chars().count())
            .max()
            .unwrap_or(0) as i32;
        let frame = Frame {
            left: longest * LETTER + 22,
            right: width - 20,
            top,
            bottom: height - 42,
        };
        let ends = rows
            .iter()
            .flat_map(|r| &r.spans)
            .flat_map(|s| [s.from, s.to]);
        let xs = Scale::over(ends, x.log, frame.left, frame.right);
        frame.x_axis(canvas, &x.label, &frame.ticks(&xs));
        let mut y = top + 4;
        for row in rows {
            if let Some(group) = &row.group {
                canvas.text((6, y + 14), group, BEGINS, INK);
                y += 26;
            }
            canvas.text((16, y + 11), &row.name, BEGINS, MUTED);
            canvas.line(&[(frame.left, y + 11), (frame.right, y + 11)], GRID, 1);
            for span in &row.spans {
                // One pixel at least: a short span must not vanish.
                let (from, to) = (xs.at(span.from), xs.at(span.to).max(xs.at(span.from) + 1));
                // What is not the first kind is thinner, so that black and white will do.
                let slim = if span.kind == 0 { 3 } else { 7 };
                let color = SERIES[span.kind % SERIES.len()];
                canvas.bar((from, y + slim), (to, y + 22 - slim), color);
            }
            if let (Some(first), Some(last)) = (row.spans.first(), row.spans.last()) {
                // The start is what the timelines of the studies are about. It is left out where it would not fit.
                let text = format!("from {}", show(first.from));
                let end = xs.at(last.to) + 6;
                if end + text.chars().count() as i32 * LETTER < width {
                    canvas.text((end, y + 11), &text, BEGINS, INK);
                }
            } else {
                canvas.text((frame.left + 6, y + 11), "never", BEGINS, INK);
            }
            y += 24;
        }
    })
}

/// Draws a bar for each value under its name, with the figure at its end.
pub fn bars(width: i32, value: &Axis, bars: &[(String, f64)]) -> String {
    let height = 22 + 36 * bars.len() as i32;
    svg(width as u32, height as u32, |canvas| {
        canvas.text((2, 8), &value.label, BEGINS, MUTED);
        // Room for the longest figure.
        let right = width - 8 - 7 * LETTER;
        let all = bars.iter().map(|bar| bar.1);
        let scale = Scale::over(all, value.log, 2, right);
        for (n, (name, value)) in bars.iter().enumerate() {
            let y = 22 + 36 * n as i32;
            canvas.text((2, y + 8), name, BEGINS, INK);
            // A bar of 2 pixels for a small value, none for one that was not measured.
            let end = if value.is_finite() {
                scale.at(*value).max(4)
            } else {
                2
            };
            canvas.bar((2, y + 17), (end, y + 30), SERIES[0]);
            let at = (end + 6, y + 24);
            canvas.text(at, &show(*value), BEGINS, INK);
        }
    })
}
