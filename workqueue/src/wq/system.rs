// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ready-made queues, present from the first phase on.
//!
//! Kernel counterparts: `system_percpu_wq` and its siblings. The kernel's deprecated twins are
//! aliases here, not second queues.

use super::flags::Flags;
use super::{OwnedQueue, Queue};
use crate::runtime::{Runtime, RuntimeInner};
use crate::wq::builder::QueueBuilder;
use std::sync::Arc;

/// What the kernel gives the unbound system queues: the upper limit.
const UNBOUND_MAX_ACTIVE: usize = 2048;

/// See the module.
#[derive(Debug)]
pub(crate) struct SystemQueues {
    percpu: OwnedQueue,
    highpri: OwnedQueue,
    long: OwnedQueue,
    freezable: OwnedQueue,
    power_efficient: OwnedQueue,
    freezable_power_efficient: OwnedQueue,
    dfl: OwnedQueue,
    dfl_long: OwnedQueue,
    bh: OwnedQueue,
    bh_highpri: OwnedQueue,
}

impl SystemQueues {
    pub(crate) fn new(rt: &Arc<RuntimeInner>) -> Self {
        let queue = |name: &str, flags: Flags, max_active| {
            let made = QueueBuilder::new(rt, name)
                .flags(flags)
                .max_active(max_active)
                .system()
                .build();
            made.expect("the system queues have good flags and, before the start, need no thread")
        };
        let percpu = Flags::PERCPU;
        Self {
            percpu: queue("events", percpu, 0),
            highpri: queue("events_highpri", percpu | Flags::HIGHPRI, 0),
            long: queue("events_long", percpu, 0),
            freezable: queue("events_freezable", percpu | Flags::FREEZABLE, 0),
            power_efficient: queue("events_power_efficient", percpu | Flags::POWER_EFFICIENT, 0),
            freezable_power_efficient: queue(
                "events_freezable_pwr_efficient",
                percpu | Flags::FREEZABLE | Flags::POWER_EFFICIENT,
                0,
            ),
            dfl: queue("events_unbound", Flags::UNBOUND, UNBOUND_MAX_ACTIVE),
            dfl_long: queue("events_dfl_long", Flags::UNBOUND, UNBOUND_MAX_ACTIVE),
            bh: queue("events_bh", Flags::BH, 0),
            bh_highpri: queue("events_bh_highpri", Flags::BH | Flags::HIGHPRI, 0),
        }
    }
}

macro_rules! system_queues {
    ($($(#[$doc:meta])* $name:ident => $field:ident;)*) => {
        impl Runtime {
            $($(#[$doc])* pub fn $name(&self) -> &Queue { &self.system_queues().$field })*
        }

        $($(#[$doc])*
        ///
        /// That of the process's runtime.
        pub fn $name() -> &'static Queue { Runtime::global().$name() })*
    };
}

system_queues! {
    /// The general queue, per CPU, for short items.
    system_percpu => percpu;
    /// Per CPU, at nice -20.
    system_highpri => highpri;
    /// Per CPU, for items that may take long.
    system_long => long;
    /// Per CPU, frozen with the runtime.
    system_freezable => freezable;
    /// Per CPU, or unbound if the runtime saves power.
    system_power_efficient => power_efficient;
    /// As the former, frozen with the runtime.
    system_freezable_power_efficient => freezable_power_efficient;
    /// The general unbound queue.
    system_dfl => dfl;
    /// Unbound, for items that may take long.
    system_dfl_long => dfl_long;
}

impl Runtime {
    /// The former name of [`Runtime::system_percpu`].
    #[deprecated(note = "use system_percpu, or system_dfl if the CPU does not matter")]
    pub fn system(&self) -> &Queue {
        self.system_percpu()
    }

    /// The former name of [`Runtime::system_dfl`].
    #[deprecated(note = "use system_dfl")]
    pub fn system_unbound(&self) -> &Queue {
        self.system_dfl()
    }
}

impl Runtime {
    /// BH items: per CPU, one after the other, in the order they were enqueued. The first call
    /// makes their threads, one per CPU; what cannot be made is tried again at each look at the
    /// CPUs.
    pub fn system_bh(&self) -> &Queue {
        self.inner.want_bh_threads_later(false);
        &self.system_queues().bh
    }

    /// As [`Runtime::system_bh`], at nice -20.
    pub fn system_bh_highpri(&self) -> &Queue {
        self.inner.want_bh_threads_later(true);
        &self.system_queues().bh_highpri
    }
}

/// That of the process's runtime; see [`Runtime::system_bh`].
pub fn system_bh() -> &'static Queue {
    Runtime::global().system_bh()
}

/// That of the process's runtime; see [`Runtime::system_bh_highpri`].
pub fn system_bh_highpri() -> &'static Queue {
    Runtime::global().system_bh_highpri()
}

/// The former name of [`system_percpu`].
#[deprecated(note = "use system_percpu, or system_dfl if the CPU does not matter")]
pub fn system() -> &'static Queue {
    system_percpu()
}

/// The former name of [`system_dfl`].
#[deprecated(note = "use system_dfl")]
pub fn system_unbound() -> &'static Queue {
    system_dfl()
}
