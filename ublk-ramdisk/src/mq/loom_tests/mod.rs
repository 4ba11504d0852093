// SPDX-License-Identifier: MIT OR Apache-2.0
//! Models of the hazards of the specification (W1 to W12, W17 to W20; W13 stands in
//! `ublk/mailbox.rs`), run by loom over all their interleavings on the code that ships. kblockd is
//! played by a model thread, and its delays last for ever: what the 3 ms net would repair counts as
//! lost.
//!
//! `scripts/mutate` takes out the guards one by one and sees the models fail.

mod bed;

mod hazards;

mod words;
