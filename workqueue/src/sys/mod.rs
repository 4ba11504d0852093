// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the machine gives: locks, clocks, timers, CPUs. Nothing here knows what a work item is.
//!
//! Two small things that all parts use are here: a text that is copied instead of allocated (queue
//! names, descriptions), and calls of the program's code on the crate's threads (hooks, sinks,
//! loggers, `Drop`). Kernel counterparts: `WQ_NAME_LEN`, `WORKER_DESC_LEN`, which count the final
//! NUL.

pub(crate) mod sync;

pub(crate) mod cpu;

pub(crate) mod cpuset;

pub(crate) mod turn_scheduler;

pub(crate) mod clock;

pub(crate) mod run_clock;

pub(crate) mod timer;

#[cfg(feature = "control-socket")]
pub(crate) mod socket;

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::{fmt, mem};

/// How many bytes are kept.
pub(crate) const SHORT_TEXT_LEN: usize = 31;

/// A text of at most 31 bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ShortText {
    len: u8,
    bytes: [u8; SHORT_TEXT_LEN],
}

/// The beginning of a text that is short enough, ending with a whole character.
pub(crate) fn cut_short(text: &str) -> &str {
    let mut end = text.len().min(SHORT_TEXT_LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl ShortText {
    /// The text, cut to what is kept.
    pub(crate) fn new(text: &str) -> Self {
        let kept = cut_short(text).as_bytes();
        let mut bytes = [0; SHORT_TEXT_LEN];
        bytes[..kept.len()].copy_from_slice(kept);
        Self {
            len: u8::try_from(kept.len()).unwrap_or(0),
            bytes,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

impl fmt::Display for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Calls `code`; None if it panicked. A panic there must not end a thread of the crate, nor pass
/// for one of the crate's own, which ends the process.
pub(crate) fn call_user_code<R>(code: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(result) => Some(result),
        Err(payload) => {
            drop_payload(payload);
            None
        }
    }
}

/// Drops what a panic was raised with. Its own drop may panic, with something that is dropped in
/// turn; what is still there after some of these is leaked, as there may be no end.
fn drop_payload(mut payload: Box<dyn Any + Send>) {
    for _ in 0..8 {
        match catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            Ok(()) => return,
            Err(next) => payload = next,
        }
    }
    mem::forget(payload);
}

/// Logs at the named level; a logger that panics is ignored.
macro_rules! log_safely {
    ($level:ident, $($arg:tt)+) => {{
        let _ignored = $crate::sys::call_user_code(|| log::$level!($($arg)+));
    }};
}
pub(crate) use log_safely;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s02_22_a_text_is_cut_at_a_whole_character() {
        assert_eq!(ShortText::new("").as_str(), "");
        assert_eq!(ShortText::new("events").to_string(), "events");
        assert_eq!(ShortText::new(&"x".repeat(40)).as_str(), "x".repeat(31));
        // 30 bytes, then one character of two.
        assert_eq!(
            ShortText::new(&("x".repeat(30) + "é")).as_str(),
            "x".repeat(30)
        );
    }
}
