// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls code of the program on the crate's threads: hooks, sinks, loggers, `Drop`.

use std::mem;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Calls `code`; None if it panicked. A panic there must not end a thread of the crate, nor pass
/// for one of the crate's own, which ends the process.
pub(crate) fn call<R>(code: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(result) => Some(result),
        Err(payload) => {
            // The payload's own drop may panic. What that panics with is leaked.
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                mem::forget(again);
            }
            None
        }
    }
}

/// Logs at the named level; a logger that panics is ignored.
macro_rules! log_safely {
    ($level:ident, $($arg:tt)+) => {{
        let _ignored = $crate::sys::user_code::call(|| log::$level!($($arg)+));
    }};
}
pub(crate) use log_safely;
