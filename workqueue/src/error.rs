// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a queue could not be made, an item not taken, a wait not begun.
//!
//! One type per kind of call, each variant a fact. Refusals of an item carry the item's pointer
//! back. Kernel counterpart: a `false`, a NULL or a warning in the log.

use crate::sys::sync::Mutex;
use crate::wq::attrs::Flags;
use std::any::Any;
use std::fmt;
use thiserror::Error;

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The item waits for a run already. That run sees everything done before this call.
    #[error("the item is already pending")]
    AlreadyPending,
    /// The item is disabled.
    #[error("the item is disabled")]
    Disabled,
    /// The queue is being drained, and the caller is not one of its own runs.
    #[error("the queue is draining and takes only items from its own runs")]
    Draining,
    /// The queue or its runtime is gone.
    #[error("the queue is destroyed")]
    Destroyed,
    /// The requested CPU was never online.
    #[error("the requested CPU is not one of the runtime's CPUs")]
    InvalidCpu,
    /// A node was requested on a per-CPU queue.
    #[error("a node can be requested on unbound queues only")]
    NotUnbound,
    /// The item was not disabled in the first place.
    #[error("the item is not disabled")]
    EnableUnderflow,
}

/// An item that was not taken, with the reason.
#[derive(Clone, PartialEq, Eq)]
pub struct EnqueueError<W> {
    reason: Refusal,
    item: W,
}

impl<W> EnqueueError<W> {
    pub(crate) fn new(reason: Refusal, item: W) -> Self {
        Self { reason, item }
    }

    /// Why.
    pub fn reason(&self) -> Refusal {
        self.reason
    }

    /// The pointer (or closure) that was refused.
    pub fn into_inner(self) -> W {
        self.item
    }

    pub(crate) fn map<V>(self, change: impl FnOnce(W) -> V) -> EnqueueError<V> {
        EnqueueError {
            reason: self.reason,
            item: change(self.item),
        }
    }
}

impl<W> fmt::Debug for EnqueueError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnqueueError")
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl<W> fmt::Display for EnqueueError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<W> std::error::Error for EnqueueError<W> {}

/// Why a queue was not made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AllocError {
    /// The flags contradict each other or are not known.
    #[error("flags {flags} of queue {name}: {why}")]
    BadFlags {
        /// The queue's name.
        name: String,
        /// The flags as given.
        flags: Flags,
        /// What is wrong with them.
        why: &'static str,
    },
    /// The name is empty or has a NUL in it.
    #[error("queue name {0:?} is empty or has a NUL character in it")]
    BadName(String),
    /// A thread the queue needs could not be made.
    #[error("queue {name}: cannot create a thread: {}", std::io::Error::from_raw_os_error(*errno))]
    Spawn {
        /// The queue's name.
        name: String,
        /// The system's error number.
        errno: i32,
    },
    /// The attributes cannot be used.
    #[error("queue {name}: {source}")]
    Attrs {
        /// The queue's name.
        name: String,
        /// What is wrong with them.
        source: AttrError,
    },
    /// The runtime has been shut down.
    #[error("the runtime is shut down")]
    Destroyed,
}

/// Why a wait was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WaitError {
    /// The runtime has no threads yet.
    #[error("the runtime is not started, so nothing runs that could be waited for")]
    NotOnline,
    /// The wait could never end, since the calling run is part of what is waited for.
    #[error("waiting here would deadlock: the calling run is part of what it would wait for")]
    WouldDeadlock,
    /// The queue or its runtime is gone.
    #[error("the queue is destroyed")]
    Destroyed,
    /// After a drain something of the queue is still in flight; the queue was kept.
    #[error("the queue still has work in flight after it was drained")]
    QueueBusy,
    /// The disable depth is at its limit of 65535.
    #[error("the item is disabled 65535 times, which is the limit")]
    DisableOverflow,
}

/// Why a spawned closure has no result.
#[derive(Debug, Error)]
pub enum JoinError {
    /// It was cancelled, or refused when its delay had passed: it has not run.
    #[error("the closure was cancelled before it ran")]
    Cancelled,
    /// It panicked.
    #[error("the closure panicked: {0}")]
    Panicked(PanicPayload),
    /// It cannot be waited for here.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// What a closure has panicked with. Shown as its text, if it is one.
pub struct PanicPayload(Mutex<Box<dyn Any + Send>>);

impl PanicPayload {
    pub(crate) fn new(payload: Box<dyn Any + Send>) -> Self {
        Self(Mutex::new(payload))
    }

    /// The payload itself, for [`std::panic::resume_unwind`].
    pub fn into_inner(self) -> Box<dyn Any + Send> {
        self.0.into_inner()
    }
}

impl fmt::Display for PanicPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = self.0.lock();
        let text = payload.downcast_ref::<&str>().copied();
        f.write_str(
            text.or(payload.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no text"),
        )
    }
}

impl fmt::Debug for PanicPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PanicPayload({self})")
    }
}

/// The item was disabled as often as the word can count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the item is disabled 65535 times, which is the limit")]
pub struct DisableOverflow;

/// The item was not disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the item is not disabled")]
pub struct EnableUnderflow;

/// Why an attribute was not changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AttrError {
    /// The value is outside what the attribute takes.
    #[error("{attribute}: {value} is not valid; {allowed}")]
    Invalid {
        /// Which attribute.
        attribute: &'static str,
        /// The value as given.
        value: String,
        /// What would be valid.
        allowed: &'static str,
    },
    /// No CPU would be left.
    #[error("CPU mask {0} has none of the machine's CPUs")]
    EmptyMask(String),
    /// The queue is not an unbound one.
    #[error("only unbound queues have attributes")]
    NotUnbound,
    /// The limit is fixed on this kind of queue.
    #[error("this limit is fixed on ordered, BH or, for min_active, per-CPU queues")]
    NotAdjustable,
    /// A new pool could not get its first thread.
    #[error("cannot create a thread: {}", std::io::Error::from_raw_os_error(*.0))]
    Spawn(i32),
    /// The queue is gone.
    #[error("the queue is destroyed")]
    Destroyed,
}

/// Why a runtime did not start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StartError {
    /// A thread could not be made; what had been started was stopped again.
    #[error("cannot create thread {thread}: {}", std::io::Error::from_raw_os_error(*errno))]
    Spawn {
        /// The thread's name.
        thread: String,
        /// The system's error number.
        errno: i32,
    },
    /// A thread may not have the priority it needs, and strict priorities were asked for.
    #[error("thread {thread} may not run at nice {nice}: CAP_SYS_NICE or RLIMIT_NICE is needed")]
    Nice {
        /// The thread's name.
        thread: String,
        /// The nice value it should have had.
        nice: i32,
    },
    /// The runtime runs already, or has been shut down.
    #[error("the runtime has been started before")]
    AlreadyStarted,
    /// The made-up machine cannot be used.
    #[error("the topology cannot be used: {0}")]
    Topology(String),
    /// The runtime belongs to the process that this one was forked from.
    #[error("the runtime is the parent process's")]
    Destroyed,
}
