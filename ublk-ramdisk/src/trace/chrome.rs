// SPDX-License-Identifier: MIT OR Apache-2.0
//! A trace as a file for Perfetto (ui.perfetto.dev) and chrome://tracing.
//!
//! Each event stands twice in it. On the line of its thread it is a mark, between the bars of the
//! workqueue's items: there one sees what a thread did. A bar holds together what the thread did for
//! one request at a time ([`super::visits`]), and arrows lead from each of a request's bars to the
//! next: from its arrival over the timer or the end that had it tried again to a worker of kblockd or
//! its rescuer, and to its commit. On the line of its request the event begins or ends a bar, from
//! arrival to commit, with the times in flight, on a list and parked within. A request whose
//! beginning was overwritten begins with the first of its events that is left. Events come in the
//! order of time, and those of one thread nest.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use workqueue::trace::{ChromeEvent, ChromeWriter, Flow, Phase, Record, Timed, Value};

use super::event::{Event, Kind};
use super::timeline::Entry;
use super::visits::{self, Key, Visits};
use super::Trace;

/// A bar within a request's bar.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inner {
    Listed,
    InFlight,
    Requeued,
    Parked,
}

impl Inner {
    fn name(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::InFlight => "in flight",
            Self::Requeued => "on the requeue list",
            Self::Parked => "parked",
        }
    }
}

/// A request whose end has not been seen.
struct Open {
    id: u64,
    name: String,
    inner: Option<Inner>,
}

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
        let visits = visits::find(&timeline);
        let mut requests = Requests {
            trace: self,
            writer,
            open: HashMap::new(),
            next_id: 1,
            items: BTreeMap::new(),
        };
        for (at, (tid, entry)) in timeline.iter().enumerate() {
            match entry {
                Entry::Block(event) => requests.block(*tid, event, &visits, at)?,
                Entry::Work(record) => requests.work(*tid, record, &visits, at)?,
            }
        }
        let last = timeline.last().map(|(tid, entry)| (*tid, entry.time()));
        requests.close_all(last.unwrap_or((0, 0)))?.finish()?;
        Ok(())
    }
}

struct Requests<'t, W> {
    trace: &'t Trace,
    writer: ChromeWriter<W>,
    open: HashMap<Key, Open>,
    next_id: u64,
    /// The items that each thread is in.
    items: BTreeMap<i32, Vec<&'static str>>,
}

impl<W: Write> Requests<'_, W> {
    fn block(&mut self, tid: i32, event: &Event, visits: &Visits, at: usize) -> io::Result<()> {
        let beside = visits.beside[at];
        if beside.begins {
            let name = name(event);
            let args = [
                ("hctx", Value::Int(event.hctx.into())),
                ("tag", Value::Int(event.tag.into())),
            ];
            self.bar(tid, event.time, Phase::Begin, &name, &args)?;
            if let Some((step, id)) = beside.step {
                self.step(tid, event.time, step, id)?;
            }
        }
        self.mark(tid, event)?;
        self.follow(tid, event)?;
        if beside.ends {
            self.bar(tid, event.time, Phase::End, &name(event), &[])?;
        }
        Ok(())
    }

    fn work(&mut self, tid: i32, record: &Record, visits: &Visits, at: usize) -> io::Result<()> {
        let items = self.items.entry(tid).or_default();
        match record.phase() {
            Phase::Begin => items.push(record.name()),
            // Its beginning was overwritten, or was before the recording.
            Phase::End if items.pop().is_none() => return Ok(()),
            Phase::End | Phase::Instant => {}
        }
        let Some(handed_on) = visits.relays.get(&at) else {
            return self.writer.record(tid, record);
        };
        // Arrows begin and end at bars.
        let name = "tried again";
        let time = record.time();
        self.bar(tid, time, Phase::Begin, name, &[])?;
        for &id in handed_on {
            self.step(tid, time, Flow::Step, id)?;
        }
        self.writer.record(tid, record)?;
        self.bar(tid, time, Phase::End, name, &[])
    }

    fn bar(
        &mut self,
        tid: i32,
        time: u64,
        phase: Phase,
        name: &str,
        args: &[(&'static str, Value)],
    ) -> io::Result<()> {
        self.writer.event(&ChromeEvent {
            time,
            phase,
            tid,
            id: None,
            category: "block",
            name,
            args,
        })
    }

    fn step(&mut self, tid: i32, time: u64, step: Flow, id: u64) -> io::Result<()> {
        self.writer.flow(step, id, (tid, time), ("flow", "request"))
    }

    /// The event on its thread's line.
    fn mark(&mut self, tid: i32, event: &Event) -> io::Result<()> {
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
        self.writer.event(&ChromeEvent {
            time: event.time,
            phase: Phase::Instant,
            tid,
            id: None,
            category: "block",
            name: event.kind.name(),
            args: &args,
        })
    }

    /// The event on its request's line.
    fn follow(&mut self, tid: i32, event: &Event) -> io::Result<()> {
        let Some(key) = visits::key(event) else {
            return Ok(());
        };
        if event.kind == Kind::IoStart {
            // Its last use has lost its end.
            self.close(key, tid, event.time, None)?;
        }
        if !self.open.contains_key(&key) {
            if matches!(event.kind, Kind::IoDone | Kind::Error) {
                return Ok(());
            }
            self.begin(key, tid, event)?;
        }
        match event.kind {
            Kind::Insert => self.enter(key, tid, event.time, Inner::Listed),
            Kind::Issue => self.enter(key, tid, event.time, Inner::InFlight),
            Kind::Park => self.enter(key, tid, event.time, Inner::Parked),
            Kind::Requeue if event.how != 0 => self.enter(key, tid, event.time, Inner::Requeued),
            Kind::Unpark | Kind::Requeue | Kind::Complete => {
                self.leave(key, tid, event.time)?;
                self.note(key, tid, event)
            }
            Kind::IoDone => self.close(key, tid, event.time, Some(event.value)),
            Kind::IoStart => Ok(()),
            _ => self.note(key, tid, event),
        }
    }

    fn begin(&mut self, key: Key, tid: i32, event: &Event) -> io::Result<()> {
        let device = self.trace.device(event.device);
        let device = device.map_or(String::new(), |device| format!("{} ", device.name));
        let name = format!("{device}{}", name(event));
        let id = self.next_id;
        self.next_id += 1;
        let args = [
            ("hctx", Value::Int(key.1.into())),
            ("tag", Value::Int(key.2.into())),
            ("sector", number(event.sector)),
            ("nr_sector", Value::Int(event.sectors.into())),
        ];
        self.async_event(id, tid, event.time, Phase::Begin, &name, &args)?;
        let open = Open {
            id,
            name,
            inner: None,
        };
        self.open.insert(key, open);
        Ok(())
    }

    fn enter(&mut self, key: Key, tid: i32, time: u64, inner: Inner) -> io::Result<()> {
        self.leave(key, tid, time)?;
        let Some(open) = self.open.get_mut(&key) else {
            return Ok(());
        };
        open.inner = Some(inner);
        let id = open.id;
        let args = [("tid", Value::Int(tid.into()))];
        self.async_event(id, tid, time, Phase::Begin, inner.name(), &args)
    }

    fn leave(&mut self, key: Key, tid: i32, time: u64) -> io::Result<()> {
        let Some(open) = self.open.get_mut(&key) else {
            return Ok(());
        };
        let (id, inner) = (open.id, open.inner.take());
        match inner {
            Some(inner) => self.async_event(id, tid, time, Phase::End, inner.name(), &[]),
            None => Ok(()),
        }
    }

    /// A moment on the request's line.
    fn note(&mut self, key: Key, tid: i32, event: &Event) -> io::Result<()> {
        let Some(id) = self.open.get(&key).map(|open| open.id) else {
            return Ok(());
        };
        let detail = event.detail();
        let args = [
            ("detail", Value::text(&detail)),
            ("tid", Value::Int(tid.into())),
        ];
        let args = if detail.is_empty() { &args[1..] } else { &args };
        self.async_event(id, tid, event.time, Phase::Instant, event.kind.name(), args)
    }

    fn close(&mut self, key: Key, tid: i32, time: u64, result: Option<i64>) -> io::Result<()> {
        self.leave(key, tid, time)?;
        let Some(open) = self.open.remove(&key) else {
            return Ok(());
        };
        let args = match result {
            Some(result) => ("result", Value::Int(result)),
            None => ("result", Value::Name("not seen")),
        };
        self.async_event(open.id, tid, time, Phase::End, &open.name, &[args])
    }

    /// What was still under way when the recording ended is ended where the last event stands.
    fn close_all(mut self, (tid, time): (i32, u64)) -> io::Result<ChromeWriter<W>> {
        for (tid, items) in std::mem::take(&mut self.items) {
            for name in items.iter().rev() {
                self.writer.event(&ChromeEvent {
                    time,
                    phase: Phase::End,
                    tid,
                    id: None,
                    category: "workqueue",
                    name,
                    args: &[],
                })?;
            }
        }
        let mut left: Vec<Key> = self.open.keys().copied().collect();
        left.sort_unstable();
        for key in left {
            self.close(key, tid, time, None)?;
        }
        Ok(self.writer)
    }

    fn async_event(
        &mut self,
        id: u64,
        tid: i32,
        time: u64,
        phase: Phase,
        name: &str,
        args: &[(&'static str, Value)],
    ) -> io::Result<()> {
        self.writer.event(&ChromeEvent {
            time,
            phase,
            tid,
            id: Some(id),
            category: "request",
            name,
            args,
        })
    }
}

/// A request as its bars are called.
fn name(event: &Event) -> String {
    format!("{} {} + {}", event.rwbs(), event.sector, event.sectors)
}

fn number(n: u64) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}
