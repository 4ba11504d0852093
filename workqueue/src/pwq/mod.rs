// SPDX-License-Identifier: MIT OR Apache-2.0
//! One queue's share in one pool: how many items are in flight, by color, and which may be active.
//!
//! [`crate::enqueue`] counts items in and takes a slot of max_active for each. [`retire`] counts
//! them out when they have run or were taken back, gives the slot back, and returns what the caller
//! has to do next. A per-CPU queue counts its slots in each pwq; an unbound one shares a
//! [`NrActive`] per NUMA node. Kernel counterparts: `struct pool_workqueue`, here in two halves:
//! [`Pwq`] never changes, [`PwqState`] lies inside its pool, under that pool's lock;
//! `pwq_tryinc_nr_active`, `node_activate_pending_pwq`.

pub(crate) mod nr_active;

use crate::env::helpers::Job;
use crate::observe::TraceEvent;
use crate::pool::worker_state::Wake;
use crate::pool::{Pool, PoolState};
use crate::work::list::ItemList;
use crate::work::state::COLORS;
use crate::wq::queue::QueueInner;
use nr_active::{HeadResult, NrActive};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// The half that does not change.
pub(crate) struct Pwq {
    pub(crate) queue: Arc<QueueInner>,        // I
    pub(crate) pool: Arc<Pool>,               // I
    pub(crate) number: u32,                   // I: its place in the pool's table
    pub(crate) node: Option<Arc<NodeActive>>, // I: unbound queues only
    pub(crate) mayday_listed: AtomicBool,     // M
}

impl fmt::Debug for Pwq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pwq")
            .field("queue", &self.queue.name)
            .field("pool", &self.pool.id)
            .finish_non_exhaustive()
    }
}

/// A pwq that waits for a slot of its node.
#[derive(Clone, Debug)]
pub(crate) struct WaitingPwq(Arc<Pwq>);

impl PartialEq for WaitingPwq {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl WaitingPwq {
    pub(crate) fn new(pwq: &Arc<Pwq>) -> Self {
        Self(pwq.clone())
    }
}

/// The slots of one queue on one node, or on all nodes together for pools that span them.
pub(crate) type NodeActive = NrActive<WaitingPwq>;

/// Counters of one pwq. They only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PwqStats {
    pub(crate) started: u64,
    pub(crate) completed: u64,
    pub(crate) cpu_time_ns: u64,
    pub(crate) cpu_intensive: u64,
    pub(crate) cm_wakeup: u64,
    pub(crate) repatriated: u64,
    pub(crate) mayday: u64,
    pub(crate) rescued: u64,
}

impl PwqStats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.completed += other.completed;
        self.cpu_time_ns += other.cpu_time_ns;
        self.cpu_intensive += other.cpu_intensive;
        self.cm_wakeup += other.cm_wakeup;
        self.repatriated += other.repatriated;
        self.mayday += other.mayday;
        self.rescued += other.rescued;
    }
}

/// The half under the pool's lock.
#[derive(Debug)]
pub(crate) struct PwqState {
    pub(crate) pwq: Arc<Pwq>,
    /// One for the queue, one per item in flight, one per rescuer that comes for it.
    pub(crate) refs: usize,
    /// Items on the worklist, on private lists, or running; barriers excluded.
    pub(crate) nr_active: usize,
    /// Everything enqueued and not retired, by color; barriers included.
    pub(crate) nr_in_flight: [usize; COLORS as usize],
    pub(crate) color: u8,
    /// The color a flusher waits for here.
    pub(crate) flush_color: Option<u8>,
    /// Held back by max_active, oldest first.
    pub(crate) inactive: ItemList,
    /// An ordered queue's new pwq activates nothing until the older one is empty.
    pub(crate) plugged: bool,
    /// The number of the pool's last mayday that covered this pwq.
    pub(crate) mayday_round: u64,
    pub(crate) stats: PwqStats,
}

impl PwqState {
    pub(crate) fn in_flight(&self) -> usize {
        self.nr_in_flight.iter().sum()
    }

    /// Takes a slot of max_active for an item; false if there is none.
    /// # Context: the pool's lock held.
    pub(crate) fn take_slot(&mut self) -> bool {
        if self.plugged {
            return false;
        }
        let free = match &self.pwq.node {
            // guard: s08_01_slot_per_item
            None => self.nr_active < self.pwq.queue.max_active.load(Ordering::Relaxed),
            Some(node) => node.take_or_wait(|| WaitingPwq::new(&self.pwq)),
        };
        if free {
            self.nr_active += 1;
        }
        free
    }
}

/// The pwqs of a pool by number; a number stays with its pwq until that has gone.
#[derive(Debug, Default)]
pub(crate) struct PwqTable {
    slots: Vec<Option<PwqState>>,
    /// The numbers that were given back.
    free: Vec<u32>,
}

impl PwqTable {
    /// Stores a pwq under a free number; `make` gets the number.
    pub(crate) fn insert(&mut self, make: impl FnOnce(u32) -> PwqState) -> u32 {
        let next = || u32::try_from(self.slots.len()).expect("fewer pwqs than memory could hold");
        let number = self.free.pop().unwrap_or_else(next);
        let pwq = Some(make(number));
        match self.slots.get_mut(number as usize) {
            Some(slot) => *slot = pwq,
            None => self.slots.push(pwq),
        }
        number
    }

    pub(crate) fn get(&self, number: u32) -> &PwqState {
        self.slots[number as usize]
            .as_ref()
            .expect("an item or a queue keeps its pwq in the table")
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> &mut PwqState {
        self.slots[number as usize]
            .as_mut()
            .expect("an item or a queue keeps its pwq in the table")
    }

    pub(crate) fn remove(&mut self, number: u32) -> PwqState {
        self.free.push(number);
        self.slots[number as usize]
            .take()
            .expect("a pwq leaves the table once")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &PwqState> {
        self.slots.iter().flatten()
    }
}

impl Pwq {
    /// Makes the pwq of `queue` in `pool`. The queue owns the first reference.
    pub(crate) fn link(
        queue: &Arc<QueueInner>,
        pool: &Arc<Pool>,
        node: Option<Arc<NodeActive>>,
        color: u8,
        plugged: bool,
    ) -> Arc<Self> {
        let mut st = pool.lock();
        let number = st.pwqs.insert(|number| PwqState {
            pwq: Arc::new(Self {
                queue: queue.clone(),
                pool: pool.clone(),
                number,
                node,
                mayday_listed: AtomicBool::new(false),
            }),
            refs: 1,
            nr_active: 0,
            nr_in_flight: [0; COLORS as usize],
            color,
            flush_color: None,
            inactive: ItemList::new(),
            plugged,
            mayday_round: 0,
            stats: PwqStats::default(),
        });
        if queue.has_rescuer() {
            let rescuers = st.workers.expect_rescuer(true);
            st.marks.reserve(rescuers);
        }
        st.pwqs.get(number).pwq.clone()
    }

    /// Takes a pwq without references out of its pool and returns its counters.
    pub(crate) fn unlink(self: &Arc<Self>) -> PwqStats {
        let mut st = self.pool.lock();
        if let Some(node) = &self.node {
            node.remove_waiter(&WaitingPwq::new(self));
        }
        let state = st.pwqs.remove(self.number);
        debug_assert!(
            state.in_flight() == 0 && state.refs == 0,
            "an item still refers to its pwq"
        );
        if self.queue.has_rescuer() {
            st.workers.expect_rescuer(false);
        }
        drop(st);
        state.stats
    }
}

/// What the caller has to do after the end of an item, once it has released the pool's lock.
#[derive(Debug)]
#[must_use]
pub(crate) struct Followup {
    pub(crate) wake: Wake,
    serve: Option<Arc<NodeActive>>,
    flushed: Option<Arc<QueueInner>>,
    retired: Option<Arc<Pwq>>,
}

impl Followup {
    pub(crate) fn none() -> Self {
        Self {
            wake: Wake::Nobody,
            serve: None,
            flushed: None,
            retired: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wake.needs_no_call()
            && self.serve.is_none()
            && self.flushed.is_none()
            && self.retired.is_none()
    }

    /// # Context: no lock of the crate held.
    pub(crate) fn perform(self) {
        self.wake.perform();
        if let Some(node) = self.serve {
            activate_waiting(&node);
        }
        if let Some(queue) = self.flushed {
            queue.flush_color_done();
        }
        if let Some(pwq) = self.retired {
            let queue = pwq.queue.clone();
            let env = queue.env.clone();
            env.monitor.post(Job::new(move || queue.release_pwq(&pwq)));
        }
    }
}

/// Counts an item out that has run or was taken back. `counted`: it held a slot.
/// # Context: the pool's lock held.
pub(crate) fn retire(st: &mut PoolState, number: u32, color: u8, counted: bool) -> Followup {
    let mut followup = Followup::none();
    let p = st.pwqs.get_mut(number);
    if counted {
        p.nr_active -= 1;
        match &p.pwq.node {
            None => {
                if !p.inactive.is_empty() && p.take_slot() {
                    st.activate_first(number);
                }
            }
            Some(node) => {
                if node.release() {
                    followup.serve = Some(node.clone());
                }
            }
        }
    }
    let p = st.pwqs.get_mut(number);
    let left = &mut p.nr_in_flight[usize::from(color)];
    *left -= 1;
    if *left == 0 && p.flush_color == Some(color) {
        p.flush_color = None;
        if p.pwq.queue.pwq_flushed() {
            followup.flushed = Some(p.pwq.queue.clone());
        }
    }
    if let Some(last) = put(st, number) {
        followup.retired = Some(last);
    }
    followup
}

/// Drops one reference. If it was the last, the caller hands the pwq to the monitor.
/// # Context: the pool's lock held.
#[must_use]
pub(crate) fn put(st: &mut PoolState, number: u32) -> Option<Arc<Pwq>> {
    let p = st.pwqs.get_mut(number);
    p.refs -= 1;
    (p.refs == 0).then(|| p.pwq.clone())
}

impl PoolState {
    /// Moves the oldest inactive item of a pwq, and its barriers, to the worklist. The caller has
    /// taken the slot and calls `kick` afterwards.
    pub(crate) fn activate_first(&mut self, number: u32) {
        let p = self.pwqs.get_mut(number);
        let pwq = p.pwq.clone();
        let mut item = p
            .inactive
            .pop_front()
            .expect("a slot is taken only for an item that waits");
        let mut linked = item.snapshot().linked();
        item.state.activate();
        pwq.queue.env.trace(|| TraceEvent::Activate {
            work: item.identity().address,
            function: item.function(),
        });
        loop {
            self.add_active(item, || pwq.queue.env.clock.coarse());
            if !linked {
                return;
            }
            item = self
                .pwqs
                .get_mut(number)
                .inactive
                .pop_front()
                .expect("LINKED promises a successor");
            linked = item.snapshot().linked();
        }
    }

    /// Activates inactive items of a per-CPU pwq as long as there are slots.
    pub(crate) fn activate_inactive(&mut self, number: u32) {
        loop {
            let p = self.pwqs.get_mut(number);
            if p.inactive.is_empty() || !p.take_slot() {
                return;
            }
            self.activate_first(number);
        }
    }
}

/// Activates one item of each waiting pwq of a node in turn, until there is no slot or none waits.
/// # Context: no pool lock held.
pub(crate) fn activate_waiting(node: &NodeActive) {
    while let Some(head) = node.head() {
        let pool = head.0.pool.clone();
        let mut st = pool.lock();
        let wake = match node.take_for_head(&head) {
            HeadResult::Full => return,
            HeadResult::Moved => Wake::Nobody,
            HeadResult::Slot => {
                let number = head.0.number;
                let p = st.pwqs.get_mut(number);
                if p.inactive.is_empty() || p.plugged {
                    // The item was cancelled. The loop gives the slot to the next waiting pwq.
                    let _ignored = node.release();
                    Wake::Nobody
                } else {
                    p.nr_active += 1;
                    st.activate_first(number);
                    if !st.pwqs.get(number).inactive.is_empty() {
                        node.push_waiter(&head);
                    }
                    st.kick()
                }
            }
        };
        drop(st);
        wake.perform();
    }
}

#[cfg(test)]
mod tests {
    use crate::env::topology::Topology;
    use crate::{Flags, OwnedQueue, Runtime};
    use std::sync::mpsc;

    /// Else the cost of a queue grows with their number.
    #[test]
    fn s01_01_a_number_that_was_given_back_is_found_without_a_search() {
        let rt = Runtime::builder().topology(Topology::one_cpu());
        let rt = rt.start().unwrap();
        let make = || rt.queue("q").flags(Flags::PERCPU).build().unwrap();
        let number = |q: &OwnedQueue| q.inner.pwqs()[0].number;
        let queues = [make(), make(), make()];
        let [first, second, third] = [0, 1, 2].map(|n| number(&queues[n]));
        queues.into_iter().for_each(|q| q.destroy().unwrap());
        let queues = [make(), make(), make(), make()];
        let again = [0, 1, 2].map(|n| number(&queues[n]));
        assert_eq!(again, [third, second, first], "the last one comes first");
        assert_eq!(number(&queues[3]), third + 1);
    }

    #[test]
    fn s08_02_an_item_does_not_overtake_inactive_ones() {
        let rt = Runtime::builder().topology(Topology::one_cpu());
        let rt = rt.start().expect("threads can be made");
        let q = rt.queue("q").flags(Flags::UNBOUND).max_active(1);
        let q = q.build().unwrap();
        let (door, opened) = mpsc::channel::<()>();
        q.try_spawn(move || opened.recv().unwrap())
            .map_err(|e| e.reason())
            .unwrap();
        let (log, order) = mpsc::channel();
        let give = |n: usize| {
            let log = log.clone();
            q.try_spawn(move || log.send(n).unwrap())
                .map_err(|e| e.reason())
                .unwrap();
        };
        give(1);
        // Taking the pool's lock counts in what lies in its inbox.
        let waiting = || -> usize {
            let of = |pwq: &std::sync::Arc<crate::pwq::Pwq>| {
                let st = pwq.pool.lock();
                st.pwqs.get(pwq.number).inactive.iter().count()
            };
            q.inner.pwqs().iter().map(of).sum()
        };
        assert_eq!(waiting(), 1);
        // The moment between a slot that is free and the service of those who wait for one.
        q.inner.nodes.iter().for_each(|node| node.set_max(2));
        give(2);
        assert_eq!(waiting(), 2, "the second has overtaken the first");
        q.inner.nodes.iter().for_each(|node| node.set_max(1));
        door.send(()).unwrap();
        q.flush().unwrap();
        assert_eq!([order.recv(), order.recv()], [Ok(1), Ok(2)]);
    }
}
