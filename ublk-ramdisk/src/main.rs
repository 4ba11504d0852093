// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments in, exit code out.
fn main() {}
