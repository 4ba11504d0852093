// SPDX-License-Identifier: MIT OR Apache-2.0
//! The picture: disks above, then of the chosen one its hardware queues, why requests were refused,
//! and who runs the queues again. Made for 80 columns and 24 lines; more lines show more queues.

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use ratatui::Frame;
use ublk_ramdisk::histogram::Histogram;
use ublk_ramdisk::mq::Source;
use ublk_ramdisk::stats::{DeviceStats, KblockdStats, PoolStats, QueueStats};

use super::columns::{draw_table, BOLD, DISK_COLUMNS, QUEUE_COLUMNS};
use super::history;
use super::model::Model;
use crate::commands::output::{human_time, rounded_size};
use crate::commands::stats_text::state;

/// Most disks shown at once.
const DISKS: u16 = 4;

const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws everything. `silence`: seconds without an answer.
pub fn draw(frame: &mut Frame<'_>, model: &Model, silence: Option<u64>) {
    let disks = (model.disks.len() as u16).clamp(1, DISKS);
    // What matters least makes room first.
    let high = frame.area().height;
    let [head, table, queues, busy, kblockd, past, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(disks + if high < ALL_HIGH { 1 } else { 2 }),
        Constraint::Fill(1),
        Constraint::Length(if high < BUSY_HIGH { 0 } else { 3 }),
        Constraint::Length(if high < ALL_HIGH { 0 } else { 4 }),
        Constraint::Length(if high < PAST_HIGH { 0 } else { history::LINES }),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let title = title(model, silence, queues.height.saturating_sub(1).into());
    frame.render_widget(Paragraph::new(title).style(REVERSED), head);
    draw_disks(frame, table, model);
    match (model.disks.get(model.chosen), model.rates.get(model.chosen)) {
        (Some(now), Some(rates)) => {
            draw_queues(frame, queues, model, rates);
            draw_busy(frame, busy, now, rates);
            draw_kblockd(frame, kblockd, now, rates);
            history::draw(frame, past, &model.past[&now.id]);
        }
        _ => frame.render_widget(Paragraph::new(NOBODY), queues),
    }
    let keys = "q quit  up/down disk  page up/down queues  `ublk-ramdisk explain`: the words";
    let foot_line = match &model.trouble {
        Some(trouble) => Line::styled(trouble.clone(), BOLD),
        None => Line::raw(keys),
    };
    frame.render_widget(Paragraph::new(foot_line), foot);
}

/// On fewer lines than this the last minute is left out.
const PAST_HIGH: u16 = 30;
/// On fewer lines than this kblockd is left out, on fewer than [`BUSY_HIGH`] also who refuses.
const ALL_HIGH: u16 = 17;
const BUSY_HIGH: u16 = 12;

const NOBODY: &str = "`ublk-ramdisk add` makes a disk; it will be shown here.";

/// `high`: queues that fit on the screen.
fn title(model: &Model, silence: Option<u64>, high: usize) -> String {
    let disks = match model.disks.len() {
        0 => "no disk is served".to_owned(),
        1 => "1 disk".to_owned(),
        many => format!("{many} disks"),
    };
    if let Some(seconds) = silence {
        return format!("ublk-ramdisk top: {disks}; NO ANSWER for {seconds} s");
    }
    let seconds = model.interval.as_secs_f64();
    let mut text = format!("ublk-ramdisk top: {disks}; per second, every {seconds} s");
    let queues = model.rates.get(model.chosen).map_or(0, |d| d.queues.len());
    if queues > high {
        let last = (model.scrolled + high).min(queues);
        text += &format!("; queues {} to {last} of {queues}", model.scrolled + 1);
    }
    text
}

/// The table of disks, moved so far that the chosen one is in it.
fn draw_disks(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let above = model.chosen.saturating_sub(usize::from(DISKS) - 1);
    let rows = model.rates.iter().enumerate().skip(above).map(|(n, disk)| {
        let chosen = n == model.chosen;
        (disk_row(disk), if chosen { REVERSED } else { Style::new() })
    });
    draw_table(frame, area, &DISK_COLUMNS, rows);
}

/// Cells in the order of [`DISK_COLUMNS`], summed up over the queues.
fn disk_row(disk: &DeviceStats) -> Vec<String> {
    let sum = |of: &dyn Fn(&QueueStats) -> u64| disk.queues.iter().map(of).sum::<u64>();
    let bytes = sum(&|queue| queue.read.bytes + queue.write.bytes);
    vec![
        format!("ublkb{}", disk.id),
        rounded_size(disk.size),
        rounded_size(disk.allocated),
        disk.data_path.clone(),
        short(sum(&|queue| queue.read.requests)),
        short(sum(&|queue| queue.write.requests)),
        format!("{:.1}", bytes as f64 / f64::from(1 << 20)),
        short(sum(&|queue| queue.hctx.refused_by.total())),
        short(sum(&|queue| queue.now.parked)),
    ]
}

/// The hardware queues of the chosen disk, as many as fit.
fn draw_queues(frame: &mut Frame<'_>, area: Rect, model: &Model, rates: &DeviceStats) {
    let rows = rates.queues.iter().skip(model.scrolled);
    let rows = rows.map(|queue| (queue_row(queue), Style::new()));
    draw_table(frame, area, &QUEUE_COLUMNS, rows);
}

/// Cells in the order of [`QUEUE_COLUMNS`]. What is counted is per second, states are as now.
fn queue_row(queue: &QueueStats) -> Vec<String> {
    let now = &queue.now;
    let on_ctx: u32 = now.ctx_lens.iter().sum();
    let hctx = &queue.hctx;
    vec![
        queue.queue.to_string(),
        short_state(&state(queue)),
        short(queue.read.requests),
        short(queue.write.requests),
        short(now.usage),
        short(now.dispatch.len() as u64),
        short(on_ctx.into()),
        short(now.parked),
        short(hctx.refused_by.total()),
        short(hctx.run_sync + hctx.run_async + hctx.run_delayed),
        time(queue.latency.total().permille(990)),
    ]
}

/// Of several states the first letters: `stop+rest`.
fn short_state(state: &str) -> String {
    let words: Vec<&str> = state.split('+').collect();
    match words.as_slice() {
        [one] => (*one).to_owned(),
        many => {
            let first = |word: &&str| word.chars().take(4).collect::<String>();
            many.iter().map(first).collect::<Vec<_>>().join("+")
        }
    }
}

/// Refusals by source: per second, and since the disk was started.
fn draw_busy(frame: &mut Frame<'_>, area: Rect, now: &DeviceStats, rates: &DeviceStats) {
    let by = |disk: &DeviceStats, source: Source| -> u64 {
        let queues = disk.queues.iter();
        queues.map(|queue| queue.hctx.refused_by.of(source)).sum()
    };
    // Where all of them do not fit, those that refuse.
    let all_fit = area.width >= 8 + 12 * Source::COUNT as u16;
    let each = |disk: &DeviceStats| -> Vec<Span<'static>> {
        let shown = |source: &&Source| all_fit || by(disk, **source) > 0;
        let text = |source: &Source| {
            let count = by(disk, *source);
            let text = format!("{} {}", source.name(), short(count));
            let text = if all_fit {
                format!("{text:>11} ")
            } else {
                format!("{text}  ")
            };
            Span::styled(text, if count > 0 { BOLD } else { Style::new() })
        };
        Source::ALL.iter().filter(shown).map(text).collect()
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

/// kblockd, its rescuer, and the latencies of the requests that were timed since the last picture.
fn draw_kblockd(frame: &mut Frame<'_>, area: Rect, now: &DeviceStats, rates: &DeviceStats) {
    let mut latency = Histogram::default();
    rates
        .queues
        .iter()
        .for_each(|queue| latency.add(&queue.latency.total()));
    let parts = [500, 900, 990, 999].map(|part| time(latency.permille(part)));
    let (kblockd, since) = (&rates.kblockd, &now.kblockd);
    let runs = format!(
        "{} runs/s, {:.1} % of a CPU; ",
        short(kblockd.completed),
        // Microseconds per second, as per cent.
        kblockd.cpu_time as f64 / 1e4
    );
    let room = usize::from(area.width).saturating_sub("kblockd ".len() + runs.len());
    let lines = vec![
        Line::from(vec![
            Span::styled("kblockd ", BOLD),
            Span::raw(runs),
            Span::raw(workers(since, room)),
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

/// Where kblockd's workers are: by CPU, how many and how many of them busy; of more CPUs than there
/// is room for, all together.
fn workers(kblockd: &KblockdStats, room: usize) -> String {
    let pools: Vec<_> = kblockd.pools.iter().filter(|p| p.workers > 0).collect();
    let busy = |pool: &PoolStats| pool.workers - pool.idle.min(pool.workers);
    let each: Vec<_> = pools
        .iter()
        .map(|pool| {
            let place = pool.cpu.map_or("any".to_owned(), |cpu| format!("cpu{cpu}"));
            format!("{place}:{}/{}", busy(pool), pool.workers)
        })
        .collect();
    let text = format!("workers busy/all {}", each.join(" "));
    if text.len() <= room {
        return text;
    }
    let (all, busy) = pools.iter().fold((0, 0), |(all, sum), pool| {
        (all + pool.workers, sum + busy(pool))
    });
    format!("workers busy/all {busy}/{all} in {} pools", pools.len())
}

fn time(nanos: Option<u64>) -> String {
    nanos.map_or("-".to_owned(), human_time)
}

/// A number in at most five characters.
pub fn short(n: u64) -> String {
    match n {
        0..100_000 => n.to_string(),
        100_000..10_000_000 => format!("{}k", n / 1000),
        10_000_000..10_000_000_000 => format!("{}M", n / 1_000_000),
        _ => format!("{}G", n / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;
    use std::time::{Duration, Instant};
    use ublk_ramdisk::error::Failure;

    use crate::commands::stats::Asked;

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
            ..DeviceStats::default()
        }
    }

    fn those(disks: Vec<DeviceStats>) -> Asked {
        Asked {
            disks,
            ..Asked::default()
        }
    }

    fn model(disks: u32, queues: u16) -> Model {
        let begun = Instant::now();
        let mut model = Model::new(Duration::from_secs(1));
        for (second, requests) in [(0, 1000), (1, 3000)] {
            let all = (0..disks).map(|id| disk(id, queues, requests)).collect();
            let when = begun + Duration::from_secs(second);
            model.take((when, Ok(those(all)))).expect("figures");
        }
        model
    }

    fn picture(model: &Model, columns: u16, lines: u16) -> String {
        picture_after(model, columns, lines, None)
    }

    fn picture_after(model: &Model, columns: u16, lines: u16, silence: Option<u64>) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).expect("memory");
        terminal
            .draw(|frame| draw(frame, model, silence))
            .expect("drawn");
        let cells = terminal.backend().buffer().content().iter();
        let cells: Vec<&str> = cells.map(|cell| cell.symbol()).collect();
        let rows = cells.chunks(usize::from(columns));
        rows.map(<[&str]>::concat).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn k05_everything_is_on_a_screen_of_80_by_24() {
        let picture = picture(&model(2, 4), 80, 24);
        for part in [
            "2 disks",
            "ublkb1",
            "300M",
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
            "`ublk-ramdisk explain`: the words",
            "driver 0",
            "1.50ms",
        ] {
            assert!(picture.contains(part), "{part} in\n{picture}");
        }
    }

    #[test]
    fn k05_a_high_screen_shows_the_last_minute() {
        let picture = picture(&model(2, 4), 80, 40);
        for part in [
            "the last minute",
            "requests/s",
            "BUSY memory/s",
            "parked",
            "\u{2588}",
        ] {
            assert!(picture.contains(part), "{part} in\n{picture}");
        }
        assert!(
            !picture.contains("BUSY psi"),
            "what has not happened\n{picture}"
        );
    }

    #[test]
    fn k05_any_size_can_be_drawn() {
        let many = model(9, 200);
        for (columns, lines) in [(1, 1), (20, 5), (40, 10), (80, 24), (300, 100)] {
            picture(&many, columns, lines);
        }
        let nothing = picture(&model(0, 0), 80, 24);
        assert!(nothing.contains("no disk is served"), "{nothing}");
        assert!(nothing.contains("`ublk-ramdisk add` makes"), "{nothing}");
    }

    #[test]
    fn k05_a_small_terminal_shows_whole_columns_and_what_matters_most() {
        let model = model(2, 40);
        let narrow = picture(&model, 40, 24);
        let line = |text: &str, start: &str| {
            let mut lines = text.lines().filter(|line| line.starts_with(start));
            lines
                .next()
                .expect("a line")
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            line(&narrow, "DISK"),
            ["DISK", "READ", "WRITE", "BUSY", "PARKED"]
        );
        assert_eq!(
            line(&narrow, "HCTX"),
            ["HCTX", "STATE", "READ", "WRITE", "BUSY"]
        );
        assert_eq!(line(&narrow, "/s"), ["/s", "memory", "40000"], "{narrow}");
        let wide = picture(&model, 80, 24);
        assert_eq!(line(&wide, "HCTX").len(), QUEUE_COLUMNS.len());
        assert_eq!(line(&wide, "DISK").len(), DISK_COLUMNS.len());
        let low = picture(&model, 80, 10);
        assert!(low.contains("queues 1 to 4 of 40"), "{low}");
        assert!(low.contains("q quit") && low.contains("ublkb0"), "{low}");
        assert!(!low.contains("kblockd"), "{low}");
        assert!(picture(&model, 80, 12).contains("memory 40000"));
    }

    #[test]
    fn k05_a_disk_that_gives_no_answer_stays_and_is_named() {
        let mut model = model(2, 1);
        let failure = Failure::runtime("the server behind 1.sock did not answer");
        let asked = Asked {
            disks: vec![disk(0, 1, 5000)],
            silent: vec![(1, failure), (7, Failure::runtime("neither"))],
        };
        let later = Instant::now() + Duration::from_secs(2);
        model.take((later, Ok(asked))).expect("one of them");
        let told = picture(&model, 80, 24);
        for part in [
            "2 disks",
            "ublkb0",
            "ublkb1",
            "behind 1.sock did not answer",
        ] {
            assert!(told.contains(part), "{part} in\n{told}");
        }
        let mut silence = |seconds| model.silence(later + Duration::from_secs(seconds));
        assert!((0..=3).all(|second| silence(second).is_none()));
        // It is stopped for an hour, which counts as one look.
        assert_eq!(silence(3600), Some(4));
        let silence = (3601..=3605).filter_map(silence).last();
        assert_eq!(silence, Some(9));
        let told = picture_after(&model, 80, 24, silence);
        assert!(told.contains("NO ANSWER for 9 s"), "{told}");
    }

    #[test]
    fn k05_many_pools_of_kblockd_are_told_together() {
        let pool = |cpu| PoolStats {
            cpu: Some(cpu),
            nice: -20,
            workers: 2,
            idle: 1,
        };
        let kblockd = KblockdStats {
            pools: (0..64).map(pool).collect(),
            ..KblockdStats::default()
        };
        assert_eq!(workers(&kblockd, 50), "workers busy/all 64/128 in 64 pools");
        assert_eq!(short_state("stopped+restart"), "stop+rest");
        assert_eq!(short_state("restart"), "restart");
    }

    #[test]
    fn k05_the_chosen_disk_stays_chosen_and_on_the_screen() {
        let mut model = model(9, 1);
        (0..20).for_each(|_| model.choose_next());
        assert_eq!(model.chosen, 8);
        assert!(picture(&model, 80, 24).contains("ublkb8"));
        let left = vec![disk(3, 1, 0), disk(8, 1, 0)];
        model
            .take((Instant::now(), Ok(those(left))))
            .expect("figures");
        assert_eq!(model.disks[model.chosen].id, 8);
        model
            .take((Instant::now(), Ok(those(Vec::new()))))
            .expect("none");
        assert_eq!(model.chosen, 0);
        model.choose_previous();
        model.scroll_down();
        model.scroll_up();
    }
}
