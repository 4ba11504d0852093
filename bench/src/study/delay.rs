// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study b on the device: a write that waits for memory.

use super::device::act::{Counted, Fio, Guest};
use super::settings::StudyError;
use super::table::Block;
use std::thread;
use std::time::Duration;

/// Makes that experiment; the others are in the table.
pub fn act(guest: &Guest, _blocks: &[Block]) -> Result<(), StudyError> {
    guest.experiment("memory", || {
        let disk = guest.disk("--size 16M --memory-limit 4M --no-space-timeout 60")?;
        // Fills the store to the last page, and not one write beyond. After a write that fails all others fail at
        // once, and the last pages would stay free.
        let fill = |options: String| {
            Fio::start(&disk.path, &format!("--name=fill --rw=write {options}"))?.end()
        };
        fill("--bs=64k --size=3840k".into())?;
        let space = disk.stats()?["space"].clone();
        let bytes = |name: &str| space[name].as_u64().unwrap_or(0);
        let left = bytes("limit").saturating_sub(bytes("used")) / 4096;
        fill(format!("--bs=4k --offset=4m --size={}k", 4 * left))?;
        let counted = Counted::new("memory", &disk)?;
        let write = "--name=b --rw=write --offset=8m --size=4k --number_ios=1";
        let mut fio = Fio::start(&disk.path, write)?;
        // Waits for the state and not for a time: while fio is loaded, a guest's clock may leap.
        fio.until("its write waited for memory", || {
            let space = &disk.stats()?["space"];
            Ok(space["mode"] == "exhausted" && space["parked"].as_u64() > Some(0))
        })?;
        // Long enough to tell the wait from the few milliseconds of a refusal that is repeated.
        thread::sleep(Duration::from_secs(2));
        disk.set("--memory-limit off")?;
        counted.with(&fio.end()?)
    })
}
