// SPDX-License-Identifier: MIT OR Apache-2.0
//! A trace as a file for Perfetto (ui.perfetto.dev) and chrome://tracing.
//!
//! The file's syntax is written by [`ChromeWriter`]; here it is decided what is drawn. Each event is
//! drawn twice:
//!
//! - On the line of its thread it is a mark, between the bars of the workqueue's items. A bar holds
//!   together what the thread did for one request at a time ([`super::visits`]). Arrows lead from
//!   each of a request's bars to the next, from arrival to commit.
//! - On the line of its request it begins or ends a bar: one from arrival to commit, and within it
//!   the times on a list, in flight and parked.
//!
//! A counter of each disk follows how many are in flight and parked, another one its memory.
//!
//! A request whose arrival was overwritten begins with the first of its events that is left. Events
//! come in the order of time, and those of one thread nest.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use workqueue::trace::{ChromeEvent, ChromeWriter, Flow, Phase, Record, Timed, Value};

use super::event::{Event, Kind};
use super::timeline::Entry;
use super::visits::{self, Key, Visits};
use super::Trace;
use crate::mq::Op;

impl Trace {
    /// Writes the file.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_chrome(&self, out: &mut impl Write) -> io::Result<()> {
        let mut writer = ChromeWriter::new(out, self.lost())?;
        if self.is_virtual {
            writer = writer.with_pid(1);
        }
        writer.process("ublk-ramdisk")?;
        for (tid, name) in self.threads() {
            writer.thread(tid, name)?;
        }
        let timeline = self.timeline();
        let mut drawing = Drawing {
            trace: self,
            writer,
            visits: visits::find(&timeline),
            open: HashMap::new(),
            next_id: 1,
            items: BTreeMap::new(),
            counted: BTreeMap::new(),
        };
        for (n, (tid, entry)) in timeline.iter().enumerate() {
            match entry {
                Entry::Block(event) => drawing.block_event(n, *tid, event)?,
                Entry::Work(record) => drawing.work_record(n, *tid, record)?,
            }
        }
        let last = timeline.last().map(|(tid, entry)| (*tid, entry.time()));
        drawing.close_all(last.unwrap_or((0, 0)))?;
        drawing.writer.finish()?;
        Ok(())
    }
}

/// Thread and time of an event.
type Place = (i32, u64);
type Args<'a> = &'a [(&'static str, Value)];

/// A request whose end has not been seen.
struct OpenRequest {
    /// Of its line.
    id: u64,
    name: String,
    device: u32,
    /// The bar that is open within the request's bar.
    stage: Option<&'static str>,
}

struct Drawing<'t, W> {
    trace: &'t Trace,
    writer: ChromeWriter<W>,
    visits: Visits,
    open: HashMap<Key, OpenRequest>,
    next_id: u64,
    /// By thread, the items whose bars are open.
    items: BTreeMap<i32, Vec<&'static str>>,
    /// By device, how many requests are in each stage of [`COUNTED`].
    counted: BTreeMap<u32, [i64; 2]>,
}

/// The stages that a counter follows.
const COUNTED: [&str; 2] = ["in flight", "parked"];

impl<W: Write> Drawing<'_, W> {
    /// Draws the event with index `n` of the time line.
    fn block_event(&mut self, n: usize, tid: i32, event: &Event) -> io::Result<()> {
        let at = (tid, event.time);
        let beside = self.visits.beside[n];
        if beside.begins {
            let args = [
                ("hctx", Value::Int(event.hctx.into())),
                ("tag", Value::Int(event.tag.into())),
                ("sector", number(event.sector)),
                ("nr_sector", Value::Int(event.sectors.into())),
            ];
            self.on_thread(at, Phase::Begin, name(event), &args)?;
            if let Some((step, id)) = beside.step {
                self.flow(at, step, id)?;
            }
        }
        self.mark(at, event)?;
        if event.kind == Kind::Memory {
            let args = [("bytes", Value::Int(event.value))];
            self.counter(at, event.device, "memory", &args)?;
        }
        self.follow(at, event)?;
        if beside.ends {
            self.on_thread(at, Phase::End, name(event), &[])?;
        }
        Ok(())
    }

    fn work_record(&mut self, n: usize, tid: i32, record: &Record) -> io::Result<()> {
        let items = self.items.entry(tid).or_default();
        match record.phase() {
            Phase::Begin => items.push(record.name()),
            // Its beginning was overwritten, or was before the recording.
            Phase::End if items.pop().is_none() => return Ok(()),
            Phase::End | Phase::Instant => {}
        }
        let Some(requests) = self.visits.relays.get(&n).cloned() else {
            return self.writer.record(tid, record);
        };
        // Arrows begin and end at bars.
        let at = (tid, record.time());
        self.on_thread(at, Phase::Begin, "tried again", &[])?;
        for id in requests {
            self.flow(at, Flow::Step, id)?;
        }
        self.writer.record(tid, record)?;
        self.on_thread(at, Phase::End, "tried again", &[])
    }

    /// Draws on the line of a thread.
    fn on_thread(&mut self, at: Place, phase: Phase, name: &str, args: Args) -> io::Result<()> {
        let event = ChromeEvent::new(at, phase, "block", name);
        self.writer.event(&ChromeEvent { args, ..event })
    }

    /// Draws on the line of a request, which `id` names.
    fn on_request(
        &mut self,
        id: u64,
        at: Place,
        phase: Phase,
        name: &str,
        args: Args,
    ) -> io::Result<()> {
        self.writer.event(&ChromeEvent {
            id: Some(id),
            args,
            ..ChromeEvent::new(at, phase, "request", name)
        })
    }

    /// Draws an end or a bend of a request's arrow, inside the bar that is open on the thread.
    fn flow(&mut self, at: Place, step: Flow, id: u64) -> io::Result<()> {
        let event = ChromeEvent::new(at, Phase::Instant, "flow", "request");
        self.writer.flow(step, id, &event)
    }

    /// The event on its thread's line.
    fn mark(&mut self, at: Place, event: &Event) -> io::Result<()> {
        let (major, minor) = self.trace.numbers(event.device);
        let mut args = vec![("dev", Value::text(&format!("{major},{minor}")))];
        if event.tag().is_some() {
            args.extend([
                ("rwbs", Value::Name(event.rwbs())),
                ("sector", number(event.sector)),
                ("nr_sector", Value::Int(event.sectors.into())),
            ]);
        }
        args.extend(event.hctx().map(|hctx| ("hctx", Value::Int(hctx.into()))));
        args.extend(event.tag().map(|tag| ("tag", Value::Int(tag.into()))));
        let detail = event.detail();
        if !detail.is_empty() {
            args.push(("detail", Value::text(&detail)));
        }
        args.push(("cpu", Value::Int(event.cpu.into())));
        self.on_thread(at, Phase::Instant, event.kind.name(), &args)
    }

    /// The event on its request's line.
    fn follow(&mut self, at: Place, event: &Event) -> io::Result<()> {
        let Some(key) = visits::key(event) else {
            return Ok(());
        };
        // Taken out, and put back at the end unless the request is done.
        let mut open = self.open.remove(&key);
        if event.kind == Kind::IoStart {
            if let Some(former) = open.take() {
                // The end of the tag's last use was overwritten.
                self.close(former, at, Value::Name("not seen"))?;
            }
        }
        let mut request = match open {
            Some(request) => request,
            // All that is left of a request is its end: there is nothing to draw.
            None if matches!(event.kind, Kind::IoDone | Kind::Error) => return Ok(()),
            None => self.begin(at, event)?,
        };
        match event.kind {
            Kind::IoStart => {}
            Kind::IoDone => return self.close(request, at, Value::Int(event.value)),
            Kind::Insert => self.enter(&mut request, at, "listed")?,
            Kind::Issue => self.enter(&mut request, at, "in flight")?,
            Kind::Park => self.enter(&mut request, at, "parked")?,
            Kind::Requeue if event.how != 0 => {
                self.enter(&mut request, at, "on the requeue list")?;
            }
            Kind::Unpark | Kind::Requeue | Kind::Complete => {
                self.leave(&mut request, at)?;
                self.note(&request, at, event)?;
            }
            _ => self.note(&request, at, event)?,
        }
        self.open.insert(key, request);
        Ok(())
    }

    /// Begins the bar of a request, with the arrival or the first event that is left.
    fn begin(&mut self, at: Place, event: &Event) -> io::Result<OpenRequest> {
        let request = OpenRequest {
            id: self.next_id,
            name: self.of_device(event.device, name(event)),
            device: event.device,
            stage: None,
        };
        self.next_id += 1;
        let args = [
            ("hctx", Value::Int(event.hctx.into())),
            ("tag", Value::Int(event.tag.into())),
            ("sector", number(event.sector)),
            ("nr_sector", Value::Int(event.sectors.into())),
        ];
        self.on_request(request.id, at, Phase::Begin, &request.name, &args)?;
        Ok(request)
    }

    /// A name, after that of the device.
    fn of_device(&self, device: u32, name: &str) -> String {
        let device = self.trace.device(device);
        device.map_or(name.to_owned(), |device| format!("{} {name}", device.name))
    }

    /// A request has come into a stage (1), or has left it (-1).
    fn count(&mut self, at: Place, device: u32, stage: &str, by: i64) -> io::Result<()> {
        let Some(place) = COUNTED.iter().position(|counted| *counted == stage) else {
            return Ok(());
        };
        let counts = self.counted.entry(device).or_default();
        counts[place] += by;
        let args = [0, 1].map(|n| (COUNTED[n], Value::Int(counts[n])));
        self.counter(at, device, "requests", &args)
    }

    /// The values of a device's counter from now on.
    fn counter(&mut self, at: Place, device: u32, name: &str, args: Args) -> io::Result<()> {
        let name = self.of_device(device, name);
        let event = ChromeEvent::new(at, Phase::Instant, "counter", &name);
        self.writer.counter(&ChromeEvent { args, ..event })
    }

    /// Ends the bar of the present stage and begins that of the next.
    fn enter(
        &mut self,
        request: &mut OpenRequest,
        at: Place,
        stage: &'static str,
    ) -> io::Result<()> {
        self.leave(request, at)?;
        request.stage = Some(stage);
        self.count(at, request.device, stage, 1)?;
        let args = [("tid", Value::Int(at.0.into()))];
        self.on_request(request.id, at, Phase::Begin, stage, &args)
    }

    /// Ends the bar of the present stage, if there is one.
    fn leave(&mut self, request: &mut OpenRequest, at: Place) -> io::Result<()> {
        match request.stage.take() {
            Some(stage) => {
                self.count(at, request.device, stage, -1)?;
                self.on_request(request.id, at, Phase::End, stage, &[])
            }
            None => Ok(()),
        }
    }

    /// A moment on the request's line.
    fn note(&mut self, request: &OpenRequest, at: Place, event: &Event) -> io::Result<()> {
        let detail = event.detail();
        let args = [
            ("detail", Value::text(&detail)),
            ("tid", Value::Int(at.0.into())),
        ];
        let args = if detail.is_empty() { &args[1..] } else { &args };
        self.on_request(request.id, at, Phase::Instant, event.kind.name(), args)
    }

    /// Ends all bars of a request.
    fn close(&mut self, mut request: OpenRequest, at: Place, result: Value) -> io::Result<()> {
        self.leave(&mut request, at)?;
        let args = [("result", result)];
        self.on_request(request.id, at, Phase::End, &request.name, &args)
    }

    /// Ends the bars that are still open, at the place of the last event.
    fn close_all(&mut self, (tid, time): Place) -> io::Result<()> {
        for (tid, items) in std::mem::take(&mut self.items) {
            for name in items.iter().rev() {
                let event = ChromeEvent::new((tid, time), Phase::End, "workqueue", name);
                self.writer.event(&event)?;
            }
        }
        let mut left: Vec<_> = self.open.drain().collect();
        // The map has no order; equal runs must give equal files.
        left.sort_unstable_by_key(|(key, _)| *key);
        for (_, request) in left {
            self.close(request, (tid, time), Value::Name("not seen"))?;
        }
        Ok(())
    }
}

/// The text on a request's bars: the same for all of an operation, so that viewers add them up.
fn name(event: &Event) -> &'static str {
    event.op.map_or("request", Op::name)
}

fn number(n: u64) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}
