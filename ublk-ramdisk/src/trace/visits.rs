// SPDX-License-Identifier: MIT OR Apache-2.0
//! On which threads a request has been, one after the other: its flow.
//!
//! A visit is what one thread does for one request while no other thread does anything for it, and
//! the thread nothing for another, nor begins or ends an item of a workqueue. So visits nest in the bars of the items, and never
//! overlap. Between two visits there may be a relay: the request waits, and some thread, the timer's,
//! or one on which another request has ended, queues the item in which it is tried again.

use std::collections::HashMap;

use workqueue::trace::{Flow, Phase, Record, Value};

use super::event::{Event, Kind};
use super::timeline::Entry;

/// Which request: device, hardware queue, tag. The tag's next use is another.
pub(super) type Key = (u32, u16, u16);

pub(super) fn key(event: &Event) -> Option<Key> {
    Some((event.device, event.hctx()?, event.tag()?))
}

/// What is written beside an entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside {
    /// A visit begins with it.
    pub(super) begins: bool,
    /// A visit ends with it.
    pub(super) ends: bool,
    /// The step of the request's flow that the visit is. The number is the flow's.
    pub(super) step: Option<(Flow, u64)>,
}

/// By index into the time line. A relay may hand on several requests.
#[derive(Debug, Default)]
pub(super) struct Visits {
    pub(super) beside: Vec<Beside>,
    pub(super) relays: HashMap<usize, Vec<u64>>,
}

/// Where in the time line an item was queued, and by which thread.
type Queued = (usize, i32);

/// One thread.
#[derive(Default)]
struct Thread {
    /// The request it is at: its number, and where it was last seen.
    visit: Option<(usize, usize)>,
    /// Addresses of the items it is in, and how each was queued last.
    items: Vec<(usize, Option<Queued>)>,
}

/// One request, from arrival to end.
#[derive(Default)]
struct Course {
    /// Where its visits begin, and on which thread.
    visits: Vec<(usize, i32)>,
    relays: Vec<usize>,
}

struct Finder {
    found: Visits,
    threads: HashMap<i32, Thread>,
    courses: Vec<Course>,
    /// The course of each request under way.
    open: HashMap<Key, usize>,
    /// How an item was queued last.
    queued: HashMap<usize, Queued>,
}

/// Finds them all.
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

fn address(record: &Record) -> Option<usize> {
    record.args().find_map(|(_, value)| match value {
        Value::Address(address) => Some(address),
        _ => None,
    })
}

impl Finder {
    fn block(&mut self, at: usize, tid: i32, event: &Event) {
        let Some(key) = key(event) else {
            return; // about a queue or a device: within whatever the thread does
        };
        if event.kind == Kind::IoStart {
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
        // Unless it has been on another thread since.
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
            // What the thread did that it has left is seen on that thread.
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
                self.queued.extend(item.map(|item| (item, (at, tid))));
            }
            return;
        }
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
        for (id, course) in (1..).zip(&self.courses) {
            let [(first, _), .., (last, _)] = course.visits[..] else {
                continue; // it never left its thread
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
