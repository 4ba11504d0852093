// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines as a client of the control socket could write them.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/control.rs"]
mod control;

fuzz_target!(|bytes: &[u8]| {
    control::read(bytes);
});
