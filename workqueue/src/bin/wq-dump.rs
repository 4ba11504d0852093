// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments in, exit status out; see [`workqueue::tools::dump`].

use std::process::ExitCode;
use workqueue::tools::{self, dump};

fn main() -> ExitCode {
    tools::run("wq-dump", std::env::args_os(), dump::run)
}
