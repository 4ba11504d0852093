// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments in, exit status out; see [`workqueue::tools::monitor`].

use std::process::ExitCode;
use workqueue::tools::{self, monitor};

fn main() -> ExitCode {
    tools::run("wq-monitor", std::env::args_os(), monitor::run)
}
