// SPDX-License-Identifier: MIT OR Apache-2.0
//! The benchmarks and the studies of the project. Each is a program in `src/bin/`, started by a
//! script of the same name.
//!
//! | script | journey |
//! |---|---|
//! | `scripts/bench-device` | [`plan`] (what is asked for) -> [`runner`] (disks and fio, leaves files) -> [`run`] (the files as samples) -> [`report`] (the samples as tables) |
//! | `scripts/study` | [`study::table`] (cases and measures of a study) -> [`study::sim`] or [`study::device`] (makes a case) -> [`study::outcome`] (measures and figures) -> [`study::kept`] (their files) -> [`page`] (the report) |
//! | `scripts/bench-workqueue` | [`wq::contender`] (what is compared) -> [`wq::throughput`], [`wq::wake`], [`wq::delayed`], [`wq::memory`] (the cases) -> [`wq::kept`] (the samples) -> [`wq::tables`] |
//! | `scripts/bench-mirror` | [`mirror`]: both ways to one store |
//!
//! What they share: [`stats`] (medians, quantiles), [`table`] (one table, as text and in the
//! report), [`files`] (files and errors that name them), [`process`] (children that end with their
//! owner), [`kernel`] (what is made in the kernel and taken away again).
//!
//! A figure is only worth something beside another one of the same run. So every run takes all
//! contenders in turns, keeps each sample and not only the median, and keeps the setting: machine,
//! kernel, commit, versions.
//!
//! `unsafe` is only in [`wq::memory`] and [`mirror`].

pub mod files;

pub mod stats;

pub mod table;

pub mod process;

pub mod kernel;

pub mod matrix;

pub mod contender;

pub mod plan;

pub mod fio;

pub mod check;

pub mod run;

pub mod report;

pub mod runner;

pub mod wq;

pub mod study;

pub mod page;

pub mod mirror;
