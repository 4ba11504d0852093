// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the benchmark programs share.
//!
//! `scripts/bench-device` runs fio on all contenders and leaves a folder; that
//! folder becomes a [`run::Run`] (its samples read by [`fio`]), and the run a
//! [`report`]. [`signals`] belongs to the contender that serves a disk itself.
//! The only `unsafe` is in [`signals`].

pub mod fio;

pub mod run;

pub mod report;

pub mod signals;
