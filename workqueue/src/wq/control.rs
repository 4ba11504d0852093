// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control registry: attributes of running queues, reached by name and as text.
//!
//! A queue made with SYSFS is listed from its creation to the beginning of its destruction. A
//! program exposes the registry in its own way; this crate makes no file system of it. Kernel
//! counterpart: `/sys/devices/virtual/workqueue` and the module parameters of the same name.
//!
//! | entry | of | |
//! |---|---|---|
//! | `per_cpu` | every queue | read: `1` or `0` |
//! | `max_active` | every queue | read and, unless ordered, write: 1 to 2048 |
//! | `nice` | unbound queues | read, write: -20 to 19 |
//! | `cpumask` | unbound queues | read, write: hex digits, groups of eight |
//! | `affinity_scope` | unbound queues | read, write: a scope's name or `default` |
//! | `affinity_strict` | unbound queues | read, write: `0`, or another number for yes |
//! | `cpumask` | the runtime | read, write: what unbound queues may use |
//! | `cpumask_requested` | the runtime | read: the same as it was asked for |
//! | `cpumask_isolated` | the runtime | read: the CPUs that the system isolates |
//! | `cpu_intensive_thresh_us` | the runtime | read, write: microseconds, 0 for no limit |
//! | `default_affinity_scope` | the runtime | read, write: a scope's name |
//! | `watchdog_thresh` | the runtime | read, write: seconds, 0 for never |
//!
//! Here too are the limits of a queue: max_active and min_active as set by callers, frozen, and
//! split between NUMA nodes. Kernel counterparts: `workqueue_set_max_active`,
//! `wq_adjust_max_active`, `wq_update_node_max_active`, `freeze_workqueues_begin` and its siblings.

use super::attrs::{Attrs, Flags};
use super::builder::{checked_max_active, MAX_ACTIVE};
use super::queue::{QueueInner, DESTROYED, DESTROYING};
use crate::env::topology::Scope;
use crate::error::AttrError;
use crate::pwq;
use crate::runtime::directory::Directory;
use crate::runtime::Runtime;
use crate::sys::cpuset::CpuSet;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// Entries of every queue.
const OF_EVERY_QUEUE: &[&str] = &["per_cpu", "max_active"];
/// Further entries of unbound queues.
const OF_UNBOUND: &[&str] = &["nice", "cpumask", "affinity_scope", "affinity_strict"];
/// Entries of the runtime.
const OF_RUNTIME: &[&str] = &[
    "cpumask",
    "cpumask_requested",
    "cpumask_isolated",
    "default_affinity_scope",
    "cpu_intensive_thresh_us",
    "watchdog_thresh",
];

/// The control registry of a runtime. Values are text without a line end; space around a written
/// value is ignored.
///
/// ```
/// use workqueue::{Flags, Runtime};
/// let runtime = Runtime::builder().start()?;
/// let queue = runtime.queue("writeback").flags(Flags::UNBOUND | Flags::SYSFS).build()?;
/// let control = runtime.control();
/// control.write("writeback", "nice", "5")?;
/// assert_eq!(control.read("writeback", "nice")?, "5");
/// assert_eq!(control.read("writeback", "affinity_scope")?, "default (cache_shard)");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Control {
    dir: Arc<Directory>,
}

impl Runtime {
    /// The control registry.
    pub fn control(&self) -> Control {
        Control {
            dir: self.inner.clone(),
        }
    }
}

impl Directory {
    /// The queue that is listed under a name.
    pub(crate) fn registered(&self, name: &str) -> Option<Arc<QueueInner>> {
        self.queue_named(name).filter(|queue| queue.is_registered())
    }
}

impl QueueInner {
    fn is_registered(&self) -> bool {
        self.flags.contains(Flags::SYSFS) && !self.is_mode(DESTROYING)
    }

    fn read_entry(&self, entry: &str) -> String {
        let state = self.state.lock();
        let attrs = &state.attrs;
        match entry {
            "per_cpu" => number(!self.is_unbound()),
            "max_active" => state.saved_max.to_string(),
            "nice" => attrs.nice.to_string(),
            "cpumask" => {
                let mask = attrs.cpumask.clone();
                format!("{:x}", mask.unwrap_or_else(|| self.env.cpus.known()))
            }
            "affinity_scope" => attrs.scope.map_or_else(
                || format!("default ({})", self.env.default_scope()),
                |scope| scope.to_string(),
            ),
            _ => number(attrs.strict),
        }
    }

    fn write_entry(self: &Arc<Self>, entry: &str, text: &str) -> Result<(), AttrError> {
        match entry {
            "per_cpu" => Err(AttrError::ReadOnly("per_cpu")),
            "max_active" if self.ordered => Err(AttrError::ReadOnly("max_active")),
            "max_active" => self.set_max_active(parse_limit(text)?),
            "nice" => {
                let nice = parse("nice", text, "a nice value is in -20..=19")?;
                self.change_attrs(|attrs| attrs.nice = nice)
            }
            "cpumask" => {
                let mask = parse_mask(text)?;
                self.change_attrs(|attrs| attrs.cpumask = Some(mask))
            }
            "affinity_scope" => {
                let scope = match text {
                    "default" => None,
                    name => Some(name.parse::<Scope>()?),
                };
                self.change_attrs(|attrs| attrs.scope = scope)
            }
            _ => {
                let allowed = "a number: 0 for no, any other for yes";
                let strict = parse::<i64>("affinity_strict", text, allowed)? != 0;
                self.change_attrs(|attrs| attrs.strict = strict)
            }
        }
    }

    /// Changes the attributes of an unbound queue, or nothing.
    pub(crate) fn change_attrs(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Attrs),
    ) -> Result<(), AttrError> {
        self.apply_changed(|mut attrs| {
            change(&mut attrs);
            attrs
        })
    }
}

impl Control {
    /// The names of the queues listed, in their alphabetical order.
    pub fn queues(&self) -> Vec<String> {
        if self.dir.env.is_in_forked_child() {
            return Vec::new();
        }
        let queues = self.dir.queues();
        let listed = queues.iter().filter(|q| q.is_registered());
        let mut names: Vec<_> = listed.map(|q| q.name.clone()).collect();
        names.sort();
        names
    }

    /// The entries of a queue.
    ///
    /// # Errors
    /// [`AttrError::NoEntry`] if no queue of this name is listed.
    pub fn entries(&self, queue: &str) -> Result<Vec<&'static str>, AttrError> {
        let queue = self.find(queue)?;
        Ok(entries_of(&queue))
    }

    /// The value of a queue's entry.
    ///
    /// # Errors
    /// [`AttrError::NoEntry`] if there is no such queue or entry.
    pub fn read(&self, queue: &str, entry: &str) -> Result<String, AttrError> {
        let queue = self.find(queue)?;
        known(entry, &entries_of(&queue))?;
        Ok(queue.read_entry(entry))
    }

    /// Changes a queue's entry.
    ///
    /// # Errors
    /// [`AttrError::NoEntry`], [`AttrError::ReadOnly`], [`AttrError::Invalid`] for what is not in
    /// the table above, and what [`crate::Queue::apply_attrs`] refuses. Nothing changes then.
    pub fn write(&self, queue: &str, entry: &str, value: &str) -> Result<(), AttrError> {
        let queue = self.find(queue)?;
        known(entry, &entries_of(&queue))?;
        queue.write_entry(entry, value.trim())
    }

    /// The entries of the runtime.
    pub fn runtime_entries(&self) -> &'static [&'static str] {
        OF_RUNTIME
    }

    /// The value of an entry of the runtime.
    ///
    /// # Errors
    /// [`AttrError::NoEntry`] if there is no such entry.
    pub fn read_runtime(&self, entry: &str) -> Result<String, AttrError> {
        known(entry, OF_RUNTIME)?;
        if self.dir.env.is_in_forked_child() {
            return Err(AttrError::Destroyed);
        }
        let env = &self.dir.env;
        Ok(match entry {
            "cpumask" => format!("{:x}", env.unbound_cpus()),
            "cpumask_requested" => format!("{:x}", env.requested_unbound_cpus()),
            "cpumask_isolated" => format!("{:x}", env.isolated_cpus()),
            "default_affinity_scope" => env.default_scope().to_string(),
            "cpu_intensive_thresh_us" => env.cpu_intensive_thresh().as_micros().to_string(),
            _ => env.watchdog.thresh().as_secs().to_string(),
        })
    }

    /// Changes an entry of the runtime.
    ///
    /// # Errors
    /// [`AttrError::NoEntry`], [`AttrError::ReadOnly`], [`AttrError::Invalid`], and what
    /// [`Runtime::set_unbound_cpumask`] refuses. Nothing changes then.
    pub fn write_runtime(&self, entry: &str, value: &str) -> Result<(), AttrError> {
        known(entry, OF_RUNTIME)?;
        self.dir.env.require_alive()?;
        let (text, env) = (value.trim(), &self.dir.env);
        match entry {
            "cpumask" => self.dir.set_unbound_cpus(&parse_mask(text)?)?,
            "cpumask_requested" => return Err(AttrError::ReadOnly("cpumask_requested")),
            "cpumask_isolated" => return Err(AttrError::ReadOnly("cpumask_isolated")),
            "default_affinity_scope" => self.dir.set_default_scope(text.parse()?),
            "cpu_intensive_thresh_us" => {
                let allowed = "whole microseconds, 0 for no limit";
                let micros = parse("cpu_intensive_thresh_us", text, allowed)?;
                env.set_cpu_intensive_thresh(Duration::from_micros(micros));
            }
            _ => {
                let allowed = "whole seconds, 0 for never";
                let seconds = parse("watchdog_thresh", text, allowed)?;
                env.set_watchdog_thresh(Duration::from_secs(seconds));
            }
        }
        Ok(())
    }

    fn find(&self, queue: &str) -> Result<Arc<QueueInner>, AttrError> {
        if self.dir.env.is_in_forked_child() {
            return Err(AttrError::Destroyed);
        }
        let found = self.dir.registered(queue);
        found.ok_or_else(|| AttrError::NoEntry(queue.to_owned()))
    }
}

fn entries_of(queue: &QueueInner) -> Vec<&'static str> {
    let more = if queue.is_unbound() { OF_UNBOUND } else { &[] };
    [OF_EVERY_QUEUE, more].concat()
}

fn known(entry: &str, entries: &[&str]) -> Result<(), AttrError> {
    if entries.contains(&entry) {
        Ok(())
    } else {
        Err(AttrError::NoEntry(entry.to_owned()))
    }
}

fn number(yes: bool) -> String {
    u8::from(yes).to_string()
}

fn invalid(attribute: &'static str, text: &str, allowed: &'static str) -> AttrError {
    AttrError::Invalid {
        attribute,
        value: text.to_owned(),
        allowed,
    }
}

fn parse<T: FromStr>(
    attribute: &'static str,
    text: &str,
    allowed: &'static str,
) -> Result<T, AttrError> {
    text.parse().map_err(|_| invalid(attribute, text, allowed))
}

/// Values above the limit are clamped where they are set; text that is no number is refused.
fn parse_limit(text: &str) -> Result<usize, AttrError> {
    let allowed = "max_active is 1 or more";
    let wanted: i64 = parse("max_active", text, allowed)?;
    if wanted <= 0 {
        return Err(invalid("max_active", text, allowed));
    }
    Ok(usize::try_from(wanted).unwrap_or(MAX_ACTIVE))
}

fn parse_mask(text: &str) -> Result<CpuSet, AttrError> {
    let allowed = "hex digits, in groups of at most eight with commas between";
    CpuSet::parse_mask(text).ok_or_else(|| invalid("cpumask", text, allowed))
}

impl QueueInner {
    pub(crate) fn set_max_active(&self, max_active: usize) -> Result<(), AttrError> {
        if self.ordered || self.flags.contains(Flags::BH) {
            return Err(AttrError::NotAdjustable);
        }
        let wanted = checked_max_active(&self.name, max_active);
        self.change_limits(|max, min| {
            *max = wanted;
            if self.is_unbound() {
                *min = (*min).min(*max);
            }
        })
    }

    pub(crate) fn set_min_active(&self, min_active: usize) -> Result<(), AttrError> {
        if self.ordered || !self.is_unbound() {
            return Err(AttrError::NotAdjustable);
        }
        self.change_limits(|max, min| *min = min_active.min(*max))
    }

    fn change_limits(&self, change: impl FnOnce(&mut usize, &mut usize)) -> Result<(), AttrError> {
        if self.env.is_in_forked_child() || self.is_mode(DESTROYED) {
            return Err(AttrError::Destroyed);
        }
        let _attrs = self.dir.attrs_lock.lock();
        {
            let state = &mut *self.state.lock();
            change(&mut state.saved_max, &mut state.saved_min);
        }
        self.adjust_limits();
        Ok(())
    }

    /// Applies the limits and activates the items that they allow.
    /// # Context: `attrs_lock` held, no other.
    pub(crate) fn adjust_limits(&self) {
        let frozen =
            self.flags.contains(Flags::FREEZABLE) && self.dir.frozen.load(Ordering::Relaxed);
        let (max, min) = {
            let state = self.state.lock();
            // guard: s11_06_frozen_limits
            if frozen {
                (0, 0)
            } else {
                (state.saved_max, state.saved_min)
            }
        };
        // Items enqueued before belong to the former limits; taking a pool's lock counts in those
        // of its inbox.
        self.pwqs().iter().for_each(|pwq| drop(pwq.pool.lock()));
        // Relaxed: the pool lock taken below, or by the next enqueue, orders it.
        self.max_active.store(max, Ordering::Relaxed);
        if self.is_unbound() {
            self.split_between_nodes(max, min);
            self.nodes
                .iter()
                .for_each(|node| pwq::activate_waiting(node));
            return;
        }
        // The pwqs of a per-CPU queue stay until it is destroyed, which needs `attrs_lock`.
        for pwq in self.pwqs() {
            let mut st = pwq.pool.lock();
            st.activate_inactive(pwq.number);
            let wake = st.kick();
            drop(st);
            wake.perform();
        }
    }

    /// Each node gets its share of the limit, by its share of the CPUs, but at least the minimum.
    /// Pools that span nodes get the whole limit.
    fn split_between_nodes(&self, max: usize, min: usize) {
        let env = &self.env;
        let (online, topology) = (env.online_cpus(), env.topology());
        let attrs = self.state.lock().attrs.clone();
        let allowed = attrs.effective_mask(&env.unbound_cpus()).and(&online);
        let total = allowed.len();
        let (spanning, nodes) = self
            .nodes
            .split_last()
            .expect("an unbound queue has budgets");
        for (number, node) in nodes.iter().enumerate() {
            let own = topology.node_cpus(number).and(&allowed).len();
            let part = if total == 0 {
                0
            } else {
                (max * own).div_ceil(total)
            };
            node.set_max(part.clamp(min, max));
        }
        spanning.set_max(max);
    }

    pub(crate) fn congested(&self, cpu: Option<usize>) -> bool {
        if self.env.is_in_forked_child() {
            return false;
        }
        let cpu = cpu.unwrap_or_else(|| self.env.this_cpu());
        if !self.has_cpu(cpu) {
            return false;
        }
        let slot = self.slot(cpu);
        let Some(pwq) = slot.as_ref() else {
            return false;
        };
        let st = pwq.pool.lock();
        let congested = !st.pwqs.get(pwq.number).inactive.is_empty();
        drop(st);
        congested
    }
}

impl Runtime {
    /// Activates no further item of FREEZABLE queues; running ones go on. Does nothing in the child
    /// of a fork.
    pub fn freeze_begin(&self) {
        if self.inner.env.is_in_forked_child() {
            return;
        }
        if self.inner.frozen.load(Ordering::Relaxed) {
            log::warn!("workqueue: freeze_begin while the queues are frozen already");
        }
        self.set_frozen(true);
    }

    /// True if a FREEZABLE queue still runs items from before the freeze; false in the child of a
    /// fork.
    pub fn freeze_busy(&self) -> bool {
        if self.inner.env.is_in_forked_child() {
            return false;
        }
        if !self.inner.frozen.load(Ordering::Relaxed) {
            log::warn!("workqueue: freeze_busy outside a freeze");
        }
        let freezable = |q: &&std::sync::Arc<QueueInner>| q.flags.contains(Flags::FREEZABLE);
        self.inner.queues().iter().filter(freezable).any(|q| {
            q.state.lock().pwqs.iter().any(|pwq| {
                let st = pwq.pool.lock();
                st.pwqs.get(pwq.number).nr_active > 0
            })
        })
    }

    /// Ends a freeze: items held back by it become active in their order.
    pub fn thaw(&self) {
        let frozen = self.inner.frozen.load(Ordering::Relaxed);
        if frozen && !self.inner.env.is_in_forked_child() {
            self.set_frozen(false);
        }
    }

    fn set_frozen(&self, frozen: bool) {
        let _attrs = self.inner.attrs_lock.lock();
        self.inner.frozen.store(frozen, Ordering::Relaxed);
        for queue in self.inner.queues() {
            if queue.flags.contains(Flags::FREEZABLE) {
                queue.adjust_limits();
            }
        }
    }
}
