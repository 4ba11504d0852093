// SPDX-License-Identifier: MIT OR Apache-2.0
//! Draws the three-item scenarios of the kernel's documentation as they happen here.
//!
//! ```sh
//! cargo run -p cmwq --example scenarios              # writes workqueue/doc/scenarios.svg
//! cargo run -p cmwq --example scenarios -- --check   # fails if that file would change, as tests/scenarios.rs does
//! ```
//!
//! On one CPU, w0 burns 5 ms of it, sleeps 10 and burns 5; w1 and w2 burn 5 and sleep 10. Each
//! picture is drawn from the trace of one run on a virtual clock: the moments at which runs begin
//! and end are the runtime's own events, what happens in between is noted by the items.

use plotters::prelude::*;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use workqueue::legacy::{self, Machine};
use workqueue::*;

const STEP: Duration = Duration::from_millis(5);
const NAMES: [&str; 3] = ["w0", "w1", "w2"];
/// How many milliseconds each picture shows.
const SPAN: u32 = 65;

/// What an item does from a moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Burning,
    Sleeping,
    Nothing,
}

/// When who began to do what.
type Trace = Arc<Mutex<Vec<(u32, &'static str, Doing)>>>;

/// Notes moments of the virtual clock.
#[derive(Clone)]
struct Recorder {
    clock: Arc<VirtualClock>,
    trace: Trace,
}

impl Recorder {
    fn note(&self, name: &'static str, doing: Doing) {
        let ms = u32::try_from(self.clock.now().as_millis()).expect("a short picture");
        let mut trace = self.trace.lock().expect("nobody panics with it");
        trace.push((ms, name, doing));
    }

    /// What each item does in the middle of its run; the beginning and the end are events.
    fn body(&self, name: &'static str) {
        self.clock.sleep(STEP);
        self.note(name, Doing::Sleeping);
        blocking(|| self.clock.sleep(STEP * 2));
        if name == "w0" {
            self.note(name, Doing::Burning);
            self.clock.sleep(STEP);
        }
    }

    /// Moves the clock on step by step, each time after so many items have come to sleep on it and
    /// so many moments have been noted: then nothing happens any more without the clock.
    fn drive(&self, steps: &[(usize, usize)]) {
        for &(sleepers, noted) in steps {
            self.clock.wait_for_sleepers(sleepers);
            while self.trace.lock().expect("nobody panics with it").len() < noted {
                std::thread::yield_now();
            }
            self.clock.advance(STEP);
        }
    }
}

struct Item {
    work: Work<Item>,
    name: &'static str,
    recorder: Recorder,
}

impl_has_work! {
    impl HasWork<Self> for Item { self.work }
}

impl WorkItem for Item {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.recorder.body(this.name);
    }
}

fn recorder() -> Recorder {
    Recorder {
        clock: VirtualClock::new(),
        trace: Arc::default(),
    }
}

/// The scenario on today's queues; w1 and w2 on a queue with `others` if there are any flags.
fn cmwq(
    max_active: usize,
    others: Flags,
    steps: &[(usize, usize)],
) -> Result<Trace, Box<dyn Error>> {
    let recorder = recorder();
    let sink = recorder.clone();
    let one_cpu = CpuPlace {
        cpu: 0,
        core: 0,
        cache: 0,
        node: 0,
    };
    let rt = Runtime::builder()
        .topology(Topology::simulated(vec![one_cpu]))
        .virtual_clock(recorder.clock.clone())
        .trace_sink(move |event| match *event {
            TraceEvent::ExecuteStart { function, .. } if NAMES.contains(&function) => {
                sink.note(function, Doing::Burning);
            }
            TraceEvent::ExecuteEnd { function, .. } if NAMES.contains(&function) => {
                sink.note(function, Doing::Nothing);
            }
            _ => {}
        })
        .build_early();
    let q = rt
        .queue("q")
        .flags(Flags::PERCPU)
        .max_active(max_active)
        .build()?;
    let other = rt.queue("other").flags(Flags::PERCPU | others).build()?;
    for (n, name) in NAMES.into_iter().enumerate() {
        let apart = n > 0 && others != Flags::empty();
        let item = Arc::new(Item {
            work: Work::new(name),
            name,
            recorder: recorder.clone(),
        });
        // Nothing runs yet, so all three are there when the first one starts.
        if apart { &other } else { &q }.enqueue_on(0, item)?;
    }
    rt.start()?;
    recorder.drive(steps);
    rt.shutdown()?;
    Ok(recorder.trace)
}

/// The scenario on a queue of the old design.
fn old_design() -> Result<Trace, Box<dyn Error>> {
    let recorder = recorder();
    let sink = recorder.clone();
    let one_cpu = CpuPlace {
        cpu: 0,
        core: 0,
        cache: 0,
        node: 0,
    };
    let machine = Machine::builder()
        .topology(Topology::simulated(vec![one_cpu]))
        .trace_sink(move |event| {
            if let legacy::Event::Execution { work, .. } = *event {
                sink.note(work, Doing::Burning);
            }
        })
        .build();
    let q = machine.create_workqueue("q")?;
    for name in NAMES {
        let recorder = recorder.clone();
        q.queue_work(&legacy::Work::new(name, move |_| {
            recorder.body(name);
            // The old design has no event for the end of a run.
            recorder.note(name, Doing::Nothing);
        }));
    }
    recorder.drive(&[(1, 0); 10]);
    q.destroy_workqueue()?;
    Ok(recorder.trace)
}

/// The bars of one item: from, to, what.
fn bars(trace: &Trace, name: &str) -> Vec<(u32, u32, Doing)> {
    let trace = trace.lock().expect("nobody panics with it");
    let own: Vec<_> = trace.iter().filter(|(_, n, _)| *n == name).collect();
    let pairs = own.windows(2).map(|w| (w[0].0, w[1].0, w[0].2));
    pairs
        .filter(|(_, _, doing)| *doing != Doing::Nothing)
        .collect()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

const BURNING: RGBColor = RGBColor(0xc0, 0x50, 0x30);
const ASLEEP: RGBColor = RGBColor(0xb8, 0xcc, 0xe4);

fn draw(area: &Area<'_>, title: &str, trace: &Trace) -> Result<(), Box<dyn Error>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(6)
        .margin_right(24)
        .x_label_area_size(24)
        .y_label_area_size(30)
        .build_cartesian_2d(0..SPAN, 0.0..3.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_labels(14)
        .y_labels(0)
        .x_label_formatter(&|ms| format!("{ms} ms"))
        .draw()?;
    for (row, name) in NAMES.into_iter().enumerate() {
        let floor = 2.0 - row as f64;
        let bars = bars(trace, name);
        chart.draw_series(bars.iter().map(|&(from, to, doing)| {
            let colour = if doing == Doing::Burning {
                BURNING
            } else {
                ASLEEP
            };
            Rectangle::new([(from, floor + 0.15), (to, floor + 0.85)], colour.filled())
        }))?;
        let style = ("sans-serif", 13);
        let begun = bars.first().map(|b| b.0);
        let text = begun.map(|ms| {
            Text::new(
                format!("{name} starts at {ms} ms"),
                (SPAN - 13, floor + 0.65),
                style,
            )
        });
        chart.draw_series(text)?;
    }
    Ok(())
}

fn picture() -> Result<String, Box<dyn Error>> {
    let scenarios = [
        (
            "max_active 3 or more: a sleeping run lets the next one begin",
            cmwq(0, Flags::empty(), &[(1, 1), (2, 3), (3, 5), (3, 7), (1, 9)])?,
        ),
        (
            "max_active 2: the third item waits for a slot",
            cmwq(
                2,
                Flags::empty(),
                &[(1, 1), (2, 3), (2, 4), (2, 5), (1, 8), (1, 9), (1, 9)],
            )?,
        ),
        (
            "w1 and w2 on a CPU_INTENSIVE queue: they do not hold each other back",
            cmwq(0, Flags::CPU_INTENSIVE, &[(1, 1), (3, 4), (3, 6), (3, 7)])?,
        ),
        (
            "the design of 2.6.35: one thread, one item after the other",
            old_design()?,
        ),
    ];
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (860, 660)).into_drawing_area();
        area.fill(&WHITE)?;
        let (panels, legend) = area.split_vertically(630);
        for (panel, (title, trace)) in panels
            .split_evenly((scenarios.len(), 1))
            .iter()
            .zip(&scenarios)
        {
            draw(panel, title, trace)?;
        }
        for (x, colour, text) in [(40, BURNING, "uses the CPU"), (180, ASLEEP, "sleeps")] {
            legend.draw(&Rectangle::new([(x, 4), (x + 24, 18)], colour.filled()))?;
            legend.draw(&Text::new(text, (x + 32, 5), ("sans-serif", 13)))?;
        }
        area.present()?;
    }
    Ok(svg)
}

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/doc/scenarios.svg");

/// Is the picture in the repository what the crate does now?
pub fn check() -> Result<(), Box<dyn Error>> {
    let svg = picture()?;
    match std::fs::read_to_string(PATH) {
        Ok(kept) if kept == svg => Ok(()),
        _ => Err("doc/scenarios.svg is not what examples/scenarios.rs draws now".into()),
    }
}

#[allow(dead_code)] // a test takes the rest of this file
fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().any(|a| a == "--check") {
        return check();
    }
    std::fs::write(PATH, picture()?)?;
    println!("{PATH}");
    Ok(())
}
