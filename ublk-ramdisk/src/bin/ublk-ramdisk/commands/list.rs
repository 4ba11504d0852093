// SPDX-License-Identifier: MIT OR Apache-2.0
//! `list`: every ublk device of this machine, of this program or another.

use std::path::PathBuf;

use serde::Serialize;
use ublk_ramdisk::config::DataPath;
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::abi::{DeviceInfo, DeviceState};
use ublk_ramdisk::ublk::ctrl::{block_path, char_path, Control, CtrlError};
use ublk_ramdisk::ublk::device_ids;
use ublk_ramdisk::ublk::export;
use ublk_ramdisk::ublk::features::features;
use ublk_ramdisk::units::Size;

use super::{machine, output};
use crate::cli::{ListArgs, TableArgs};
use crate::server::run_dir::RunDir;

/// The state of a device that another program has deleted, and whose contents are there.
const GONE: &str = "GONE";

/// One device, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    id: u32,
    name: Option<String>,
    path: String,
    char_path: String,
    state: String,
    /// In bytes; of the disk if there is one, else as the parameters say.
    size: Option<u64>,
    read_only: bool,
    queues: u16,
    depth: u16,
    io_buffer: u32,
    data_path: Option<DataPath>,
    /// Only a state file knows it, as the data path.
    backing: Option<String>,
    /// The image that it began with.
    base: Option<PathBuf>,
    /// The contents are still there when the server has died.
    outlives_server: Option<bool>,
    /// Kernel names of the features in force.
    flags: Vec<&'static str>,
    /// The server, while there is one.
    pid: Option<i32>,
    command: Option<String>,
    /// Was it added by this program?
    ours: bool,
    /// Version of the program that serves it, or has served it last.
    program: Option<String>,
    /// Servers that have taken the disk up after the death of another.
    restarts: Option<u32>,
    /// How the last of those that died ended.
    last_end: Option<String>,
    /// How long clients waited because of it, in milliseconds.
    waited_ms: Option<u64>,
    /// When the last server died, if clients wait for another.
    waits_since: Option<String>,
    /// How other hosts reach it.
    exported: Option<String>,
    /// It is without power, after a power cut.
    off: Option<bool>,
}

impl Row {
    /// A line for a disk that waits for a server, or for a command that says what becomes of its contents.
    fn note(&self) -> Option<String> {
        let Row {
            id, path, state, ..
        } = self;
        if state == GONE {
            return Some(format!(
                "{path} is gone, its contents are kept: `ublk-ramdisk recover {id}` makes it again, \
                 `ublk-ramdisk del {id}` removes them\n"
            ));
        }
        if self.off == Some(true) {
            return Some(format!(
                "{path} is off: `ublk-ramdisk power-cut {id} --on` switches it on\n"
            ));
        }
        let since = self.waits_since.as_ref();
        let since = since.map_or_else(String::new, |since| format!(" since {since}"));
        let waits = *state == DeviceState::Quiesced.to_string();
        waits.then(|| format!("{path} waits for a server{since}\n"))
    }
}

/// Lists the devices. A device that was named and does not exist is an error; one that vanishes
/// while all are listed is not.
pub fn run(args: &ListArgs) -> Result<Exit, Failure> {
    let mut columns = columns(&args.table)?;
    let mut control = Control::open()?;
    let run_dir = RunDir::of_this_machine()?;
    let all = args.ids.is_empty();
    let ids = match all {
        true => [device_ids(), run_dir.kept()].concat(),
        false => args.ids.clone(),
    };
    let mut rows = Vec::new();
    for id in ids {
        match look(&mut control, &run_dir, id) {
            Ok(row) => rows.push(row),
            Err(error) if all && error.errno() == Some(libc::ENODEV) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let usual = !args.table.all && args.table.columns.is_empty();
    if usual && rows.iter().any(|row| row.name.is_some()) {
        columns.insert(1, &NAME);
    }
    if usual && rows.iter().any(|row| row.exported.is_some()) {
        columns.push(&EXPORTED);
    }
    output::show(args.table.json, &rows, |rows| match rows[..] {
        [] => String::new(),
        _ => as_text(rows, &columns) + &rows.iter().filter_map(Row::note).collect::<String>(),
    })
}

/// One row, from the driver, sysfs and the state file.
fn look(control: &mut Control, run_dir: &RunDir, id: u32) -> Result<Row, CtrlError> {
    let found = control.device_info(id);
    let gone = found.is_err() && run_dir.kept().contains(&id);
    let info = found.or_else(|error| gone.then(DeviceInfo::default).ok_or(error))?;
    // A device that was never given parameters has none to show.
    let params = control.params(id).unwrap_or_default();
    let live_server = run_dir.has_server(id);
    let state = run_dir
        .state(id)
        // A state file may be left over from a killed server whose id another program has taken.
        .filter(|state| gone || live_server || state.served.is_remains_of(&info));
    let pid = server(&info);
    Ok(Row {
        id,
        name: state
            .as_ref()
            .and_then(|state| state.name().map(str::to_owned)),
        path: block_path(id),
        char_path: char_path(id),
        state: match gone {
            true => GONE.to_owned(),
            false => info.device_state().to_string(),
        },
        size: machine::disk_size(id)
            .or(params.size())
            .or(state.as_ref().map(|state| state.served.size)),
        read_only: params.read_only(),
        queues: info.nr_hw_queues,
        depth: info.queue_depth,
        io_buffer: info.max_io_buf_bytes,
        data_path: state.as_ref().map(|state| state.served.data_path),
        backing: state.as_ref().map(|state| state.served.backing.clone()),
        base: state
            .as_ref()
            .and_then(|state| Some(state.config.as_ref()?.base.as_ref()?.path.clone())),
        outlives_server: state.as_ref().map(|state| state.served.outlives_server),
        flags: flag_names(info.flags),
        pid,
        command: pid.map(machine::command_of),
        ours: state.is_some(),
        program: state.as_ref().map(|state| state.program.clone()),
        restarts: state.as_ref().map(|state| state.restarts),
        last_end: state.as_ref().and_then(|state| state.last_end.clone()),
        waited_ms: state.as_ref().and_then(|state| state.waited_ms),
        exported: export::of(id)
            .map(|export| format!("{} at {}", export.nqn, export.listens.join(","))),
        off: state.as_ref().map(|state| state.off),
        waits_since: state.and_then(|state| state.waits_since),
    })
}

/// The process that serves, of a LIVE disk. Of another one the number may be that of a former server.
fn server(info: &DeviceInfo) -> Option<i32> {
    (info.ublksrv_pid > 0 && info.device_state() == DeviceState::Live).then_some(info.ublksrv_pid)
}

fn flag_names(flags: u64) -> Vec<&'static str> {
    features()
        .filter(|feature| flags >> feature.bit & 1 == 1)
        .map(|feature| feature.name)
        .collect()
}

type Column = output::Column<Row>;

const fn column(name: &'static str, usual: bool, cell: fn(&Row) -> Option<String>) -> Column {
    Column { name, usual, cell }
}

/// Shown without being named, too, when there are names.
const NAME: Column = column("NAME", false, |row| row.name.clone());

/// Likewise.
const EXPORTED: Column = column("EXPORTED", false, |row| row.exported.clone());

const COLUMNS: [Column; 19] = [
    column("DISK", true, |row| Some(row.path.clone())),
    NAME,
    column("STATE", true, |row| Some(row.state.clone())),
    column("SIZE", true, |row| row.size.map(size)),
    column("QUEUES", true, |row| Some(row.queues.to_string())),
    column("DEPTH", true, |row| Some(row.depth.to_string())),
    column("DATA-PATH", true, |row| text(row.data_path)),
    column("PID", true, |row| text(row.pid)),
    column("BACKING", true, |row| row.backing.clone()),
    column("OUTLIVES-SERVER", false, |r| {
        r.outlives_server.map(yes_or_no)
    }),
    column("SERVER", false, server_name),
    column("PROGRAM", false, |row| row.program.clone()),
    column("READ-ONLY", false, |row| Some(yes_or_no(row.read_only))),
    column("IO-BUFFER", false, |row| Some(size(row.io_buffer.into()))),
    column("FLAGS", false, |row| Some(row.flags.join(","))),
    column("RESTARTS", false, |row| text(row.restarts)),
    column("LAST-END", false, |row| row.last_end.clone()),
    column("WAITED-MS", false, |row| text(row.waited_ms)),
    EXPORTED,
];

fn text(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn yes_or_no(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn size(bytes: u64) -> String {
    Size(bytes).to_string()
}

fn server_name(row: &Row) -> Option<String> {
    match (&row.command, row.ours) {
        (Some(command), _) => Some(command.clone()),
        (None, true) => Some("ublk-ramdisk (ended)".to_owned()),
        (None, false) => None,
    }
}

/// The columns that are named, in that order, or the usual ones, or all.
fn columns(args: &TableArgs) -> Result<Vec<&'static Column>, Failure> {
    const ALL: &[Column] = &COLUMNS;
    let all: Vec<_> = ALL.iter().collect();
    if !args.columns.is_empty() {
        return output::named_columns(&all, &args.columns);
    }
    let is_shown = |column: &&Column| args.all || column.usual;
    Ok(all.into_iter().filter(is_shown).collect())
}

fn as_text(rows: &[Row], columns: &[&Column]) -> String {
    let titles = columns.iter().map(|column| column.name.to_owned());
    let mut cells = vec![titles.collect()];
    cells.extend(rows.iter().map(|row| {
        let cell = |column: &&Column| (column.cell)(row).unwrap_or_else(|| "-".to_owned());
        columns.iter().map(cell).collect()
    }));
    output::table(&cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named_by_bit() {
        assert_eq!(flag_names(0), Vec::<&str>::new());
        assert_eq!(flag_names(1 << 2 | 1 << 15), ["NEED_GET_DATA", "BATCH_IO"]);
    }

    #[test]
    fn l1_a_list_fits_80_columns() {
        let row = Row {
            id: 1_048_575,
            name: None,
            path: block_path(1_048_575),
            char_path: char_path(1_048_575),
            state: "LIVE".to_owned(),
            size: Some(1536 << 20),
            read_only: false,
            queues: 4096,
            depth: 4096,
            io_buffer: 512 << 10,
            data_path: Some(DataPath::UserCopy),
            backing: Some("hugetlb".to_owned()),
            base: None,
            outlives_server: Some(false),
            flags: vec!["USER_COPY", "UPDATE_SIZE"],
            pid: Some(4_194_304),
            command: Some("ublk-ramdisk".to_owned()),
            ours: true,
            program: Some("10.10.10".to_owned()),
            restarts: Some(1),
            last_end: Some("SIGKILL".to_owned()),
            waited_ms: Some(1000),
            waits_since: None,
            off: Some(false),
            exported: None,
        };
        let args = |all, columns: &[&str]| TableArgs {
            json: false,
            all,
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        };
        let text = |args: &TableArgs| {
            let columns = columns(args).expect("known");
            as_text(std::slice::from_ref(&row), &columns)
        };
        let usual = text(&args(false, &[]));
        assert!(usual.lines().all(|line| line.len() <= 80), "{usual}");
        assert!(text(&args(true, &[])).contains("USER_COPY,UPDATE_SIZE"));
        assert_eq!(
            text(&args(false, &["size", "PID"])),
            " SIZE      PID\n1536M  4194304\n"
        );
        assert!(columns(&args(false, &["dance"])).is_err());
    }
}
