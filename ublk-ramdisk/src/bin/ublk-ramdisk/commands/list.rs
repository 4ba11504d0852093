// SPDX-License-Identifier: MIT OR Apache-2.0
//! `list`: every ublk device of this machine, whoever serves it.

use serde::Serialize;
use ublk_ramdisk::config::DataPath;
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::abi::{DeviceInfo, DeviceState};
use ublk_ramdisk::ublk::ctrl::{block_path, char_path, Control, CtrlError};
use ublk_ramdisk::ublk::features::FEATURES;

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
    let mut control = Control::open()?;
    let run_dir = RunDir::of_this_machine();
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
        output::print(&as_text(&rows))?;
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
    FEATURES
        .iter()
        .filter(|feature| flags >> feature.bit & 1 == 1)
        .map(|feature| feature.name)
        .collect()
}

fn as_text(rows: &[Row]) -> String {
    let titles = [
        "DISK",
        "STATE",
        "SIZE",
        "QUEUES",
        "DEPTH",
        "DATA-PATH",
        "BACKING",
        "PID",
        "SERVER",
    ];
    let mut cells = vec![titles.map(str::to_owned).to_vec()];
    let none = || "-".to_owned();
    cells.extend(rows.iter().map(|row| {
        vec![
            row.path.clone(),
            row.state.clone(),
            row.size.map_or_else(none, output::human_size),
            row.queues.to_string(),
            row.depth.to_string(),
            row.data_path.map_or_else(none, |path| path.to_string()),
            row.backing.clone().unwrap_or_else(none),
            row.pid.map_or_else(none, |pid| pid.to_string()),
            match (&row.command, row.ours) {
                (Some(command), _) => command.clone(),
                (None, true) => "ublk-ramdisk (ended)".to_owned(),
                (None, false) => none(),
            },
        ]
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
