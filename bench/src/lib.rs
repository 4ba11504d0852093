// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the benchmark programs share.
//!
//! `scripts/bench-device` wants a [`matrix`] of jobs and a list of [`contender`]s,
//! which make a [`plan`]; [`runner`] makes the disks and runs fio ([`progress`] says how far it is), which leaves
//! a folder; that folder becomes a [`run::Run`] (its samples read by [`fio`], its
//! counters held against each other by [`check`]), and the run a [`report`] of [`table`]s, with what
//! [`pressed`] has to say of pressure.
//!
//! [`study`] holds the studies, which `scripts/study` runs, and [`page`] their report.
//!
//! [`wq`] is the workqueue's part, which needs no script to be measured; [`mirror`] what the mirror
//! of blk-mq costs in process. `unsafe` is only in [`wq::memory`] and [`mirror`].

pub mod files;

pub mod stats;

pub mod table;

pub mod process;

pub mod kernel;

pub mod matrix;

pub mod contender;

pub mod plan;

pub mod progress;

pub mod fio;

pub mod check;

pub mod run;

pub mod report;

pub mod runner;

pub mod wq;

pub mod study;

pub mod page;

pub mod mirror;
