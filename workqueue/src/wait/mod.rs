// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for items and taking them back.

pub(crate) mod barrier;

pub(crate) mod reporters;

pub(crate) mod flush;

pub(crate) mod cancel;

pub(crate) mod caution;
