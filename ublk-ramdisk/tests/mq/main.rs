// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mirror of blk-mq, one test per numbered statement, without a kernel and on a clock that the
//! tests move.

mod common;

mod budget;

mod debugfs;

mod dispatch;

mod ends;
mod old_rules;

mod kblockd;
mod misuse;

mod race;

mod runs;

mod timeouts;
