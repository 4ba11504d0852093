// SPDX-License-Identifier: MIT OR Apache-2.0
//! `serve`: the server of a unit of systemd, in this process. systemd is its supervisor: it starts this
//! command again when the server has died, which then takes up the disk that waits (I22).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use toml::Value;
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::sys::privilege::{self, Kind};

use super::{add, machine};
use crate::cli::{self, AddArgs, Cli, Command, ServeArgs, Unparsed};
use crate::logger::{self, Sink};
use crate::server::run_dir::RunDir;
use crate::server::supervisor::ToSupervisor;
use crate::server::{self, Task};

/// Serves the disk of this name until it is stopped.
pub fn run(args: &ServeArgs) -> Result<Exit, Failure> {
    let run_dir = RunDir::of_this_machine()?;
    // Mounted until the end of this function, or while there is a store in it.
    let mut stores = None;
    let task = match former(&run_dir, &args.name)? {
        Some(task) => task,
        None => {
            let (config, _, found) = add::prepare(&options(args)?)?;
            stores = found;
            Task::Add(config)
        }
    };
    logger::open(Sink::Stderr);
    privilege::confine(Kind::Supervisor);
    let exit = server::run(Ok(()), None, task, &run_dir, ToSupervisor::Systemd, None);
    if exit != Exit::Done {
        // What was added in vain.
        let _served_again = former(&run_dir, &args.name);
    }
    drop(stores);
    run_dir.tidy();
    Ok(exit)
}

/// Looks for a disk with the name, to be taken up. One whose contents are gone is deleted.
fn former(run_dir: &RunDir, name: &str) -> Result<Option<Task>, Failure> {
    let Some(id) = run_dir.id_of(name) else {
        return Ok(None);
    };
    if run_dir.has_server(id) {
        return Err(Failure::in_use(format!(
            "device {id}, named {name}, has a server: end it with `ublk-ramdisk del {name}`"
        )));
    }
    if run_dir.has_supervisor(id) {
        return Err(Failure::in_use(format!(
            "device {id}, named {name}, has a supervisor, which starts its servers: end it with \
             `ublk-ramdisk del {name}`"
        )));
    }
    match run_dir.state(id) {
        Some(state) if state.served.outlives_server => Ok(Some(Task::TakeUp(state))),
        None if run_dir.state_path(id).exists() => Err(Failure::runtime(format!(
            "{} cannot be read: is it of a newer program?",
            run_dir.state_path(id).display()
        ))),
        _ => machine::delete(run_dir, id, true).map(|()| None),
    }
}

/// The options of `add` that the file has.
fn options(args: &ServeArgs) -> Result<AddArgs, Failure> {
    let usual = || PathBuf::from(format!("/etc/ublk-ramdisk/{}.conf", args.name));
    let path = args.config.clone().unwrap_or_else(usual);
    let bad = |path: &Path, why: &str| {
        Failure::usage(format!(
            "{}: {}",
            path.display(),
            why.trim().replace('\n', " ")
        ))
    };
    let text = fs::read_to_string(&path)
        .map_err(|error| Failure::environment(format!("{}: {error}", path.display())))?;
    let words = words(&text).map_err(|why| bad(&path, &why))?;
    let fixed = ["ublk-ramdisk", "add", "--foreground", "--name", &args.name];
    let all = fixed.map(OsString::from).into_iter().chain(words);
    match cli::parse(all) {
        Ok(Cli {
            command: Command::Add(args),
        }) => Ok(*args),
        Err(Unparsed::Bad(failure)) => Err(bad(&path, &failure.message)),
        _ => Err(bad(&path, "expected options of `ublk-ramdisk add`")),
    }
}

/// Options as they are typed, from those of a file: `size = "1G"` is `--size=1G`. A list gives an option
/// several times, true gives one without a value.
fn words(text: &str) -> Result<Vec<OsString>, String> {
    let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut words = Vec::new();
    for (name, value) in table {
        let values = match value {
            Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            words.push(match value {
                Value::Boolean(true) => format!("--{name}").into(),
                Value::Boolean(false) => continue,
                Value::String(text) => format!("--{name}={text}").into(),
                Value::Integer(number) => format!("--{name}={number}").into(),
                _ => {
                    return Err(format!(
                        "{name}: expected true, a number, a text, or a list of these"
                    ))
                }
            });
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i22_a_file_has_options_as_they_are_typed() {
        let text =
            "size = \"1G\"\nqueues = 2\nread-only = true\nthp = \"off\"\nrotational = false\n\
                    rule = [\"a: read: hang\", \"b: write: hang\"]";
        let typed = [
            "--queues=2",
            "--read-only",
            "--rule=a: read: hang",
            "--rule=b: write: hang",
            "--size=1G",
            "--thp=off",
        ];
        assert_eq!(words(text), Ok(typed.map(OsString::from).into()));
        for bad in ["size", "size = 1.5", "a = { b = 1 }"] {
            words(bad).expect_err(bad);
        }
    }
}
