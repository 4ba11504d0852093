// SPDX-License-Identifier: MIT OR Apache-2.0
//! The picture: disks above, then of the chosen one its hardware queues, why requests were refused,
//! and who runs the queues again. Made for 80 columns and 24 lines; more lines show more queues.

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table};
use ratatui::Frame;
use ublk_ramdisk::histogram::Histogram;
use ublk_ramdisk::mq::Source;
use ublk_ramdisk::stats::{DeviceStats, KblockdStats, QueueStats};

use super::model::Model;
use crate::commands::output::human_size;
use crate::commands::stats_text::{human_time, state};

/// So many disks are shown at once.
const DISKS: u16 = 4;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, model: &Model) {
    let disks = (model.disks.len() as u16).clamp(1, DISKS);
    let [head, table, queues, busy, kblockd, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(disks + 2),
        Constraint::Min(3),
        Constraint::Length(3),
        Constraint::Length(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(title(model)).style(REVERSED), head);
    draw_disks(frame, table, model);
    if let (Some(now), Some(rates)) = (model.disks.get(model.chosen), model.rates.get(model.chosen))
    {
        draw_queues(frame, queues, model, rates);
        draw_busy(frame, busy, now, rates);
        draw_kblockd(frame, kblockd, now, rates);
    }
    let keys = "q quit   up/down disk   page up/down queues   `explain` says what each name means";
    frame.render_widget(Paragraph::new(keys), foot);
}

fn title(model: &Model) -> String {
    let disks = match model.disks.len() {
        0 => "no disk is served".to_owned(),
        1 => "1 disk".to_owned(),
        many => format!("{many} disks"),
    };
    let seconds = model.interval.as_secs_f64();
    format!("ublk-ramdisk top: {disks}; per second, every {seconds} s")
}

fn heading(names: &[&str]) -> Row<'static> {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    Row::new(names).style(BOLD)
}

fn draw_disks(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let above = model.chosen.saturating_sub(usize::from(DISKS) - 1);
    let rows = model.rates.iter().enumerate().skip(above).map(|(n, disk)| {
        let row = Row::new(disk_row(disk));
        if n == model.chosen {
            row.style(REVERSED)
        } else {
            row
        }
    });
    let widths = [8, 9, 9, 9, 7, 7, 8, 8, 7].map(Constraint::Length);
    let names = [
        "DISK", "SIZE", "MEMORY", "PATH", "READ", "WRITE", "MiB", "BUSY", "PARKED",
    ];
    frame.render_widget(Table::new(rows, widths).header(heading(&names)), area);
}

fn disk_row(disk: &DeviceStats) -> Vec<String> {
    let sum = |of: &dyn Fn(&QueueStats) -> u64| disk.queues.iter().map(of).sum::<u64>();
    let bytes = sum(&|queue| queue.read.bytes + queue.write.bytes);
    vec![
        format!("ublkb{}", disk.id),
        human_size(disk.size),
        short_size(disk.allocated),
        disk.data_path.clone(),
        short(sum(&|queue| queue.read.requests)),
        short(sum(&|queue| queue.write.requests)),
        format!("{:.1}", bytes as f64 / f64::from(1 << 20)),
        short(sum(&|queue| queue.hctx.refused_by.total())),
        short(sum(&|queue| queue.now.parked)),
    ]
}

fn draw_queues(frame: &mut Frame<'_>, area: Rect, model: &Model, rates: &DeviceStats) {
    let rows = rates.queues.iter().skip(model.scrolled).map(queue_row);
    let widths = [4, 9, 7, 7, 7, 6, 6, 6, 7, 6, 7].map(Constraint::Length);
    let names = [
        "HCTX", "STATE", "READ", "WRITE", "INSIDE", "DISP", "CTX", "PARK", "BUSY", "RUNS", "P99",
    ];
    frame.render_widget(Table::new(rows, widths).header(heading(&names)), area);
}

fn queue_row(queue: &QueueStats) -> Row<'static> {
    let now = &queue.now;
    let on_ctx: u32 = now.ctx_lens.iter().sum();
    let hctx = &queue.hctx;
    Row::new(vec![
        queue.queue.to_string(),
        state(queue),
        short(queue.read.requests),
        short(queue.write.requests),
        short(now.usage),
        short(now.dispatch.len() as u64),
        short(on_ctx.into()),
        short(now.parked),
        short(hctx.refused_by.total()),
        short(hctx.run_sync + hctx.run_async + hctx.run_delayed),
        time(queue.latency.total().permille(990)),
    ])
}

fn draw_busy(frame: &mut Frame<'_>, area: Rect, now: &DeviceStats, rates: &DeviceStats) {
    let by = |disk: &DeviceStats, source: Source| -> u64 {
        let queues = disk.queues.iter();
        queues.map(|queue| queue.hctx.refused_by.of(source)).sum()
    };
    let each = |disk: &DeviceStats| -> Vec<Span<'static>> {
        let text = |source: &Source| {
            let count = by(disk, *source);
            let text = format!("{:>11}", format!("{} {}", source.name(), short(count)));
            Span::styled(
                format!("{text} "),
                if count > 0 { BOLD } else { Style::new() },
            )
        };
        Source::ALL.iter().map(text).collect()
    };
    let line = |name: &str, disk| {
        let mut spans = vec![Span::raw(format!("{name:<8}"))];
        spans.extend(each(disk));
        Line::from(spans)
    };
    let lines = vec![
        Line::styled("BUSY by source", BOLD),
        line("/s", rates),
        line("in all", now),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_kblockd(frame: &mut Frame<'_>, area: Rect, now: &DeviceStats, rates: &DeviceStats) {
    let mut latency = Histogram::default();
    rates
        .queues
        .iter()
        .for_each(|queue| latency.add(&queue.latency.total()));
    let parts = [500, 900, 990, 999].map(|part| time(latency.permille(part)));
    let (kblockd, since) = (&rates.kblockd, &now.kblockd);
    let lines = vec![
        Line::from(vec![
            Span::styled("kblockd ", BOLD),
            Span::raw(format!(
                "{} runs/s, {:.1} % of a CPU; {}",
                short(kblockd.completed),
                kblockd.cpu_time as f64 / 1e4,
                workers(since)
            )),
        ]),
        Line::from(vec![
            Span::styled("rescuer ", BOLD),
            Span::raw(format!(
                "called {} times, {} items rescued; now {} calls/s, {} items/s",
                since.mayday, since.rescued, kblockd.mayday, kblockd.rescued
            )),
        ]),
        Line::from(vec![
            Span::styled("latency ", BOLD),
            Span::raw(format!(
                "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}  ({} timed)",
                parts[0],
                parts[1],
                parts[2],
                parts[3],
                time(latency.max()),
                latency.count()
            )),
        ]),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

/// Where kblockd's workers are: by CPU, how many and how many of them idle.
fn workers(kblockd: &KblockdStats) -> String {
    let pools = kblockd.pools.iter().filter(|pool| pool.workers > 0);
    let pools: Vec<_> = pools
        .map(|pool| {
            let place = pool.cpu.map_or("any".to_owned(), |cpu| format!("cpu{cpu}"));
            format!(
                "{place}:{}/{}",
                pool.workers - pool.idle.min(pool.workers),
                pool.workers
            )
        })
        .collect();
    format!("workers busy/all {}", pools.join(" "))
}

fn time(nanos: Option<u64>) -> String {
    nanos.map_or("-".to_owned(), human_time)
}

/// A number in at most five characters.
fn short(n: u64) -> String {
    match n {
        0..100_000 => n.to_string(),
        100_000..10_000_000 => format!("{}k", n / 1000),
        10_000_000..10_000_000_000 => format!("{}M", n / 1_000_000),
        _ => format!("{}G", n / 1_000_000_000),
    }
}

/// A size in at most eight characters, rounded.
fn short_size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    match unit {
        0 => format!("{bytes} B"),
        unit => format!("{value:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;
    use std::time::{Duration, Instant};
    use ublk_ramdisk::stats::PoolStats;

    fn disk(id: u32, queues: u16, requests: u64) -> DeviceStats {
        let queue = |number| {
            let mut queue = QueueStats {
                queue: number,
                ..QueueStats::default()
            };
            queue.write.requests = requests;
            queue.write.bytes = requests << 12;
            queue.hctx.refused_by.memory = requests / 2;
            queue.now.parked = 3;
            queue.now.restart = true;
            queue.latency.write.buckets = vec![(1_500_000, requests)];
            queue
        };
        DeviceStats {
            id,
            size: 1 << 30,
            allocated: 300 << 20,
            data_path: "user-copy".to_owned(),
            worker_commit: false,
            pressure: Default::default(),
            space: Default::default(),
            latency_sample: 16,
            queues: (0..queues).map(queue).collect(),
            kblockd: KblockdStats {
                completed: requests,
                rescued: 7,
                pools: vec![PoolStats {
                    cpu: Some(0),
                    nice: -20,
                    workers: 2,
                    idle: 1,
                }],
                ..KblockdStats::default()
            },
        }
    }

    fn model(disks: u32, queues: u16) -> Model {
        let begun = Instant::now();
        let mut model = Model::new(Duration::from_secs(1));
        for (second, requests) in [(0, 1000), (1, 3000)] {
            let all = (0..disks).map(|id| disk(id, queues, requests)).collect();
            let when = begun + Duration::from_secs(second);
            model.take((when, Ok(all))).expect("figures");
        }
        model
    }

    fn picture(model: &Model, columns: u16, lines: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).expect("memory");
        terminal.draw(|frame| draw(frame, model)).expect("drawn");
        let cells = terminal.backend().buffer().content().iter();
        let text: String = cells.map(|cell| cell.symbol()).collect();
        let rows = text.as_bytes().chunks(usize::from(columns));
        let rows: Vec<_> = rows
            .map(|row| String::from_utf8_lossy(row).into_owned())
            .collect();
        rows.join("\n")
    }

    #[test]
    fn k05_everything_is_on_a_screen_of_80_by_24() {
        let picture = picture(&model(2, 4), 80, 24);
        for part in [
            "2 disks",
            "ublkb1",
            "300.0 MiB",
            "user-copy",
            "8000", // writes per second of all queues
            "restart",
            "memory 4000",
            "memory 6000",
            "kblockd 2000 runs/s",
            "cpu0:1/2",
            "7 items rescued",
            "p99 1.50ms",
            "q quit",
        ] {
            assert!(picture.contains(part), "{part} in\n{picture}");
        }
    }

    #[test]
    fn k05_any_size_can_be_drawn() {
        let many = model(9, 200);
        for (columns, lines) in [(1, 1), (20, 5), (40, 10), (80, 24), (300, 100)] {
            picture(&many, columns, lines);
        }
        let nothing = picture(&model(0, 0), 80, 24);
        assert!(nothing.contains("no disk is served"), "{nothing}");
    }

    #[test]
    fn k05_the_chosen_disk_stays_chosen_and_on_the_screen() {
        let mut model = model(9, 1);
        (0..20).for_each(|_| model.choose_next());
        assert_eq!(model.chosen, 8);
        assert!(picture(&model, 80, 24).contains("ublkb8"));
        let left = vec![disk(3, 1, 0), disk(8, 1, 0)];
        model.take((Instant::now(), Ok(left))).expect("figures");
        assert_eq!(model.disks[model.chosen].id, 8);
        model.take((Instant::now(), Ok(Vec::new()))).expect("none");
        assert_eq!(model.chosen, 0);
        model.choose_previous();
        model.scroll_down();
        model.scroll_up();
    }
}
