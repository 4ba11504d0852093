// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pressure on a disk of ours. It begins after the fill, which is no measurement and would only
//! take longer.
//!
//! What the sources need beside the disk:
//!
//! - `memory`: use is below the limit before the first job. Beside each job that writes, a trickle
//!   of discards frees the pages that waiting writes then get.
//! - `psi`: a few pages are discarded before each job that writes, so that some writes need memory.
//!   Beside each job a process in a control group of its own is held up for lack of memory.

use super::disks::Disk;
use super::load::FioJobs;
use super::note;
use crate::files::write;
use crate::kernel::{Group, CGROUPS};
use crate::process::{apart, run, Server};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Makes the group in which memory can be made short.
fn short_of_memory() -> Result<Group, String> {
    let controllers = Path::new(CGROUPS).join("cgroup.subtree_control");
    let controllers = fs::read_to_string(controllers).unwrap_or_default();
    if !controllers.contains("memory") {
        return Err(format!(
            "no cgroup2 with memory at {CGROUPS}, to make memory short in"
        ));
    }
    Ok(Group::new(&format!("bench-device-{}", std::process::id()))?)
}

/// Puts a disk under pressure. `free` is the number of bytes that are discarded afterwards. `group`
/// is made for the first disk that needs it, and is shared. Fails with what the disk or the machine
/// refuses; the contender is then absent.
pub fn press(
    ours: &Path,
    disk: &Disk,
    kind: &str,
    options: &[String],
    free: u64,
    group: &mut Option<Group>,
) -> Result<(), String> {
    if kind == "psi" {
        if group.is_none() {
            *group = Some(short_of_memory()?);
        }
        // A trigger that listens to the group of the server has the server in it.
        if let (Some(group), true) = (
            &group,
            options.iter().any(|o| o.starts_with("--psi=cgroup:")),
        ) {
            let listed = run(apart(ours).args(["list", "--json"]).arg(&disk.node))?;
            let listed: serde_json::Value =
                serde_json::from_str(&listed).map_err(|e| e.to_string())?;
            let pid = listed[0]["pid"].as_u64().ok_or("list names no pid")?;
            group.take(pid)?;
        }
    }
    let set = run(apart(ours).arg("set").arg(&disk.node).args(options));
    set.map_err(|why| format!("set {}: {why}", options.join(" ")))?;
    if free > 0 {
        let discarded = run(apart("blkdiscard")
            .args(["--length", &free.to_string()])
            .arg(&disk.node));
        discarded.map_err(|why| format!("blkdiscard: {why}"))?;
    }
    Ok(())
}

/// What goes on beside a job, until it is dropped.
#[derive(Default)]
pub struct SideLoad {
    discards: Option<Server>,
    hog: Option<(Server, PathBuf)>,
}

impl SideLoad {
    /// What `memory` needs: a trickle of discards that frees pages for the writes that wait. Fails
    /// if fio cannot be started.
    pub fn discards(disk: &Disk, jobs: &FioJobs) -> Result<Self, String> {
        let mut fio = jobs.fio("bench-discards.fio", disk);
        fio.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self {
            discards: Some(Server::start(&mut fio)?),
            hog: None,
        })
    }

    /// What `psi` needs, before a job that writes or one that does not. Waits for up to a minute
    /// until the server itself says that memory is short, because the kernel's average takes its
    /// time. If it never does, the job is measured all the same, and the report names the disk as
    /// not pressed.
    pub fn short(
        ours: &Path,
        disk: &Disk,
        jobs: &FioJobs,
        group: &Group,
        writes: bool,
    ) -> Result<Self, String> {
        if writes {
            let _as_it_is = run(&mut jobs.fio("bench-holes.fio", disk));
        }
        let current = fs::read_to_string(group.0.join("memory.current")).unwrap_or_default();
        let current: u64 = current.trim().parse().unwrap_or(0);
        // Above `memory.high` the kernel slows a process down, but does not kill it as above `memory.max`.
        let high = group.0.join("memory.high");
        write(&high, &(current + (4 << 20)).to_string())?;
        // Wants far more than the group may use without being held up.
        // The shell moves itself into the group before it becomes dd, so all of dd's memory is counted there.
        let script = "echo $$ >\"$0/cgroup.procs\" && exec dd if=/dev/zero of=/dev/null bs=256M";
        let mut hog = apart("sh");
        hog.args(["-c", script]).arg(&group.0);
        let mut hog = Server::start(hog.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let until = Instant::now() + Duration::from_secs(60);
        let short = hog.until(|| {
            let stats =
                run(apart(ours).args(["stats", "--json"]).arg(&disk.node)).unwrap_or_default();
            let stats = stats.replace(' ', "");
            let is_short = stats.contains("\"under_pressure\":true");
            (is_short || Instant::now() > until).then_some(is_short)
        });
        if short != Some(true) {
            note(&format!(
                "memory could not be made short on {}",
                disk.node.display()
            ));
        }
        Ok(Self {
            discards: None,
            hog: Some((hog, high)),
        })
    }
}

impl Drop for SideLoad {
    fn drop(&mut self) {
        drop(self.discards.take());
        if let Some((hog, high)) = self.hog.take() {
            // Nor is it held up any more, so that it can end.
            let _free = write(&high, "max");
            drop(hog);
        }
    }
}
