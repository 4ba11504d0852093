// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the calls mean, without threads.
//!
//! All runs declare that they sleep until they are let go, so every active item starts at once,
//! unless it runs already: then it follows on the same thread.

use crate::Call;
use std::collections::VecDeque;
use workqueue::Refusal;

pub(crate) const ITEMS: usize = 12;
pub(crate) const QUEUES: usize = 3;
pub(crate) const CPUS: usize = 2;
const FREEZABLE: usize = 1;
const ORDERED: usize = 2;

/// Items stay with their queue: one that changes queues may run beside itself.
pub(crate) fn queue_of(item: usize) -> usize {
    item % QUEUES
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Yes,
    No,
    Refused(Refusal),
}

impl From<bool> for Outcome {
    fn from(yes: bool) -> Self {
        if yes {
            Self::Yes
        } else {
            Self::No
        }
    }
}

/// What can be seen of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ItemView {
    pub(crate) started: usize,
    pub(crate) pending: bool,
    pub(crate) running: bool,
}

/// What can be seen of everything.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) items: Vec<ItemView>,
    /// By queue: the held-back items of each CPU that has any, in order.
    pub(crate) held_back: Vec<Vec<Vec<usize>>>,
    /// Active items that have not started, since they run already.
    pub(crate) following: Vec<usize>,
    pub(crate) flushes_waiting: usize,
    pub(crate) barriers: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Idle,
    Armed {
        due: u64,
        order: u64,
        cpu: usize,
    },
    HeldBack {
        cpu: usize,
    },
    /// Active, and behind its own present run.
    Next,
}

struct Item {
    place: Place,
    running_on: Option<usize>,
    depth: usize,
    started: usize,
}

#[derive(Default)]
struct Share {
    active: usize,
    held_back: VecDeque<usize>,
}

struct Queue {
    max_active: usize,
    shares: [Share; CPUS],
}

/// A flush that waits for a run of an item, by the run's number.
struct Flush {
    item: usize,
    run: usize,
}

pub(crate) struct Model {
    now: u64,
    armings: u64,
    frozen: bool,
    items: Vec<Item>,
    queues: Vec<Queue>,
    flushes: Vec<Flush>,
}

impl Model {
    pub(crate) fn new() -> Self {
        let item = |_| Item {
            place: Place::Idle,
            running_on: None,
            depth: 0,
            started: 0,
        };
        let queue = |n| Queue {
            max_active: if n == ORDERED { 1 } else { 2 },
            shares: Default::default(),
        };
        Self {
            now: 0,
            armings: 0,
            frozen: false,
            items: (0..ITEMS).map(item).collect(),
            queues: (0..QUEUES).map(queue).collect(),
            flushes: Vec::new(),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        let idle = |i: &Item| i.place == Place::Idle && i.running_on.is_none();
        self.items.iter().all(idle)
    }

    /// Calls that would wait for the caller himself, or that are warned about.
    pub(crate) fn allows(&self, call: Call) -> bool {
        match call {
            Call::Finish { item } => self.items[item].running_on.is_some(),
            Call::Freeze => !self.frozen,
            Call::FlushIdleQueue { queue } => {
                let shares = &self.queues[queue].shares;
                shares
                    .iter()
                    .all(|s| s.active == 0 && s.held_back.is_empty())
            }
            _ => true,
        }
    }

    pub(crate) fn perform(&mut self, call: Call) -> Outcome {
        let outcome = match call {
            Call::Enqueue { item, cpu } => self.offer(item, |m| m.place(item, cpu)),
            Call::Delay { item, cpu, ms } => self.offer(item, |m| m.arm(item, cpu, ms)),
            Call::Modify { item, cpu, ms } => {
                if self.items[item].depth > 0 {
                    return Outcome::Refused(Refusal::Disabled);
                }
                let was_pending = self.take_back(item);
                self.arm(item, cpu, ms);
                was_pending.into()
            }
            Call::Cancel { item } => self.take_back(item).into(),
            Call::Disable { item } => {
                self.items[item].depth += 1;
                self.take_back(item).into()
            }
            Call::Enable { item } => match &mut self.items[item].depth {
                0 => Outcome::Refused(Refusal::EnableUnderflow),
                depth => {
                    *depth -= 1;
                    (*depth == 0).into()
                }
            },
            Call::Flush { item } => {
                if let Place::Armed { cpu, .. } = self.items[item].place {
                    self.place(item, cpu);
                }
                let i = &self.items[item];
                // One that is idle is not waited for: its last run is over.
                let run = i.started + usize::from(i.place != Place::Idle);
                self.flushes.push(Flush { item, run });
                Outcome::Yes
            }
            Call::Finish { item } => {
                self.finish(item);
                Outcome::Yes
            }
            Call::SetMaxActive { queue, n } => {
                if queue != ORDERED {
                    self.queues[queue].max_active = n;
                    self.fill(queue);
                }
                (queue != ORDERED).into()
            }
            Call::Freeze | Call::Thaw => {
                self.frozen = matches!(call, Call::Freeze);
                self.fill(FREEZABLE);
                self.fill(ORDERED);
                Outcome::Yes
            }
            Call::Advance { ms } => {
                self.advance(ms);
                Outcome::Yes
            }
            Call::FlushIdleQueue { .. } | Call::Cpu1Leaves | Call::Cpu1Returns => Outcome::Yes,
        };
        let items = &self.items;
        self.flushes.retain(|f| {
            let i = &items[f.item];
            f.run > i.started - usize::from(i.running_on.is_some())
        });
        outcome
    }

    /// 2.2 and 2.18: who is pending or disabled is refused.
    fn offer(&mut self, item: usize, accept: impl FnOnce(&mut Self)) -> Outcome {
        let i = &self.items[item];
        if i.place != Place::Idle {
            return Outcome::Refused(Refusal::AlreadyPending);
        }
        if i.depth > 0 {
            return Outcome::Refused(Refusal::Disabled);
        }
        accept(self);
        Outcome::Yes
    }

    /// 9.1 and 9.2.
    fn arm(&mut self, item: usize, cpu: usize, ms: u64) {
        if ms == 0 {
            return self.place(item, cpu);
        }
        self.armings += 1;
        self.items[item].place = Place::Armed {
            due: self.now + ms,
            order: self.armings,
            cpu,
        };
    }

    /// 2.7, 8.1 and 8.2: where it runs, else where it was asked for; behind those held back.
    fn place(&mut self, item: usize, cpu: usize) {
        let queue = queue_of(item);
        let cpu = self.items[item].running_on.unwrap_or(cpu);
        let cpu = if queue == ORDERED { 0 } else { cpu };
        self.queues[queue].shares[cpu].held_back.push_back(item);
        self.items[item].place = Place::HeldBack { cpu };
        if self.queues[queue].shares[cpu].held_back.len() == 1 {
            self.activate_one(queue, cpu);
        }
    }

    fn limit(&self, queue: usize) -> usize {
        if self.frozen && queue >= FREEZABLE {
            0
        } else {
            self.queues[queue].max_active
        }
    }

    /// The oldest one held back takes a slot, if there is one.
    fn activate_one(&mut self, queue: usize, cpu: usize) -> bool {
        let limit = self.limit(queue);
        let share = &mut self.queues[queue].shares[cpu];
        if share.active >= limit {
            return false;
        }
        let Some(item) = share.held_back.pop_front() else {
            return false;
        };
        share.active += 1;
        self.items[item].place = Place::Next;
        if self.items[item].running_on.is_none() {
            self.start(item, cpu);
        }
        true
    }

    /// 8.7 and 11.8.
    fn fill(&mut self, queue: usize) {
        for cpu in 0..CPUS {
            while self.activate_one(queue, cpu) {}
        }
    }

    fn start(&mut self, item: usize, cpu: usize) {
        let i = &mut self.items[item];
        (i.place, i.running_on) = (Place::Idle, Some(cpu));
        i.started += 1;
    }

    /// 8.3, then 2.8: another item takes the slot, and one that was queued meanwhile follows.
    fn finish(&mut self, item: usize) {
        let Some(cpu) = self.items[item].running_on.take() else {
            return;
        };
        self.leave(item, cpu);
        if self.items[item].place == Place::Next {
            self.start(item, cpu);
        }
    }

    fn leave(&mut self, item: usize, cpu: usize) {
        let queue = queue_of(item);
        self.queues[queue].shares[cpu].active -= 1;
        self.activate_one(queue, cpu);
    }

    /// 9.7, 10.10 and 10.12. True if it was pending.
    fn take_back(&mut self, item: usize) -> bool {
        let place = std::mem::replace(&mut self.items[item].place, Place::Idle);
        let started = self.items[item].started;
        match place {
            Place::Idle => return false,
            Place::Armed { .. } => return true,
            Place::HeldBack { cpu } => {
                let held_back = &mut self.queues[queue_of(item)].shares[cpu].held_back;
                held_back.retain(|i| *i != item);
                // A waiter returns at once.
                self.flushes.retain(|f| f.item != item || f.run <= started);
            }
            Place::Next => {
                let cpu = self.items[item].running_on.unwrap_or(0);
                self.leave(item, cpu);
                // A waiter returns when the run in front has ended.
                let waits = self.flushes.iter_mut().filter(|f| f.item == item);
                waits.for_each(|f| f.run = f.run.min(started));
            }
        }
        true
    }

    /// 9.10: in the order of their times, then of their arming.
    fn advance(&mut self, ms: u64) {
        self.now += ms;
        let now = self.now;
        let due = |(item, i): (usize, &Item)| match i.place {
            Place::Armed { due, order, cpu } if due <= now => Some((due, order, item, cpu)),
            _ => None,
        };
        let mut expired: Vec<_> = self.items.iter().enumerate().filter_map(due).collect();
        expired.sort_unstable();
        for (_, _, item, cpu) in expired {
            self.place(item, cpu);
        }
    }

    pub(crate) fn view(&self) -> View {
        let item = |i: &Item| ItemView {
            started: i.started,
            pending: i.place != Place::Idle,
            running: i.running_on.is_some(),
        };
        let held_back = |q: &Queue| {
            let lists = q
                .shares
                .iter()
                .map(|s| s.held_back.iter().copied().collect());
            lists.filter(|l: &Vec<usize>| !l.is_empty()).collect()
        };
        View {
            items: self.items.iter().map(item).collect(),
            held_back: self.queues.iter().map(held_back).collect(),
            following: (0..ITEMS)
                .filter(|i| self.items[*i].place == Place::Next)
                .collect(),
            flushes_waiting: self.flushes.len(),
            barriers: self.flushes.len(),
        }
    }
}
