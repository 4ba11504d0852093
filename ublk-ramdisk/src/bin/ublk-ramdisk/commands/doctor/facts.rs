// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `doctor` finds on the machine, read and not judged.

use std::fs;
use std::path::Path;

use ublk_ramdisk::sys::mount::is_in_first_namespace;
use ublk_ramdisk::ublk::ctrl::{driver_present, Control, CtrlError};
use ublk_ramdisk::ublk::features::Features;

/// Where the driver's code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// Loaded, or part of the kernel image.
    Running,
    /// A module that could be loaded.
    Loadable,
    /// Neither; `configured` is what the kernel's configuration file says, where there is one.
    Absent {
        /// The value of CONFIG_BLK_DEV_UBLK.
        configured: Option<bool>,
    },
}

/// What came of opening the control device.
#[derive(Debug)]
pub enum Access {
    /// It answers.
    Open(Features),
    /// It does not.
    Refused(CtrlError),
}

/// The machine as found.
#[derive(Debug)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// Is /dev/ublk-control there?
    pub node: bool,
    /// Where the driver is.
    pub module: Module,
    /// What the control device said.
    pub access: Access,
    /// Effective capabilities of this process.
    pub capabilities: u64,
    /// Is a seccomp filter in force for this process?
    pub seccomp: bool,
    /// kernel.io_uring_disabled, where the kernel has it.
    pub io_uring_disabled: Option<u8>,
    /// None if a ring can be made, else why not.
    pub ring: Result<(), String>,
    /// Bytes of memory available.
    pub memory: u64,
    /// True if /dev/shm is a tmpfs.
    pub shm: bool,
    /// True if this process has the mount namespace of process 1.
    pub first_namespace: bool,
    /// 2 MiB pages of the kernel's pool that are free and not reserved.
    pub huge_pages: u64,
    /// True if the rule that makes links of disks with a name is where udev looks.
    pub udev_rule: bool,
}

/// Where udev looks for rules.
const RULES: [&str; 3] = [
    "/etc/udev/rules.d",
    "/run/udev/rules.d",
    "/usr/lib/udev/rules.d",
];
/// Ours.
const RULE: &str = "60-ublk-ramdisk.rules";
/// CAP_SYS_ADMIN.
pub const CAP_SYS_ADMIN: u32 = 21;
/// CAP_SYS_RESOURCE.
pub const CAP_SYS_RESOURCE: u32 = 24;

impl Facts {
    /// Looks at this machine.
    pub fn gather() -> Facts {
        let release = read("/proc/sys/kernel/osrelease").trim().to_owned();
        let status = read("/proc/self/status");
        Facts {
            node: driver_present(),
            module: module(Path::new("/"), &release),
            access: access(),
            capabilities: hex_field(&status, "CapEff:"),
            seccomp: field(&status, "Seccomp:").is_some_and(|mode| mode != "0"),
            io_uring_disabled: read("/proc/sys/kernel/io_uring_disabled")
                .trim()
                .parse()
                .ok(),
            // Made and dropped: nothing else tells for sure.
            ring: io_uring::IoUring::new(2)
                .map(drop)
                .map_err(|error| error.to_string()),
            memory: memory(&read("/proc/meminfo")),
            shm: is_tmpfs(&read("/proc/self/mounts"), "/dev/shm"),
            first_namespace: is_in_first_namespace(),
            huge_pages: huge_pages("free").saturating_sub(huge_pages("resv")),
            udev_rule: RULES
                .iter()
                .any(|folder| Path::new(folder).join(RULE).exists()),
            release,
        }
    }

    /// Does this process have the capability?
    pub fn has(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }
}

/// Empty if the file is not there: each reader below takes that for "not known".
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A count of the pool of 2 MiB pages, 0 where there is none.
fn huge_pages(which: &str) -> u64 {
    let folder = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let count = read(&format!("{folder}/{which}_hugepages"));
    count.trim().parse().unwrap_or(0)
}

/// Asks GET_FEATURES, which changes nothing.
fn access() -> Access {
    match Control::open().and_then(|mut control| control.features()) {
        Ok(features) => Access::Open(features),
        Err(error) => Access::Refused(error),
    }
}

/// Looks into sysfs, then into the lists of modules of this kernel. `root` is `/`, but for tests.
fn module(root: &Path, release: &str) -> Module {
    let lists = root.join("lib/modules").join(release);
    let lists_it = |list: &str| {
        fs::read_to_string(lists.join(list)).is_ok_and(|text| text.contains("/ublk_drv.ko"))
    };
    if root.join("sys/module/ublk_drv").exists() || lists_it("modules.builtin") {
        return Module::Running;
    }
    if lists_it("modules.dep") {
        return Module::Loadable;
    }
    let configured = fs::read_to_string(root.join(format!("boot/config-{release}")))
        .ok()
        .map(|text| text.contains("\nCONFIG_BLK_DEV_UBLK="));
    Module::Absent { configured }
}

/// The first word behind `name` at the beginning of a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()
}

/// As `field`, of a hexadecimal number; 0 if there is none.
fn hex_field(text: &str, name: &str) -> u64 {
    field(text, name)
        .and_then(|value| u64::from_str_radix(value, 16).ok())
        .unwrap_or(0)
}

/// MemAvailable in bytes.
fn memory(meminfo: &str) -> u64 {
    field(meminfo, "MemAvailable:")
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}

/// `mounts` has a line for each mount: device, place, type.
fn is_tmpfs(mounts: &str, place: &str) -> bool {
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .any(|mount| mount.get(1) == Some(&place) && mount.get(2) == Some(&"tmpfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let status = "Name:\tx\nCapEff:\t000001ffffffffff\nSeccomp:\t2\n";
        assert_eq!(hex_field(status, "CapEff:"), 0x1ff_ffff_ffff);
        assert_eq!(field(status, "Seccomp:"), Some("2"));
        assert_eq!(memory("MemTotal: 9 kB\nMemAvailable:   1024 kB\n"), 1 << 20);
        assert!(is_tmpfs("tmpfs /dev/shm tmpfs rw 0 0\n", "/dev/shm"));
        assert!(!is_tmpfs("tmpfs /dev tmpfs rw 0 0\n", "/dev/shm"));
    }

    #[test]
    fn the_module_is_looked_for_where_kernels_keep_it() {
        let root = std::env::temp_dir().join(format!("ublk-doctor-{}", std::process::id()));
        let lists = root.join("lib/modules/6.1.0");
        fs::create_dir_all(&lists).expect("made");
        fs::create_dir_all(root.join("boot")).expect("made");
        let absent = |configured| Module::Absent { configured };
        assert_eq!(module(&root, "6.1.0"), absent(None));
        fs::write(
            root.join("boot/config-6.1.0"),
            "CONFIG_BLK_DEV=y\n# CONFIG_BLK_DEV_UBLK is not set\n",
        )
        .expect("written");
        assert_eq!(module(&root, "6.1.0"), absent(Some(false)));
        fs::write(
            lists.join("modules.dep"),
            "kernel/drivers/block/ublk_drv.ko.xz:\n",
        )
        .expect("written");
        assert_eq!(module(&root, "6.1.0"), Module::Loadable);
        fs::write(
            lists.join("modules.builtin"),
            "kernel/drivers/block/ublk_drv.ko\n",
        )
        .expect("written");
        assert_eq!(module(&root, "6.1.0"), Module::Running);
        fs::remove_file(lists.join("modules.builtin")).expect("removed");
        fs::create_dir_all(root.join("sys/module/ublk_drv")).expect("made");
        assert_eq!(module(&root, "6.1.0"), Module::Running);
        fs::remove_dir_all(&root).expect("removed");
    }
}
