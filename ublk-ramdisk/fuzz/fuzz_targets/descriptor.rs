// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors as a driver could write them (H11).
#![no_main]

use std::sync::{LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/device/rng.rs"]
#[allow(dead_code)] // The tests use more of it.
mod rng;

#[path = "../../tests/fuzz/descriptor.rs"]
#[allow(dead_code)] // The tests use more of it.
mod descriptor;

static BENCH: LazyLock<Mutex<descriptor::Bench>> =
    LazyLock::new(|| Mutex::new(descriptor::Bench::new()));

fuzz_target!(|bytes: &[u8]| {
    let mut bench = BENCH.lock().expect("one input at a time");
    descriptor::serve_all(&mut bench, bytes);
});
