// SPDX-License-Identifier: MIT OR Apache-2.0
//! The threads that a request visits, one after the other: its flow.
//!
//! A visit is a series of events of one request on one thread. It ends when the request has an event
//! on another thread, when the thread has an event of another request, or when the thread begins or
//! ends a work item. So visits never overlap, and each lies within the bar of one item.
//!
//! Between two visits there may be a relay: the request waits, and a third thread queues the item in
//! which it is tried again. That is the timer's thread, or one on which another request has ended.

use std::collections::HashMap;

use workqueue::trace::{Flow, Phase, Record, Value};

use super::event::{Event, Kind};
use super::timeline::Entry;

/// Device, hardware queue and tag of a request. The tag's next request has the same.
pub(super) type Key = (u32, u16, u16);

pub(super) fn key(event: &Event) -> Option<Key> {
    Some((event.device, event.hctx()?, event.tag()?))
}

/// What is drawn beside an entry of the time line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside {
    /// A visit begins with this entry.
    pub(super) begins: bool,
    /// A visit ends with this entry.
    pub(super) ends: bool,
    /// The step of the request's flow that begins here, and the number of the flow.
    pub(super) step: Option<(Flow, u64)>,
}

/// All visits and relays, by index into the time line.
#[derive(Debug, Default)]
pub(super) struct Visits {
    pub(super) beside: Vec<Beside>,
    /// The flows of the requests that a relay hands on. They may be several.
    pub(super) relays: HashMap<usize, Vec<u64>>,
}

/// Index into the time line where an item was queued, and the thread that did it.
type Queued = (usize, i32);

/// One thread.
#[derive(Default)]
struct Thread {
    /// The visit that is open: the request's course, and the index of its last event.
    visit: Option<(usize, usize)>,
    /// Addresses of the items that it runs, and how each was queued last.
    items: Vec<(usize, Option<Queued>)>,
}

/// The way of one request through the threads, from arrival to end.
#[derive(Default)]
struct Course {
    /// Index and thread of the first event of each visit.
    visits: Vec<(usize, i32)>,
    relays: Vec<usize>,
}

struct Finder {
    found: Visits,
    threads: HashMap<i32, Thread>,
    courses: Vec<Course>,
    /// The courses of the requests that have not ended.
    open: HashMap<Key, usize>,
    /// By address of an item: how it was queued last.
    queued: HashMap<usize, Queued>,
}

/// Finds the visits and relays of a time line.
pub(super) fn find(timeline: &[(i32, Entry<'_>)]) -> Visits {
    let mut finder = Finder {
        found: Visits {
            beside: vec![Beside::default(); timeline.len()],
            relays: HashMap::new(),
        },
        threads: HashMap::new(),
        courses: Vec::new(),
        open: HashMap::new(),
        queued: HashMap::new(),
    };
    for (at, (tid, entry)) in timeline.iter().enumerate() {
        match entry {
            Entry::Block(event) => finder.block(at, *tid, event),
            Entry::Work(record) => finder.work(at, *tid, record),
        }
    }
    finder.finish()
}

/// The address of the item that a record of the workqueue is about.
fn address(record: &Record) -> Option<usize> {
    record.args().find_map(|(_, value)| match value {
        Value::Address(address) => Some(address),
        _ => None,
    })
}

impl Finder {
    fn block(&mut self, at: usize, tid: i32, event: &Event) {
        let Some(key) = key(event) else {
            return; // about a queue or a device: it ends no visit
        };
        if event.kind == Kind::IoStart {
            // A new request under this tag. The end of the former may have been overwritten.
            self.open.remove(&key);
        }
        let courses = &mut self.courses;
        let course = *self.open.entry(key).or_insert_with(|| {
            courses.push(Course::default());
            courses.len() - 1
        });
        if event.kind == Kind::IoDone {
            self.open.remove(&key);
        }
        let thread = self.threads.entry(tid).or_default();
        // The visit goes on unless the request has been on another thread since.
        let is_here = self.courses[course]
            .visits
            .last()
            .is_some_and(|visit| visit.1 == tid);
        let same = thread.visit.as_mut().filter(|(of, _)| *of == course);
        if let Some((_, last)) = same.filter(|_| is_here) {
            *last = at;
            return;
        }
        let queued = thread.items.last().and_then(|(_, queued)| *queued);
        if let Some((_, last)) = thread.visit.replace((course, at)) {
            self.found.beside[last].ends = true;
        }
        self.found.beside[at].begins = true;
        let course = &mut self.courses[course];
        if let (Some((queued, by)), Some(&(before, on))) = (queued, course.visits.last()) {
            // What the thread of the former visit did is no relay.
            if queued > before && by != on {
                course.relays.push(queued);
            }
        }
        course.visits.push((at, tid));
    }

    fn work(&mut self, at: usize, tid: i32, record: &Record) {
        let item = address(record);
        if record.phase() == Phase::Instant {
            if record.name() == "workqueue_queue_work" {
                // Queueing is an instant of the thread that does it; the item runs later, elsewhere.
                self.queued.extend(item.map(|item| (item, (at, tid))));
            }
            return;
        }
        // An item begins or ends on this thread: no visit reaches across.
        let thread = self.threads.entry(tid).or_default();
        if let Some((_, last)) = thread.visit.take() {
            self.found.beside[last].ends = true;
        }
        if record.phase() == Phase::Begin {
            let item = item.unwrap_or(0);
            let queued = self.queued.get(&item).copied();
            thread.items.push((item, queued));
        } else {
            thread.items.pop();
        }
    }

    fn finish(mut self) -> Visits {
        for thread in self.threads.values() {
            if let Some((_, last)) = thread.visit {
                self.found.beside[last].ends = true;
            }
        }
        // The number of a flow is that of its request, from 1 on.
        for (id, course) in (1..).zip(&self.courses) {
            let [(first, _), .., (last, _)] = course.visits[..] else {
                continue; // one visit has no arrows
            };
            for &(at, _) in &course.visits {
                let step = match at {
                    at if at == first => Flow::Start,
                    at if at == last => Flow::End,
                    _ => Flow::Step,
                };
                self.found.beside[at].step = Some((step, id));
            }
            for &relay in &course.relays {
                self.found.relays.entry(relay).or_default().push(id);
            }
        }
        self.found
    }
}
