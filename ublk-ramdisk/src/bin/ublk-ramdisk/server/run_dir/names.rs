// SPDX-License-Identifier: MIT OR Apache-2.0
//! The names of disks (I21): in the state file of each, and in `N.name` while it is being made.

use std::fs;
use std::time::Duration;

use ublk_ramdisk::error::Failure;
use ublk_ramdisk::sys::remove;
use ublk_ramdisk::ublk::device_ids;

use super::RunDir;

/// How long other commands may take to write down a name.
const NAMES_TIMEOUT: Duration = Duration::from_secs(5);

impl RunDir {
    /// The id of the disk with this name.
    pub fn id_of(&self, name: &str) -> Option<u32> {
        let devices = device_ids();
        let ids = [self.ids_with(".name"), self.ids()].concat().into_iter();
        // What is left of a disk whose contents are gone, too, has no name.
        let is_there = |id: u32| {
            let kept = || self.state(id)?.config?.backing().file(id);
            devices.contains(&id) || self.has_server(id) || kept().is_some_and(|file| file.exists())
        };
        ids.filter(|id| self.name(*id).as_deref() == Some(name))
            .find(|id| is_there(*id))
    }

    /// The name of a disk, also of one that is being made.
    pub fn name(&self, id: u32) -> Option<String> {
        // In this order: the file goes when the state file is there.
        let begun = fs::read_to_string(self.file(id, "name")).ok();
        let begun = begun.filter(|name| !name.is_empty());
        begun.or_else(|| self.state(id)?.name().map(str::to_owned))
    }

    /// Is the disk of this program, and what is its name? A disk that another program makes anew
    /// may have the id of one of ours that waits for a server.
    pub fn name_for_udev(&self, id: u32, is_new: bool) -> Option<Option<String>> {
        let waits = || {
            self.state(id)
                .is_some_and(|state| state.served.outlives_server)
        };
        let is_ours = self.file(id, "name").exists()
            || self.has_server(id)
            || self.has_supervisor(id)
            || !is_new && waits();
        is_ours.then(|| self.name(id))
    }

    /// Checks that no other disk has the name.
    ///
    /// # Errors
    /// Status 4 if one has.
    pub fn check_name(&self, name: Option<&str>, own: Option<u32>) -> Result<(), Failure> {
        match name.and_then(|name| Some((name, self.id_of(name)?))) {
            Some((name, id)) if Some(id) != own => Err(Failure::in_use(format!(
                "--name {name}: device {id} has this name: choose another, or end that one with \
                 `ublk-ramdisk del {id}`"
            ))),
            _ => Ok(()),
        }
    }

    /// Writes down that the device is being made, and its name, which no other has.
    ///
    /// # Errors
    /// As of [`RunDir::check_name`]; status 3 if the directory cannot be used.
    pub fn begin(&self, id: u32, name: Option<&str>) -> Result<(), Failure> {
        let path = self.0.join("names");
        let lock = self.lock_within(&path, NAMES_TIMEOUT)?;
        let begun = self.check_name(name, Some(id)).and_then(|()| {
            let written = self.write(&self.file(id, "name"), name.unwrap_or_default());
            written.map_err(|error| self.unusable(&error))
        });
        let _ = remove::regular_file(&path);
        drop(lock);
        begun
    }
}
