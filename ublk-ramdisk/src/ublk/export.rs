// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk for other hosts: the kernel's NVMe target over TCP, told through configfs.
//!
//! All there is to know of an export is in configfs, so nothing else keeps it: it outlives servers
//! and their programs, and goes with `unexport`, with the deletion of the disk, or with a reboot. The target opens the
//! block device without holding it; [`exported_as`] is how the rest of the program finds that out.
//!
//! | made in `/sys/kernel/config/nvmet` | for |
//! |---|---|
//! | `subsystems/NQN` with `namespaces/1` | the disk |
//! | `hosts/NQN`, linked from `allowed_hosts` | each host that may connect |
//! | `ports/N`, which links the subsystem | where it listens; subsystems of one address share a port |

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ctrl::block_path;
use crate::error::Failure;

const CONFIGFS: &str = "/sys/kernel/config";
const TARGET: &str = "/sys/kernel/config/nvmet";
/// How the names of our subsystems begin. No other program's subsystem is changed.
const PREFIX: &str = "nqn.2026-11.ublk-ramdisk:";
/// The ports that are ours, and go with their last subsystem.
const OUR_PORTS: RangeInclusive<u16> = 61_000..=61_999;
/// The longest name of a subsystem or host that NVMe has room for.
const NQN_LEN: usize = 223;

/// A disk that other hosts can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The name of its subsystem.
    pub nqn: String,
    /// Where it listens, as `ADDRESS:PORT`.
    pub listens: Vec<String>,
}

/// Who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Any host that reaches the address.
    Any,
    /// Those with these names.
    Named(Vec<String>),
}

/// Reads the name of a host, as it stands in its /etc/nvme/hostnqn.
pub fn host_nqn(text: &str) -> Result<String, String> {
    let fits = text.len() <= NQN_LEN && text.starts_with("nqn.");
    match fits && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
        true => Ok(text.to_owned()),
        false => Err("expected the other host's NQN, as in its /etc/nvme/hostnqn".to_owned()),
    }
}

/// Subsystems that have one of the block devices that `is_it` knows, by their names.
pub fn exported_as(is_it: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut names: Vec<_> = children(&Path::new(TARGET).join("subsystems"))
        .filter(|subsystem| {
            children(&subsystem.join("namespaces"))
                .any(|space| is_it(Path::new(&text(&space.join("device_path")))))
        })
        .map(|subsystem| name_of(&subsystem))
        .collect();
    names.sort();
    names
}

/// What `export` made of a disk.
pub fn of(id: u32) -> Option<Export> {
    let disk = PathBuf::from(block_path(id));
    let ours = |nqn: &String| nqn.starts_with(PREFIX);
    let nqn = exported_as(|path| path == disk).into_iter().find(ours)?;
    let ports = children(&Path::new(TARGET).join("ports"));
    let listens = ports
        .filter(|port| port.join("subsystems").join(&nqn).exists())
        .map(|port| address(&port))
        .collect();
    Some(Export { nqn, listens })
}

/// Exports a disk. `name` tells it from others of this host.
///
/// # Errors
/// Status 3 without the kernel's target, 4 if the disk is exported already. Nothing is left then.
pub fn export(id: u32, name: &str, listen: SocketAddr, hosts: &Hosts) -> Result<Export, Failure> {
    let disk = block_path(id);
    if !Path::new(&disk).exists() {
        return Err(Failure::runtime(format!("there is no {disk}")));
    }
    if let Some(export) = of(id) {
        return Err(Failure::in_use(format!(
            "{disk} is exported already, as {}: `ublk-ramdisk unexport {id}` ends that",
            export.nqn
        )));
    }
    let target = load_target()?;
    let host = text(Path::new("/proc/sys/kernel/hostname"));
    let mut nqn = format!("{PREFIX}{host}:{name}");
    nqn.truncate(NQN_LEN);
    let failed = |what: &str, error: io::Error| match error.kind() {
        ErrorKind::PermissionDenied => {
            Failure::environment(format!("{what}: {error}; run as root"))
        }
        _ => Failure::runtime(format!("{disk} is not exported: {what}: {error}")),
    };
    let mut made = Made::default();
    // Left over from an export that was cut short, or from a former disk of this name.
    if is_left_over(&target.join("subsystems").join(&nqn)) {
        remove(&target, &nqn).map_err(|e| failed(&nqn, e))?;
    }
    let subsystem = made
        .folder(target.join("subsystems").join(&nqn))
        .map_err(|e| failed("the subsystem", e))?;
    let set = |path: PathBuf, value: &str| {
        fs::write(&path, value).map_err(|e| failed(&path.display().to_string(), e))
    };
    let any = if *hosts == Hosts::Any { "1" } else { "0" };
    set(subsystem.join("attr_allow_any_host"), any)?;
    // Absent on kernels before 5.11, where the model is that of the target.
    let _ = fs::write(subsystem.join("attr_model"), "ublk-ramdisk");
    let space = made
        .folder(subsystem.join("namespaces/1"))
        .map_err(|e| failed("the namespace", e))?;
    set(space.join("device_path"), &disk)?;
    set(space.join("enable"), "1")?;
    if let Hosts::Named(hosts) = hosts {
        for host in hosts {
            let entry = target.join("hosts").join(host);
            if !entry.exists() {
                made.folder(entry.clone())
                    .map_err(|e| failed(&format!("--host {host}"), e))?;
            }
            made.link(&entry, subsystem.join("allowed_hosts").join(host))
                .map_err(|e| failed(&format!("--host {host}"), e))?;
        }
    }
    let port = port_at(&target, listen, &mut made)
        .and_then(|port| made.link(&subsystem, port.join("subsystems").join(&nqn)));
    port.map_err(|e| failed(&format!("--listen {listen}"), e))?;
    made.keep();
    let listens = vec![listen.to_string()];
    Ok(Export { nqn, listens })
}

/// Ends what [`export`] has made of a disk; its hosts are disconnected. False if there was nothing.
pub fn unexport(id: u32) -> Result<bool, Failure> {
    let Some(export) = of(id) else {
        return Ok(false);
    };
    let left = |error: io::Error| {
        Failure::runtime(format!("{} is not taken away whole: {error}", export.nqn))
    };
    remove(Path::new(TARGET), &export.nqn).map_err(left)?;
    Ok(true)
}

/// Has the hosts of a disk see its present size.
pub fn follow_size(id: u32) {
    let disk = PathBuf::from(block_path(id));
    for nqn in exported_as(|path| path == disk) {
        let spaces = Path::new(TARGET)
            .join("subsystems")
            .join(nqn)
            .join("namespaces");
        for space in children(&spaces) {
            // Where it is missing, the target looks by itself when a host connects.
            let _ = fs::write(space.join("revalidate_size"), "1");
        }
    }
}

/// Is a subsystem there that has no disk in force?
fn is_left_over(subsystem: &Path) -> bool {
    let is_in_force = |space: PathBuf| {
        text(&space.join("enable")) == "1" && Path::new(&text(&space.join("device_path"))).exists()
    };
    subsystem.exists() && !children(&subsystem.join("namespaces")).any(is_in_force)
}

/// Loads the kernel's target if need be.
fn load_target() -> Result<PathBuf, Failure> {
    let target = PathBuf::from(TARGET);
    let has_tcp = || Path::new("/sys/module/nvmet_tcp").exists();
    if !target.exists() || !has_tcp() {
        // If it fails, what is missing is told below.
        let _ = Command::new("modprobe")
            .args(["-q", "-a", "configfs", "nvmet-tcp"])
            .output();
        if !target.exists() {
            let none: Option<&str> = None;
            let flags = nix::mount::MsFlags::empty();
            let _ = nix::mount::mount(Some("configfs"), CONFIGFS, Some("configfs"), flags, none);
        }
    }
    match target.exists() && has_tcp() {
        true => Ok(target),
        false => Err(Failure::environment(
            "there is no NVMe target over TCP in this kernel: run `modprobe nvmet-tcp` as root, and \
             see that configfs is mounted at /sys/kernel/config",
        )),
    }
}

/// The port that listens at an address; makes one if there is none.
fn port_at(target: &Path, listen: SocketAddr, made: &mut Made) -> io::Result<PathBuf> {
    let ports = target.join("ports");
    if let Some(port) = children(&ports).find(|port| address(port) == listen.to_string()) {
        return Ok(port);
    }
    let number = OUR_PORTS
        .into_iter()
        .find(|n| !ports.join(n.to_string()).exists());
    let number = number.ok_or(ErrorKind::AddrInUse)?;
    let port = made.folder(ports.join(number.to_string()))?;
    let family = if listen.is_ipv4() { "ipv4" } else { "ipv6" };
    fs::write(port.join("addr_trtype"), "tcp")?;
    fs::write(port.join("addr_adrfam"), family)?;
    fs::write(port.join("addr_traddr"), listen.ip().to_string())?;
    fs::write(port.join("addr_trsvcid"), listen.port().to_string())?;
    Ok(port)
}

/// Where a port listens.
fn address(port: &Path) -> String {
    let [kind, host, service] =
        ["addr_trtype", "addr_traddr", "addr_trsvcid"].map(|name| text(&port.join(name)));
    match kind.as_str() {
        "tcp" if host.contains(':') => format!("[{host}]:{service}"),
        "tcp" => format!("{host}:{service}"),
        _ => kind,
    }
}

fn remove(target: &Path, nqn: &str) -> io::Result<()> {
    for port in children(&target.join("ports")) {
        let link = port.join("subsystems").join(nqn);
        if link.symlink_metadata().is_err() {
            continue;
        }
        fs::remove_file(link)?;
        let is_ours = name_of(&port).parse().is_ok_and(|n| OUR_PORTS.contains(&n));
        if is_ours && children(&port.join("subsystems")).next().is_none() {
            fs::remove_dir(port)?;
        }
    }
    let subsystem = target.join("subsystems").join(nqn);
    for link in children(&subsystem.join("allowed_hosts")) {
        fs::remove_file(&link)?;
        let host = target.join("hosts").join(name_of(&link));
        // One with a key was made by others. The target refuses to remove one that is still allowed
        // elsewhere.
        let has_key = !matches!(text(&host.join("dhchap_key")).as_str(), "" | "(null)");
        if !has_key {
            let _ = fs::remove_dir(host);
        }
    }
    for space in children(&subsystem.join("namespaces")) {
        fs::write(space.join("enable"), "0")?;
        fs::remove_dir(space)?;
    }
    fs::remove_dir(subsystem)
}

/// What an export has made so far, taken away again unless it is kept.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    fn folder(&mut self, path: PathBuf) -> io::Result<PathBuf> {
        fs::create_dir(&path)?;
        self.0.push(path.clone());
        Ok(path)
    }

    fn link(&mut self, to: &Path, path: PathBuf) -> io::Result<()> {
        symlink(to, &path)?;
        self.0.push(path);
        Ok(())
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // There is nothing to be done about what cannot be taken away.
            let _ = match path.is_symlink() {
                true => fs::remove_file(path),
                false => fs::remove_dir(path),
            };
        }
    }
}

fn children(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_a_host_is_named_by_its_nqn() {
        let name = "nqn.2014-08.org.nvmexpress:uuid:1b4e28ba-2fa1-11d2-883f-0016d3cca427";
        assert_eq!(host_nqn(name).as_deref(), Ok(name));
        for bad in [
            "",
            "host",
            "nqn.a/b",
            "nqn.a b",
            &format!("nqn.{}", "x".repeat(220)),
        ] {
            assert!(host_nqn(bad).is_err(), "{bad}");
        }
    }
}
