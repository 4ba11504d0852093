// SPDX-License-Identifier: MIT OR Apache-2.0
//! One queue's share in one pool: how many items are in flight, by colour, and who waits.
//!
//! [`crate::enqueue`] counts items in; [`retire`] counts them out when they have run or were
//! taken back, and says what that obliges the caller to do. Kernel counterpart:
//! `struct pool_workqueue`, here in two halves: [`Pwq`] never changes, [`PwqState`] lies inside its
//! pool, under that pool's lock.

pub(crate) mod budget;

pub(crate) mod active;

use crate::pool::{Pool, PoolState, Wake};
use crate::sys::list::ItemList;
use crate::work::state::COLOURS;
use crate::wq::QueueInner;
use active::NodeActive;
use std::fmt;
use std::sync::atomic::AtomicBool;
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
    /// Everything enqueued and not retired, by colour; barriers included.
    pub(crate) nr_in_flight: [usize; COLOURS as usize],
    pub(crate) colour: u8,
    /// The colour a flusher waits for here.
    pub(crate) flush_colour: Option<u8>,
    /// Held back by max_active, oldest first.
    pub(crate) inactive: ItemList,
    /// An ordered queue's new pwq waits for the older one to run empty.
    pub(crate) plugged: bool,
    /// The pool's last call for help that this pwq was part of.
    pub(crate) mayday_round: u64,
    pub(crate) stats: PwqStats,
}

impl PwqState {
    pub(crate) fn in_flight(&self) -> usize {
        self.nr_in_flight.iter().sum()
    }
}

impl Pwq {
    /// Ties `queue` to `pool`. The queue owns the first reference.
    pub(crate) fn link(
        queue: &Arc<QueueInner>,
        pool: &Arc<Pool>,
        node: Option<Arc<NodeActive>>,
        colour: u8,
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
            nr_in_flight: [0; COLOURS as usize],
            colour,
            flush_colour: None,
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

    /// Takes a pwq that nothing refers to any more out of its pool; its counters come back.
    pub(crate) fn unlink(self: &Arc<Self>) -> PwqStats {
        let mut st = self.pool.lock();
        if let Some(node) = &self.node {
            node.leave_line(&active::InLine::new(self));
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

/// What the end of an item obliges the caller to do, once it has let the pool's lock go.
#[derive(Debug)]
#[must_use]
pub(crate) struct Duties {
    pub(crate) wake: Wake,
    serve: Option<Arc<NodeActive>>,
    flushed: Option<Arc<QueueInner>>,
    retired: Option<Arc<Pwq>>,
}

impl Duties {
    pub(crate) fn is_empty(&self) -> bool {
        self.wake.is_done()
            && self.serve.is_none()
            && self.flushed.is_none()
            && self.retired.is_none()
    }

    /// # Context: no lock of the crate held.
    pub(crate) fn discharge(self) {
        self.wake.go();
        if let Some(node) = self.serve {
            active::serve(&node);
        }
        if let Some(queue) = self.flushed {
            queue.flush_colour_done();
        }
        if let Some(pwq) = self.retired {
            let rt = pwq.queue.rt.clone();
            rt.monitor
                .post(crate::runtime::monitor::Job::ReleasePwq(pwq));
        }
    }
}

/// Counts an item out that has run or was taken back. `counted`: it held a slot.
/// # Context: the pool's lock held.
pub(crate) fn retire(st: &mut PoolState, number: u32, colour: u8, counted: bool) -> Duties {
    let mut duties = Duties {
        wake: Wake::NOBODY,
        serve: None,
        flushed: None,
        retired: None,
    };
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
                if node.give_back() {
                    duties.serve = Some(node.clone());
                }
            }
        }
    }
    let p = st.pwqs.get_mut(number);
    let left = &mut p.nr_in_flight[usize::from(colour)];
    *left -= 1;
    if *left == 0 && p.flush_colour == Some(colour) {
        p.flush_colour = None;
        if p.pwq.queue.one_pwq_flushed() {
            duties.flushed = Some(p.pwq.queue.clone());
        }
    }
    if let Some(last) = put(st, number) {
        duties.retired = Some(last);
    }
    duties
}

/// Lets one reference go. If it was the last, the caller hands the pwq to the monitor.
/// # Context: the pool's lock held.
#[must_use]
pub(crate) fn put(st: &mut PoolState, number: u32) -> Option<Arc<Pwq>> {
    let p = st.pwqs.get_mut(number);
    p.refs -= 1;
    (p.refs == 0).then(|| p.pwq.clone())
}
