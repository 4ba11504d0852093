// SPDX-License-Identifier: MIT OR Apache-2.0
//! `list`: every ublk device of this machine, of this program or another.

use serde::Serialize;
use ublk_ramdisk::config::DataPath;
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::abi::{DeviceInfo, DeviceState};
use ublk_ramdisk::ublk::ctrl::{block_path, char_path, Control, CtrlError};
use ublk_ramdisk::ublk::features::features;
use ublk_ramdisk::units::Size;

use super::{machine, output};
use crate::cli::ListArgs;
use crate::server::run_dir::RunDir;

/// One device, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    id: u32,
    path: String,
    char_path: String,
    state: String,
    size: Option<u64>,
    read_only: bool,
    queues: u16,
    depth: u16,
    io_buffer: u32,
    data_path: Option<DataPath>,
    backing: Option<String>,
    /// Kernel names of the features in force.
    flags: Vec<&'static str>,
    /// The server, while there is one.
    pid: Option<i32>,
    command: Option<String>,
    /// Was it added by this program?
    ours: bool,
}

/// Lists the devices. A device that was named and does not exist is an error; one that vanishes
/// while all are listed is not.
pub fn run(args: &ListArgs) -> Result<Exit, Failure> {
    let columns = columns(args)?;
    let mut control = Control::open()?;
    let run_dir = RunDir::of_this_machine()?;
    let all = args.ids.is_empty();
    let ids = if all {
        machine::ids()
    } else {
        args.ids.clone()
    };
    let mut rows = Vec::new();
    for id in ids {
        match look(&mut control, &run_dir, id) {
            Ok(row) => rows.push(row),
            Err(error) if all && error.errno() == Some(libc::ENODEV) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if args.json {
        output::print_json(&rows)?;
    } else if !rows.is_empty() {
        output::print(&as_text(&rows, &columns))?;
    }
    Ok(Exit::Done)
}

fn look(control: &mut Control, run_dir: &RunDir, id: u32) -> Result<Row, CtrlError> {
    let info = control.device_info(id)?;
    // A device that was never given parameters has none to show.
    let params = control.params(id).unwrap_or_default();
    let live_server = run_dir.has_server(id);
    let state = run_dir
        .state(id)
        .filter(|state| live_server || is_remains(&info, state.pid));
    let pid = server(&info);
    Ok(Row {
        id,
        path: block_path(id),
        char_path: char_path(id),
        state: info.device_state().to_string(),
        size: machine::disk_size(id).or(params.size()),
        read_only: params.read_only(),
        queues: info.nr_hw_queues,
        depth: info.queue_depth,
        io_buffer: info.max_io_buf_bytes,
        data_path: state.as_ref().map(|state| state.data_path),
        backing: state.as_ref().map(|state| state.backing.clone()),
        flags: flag_names(info.flags),
        pid,
        command: pid.map(machine::command_of),
        ours: state.is_some(),
    })
}

/// Is a state file without a server about this device, rather than about an earlier one of the
/// same id?
fn is_remains(info: &DeviceInfo, pid: u32) -> bool {
    info.device_state() != DeviceState::Live
        && (info.ublksrv_pid <= 0 || u32::try_from(info.ublksrv_pid) == Ok(pid))
}

fn server(info: &DeviceInfo) -> Option<i32> {
    (info.ublksrv_pid > 0 && info.device_state() == DeviceState::Live).then_some(info.ublksrv_pid)
}

fn flag_names(flags: u64) -> Vec<&'static str> {
    features()
        .filter(|feature| flags >> feature.bit & 1 == 1)
        .map(|feature| feature.name)
        .collect()
}

/// A column of the table: its name, if it is shown without being asked for, and what it says.
type Column = (&'static str, bool, fn(&Row) -> Option<String>);

const COLUMNS: [Column; 12] = [
    ("DISK", true, |row| Some(row.path.clone())),
    ("STATE", true, |row| Some(row.state.clone())),
    ("SIZE", true, |row| {
        row.size.map(|size| Size(size).to_string())
    }),
    ("QUEUES", true, |row| Some(row.queues.to_string())),
    ("DEPTH", true, |row| Some(row.depth.to_string())),
    ("DATA-PATH", true, |row| {
        row.data_path.map(|path| path.to_string())
    }),
    ("PID", true, |row| row.pid.map(|pid| pid.to_string())),
    ("BACKING", true, |row| row.backing.clone()),
    ("SERVER", false, server_name),
    ("READ-ONLY", false, |row| {
        Some(if row.read_only { "yes" } else { "no" }.to_owned())
    }),
    ("IO-BUFFER", false, |row| {
        Some(Size(row.io_buffer.into()).to_string())
    }),
    ("FLAGS", false, |row| Some(row.flags.join(","))),
];

fn server_name(row: &Row) -> Option<String> {
    match (&row.command, row.ours) {
        (Some(command), _) => Some(command.clone()),
        (None, true) => Some("ublk-ramdisk (ended)".to_owned()),
        (None, false) => None,
    }
}

/// The columns that are named, in that order, or the usual ones, or all.
fn columns(args: &ListArgs) -> Result<Vec<Column>, Failure> {
    if args.columns.is_empty() {
        let shown = COLUMNS
            .into_iter()
            .filter(|(_, usual, _)| args.all || *usual);
        return Ok(shown.collect());
    }
    let find = |name: &String| {
        let mut columns = COLUMNS.into_iter();
        let found = columns.find(|(column, ..)| column.eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            Failure::usage(format!(
                "-o {name}: there is no such column; give some of {}",
                COLUMNS.map(|(column, ..)| column).join(",")
            ))
        })
    };
    args.columns.iter().map(find).collect()
}

fn as_text(rows: &[Row], columns: &[Column]) -> String {
    let titles = columns
        .iter()
        .map(|(name, ..)| (*name).to_owned())
        .collect();
    let cells = rows.iter().map(|row| {
        let of = |(_, _, of): &Column| of(row).unwrap_or_else(|| "-".to_owned());
        columns.iter().map(of).collect()
    });
    output::table(&[titles].into_iter().chain(cells).collect::<Vec<_>>())
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
            flags: vec!["USER_COPY", "UPDATE_SIZE"],
            pid: Some(4_194_304),
            command: Some("ublk-ramdisk".to_owned()),
            ours: true,
        };
        let args = |all, columns: &[&str]| ListArgs {
            ids: Vec::new(),
            json: false,
            all,
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        };
        let text = |args: &ListArgs| {
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

    #[test]
    fn a_state_file_of_an_earlier_device_is_not_shown() {
        let mut info = DeviceInfo::default();
        info.ublksrv_pid = 7;
        assert!(is_remains(&info, 7));
        assert!(!is_remains(&info, 8));
        info.ublksrv_pid = -1;
        assert!(is_remains(&info, 8));
        info.state = 1;
        assert!(!is_remains(&info, 8));
    }
}
