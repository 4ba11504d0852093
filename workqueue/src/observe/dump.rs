// SPDX-License-Identifier: MIT OR Apache-2.0
//! What queues, pools and workers are doing, as text.
//!
//! Called by programs, from debuggers and by [`super::watchdog`]. Under a pool's lock only lists of
//! names are copied; the text is made afterwards. Kernel counterparts: `show_one_workqueue`,
//! `show_pwq`, `show_one_worker_pool`, `print_worker_info`.

use crate::pool::worker_state::{WorkerFlags, WorkerState};
use crate::pool::{Pool, PoolKind, PoolState};
use crate::pwq::Pwq;
use crate::runtime::directory::Directory;
use crate::runtime::Runtime;
use crate::sys::ShortText;
use crate::work::RawWork;
use crate::wq::attrs::Flags;
use crate::wq::queue::QueueInner;
use crate::wq::Queue;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// The pool's flags in the kernel's numbers.
const POOL_BH: u32 = 1 << 0;
const POOL_MANAGER_ACTIVE: u32 = 1 << 1;
const POOL_DISASSOCIATED: u32 = 1 << 2;

/// A worker inside a run.
pub(crate) struct RunView {
    /// The thread's full name with its description.
    pub(crate) name: String,
    pub(crate) tid: i32,
    pub(crate) function: &'static str,
}

/// A copy of what a worker runs.
struct Running {
    id: Option<usize>,
    desc: ShortText,
    tid: i32,
    pwq: Arc<Pwq>,
    function: &'static str,
    since: u64,
    private: Vec<&'static str>,
}

impl Running {
    fn copy(st: &PoolState, worker: &WorkerState) -> Option<Self> {
        let current = worker.current?;
        Some(Self {
            id: worker.id,
            desc: worker.desc,
            tid: worker.thread.tid,
            pwq: st.pwqs.get(current.pwq).pwq.clone(),
            function: current.function,
            since: current.since,
            private: worker.scheduled.iter().map(name_of).collect(),
        })
    }

    fn name(&self) -> String {
        let name = match self.id {
            Some(id) => self.pwq.pool.worker_name(id),
            None => self.pwq.queue.rescuer_name(),
        };
        format!("{name}+{}", self.desc)
    }

    /// `function for 3s [private, list]`
    fn what(&self) -> String {
        let now = self.pwq.pool.env.clock.coarse();
        let lasting = seconds(now.saturating_sub(self.since));
        let private = if self.private.is_empty() {
            String::new()
        } else {
            format!(" [{}]", folded(&self.private))
        };
        format!("{} for {lasting}s{private}", self.function)
    }
}

/// A copy of one pwq's state.
struct PwqView {
    flags: u32,
    active: usize,
    refs: usize,
    mayday: bool,
    running: Vec<Running>,
    pending: Vec<&'static str>,
    inactive: Vec<&'static str>,
}

fn name_of(work: &RawWork) -> &'static str {
    if work.is_barrier() {
        "BAR"
    } else {
        work.function()
    }
}

pub(crate) fn pool_flags(pool: &Pool, st: &PoolState) -> u32 {
    let flags = [
        (POOL_BH, pool.is_bh()),
        (POOL_MANAGER_ACTIVE, st.manager.is_some()),
        (POOL_DISASSOCIATED, st.disassociated),
    ];
    flags.iter().filter(|(_, is)| *is).map(|(bit, _)| bit).sum()
}

/// What a pwq is doing; None if nothing.
fn view(st: &PoolState, pwq: &Pwq) -> Option<PwqView> {
    let p = st.pwqs.get(pwq.number);
    if p.in_flight() == 0 {
        return None;
    }
    let mine = |w: &WorkerState| w.current.is_some_and(|c| c.pwq == pwq.number);
    Some(PwqView {
        flags: pool_flags(&pwq.pool, st),
        active: p.nr_active,
        refs: p.refs,
        mayday: pwq.mayday_listed.load(Ordering::Relaxed),
        running: st
            .workers
            .iter()
            .filter(|(_, w)| mine(w))
            .filter_map(|(_, w)| Running::copy(st, w))
            .collect(),
        pending: st
            .worklist
            .iter()
            .filter(|w| w.pwq() == pwq.number)
            .map(name_of)
            .collect(),
        inactive: p.inactive.iter().map(name_of).collect(),
    })
}

/// `a, 3*b, c`
fn folded(names: &[&str]) -> String {
    let groups = names.chunk_by(|a, b| a == b);
    let one = |g: &[&str]| {
        if g.len() == 1 {
            g[0].to_owned()
        } else {
            format!("{}*{}", g.len(), g[0])
        }
    };
    groups.map(one).collect::<Vec<_>>().join(", ")
}

pub(crate) fn pool_head(pool: &Pool, flags: u32) -> String {
    let node = match &pool.kind {
        PoolKind::Unbound { node, .. } => *node,
        PoolKind::PerCpu { cpu } | PoolKind::Bh { cpu } => pool.env.topology().node_of(*cpu),
    };
    let node = node.map_or_else(String::new, |n| format!(" node={n}"));
    format!(
        "pool {}: cpus={}{node} flags={flags:#x} nice={}",
        pool.id,
        pool.affinity.to_list(),
        pool.nice
    )
}

pub(crate) fn seconds(ns: u64) -> u64 {
    ns / 1_000_000_000
}

// Writing to a String cannot fail, so the results are dropped.
fn show_pwq(out: &mut String, pool: &Pool, view: &PwqView) {
    let mayday = if view.mayday { " MAYDAY" } else { "" };
    let _ = writeln!(
        out,
        "  pwq of {} active={} refcnt={}{mayday}",
        pool_head(pool, view.flags),
        view.active,
        view.refs
    );
    if !view.running.is_empty() {
        let shown = view.running.iter().map(|r| {
            let mark = if r.id.is_none() { "(RESCUER)" } else { "" };
            format!("{}{mark}:{}", r.tid, r.what())
        });
        let shown = shown.collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "    in-flight: {shown}");
    }
    for (what, names) in [("pending", &view.pending), ("inactive", &view.inactive)] {
        if !names.is_empty() {
            let _ = writeln!(out, "    {what}: {}", folded(names));
        }
    }
}

fn show_queue(out: &mut String, queue: &QueueInner) {
    let pwqs = queue.state.lock();
    // The queue's lock keeps the pwqs from being released.
    let views: Vec<_> = pwqs
        .pwqs
        .iter()
        .filter_map(|pwq| Some((pwq.pool.clone(), view(&pwq.pool.lock(), pwq)?)))
        .collect();
    drop(pwqs);
    if views.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "workqueue {}: flags={:#x}",
        queue.name,
        queue.flags.bits()
    );
    for (number, node) in queue.nodes.iter().enumerate().filter(|(_, n)| n.used() > 0) {
        let name = if number + 1 == queue.nodes.len() {
            "all nodes".into()
        } else {
            format!("node {number}")
        };
        let _ = writeln!(out, "  {name}: active={}/{}", node.used(), node.max());
    }
    views
        .iter()
        .for_each(|(pool, view)| show_pwq(out, pool, view));
}

/// A copy of a pool's state.
struct PoolView {
    flags: u32,
    hung_since: Option<u64>,
    workers: usize,
    leaving: usize,
    busy_queues: usize,
    manager: Option<i32>,
    idle: Vec<i32>,
    nice_denied: bool,
}

impl PoolView {
    /// None if the pool has nothing to do.
    fn copy(pool: &Pool, st: &PoolState) -> Option<Self> {
        let busy = st.workers.iter().any(|(_, w)| w.current.is_some());
        if !busy && st.worklist.is_empty() {
            return None;
        }
        let tid = |slot: usize| st.workers.get(slot).thread.tid;
        let dying = |w: &WorkerState| w.flags.intersects(WorkerFlags::DIE);
        Some(Self {
            flags: pool_flags(pool, st),
            hung_since: (!st.worklist.is_empty()).then_some(st.last_progress),
            workers: st.workers.len(),
            leaving: st.workers.iter().filter(|(_, w)| dying(w)).count(),
            busy_queues: st.pwqs.iter().filter(|p| p.in_flight() > 0).count(),
            manager: st.manager.map(tid),
            idle: st.workers.idle_slots().iter().map(|&s| tid(s)).collect(),
            nice_denied: st.nice_denied,
        })
    }
}

fn show_pool(out: &mut String, pool: &Pool) {
    let copied = PoolView::copy(pool, &pool.lock());
    let Some(view) = copied else {
        return;
    };
    let now = pool.env.clock.coarse();
    let hung = view.hung_since.map_or(0, |t| now.saturating_sub(t));
    let _ = write!(
        out,
        "{} hung={}s workers={} busy queues={}",
        pool_head(pool, view.flags),
        seconds(hung),
        view.workers,
        view.busy_queues
    );
    if view.leaving > 0 {
        let _ = write!(out, " leaving={}", view.leaving);
    }
    if let Some(tid) = view.manager {
        let _ = write!(out, " manager: {tid}");
    }
    if !view.idle.is_empty() {
        let idle: Vec<_> = view.idle.iter().map(i32::to_string).collect();
        let _ = write!(out, " idle: {}", idle.join(" "));
    }
    let denied = if view.nice_denied { " nice_denied" } else { "" };
    let _ = writeln!(out, "{denied}");
}

/// The workers of a pool that are inside a run.
pub(crate) fn runs(pool: &Pool) -> Vec<RunView> {
    let st = pool.lock();
    let copied: Vec<_> = st
        .workers
        .iter()
        .filter_map(|(_, w)| Running::copy(&st, w))
        .collect();
    drop(st);
    let view = |r: &Running| RunView {
        name: r.name(),
        tid: r.tid,
        function: r.function,
    };
    copied.iter().map(view).collect()
}

/// A worker of this pool as one line; None if there is none with this number.
fn show_worker(pool: &Pool, tid: i32) -> Option<String> {
    let st = pool.lock();
    let (slot, worker) = st.workers.iter().find(|(_, w)| w.thread.tid == tid)?;
    let running = Running::copy(&st, worker);
    let (id, desc, idle_since) = (worker.id, worker.desc, worker.idle_since);
    let (idle, manages) = (
        worker.flags.intersects(WorkerFlags::IDLE),
        st.manager == Some(slot),
    );
    drop(st);
    if let Some(running) = running {
        let (name, queue) = (running.name(), &running.pwq.queue.name);
        return Some(format!(
            "{name} tid={tid} pool {} workqueue {queue}: {}",
            pool.id,
            running.what()
        ));
    }
    // A rescuer that helps here and is between two runs.
    let name = match id {
        None => format!("{}R", pool.env.config.thread_name_prefix),
        Some(id) => pool.worker_name(id),
    };
    let mut state = if manages { "manager" } else { "between runs" }.to_owned();
    if idle {
        let lasting = pool.env.clock.coarse().saturating_sub(idle_since);
        state = format!("idle for {}s", seconds(lasting));
    }
    Some(format!(
        "{name}{} tid={tid} pool {}: {state}",
        after_run(desc),
        pool.id
    ))
}

/// `-desc`, if the worker has run something.
fn after_run(desc: ShortText) -> String {
    if desc == ShortText::default() {
        String::new()
    } else {
        format!("-{desc}")
    }
}

/// A rescuer that waits to be called.
fn show_rescuer(queue: &QueueInner, tid: i32) -> Option<String> {
    let placement = queue.rescuer.as_ref()?.placement();
    (placement.tid == tid).then(|| {
        let name = queue.rescuer_name();
        format!(
            "{name}{} tid={tid}: waits to be called",
            after_run(placement.desc)
        )
    })
}

impl Directory {
    /// What the wanted queues and all busy pools are doing.
    pub(crate) fn dump(&self, wanted: impl Fn(&QueueInner) -> bool) -> String {
        let mut out = String::new();
        self.dump_queues(&mut out, wanted);
        self.all_pools().iter().for_each(|p| show_pool(&mut out, p));
        out
    }

    fn dump_queues(&self, out: &mut String, wanted: impl Fn(&QueueInner) -> bool) {
        let queues = self.queues();
        let wanted = queues.iter().filter(|q| wanted(q));
        wanted.for_each(|q| show_queue(out, q));
    }
}

/// What a queue is doing, for the log.
pub(crate) fn queue(queue: &QueueInner) -> String {
    let mut out = String::new();
    show_queue(&mut out, queue);
    out
}

impl Runtime {
    /// What a queue is doing; empty if nothing.
    pub fn dump_queue(&self, queue: &Queue) -> String {
        if queue.inner.env.is_in_forked_child() {
            return String::new();
        }
        self::queue(&queue.inner)
    }

    /// What all busy queues and pools are doing.
    pub fn dump_all(&self) -> String {
        if self.inner.env.is_in_forked_child() {
            return String::new();
        }
        self.inner.dump(|_| true)
    }

    /// What the busy queues are doing that a freeze waits for.
    pub fn dump_freezable(&self) -> String {
        let mut out = String::new();
        if !self.inner.env.is_in_forked_child() {
            let freezable = |q: &QueueInner| q.flags.contains(Flags::FREEZABLE);
            self.inner.dump_queues(&mut out, freezable);
        }
        out
    }

    /// What the worker or rescuer with this thread number is doing, in one line; None if this
    /// runtime has no such thread. Its full name is followed by `+` and its description (see
    /// [`crate::set_worker_desc`]) inside a run, by `-` and that of its last run otherwise.
    pub fn dump_worker(&self, tid: i32) -> Option<String> {
        let (dir, env) = (&self.inner, &self.inner.env);
        if env.is_in_forked_child() {
            return None;
        }
        let pools = dir.all_pools();
        let worker = pools.iter().find_map(|pool| show_worker(pool, tid));
        worker.or_else(|| dir.queues().iter().find_map(|q| show_rescuer(q, tid)))
    }
}
