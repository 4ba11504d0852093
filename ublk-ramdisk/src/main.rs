// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments in, exit status out.

mod cli;
mod commands;
mod logger;
mod server;
mod values;

use std::panic::{self, PanicHookInfo};
use std::process::ExitCode;

use cli::Unparsed;
use ublk_ramdisk::error::{Exit, Failure};

fn main() -> ExitCode {
    panic::set_hook(Box::new(report_panic));
    server::survive_file_size_limit();
    // The hook has said what there is to say.
    let exit = panic::catch_unwind(run).unwrap_or(Exit::Failure);
    logger::flush();
    ExitCode::from(exit as u8)
}

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

/// One line instead of a panic text: into the log where there is one (a daemon has no terminal).
fn report_panic(panic: &PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or("no reason given");
    let place = panic.location().map(ToString::to_string);
    let line = format!(
        "internal error at {}: {what}; please report it",
        place.unwrap_or_default()
    );
    if log::max_level() == log::LevelFilter::Off {
        commands::output::complain(&Failure::runtime(line));
    } else {
        log::error!("{line}");
        logger::flush();
    }
}
