// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is left of the order records without the `lockdep` feature: nothing.

/// See `on::LockClass`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockClass;

/// See `on::QueueClass`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueClass;

/// See `on::Held`.
#[derive(Debug)]
pub(crate) struct Held;

impl Held {
    pub(crate) fn release(self) {}
}

impl LockClass {
    pub(crate) const fn here() -> Self {
        Self
    }

    pub(crate) fn acquire(self) -> Held {
        Held
    }

    pub(crate) fn acquired_by_trying(self) -> Held {
        Held
    }
}

impl QueueClass {
    pub(crate) fn new(_name: &str) -> Self {
        Self
    }
}

pub(crate) fn enter_run(_queue: QueueClass, _function: &'static str, _entry: usize) -> Held {
    Held
}

pub(crate) fn touch_queue(_queue: QueueClass) {}

pub(crate) fn touch_function(_function: &'static str, _entry: usize) {}
