// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making a queue: names and flags are checked, pwqs linked, the rescuer started.
//!
//! Kernel counterparts: `alloc_workqueue`, `alloc_and_link_pwqs`, `init_rescuer`.

use super::attrs::{Attrs, Flags};
use super::queue::{Counters, FlushCountdown, FlushState, QueueInner, QueueState, Rescuer};
use super::OwnedQueue;
use crate::error::{AllocError, AttrError};
use crate::pwq::{NodeActive, PwqStats};
use crate::runtime::directory::Directory;
use crate::sys::sync::Mutex;
use crate::sys::{cut_short, ShortText, SHORT_TEXT_LEN};
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::sync::{Arc, RwLock};

/// The upper limit of max_active.
pub(crate) const MAX_ACTIVE: usize = 2048;
/// What 0 stands for.
const DFL_ACTIVE: usize = 1024;
/// How many items each node may have active at least, unless max_active is lower.
const DFL_MIN_ACTIVE: usize = 8;
/// Sets up a queue.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct QueueBuilder {
    dir: Arc<Directory>,
    name: String,
    flags: Flags,
    max_active: usize,
    ordered: bool,
    system: bool,
    legacy: bool,
    attrs: Option<Attrs>,
}

impl QueueBuilder {
    pub(crate) fn new(dir: &Arc<Directory>, name: &str) -> Self {
        Self {
            dir: dir.clone(),
            name: name.to_owned(),
            flags: Flags::empty(),
            max_active: 0,
            ordered: false,
            system: false,
            legacy: false,
            attrs: None,
        }
    }

    /// The queue's flags; give PERCPU or UNBOUND, at least.
    pub fn flags(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    /// How many items may be active at once, per CPU or, on unbound queues, in all; 0 for 1024.
    pub fn max_active(mut self, max_active: usize) -> Self {
        self.max_active = max_active;
        self
    }

    /// The attributes an unbound queue begins with. Refused as [`crate::Queue::apply_attrs`] refuses
    /// them.
    pub fn attrs(mut self, attrs: Attrs) -> Self {
        self.attrs = Some(attrs);
        self
    }

    /// Makes it an ordered queue: one item at a time, in the order of their enqueueing.
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    pub(crate) fn system(mut self) -> Self {
        self.system = true;
        self
    }

    pub(crate) fn legacy(mut self) -> Self {
        self.legacy = true;
        self
    }

    /// Makes the queue.
    pub fn build(self) -> Result<OwnedQueue, AllocError> {
        if self.dir.env.is_in_forked_child() || self.dir.env.is_stopped() {
            return Err(AllocError::Destroyed);
        }
        let name = checked_name(&self.name)?;
        let flags = self.checked_flags(&name)?;
        let max_active = if flags.contains(Flags::BH) {
            usize::MAX
        } else if self.ordered {
            1
        } else {
            checked_max_active(&name, self.max_active)
        };
        let mut attrs = self
            .checked_attrs(flags)
            .map_err(|source| AllocError::Attrs {
                name: name.clone(),
                source,
            })?;
        if flags.contains(Flags::HIGHPRI) {
            attrs.nice = -20;
        }
        let dir = self.dir;
        let unbound = flags.contains(Flags::UNBOUND);
        let nr_nodes = if unbound {
            dir.env.topology().nr_nodes() + 1
        } else {
            0
        };
        let inner = Arc::new(QueueInner {
            number: dir.next_queue_number(),
            flags,
            ordered: self.ordered,
            system: self.system,
            legacy: self.legacy,
            slots: (0..dir.env.cpus.end()).map(|_| RwLock::new(None)).collect(),
            max_active: AtomicUsize::new(0),
            nodes: (0..nr_nodes)
                .map(|_| Arc::new(NodeActive::new(0)))
                .collect(),
            rescuer: flags.contains(Flags::MEM_RECLAIM).then(Rescuer::new),
            pwqs_to_flush: FlushCountdown::new(),
            mode: AtomicU32::new(0),
            counters: Counters::default(),
            state: Mutex::new(QueueState {
                pwqs: Vec::new(),
                installed: Vec::new(),
                saved_max: max_active,
                saved_min: max_active.min(DFL_MIN_ACTIVE),
                drainers: 0,
                flush: FlushState::default(),
                attrs: attrs.clone(),
                past: PwqStats::default(),
            }),
            desc: ShortText::new(&name),
            name,
            env: dir.env.clone(),
            dir,
        });
        // From here to the end of the function, pools, phase and freezing do not change.
        let dir = inner.dir.clone();
        let _attrs = dir.attrs_lock.lock();
        let spawn_failed = |errno| AllocError::Spawn {
            name: inner.name.clone(),
            errno,
        };
        if flags.contains(Flags::BH) && !self.system {
            let highpri = flags.contains(Flags::HIGHPRI);
            dir.want_bh_threads(highpri).map_err(spawn_failed)?;
        }
        if let (Some(rescuer), true) = (&inner.rescuer, dir.env.is_online()) {
            let made = rescuer.start(&inner);
            made.map_err(|e| spawn_failed(e.errno()))?;
        }
        let linked = if unbound {
            inner.install_attrs(attrs)
        } else {
            inner.link_percpu()
        };
        if let Err(errno) = linked {
            if let Some(rescuer) = &inner.rescuer {
                rescuer.stop();
            }
            return Err(spawn_failed(errno));
        }
        inner.adjust_limits();
        dir.add_queue(&inner);
        Ok(OwnedQueue::new(inner))
    }

    fn checked_attrs(&self, flags: Flags) -> Result<Attrs, AttrError> {
        let Some(attrs) = &self.attrs else {
            return Ok(Attrs::new());
        };
        if !flags.contains(Flags::UNBOUND) {
            return Err(AttrError::NotUnbound);
        }
        attrs.check(&self.dir.env.cpus.known())?;
        Ok(attrs.clone())
    }

    fn checked_flags(&self, name: &str) -> Result<Flags, AllocError> {
        let bad = |why| AllocError::BadFlags {
            name: name.to_owned(),
            flags: self.flags,
            why,
        };
        let mut flags = self.flags;
        if flags.contains(Flags::POWER_EFFICIENT) && self.dir.env.config.power_efficient {
            flags = flags.difference(Flags::PERCPU) | Flags::UNBOUND;
        }
        if let Some(why) = flags.fault(self.ordered, self.max_active) {
            return Err(bad(why));
        }
        if flags.contains(Flags::BH) {
            flags |= Flags::PERCPU;
        }
        if self.ordered {
            return Ok(flags | Flags::UNBOUND);
        }
        if !flags.contains(Flags::PERCPU) && !flags.contains(Flags::UNBOUND) {
            log::warn!("workqueue: queue {name} is neither PERCPU nor UNBOUND; taken as PERCPU");
            flags |= Flags::PERCPU;
        }
        Ok(flags)
    }
}

fn checked_name(name: &str) -> Result<String, AllocError> {
    if name.is_empty() || name.contains('\0') {
        return Err(AllocError::BadName(name.to_owned()));
    }
    let kept = cut_short(name);
    if kept != name {
        log::warn!(
            "workqueue: queue name {name} is longer than {SHORT_TEXT_LEN} bytes; cut to {kept}"
        );
    }
    Ok(kept.to_owned())
}

/// The limit that a program gets for what it asks for.
pub(crate) fn checked_max_active(name: &str, wanted: usize) -> usize {
    match wanted {
        0 => DFL_ACTIVE,
        n if n > MAX_ACTIVE => {
            log::warn!("workqueue: max_active {n} of queue {name} is over {MAX_ACTIVE}; clamped");
            MAX_ACTIVE
        }
        n => n,
    }
}
