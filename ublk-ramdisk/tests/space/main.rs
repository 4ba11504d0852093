// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thin store under its memory limit: E2, E6 to E11, E18 to E26, W14, on the real driver and
//! mirror with a clock that the test moves. No test waits for the 3 ms net: it is off.

mod cache;
mod clear;
mod common;
mod limits;
mod no_space;
mod passing;
mod populate;
mod rules;
