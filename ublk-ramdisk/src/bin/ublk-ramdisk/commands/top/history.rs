// SPDX-License-Identifier: MIT OR Apache-2.0
//! The last minute of a disk, as lines of small bars: the newest at the right.

use std::collections::VecDeque;

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Sparkline};
use ratatui::Frame;
use ublk_ramdisk::mq::Source;
use ublk_ramdisk::stats::{DeviceStats, QueueStats};

use super::columns::BOLD;
use super::draw::short;

/// Lines it takes: a heading, and what has happened at all.
pub const LINES: u16 = 7;
/// Characters before the bars.
const NAME: u16 = 20;

/// Draws what the disk has done, oldest first in `past`.
pub fn draw(frame: &mut Frame<'_>, area: Rect, past: &VecDeque<DeviceStats>) {
    if area.height == 0 {
        return;
    }
    let queues = |disk: &DeviceStats, of: &dyn Fn(&QueueStats) -> u64| {
        disk.queues.iter().map(of).sum::<u64>()
    };
    let served = |disk| {
        queues(disk, &|queue: &QueueStats| {
            queue.ops().iter().map(|op| op.requests).sum()
        })
    };
    let requests = past.iter().map(served).collect();
    let mut rows: Vec<(String, Vec<u64>)> = vec![("requests/s".to_owned(), requests)];
    for source in Source::ALL {
        let busy = |disk| queues(disk, &|queue| queue.hctx.refused_by.of(source));
        rows.push((
            format!("BUSY {}/s", source.name()),
            past.iter().map(busy).collect(),
        ));
    }
    let parked = |disk| queues(disk, &|queue| queue.now.parked);
    rows.push(("parked".to_owned(), past.iter().map(parked).collect()));
    let rescued = |disk: &DeviceStats| disk.kblockd.rescued;
    rows.push(("rescued/s".to_owned(), past.iter().map(rescued).collect()));
    rows.retain(|(_, values)| values.iter().any(|value| *value > 0));

    let lines = Layout::vertical(vec![Constraint::Length(1); usize::from(area.height)]).split(area);
    frame.render_widget(
        Paragraph::new(Line::styled("the last minute", BOLD)),
        lines[0],
    );
    for ((name, values), line) in rows.iter().zip(&lines[1..]) {
        let [left, bars] =
            Layout::horizontal([Constraint::Length(NAME), Constraint::Fill(1)]).areas(*line);
        let now = short(values.last().copied().unwrap_or(0));
        frame.render_widget(Paragraph::new(format!("{name:<13}{now:>6} ")), left);
        let hidden = values.len().saturating_sub(bars.width.into());
        frame.render_widget(Sparkline::default().data(&values[hidden..]), bars);
    }
}
