// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments in, exit status out.

mod cli;
mod commands;
mod logger;
mod panics;
mod parse;
mod server;

use std::panic;
use std::process::ExitCode;

use cli::Unparsed;
use ublk_ramdisk::error::Exit;

fn main() -> ExitCode {
    commands::completions::answer();
    panics::report();
    // Before the first file: SIGXFSZ would end the process without a line.
    server::survive_file_size_limit();
    // The hook has said what there is to say.
    let exit = panic::catch_unwind(run).unwrap_or(Exit::Failure);
    logger::flush();
    ExitCode::from(exit as u8)
}

/// Every failure ends here: one line on standard error, and its exit status (L1).
fn run() -> Exit {
    let done = match cli::parse(std::env::args_os()) {
        Ok(cli) => commands::run(cli),
        Err(Unparsed::Text(text)) => commands::output::print(&text).map(|()| Exit::Done),
        Err(Unparsed::Bad(failure)) => Err(failure),
    };
    done.unwrap_or_else(|failure| {
        commands::output::complain(&failure);
        failure.exit
    })
}
