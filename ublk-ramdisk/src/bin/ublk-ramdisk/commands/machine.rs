// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ublk devices of this machine, ours and others', as the commands see them.

use std::fs;
use std::time::{Duration, Instant};

use ublk_ramdisk::error::Failure;
use ublk_ramdisk::ublk::abi::DeviceState;
use ublk_ramdisk::ublk::ctrl::{block_path, Control};
use ublk_ramdisk::ublk::export;
use ublk_ramdisk::ublk::features::Features;
use ublk_ramdisk::ublk::openers::{flush, past_brief_use, stop_unused};

use super::output;
use crate::server::control_socket::{
    ask, ask_for_more, wait_for_end, More, REPLY_TIMEOUT, TIMEOUT,
};
use crate::server::process;
use crate::server::protocol::{Reply, Request};
use crate::server::run_dir::RunDir;

/// How often it is looked whether a server listens.
const LISTEN_POLL: Duration = Duration::from_millis(20);
/// A server that was just killed lets go of its device in a moment.
const ID_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the server of a device. None if it has no server of this program, or one that ended before
/// it replied. A refusal by the server is a failure.
pub fn ask_server(run_dir: &RunDir, id: u32, request: Request) -> Option<Result<Reply, Failure>> {
    if !run_dir.has_server(id) {
        return None;
    }
    let answer = ask(&run_dir.socket(id), request)?;
    // It ended before it replied: the driver is asked as if it had never been there.
    if answer.is_err() && !run_dir.has_server(id) {
        return None;
    }
    Some(answer)
}

/// Reads "it was done" out of an answer.
pub fn done(reply: Reply) -> Result<(), Failure> {
    match reply {
        Reply::Done => Ok(()),
        _ => Err(another_question()),
    }
}

/// A reply that does not belong to the request: the server is of another build.
pub fn another_question() -> Failure {
    Failure::runtime("the server answered another question: is it of another version?")
}

/// Asks the server of a device that must have one.
pub fn ask_of(run_dir: &RunDir, id: u32, request: Request) -> Result<Reply, Failure> {
    served(run_dir, id, || match request.may_be_repeated() {
        true => ask_server(run_dir, id, request.clone()),
        // What a server got that ended before it replied may have been done.
        false => ask(&run_dir.socket(id), request.clone()),
    })
}

/// What `ask` gets from the server of a device that must have one. If that has died, its successor is
/// waited for, [`TIMEOUT`] long.
pub fn served<T>(
    run_dir: &RunDir,
    id: u32,
    ask: impl Fn() -> Option<Result<T, Failure>>,
) -> Result<T, Failure> {
    // From the death: the former server may have been at the answer for long.
    let mut deadline = None;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        if !run_dir.has_supervisor(id) {
            return Err(unserved(id));
        }
        let now = Instant::now();
        if now >= *deadline.get_or_insert(now + TIMEOUT) {
            return Err(Failure::runtime(format!(
                "device {id} waits for a new server: see `ublk-ramdisk list`, and try again"
            )));
        }
        std::thread::sleep(LISTEN_POLL);
    }
}

/// Why a device cannot be asked. Opens the control ring only now: no ring can be made while a CPU
/// that goes offline waits for requests (C27), and what a live server does alone must work then,
/// too.
fn unserved(id: u32) -> Failure {
    match Control::open() {
        Ok(mut control) => not_served(&mut control, id),
        Err(error) => error.into(),
    }
}

/// Says why a device that must be ours cannot be spoken to.
fn not_served(control: &mut Control, id: u32) -> Failure {
    match control.device_info(id) {
        Err(error) => error.into(),
        Ok(info) if info.device_state() == DeviceState::Live => Failure::runtime(format!(
            "device {id} is not served by ublk-ramdisk but by process {}",
            info.ublksrv_pid
        )),
        Ok(info) => Failure::runtime(format!(
            "device {id} has no server, it is {}: delete it with `ublk-ramdisk del {id}`",
            info.device_state()
        )),
    }
}

/// Stops a device, of this program or another, and waits for the end of its server if that is ours.
///
/// # Errors
/// Status 4 if the disk is in use and `force` is not given.
pub fn stop(run_dir: &RunDir, id: u32, force: bool) -> Result<(), Failure> {
    // With force no server is waited for that does not answer: it may be what is to be got rid of.
    let timeout = if force { TIMEOUT } else { REPLY_TIMEOUT };
    let ask = |request| {
        match ask_beginning(run_dir, id, request, timeout)? {
            // It has ended meanwhile.
            Err(_) if !run_dir.has_server(id) => None,
            Err(failure) if !force => Some(Err(failure)),
            Err(failure) => {
                output::warn(&format!("{failure}; it is killed"));
                kill_server(run_dir, id);
                None
            }
            Ok((_, more)) => Some(Ok(more)),
        }
    };
    // Open until the end: the id and the state file are left to who has it.
    let server = ask(Request::Stop).transpose()?;
    // Before a ring is made: none can be while a CPU that goes offline waits for requests (C27).
    if force {
        ask(Request::LetGo);
    }
    // A failure to let go is one of the server, whose end STOP_DEV can wait for.
    let let_go = || drop(ask(Request::LetGo));
    stop_by_kernel(&mut Control::open()?, id, force, let_go)?;
    if force {
        end_export(id);
    }
    if let Some(server) = server {
        wait_for_end(server, TIMEOUT);
    }
    Ok(())
}

/// Asks a server, and one that begins as soon as it listens: what it still writes would be left over from
/// a deletion. None without a server, or if it does not listen within [`TIMEOUT`].
fn ask_beginning(
    run_dir: &RunDir,
    id: u32,
    request: Request,
    timeout: Duration,
) -> Option<Result<(Reply, More), Failure>> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let server = run_dir.has_server(id).then(|| run_dir.socket(id))?;
        match ask_for_more(&server, request.clone(), timeout) {
            None if Instant::now() < deadline => std::thread::sleep(LISTEN_POLL),
            answer => return answer,
        }
    }
}

/// Ends a server that does not end by itself.
pub fn kill_server(run_dir: &RunDir, id: u32) {
    let pid = run_dir.state(id).map_or(0, |state| state.served.pid as i32);
    // A number that has been given to another program since is left alone.
    if command_of(pid) == env!("CARGO_PKG_NAME") {
        process::kill(pid);
    }
}

/// Ends the export of a disk that is stopped, which the target would go on holding. Not before: it waits for
/// the requests of other hosts, which then have ended.
fn end_export(id: u32) {
    if let Err(failure) = export::unexport(id) {
        output::warn(&failure.to_string());
    }
}

/// Stops a device if need be, removes its private store and frees its id. Of one that another program has
/// deleted the rest goes.
pub fn delete(run_dir: &RunDir, id: u32, force: bool) -> Result<(), Failure> {
    let gone = run_dir.gone().contains(&id);
    if !gone {
        stop(run_dir, id, force)?;
    }
    // One whose server has died is not looked at for users.
    end_export(id);
    run_dir.remove_store(id)?;
    if !gone {
        delete_by_kernel(&mut Control::open()?, id)?;
    }
    run_dir.forget(id);
    Ok(())
}

/// Stops a device. `let_go` is called when an unused disk is going to be stopped.
///
/// # Errors
/// Status 4 if the disk is in use and `force` is not given.
pub fn stop_by_kernel(
    control: &mut Control,
    id: u32,
    force: bool,
    let_go: impl Fn(),
) -> Result<(), Failure> {
    let info = control.device_info(id)?;
    if info.device_state() == DeviceState::Dead {
        return Ok(());
    }
    if force {
        // The driver fails what it is sent while it stops a disk that could have a new server (F4).
        let is_live = info.device_state() == DeviceState::Live;
        if is_live && Features(info.flags).has(Features::USER_RECOVERY) {
            if let Err(error) = flush(id) {
                output::warn(&format!("{} is not flushed: {error}", block_path(id)));
            }
        }
        return Ok(control.stop(id)?);
    }
    // A driver that cannot be asked is one without SAFE_STOP_DEV.
    let features = control.features();
    let is_safe = features.is_ok_and(|features| features.has(Features::SAFE_STOP_DEV));
    past_brief_use(|| stop_unused(control, id, is_safe, &let_go))
}

/// Frees the id of a stopped device, of this program or another.
///
/// # Context
/// The device was just found to exist.
pub fn delete_by_kernel(control: &mut Control, id: u32) -> Result<(), Failure> {
    match control.delete_within(id, ID_TIMEOUT) {
        Ok(true) => {}
        Ok(false) => output::warn(&format!(
            "device {id} is deleted, but its id is free only when its last user closes it"
        )),
        // Its server was quicker, or the deletion goes on by itself.
        Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::EINTR)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Asked by `list`: how large is the disk now? None where there is no disk.
/// In bytes: sysfs counts sectors of 512 bytes, whatever the block size. After a resize it is newer
/// than the device's parameters.
pub fn disk_size(id: u32) -> Option<u64> {
    let sectors = fs::read_to_string(format!("/sys/class/block/ublkb{id}/size")).ok()?;
    Some(sectors.trim().parse::<u64>().ok()? << 9)
}

/// The name of a process, empty if it is gone.
pub fn command_of(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}
