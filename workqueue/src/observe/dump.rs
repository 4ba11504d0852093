// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a queue and its pools are doing, as text.
//!
//! Called by programs and from debuggers. Under a pool's lock only lists of names are copied; the
//! text is made afterwards. Kernel counterparts: `show_one_workqueue`, `show_pwq`,
//! `show_one_worker_pool`.

use crate::pool::workers::{WorkerFlags, WorkerState};
use crate::pool::{Pool, PoolState};
use crate::pwq::Pwq;
use crate::runtime::Runtime;
use crate::work::raw::RawWork;
use crate::wq::flags::Flags;
use crate::wq::{Queue, QueueInner};
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// One worker that runs an item of the pwq that is shown.
struct Running {
    tid: i32,
    rescuer: bool,
    function: &'static str,
    since: u64,
    private: Vec<&'static str>,
}

/// What was copied of one pwq.
struct PwqView {
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

fn running(worker: &WorkerState, number: u32) -> Option<Running> {
    let current = worker.current.filter(|c| c.pwq == number)?;
    Some(Running {
        tid: worker.thread.tid,
        rescuer: worker.id.is_none(),
        function: current.function,
        since: current.since,
        private: worker.scheduled.iter().map(name_of).collect(),
    })
}

/// What a pwq is doing; None if nothing.
fn view(st: &PoolState, pwq: &Pwq) -> Option<PwqView> {
    let p = st.pwqs.get(pwq.number);
    if p.in_flight() == 0 {
        return None;
    }
    Some(PwqView {
        active: p.nr_active,
        refs: p.refs,
        mayday: pwq.mayday_listed.load(Ordering::Relaxed),
        running: st
            .workers
            .iter()
            .filter_map(|(_, w)| running(w, pwq.number))
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

fn pool_head(pool: &Pool) -> String {
    format!(
        "pool {}: cpus={} nice={}",
        pool.id,
        pool.affinity.to_list(),
        pool.nice
    )
}

fn seconds(now: u64, since: u64) -> u64 {
    now.saturating_sub(since) / 1_000_000_000
}

// Writing to a String cannot fail; the results are dropped for that reason alone.
fn show_pwq(out: &mut String, pool: &Pool, view: &PwqView) {
    let mayday = if view.mayday { " MAYDAY" } else { "" };
    let _ = writeln!(
        out,
        "  pwq of {} active={} refcnt={}{mayday}",
        pool_head(pool),
        view.active,
        view.refs
    );
    if !view.running.is_empty() {
        let now = pool.rt.clock.coarse();
        let shown = view.running.iter().map(|r| {
            let mark = if r.rescuer { "(RESCUER)" } else { "" };
            let private = if r.private.is_empty() {
                String::new()
            } else {
                format!(" [{}]", folded(&r.private))
            };
            format!(
                "{}{mark}:{} for {}s{private}",
                r.tid,
                r.function,
                seconds(now, r.since)
            )
        });
        let _ = writeln!(
            out,
            "    in-flight: {}",
            shown.collect::<Vec<_>>().join(", ")
        );
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

fn show_pool(out: &mut String, pool: &Pool) {
    let st = pool.lock();
    let busy = st.workers.iter().any(|(_, w)| w.current.is_some());
    if !busy && st.worklist.is_empty() {
        return;
    }
    let now = pool.rt.clock.coarse();
    let hung = if st.worklist.is_empty() {
        0
    } else {
        seconds(now, st.last_progress)
    };
    let workers = st.workers.len();
    let manager = st.manager.map(|slot| st.workers.get(slot).thread.tid);
    let idle: Vec<String> = st
        .workers
        .idle_slots()
        .iter()
        .map(|&s| st.workers.get(s).thread.tid.to_string())
        .collect();
    let leaving = st
        .workers
        .iter()
        .filter(|(_, w)| w.flags.has(WorkerFlags::DIE))
        .count();
    let (nice_denied, queues) = (
        st.nice_denied,
        st.pwqs.iter().filter(|p| p.in_flight() > 0).count(),
    );
    drop(st);
    let _ = write!(
        out,
        "{} hung={hung}s workers={workers} busy queues={queues}",
        pool_head(pool)
    );
    if leaving > 0 {
        let _ = write!(out, " leaving={leaving}");
    }
    if let Some(tid) = manager {
        let _ = write!(out, " manager: {tid}");
    }
    if !idle.is_empty() {
        let _ = write!(out, " idle: {}", idle.join(" "));
    }
    let _ = writeln!(out, "{}", if nice_denied { " nice_denied" } else { "" });
}

impl Runtime {
    /// What a queue is doing; empty if nothing.
    pub fn dump_queue(&self, queue: &Queue) -> String {
        let mut out = String::new();
        if !queue.inner.rt.is_in_forked_child() {
            show_queue(&mut out, &queue.inner);
        }
        out
    }

    /// What all busy queues and pools are doing.
    pub fn dump_all(&self) -> String {
        self.dump(|_| true)
    }

    /// What the busy queues are doing that a freeze waits for, and all busy pools.
    pub fn dump_freezable(&self) -> String {
        self.dump(|q| q.flags.contains(Flags::FREEZABLE))
    }

    fn dump(&self, wanted: impl Fn(&QueueInner) -> bool) -> String {
        let mut out = String::new();
        if self.inner.is_in_forked_child() {
            return out;
        }
        let queues: Vec<Arc<QueueInner>> = self.inner.queues();
        queues
            .iter()
            .filter(|q| wanted(q))
            .for_each(|q| show_queue(&mut out, q));
        let mut pools = self.inner.percpu_pools();
        pools.extend(self.inner.unbound.all());
        pools.iter().for_each(|p| show_pool(&mut out, p));
        out
    }
}
