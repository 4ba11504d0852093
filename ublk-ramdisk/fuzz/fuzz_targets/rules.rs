// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules as a user could type them.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/rules.rs"]
mod rules;

fuzz_target!(|bytes: &[u8]| {
    rules::read(bytes);
});
