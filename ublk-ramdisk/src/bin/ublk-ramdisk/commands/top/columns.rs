// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of the tables, and which of them are left out on a narrow terminal.

use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::widgets::{Row, Table};
use ratatui::Frame;

/// What stands out.
pub const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// A column's name and width, and how soon it is left out where there is little room: the highest
/// number first.
pub type Column = (&'static str, u16, u8);

/// Of a disk.
pub const DISK_COLUMNS: [Column; 9] = [
    ("DISK", 8, 0),
    ("SIZE", 9, 6),
    ("MEMORY", 9, 7),
    ("PATH", 9, 8),
    ("READ", 7, 1),
    ("WRITE", 7, 2),
    ("MiB", 8, 5),
    ("BUSY", 8, 3),
    ("PARKED", 6, 4),
];

/// Of a hardware queue.
pub const QUEUE_COLUMNS: [Column; 11] = [
    ("HCTX", 4, 0),
    ("STATE", 9, 4),
    ("READ", 6, 1),
    ("WRITE", 6, 2),
    ("ACTIVE", 6, 6),
    ("DISP", 6, 7),
    ("CTX", 5, 10),
    ("PARK", 6, 5),
    ("BUSY", 6, 3),
    ("RUNS", 6, 9),
    ("P99", 7, 8),
];

/// The places of the columns for which there is room in `width` characters, from left to right. The
/// columns are tried in the order of their importance; each takes a space beside its own width.
fn fitting(columns: &[Column], width: u16) -> Vec<usize> {
    let mut places: Vec<usize> = (0..columns.len()).collect();
    places.sort_by_key(|&place| columns[place].2);
    let mut left = width + 1;
    places.retain(|&place| {
        let needed = columns[place].1 + 1;
        let fits = needed <= left;
        // Nothing that matters less takes the place of what did not fit.
        left = if fits { left - needed } else { 0 };
        fits
    });
    places.sort_unstable();
    places
}

/// Draws what fits of a table: a bold line of names, and a line for each row, whose cells are in the
/// order of `columns`.
pub fn draw_table(
    frame: &mut Frame<'_>,
    area: Rect,
    columns: &[Column],
    rows: impl Iterator<Item = (Vec<String>, Style)>,
) {
    let places = fitting(columns, area.width);
    let names = Row::new(places.iter().map(|&place| columns[place].0)).style(BOLD);
    let widths = places
        .iter()
        .map(|&place| Constraint::Length(columns[place].1));
    let rows = rows.map(|(cells, style)| {
        let cells = places.iter().map(|&place| cells[place].clone());
        Row::new(cells.collect::<Vec<_>>()).style(style)
    });
    let rows: Vec<_> = rows.collect();
    frame.render_widget(Table::new(rows, widths).header(names), area);
}
