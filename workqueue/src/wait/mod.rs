// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for items and queues, and taking items back.

pub(crate) mod find;

pub(crate) mod item;

pub(crate) mod flush;

pub(crate) mod flush_dependency;
