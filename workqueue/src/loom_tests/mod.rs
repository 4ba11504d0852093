// SPDX-License-Identifier: MIT OR Apache-2.0
//! Models of the protocols that no lock covers, run by loom over all their interleavings.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p cmwq --lib loom_tests`

mod find;

mod queue;

mod wake;

mod enqueue;
