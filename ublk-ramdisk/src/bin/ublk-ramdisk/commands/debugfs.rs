// SPDX-License-Identifier: MIT OR Apache-2.0
//! `debugfs`: the state of a disk's queues under the names of the kernel's debugfs, and what can be
//! written there.

use std::collections::BTreeMap;

use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::mq::debugfs::DebugfsFile;

use super::{machine, output};
use crate::cli::DebugfsArgs;
use crate::parse::DebugfsPath;
use crate::server::protocol::{Reply, Request};
use crate::server::run_dir::RunDir;

/// Prints the files, or where they have been written.
pub fn run(args: &DebugfsArgs) -> Result<Exit, Failure> {
    let run_dir = RunDir::of_this_machine()?;
    let wanted = match &args.path {
        Some(DebugfsPath::State(verb)) => {
            let request = Request::WriteState { verb: *verb };
            machine::done(machine::ask_of(&run_dir, args.id, request)?)?;
            return Ok(Exit::Done);
        }
        Some(DebugfsPath::Shown(path)) => Some(path.as_str()),
        None => None,
    };
    let request = Request::Debugfs { files: args.files };
    let reply = machine::ask_of(&run_dir, args.id, request)?;
    let files = match reply {
        Reply::Debugfs(files) => files,
        Reply::Written(place) => {
            output::print(&format!("{place}\n"))?;
            return Ok(Exit::Done);
        }
        _ => return Err(machine::another_question()),
    };
    let files: Vec<_> = files
        .into_iter()
        .filter(|file| wanted.is_none_or(|wanted| is_below(&file.path, wanted)))
        .collect();
    if files.is_empty() {
        return Err(Failure::usage(format!(
            "there is no file {:?}; `ublk-ramdisk debugfs {}` shows all of them",
            wanted.unwrap_or_default(),
            args.id
        )));
    }
    if args.json {
        let tree: BTreeMap<_, _> = files.iter().map(|file| (&file.path, &file.text)).collect();
        output::print_json(&tree)?;
    } else {
        output::print(&as_text(&files, wanted))?;
    }
    Ok(Exit::Done)
}

/// True for the file itself and for all in a directory of that name.
fn is_below(path: &str, wanted: &str) -> bool {
    let rest = path.strip_prefix(wanted);
    wanted.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Each line with the file it is from, as `grep -r . DIR` prints them; a file that was asked for by
/// its name as `cat` does.
fn as_text(files: &[DebugfsFile], wanted: Option<&str>) -> String {
    let mut text = String::new();
    for file in files {
        if wanted == Some(&file.path) {
            return file.text.clone();
        }
        // An empty file is shown too: that there is nothing says something.
        let lines = if file.text.is_empty() {
            "\n"
        } else {
            &file.text
        };
        for line in lines.lines() {
            text += format!("{}: {line}", file.path).trim_end();
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k02_files_are_found_by_their_names_and_directories() {
        assert!(is_below("hctx0/state", "hctx0/state"));
        assert!(is_below("hctx0/ctx0/default_rq_list", "hctx0"));
        assert!(!is_below("hctx10/state", "hctx1"));
        assert!(is_below("state", ""));
        let file = |path: &str, text: &str| DebugfsFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let files = [file("state", "\n"), file("hctx0/tags", "a=1\nb=2\n")];
        let all = "state:\nhctx0/tags: a=1\nhctx0/tags: b=2\n";
        assert_eq!(as_text(&files, None), all);
        assert_eq!(as_text(&files[1..], Some("hctx0/tags")), "a=1\nb=2\n");
    }
}
