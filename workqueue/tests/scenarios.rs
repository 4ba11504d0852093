// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 5.9: the picture in the documentation is what happens.
//!
//! It is drawn anew from runs on a virtual clock, by the example that made it.

#[path = "../examples/scenarios.rs"]
mod scenarios;

#[test]
fn s05_09_s13_03_the_picture_shows_what_happens() {
    for _ in 0..5 {
        scenarios::check().unwrap();
    }
}
