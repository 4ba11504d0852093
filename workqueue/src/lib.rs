// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux kernel's concurrency-managed workqueue in user space. Empty so far.
