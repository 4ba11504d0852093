// SPDX-License-Identifier: MIT OR Apache-2.0
//! `doctor`: can this machine serve a RAM disk, and what is to be changed if not.
//!
//! [`facts`] reads the machine, this file judges. Nothing is changed, and nothing is tried that
//! could harm: the two kernels known to crash in ADD_DEV (F17) are told by their name alone.

mod facts;

use std::fmt::Write as _;

use serde::Serialize;
use ublk_ramdisk::config::{DataPath, DeviceConfig};
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::ctrl::CtrlError;
use ublk_ramdisk::ublk::features::Features;
use ublk_ramdisk::ublk::params::choose_path;

use super::output;
use crate::cli::FormatArgs;
use facts::{Access, Facts, Module, CAP_SYS_ADMIN, CAP_SYS_RESOURCE};

/// What one check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Grade {
    Ok,
    /// Works, but not as well as it could.
    Warning,
    /// Does not work before it is changed.
    Missing,
}

/// One check in plain words.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    grade: Grade,
    finding: String,
    /// What to change; none where nothing need be.
    advice: Option<String>,
}

/// Everything `doctor` has to say.
#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    /// No check is `Missing`.
    able: bool,
    /// What `--data-path auto` would take.
    data_path: Option<DataPath>,
    checks: Vec<Check>,
}

/// Examines the machine: status 0 if it can serve a RAM disk, 3 if not.
pub fn run(args: &FormatArgs) -> Result<Exit, Failure> {
    let report = judge(&Facts::gather());
    output::show(args.json, &report, as_text)?;
    Ok(if report.able {
        Exit::Done
    } else {
        Exit::Environment
    })
}

/// Judges the facts, in the order in which they should be put right.
fn judge(facts: &Facts) -> Report {
    let checks: [(_, fn(&_) -> Check); 10] = [
        ("kernel", kernel),
        ("driver", driver),
        ("permission", permission),
        ("io_uring", io_uring),
        ("data path", data_path),
        ("memory", memory),
        ("contents", contents),
        ("huge pages", huge_pages),
        ("out of memory", reclaim),
        ("names", names),
    ];
    let checks = checks.map(|(name, check)| Check {
        name,
        ..check(facts)
    });
    let able = checks.iter().all(|check| check.grade != Grade::Missing);
    Report {
        kernel: facts.release.clone(),
        able,
        data_path: able.then(|| automatic(facts)).flatten(),
        checks: checks.into(),
    }
}

/// Nothing need be changed.
fn ok(finding: impl Into<String>) -> Check {
    Check {
        // `judge` knows it.
        name: "",
        grade: Grade::Ok,
        finding: finding.into(),
        advice: None,
    }
}

/// Works as it is; `advice` makes it better.
fn warning(finding: impl Into<String>, advice: &str) -> Check {
    Check {
        grade: Grade::Warning,
        advice: Some(advice.to_owned()),
        ..ok(finding)
    }
}

/// Does not work before `advice` is followed.
fn missing(finding: impl Into<String>, advice: &str) -> Check {
    Check {
        grade: Grade::Missing,
        ..warning(finding, advice)
    }
}

/// Warns of kernels that are reported to crash in ADD_DEV (F17): 6.18.4 itself, and one vendor's
/// builds of 6.17, which have a name behind the version. Neither can be tried without risk.
fn kernel(facts: &Facts) -> Check {
    let (version, vendor) = match facts.release.split_once('-') {
        Some((version, vendor)) => (version, vendor),
        None => (facts.release.as_str(), ""),
    };
    let suspect = version == "6.18.4" || (version.starts_with("6.17.") && !vendor.is_empty());
    if suspect {
        return warning(
            format!(
                "{}: there are reports of a kernel crash when a ublk device is added",
                facts.release
            ),
            "try it on a machine that may crash, or use another kernel",
        );
    }
    ok(facts.release.clone())
}

/// Is the driver there, and if not, is it the module or the kernel that lacks?
fn driver(facts: &Facts) -> Check {
    if facts.node {
        return ok("/dev/ublk-control is there");
    }
    match facts.module {
        Module::Running => missing(
            "ublk_drv is part of this kernel, but /dev/ublk-control is not there",
            "give this container or chroot the node, or look why udev did not make it",
        ),
        Module::Loadable => missing(
            "the module ublk_drv is installed and not loaded",
            "run `modprobe ublk_drv`; to load it at every start, put `ublk_drv` into \
             /etc/modules-load.d/ublk.conf",
        ),
        Module::Absent { configured } => missing(
            match configured {
                Some(false) => {
                    "this kernel was built without ublk (CONFIG_BLK_DEV_UBLK is not set)"
                }
                Some(true) => "this kernel was built with ublk, but the module is not installed",
                None => "no module ublk_drv is installed for this kernel",
            },
            "install a kernel with CONFIG_BLK_DEV_UBLK (6.5 or newer; on Debian 12 the one from \
             backports, and where modules are split the package with the extra ones), then run \
             `modprobe ublk_drv`",
        ),
    }
}

/// May this process add a device? The order goes from the node to the driver to the capability, as
/// each hides those behind it.
fn permission(facts: &Facts) -> Check {
    match &facts.access {
        Access::Refused(CtrlError::Open(error)) => missing(
            format!("/dev/ublk-control cannot be opened: {error}"),
            "run as root, or let a udev rule give your group access",
        ),
        Access::Refused(CtrlError::Refused { errno, .. }) if *errno == libc::EPERM => missing(
            "the driver refuses this process",
            "run as root, or with CAP_SYS_ADMIN",
        ),
        Access::Refused(error @ CtrlError::Refused { .. }) => missing(
            format!("the driver does not say what it can do ({error}); it is too old"),
            "use Linux 6.5 or newer",
        ),
        // The driver has answered, but ADD_DEV also needs this.
        _ if !facts.has(CAP_SYS_ADMIN) => missing(
            "this process lacks CAP_SYS_ADMIN, which adding a device needs",
            "run as root, or start the container with CAP_SYS_ADMIN",
        ),
        _ => ok("this process may add devices (CAP_SYS_ADMIN)"),
    }
}

/// The sysctl and a seccomp filter may give the same errno, so the advice goes by what is in force.
fn io_uring(facts: &Facts) -> Check {
    let Err(error) = &facts.ring else {
        return ok("this process may use it");
    };
    let advice = match facts.io_uring_disabled {
        Some(2) => "run `sysctl kernel.io_uring_disabled=0`: it is 2, which forbids it to all",
        Some(1) => {
            "run `sysctl kernel.io_uring_disabled=0`: it is 1, which forbids it to all but \
             CAP_SYS_ADMIN and the group in kernel.io_uring_group"
        }
        _ if facts.seccomp => {
            "a seccomp filter is in force: let the container's profile allow io_uring_setup, \
             io_uring_enter and io_uring_register"
        }
        _ => "use a kernel with CONFIG_IO_URING",
    };
    missing(format!("it cannot be used: {error}"), advice)
}

/// The data path that `--data-path auto` takes for a device of the default depth; none if the driver
/// cannot be asked.
fn automatic(facts: &Facts) -> Option<DataPath> {
    let depth = DeviceConfig::default().depth;
    match &facts.access {
        Access::Open(features) => choose_path(None, depth, *features).ok(),
        Access::Refused(_) => None,
    }
}

/// What `add` would take here, and if a disk can be resized.
fn data_path(facts: &Facts) -> Check {
    match (automatic(facts), &facts.access) {
        (Some(path), Access::Open(features)) => {
            let finding = format!("--data-path auto takes {path}");
            if features.has(Features::UPDATE_SIZE) {
                ok(format!("{finding}; disks can be resized"))
            } else {
                warning(
                    format!("{finding}; disks cannot be resized on this kernel"),
                    "for `resize`, use Linux 6.16 or newer",
                )
            }
        }
        // Said already, with its reason, by the checks before.
        _ => warning(
            "not known while the driver cannot be asked",
            "follow the advice above, then ask again",
        ),
    }
}

/// Never `Missing`: a thin disk starts with next to no memory.
fn memory(facts: &Facts) -> Check {
    let shm = if facts.shm {
        "/dev/shm is a tmpfs"
    } else {
        "/dev/shm is no tmpfs (only --backing tmpfs:PATH may need one)"
    };
    let finding = format!("{} MiB available; {shm}", facts.memory >> 20);
    if facts.memory < 64 << 20 {
        return warning(
            finding,
            "free some memory: a disk takes as much as is written to it",
        );
    }
    ok(finding)
}

/// Where the contents of a disk are when its server has died.
fn contents(facts: &Facts) -> Check {
    if facts.first_namespace && facts.has(CAP_SYS_ADMIN) {
        return ok("outlive the server (--backing private, the default)");
    }
    warning(
        "go with the server: --backing private needs root in the mount namespace of process 1",
        "run as root outside of containers and of units with private mounts, or use \
         --backing tmpfs:PATH",
    )
}

/// Never worse than ok: only one kind of backing needs them.
fn huge_pages(facts: &Facts) -> Check {
    if facts.huge_pages > 0 {
        return ok(format!(
            "{} MiB free for --backing hugetlb",
            facts.huge_pages.saturating_mul(2)
        ));
    }
    Check {
        advice: Some("for a disk of 1G: `sysctl vm.nr_hugepages=512`".to_owned()),
        ..ok("none free; only --backing hugetlb needs them")
    }
}

/// CAP_SYS_RESOURCE is for PR_SET_IO_FLUSHER and for the lower OOM score (J1, J9).
fn reclaim(facts: &Facts) -> Check {
    if facts.has(CAP_SYS_RESOURCE) {
        return ok("the server can protect itself (CAP_SYS_RESOURCE)");
    }
    warning(
        "without CAP_SYS_RESOURCE the server may hang or be killed when memory runs out",
        "run as root, or start the container with CAP_SYS_RESOURCE",
    )
}

/// Never worse than ok: commands take the name of a disk without a link, too.
fn names(facts: &Facts) -> Check {
    if facts.udev_rule {
        return ok("`add --name NAME` makes a link /dev/ublk-ramdisk/NAME");
    }
    Check {
        advice: Some(
            "for links in /dev/ublk-ramdisk: install package/60-ublk-ramdisk.rules".to_owned(),
        ),
        ..ok("`add --name NAME` makes no link: the udev rule is not installed")
    }
}

fn as_text(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let mark = match check.grade {
            Grade::Ok => "ok",
            Grade::Warning => "warning",
            Grade::Missing => "MISSING",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark:<8} {}: {}", check.name, check.finding);
        if let Some(advice) = &check.advice {
            let _ = writeln!(text, "         -> {advice}");
        }
    }
    text.push_str(if report.able {
        "\nThis machine can serve RAM disks.\n"
    } else {
        "\nThis machine cannot serve RAM disks yet: change what is marked MISSING.\n"
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Facts {
        Facts {
            release: "7.2.0".to_owned(),
            node: true,
            module: Module::Running,
            access: Access::Open(Features(0xfffff)),
            capabilities: u64::MAX,
            seccomp: false,
            io_uring_disabled: Some(0),
            ring: Ok(()),
            memory: 8 << 30,
            shm: true,
            first_namespace: true,
            huge_pages: 0,
            udev_rule: true,
        }
    }

    /// The machine is found unable, and the advice holds the words.
    fn lacks(facts: &Facts, words: &str) {
        let report = judge(facts);
        assert!(!report.able, "{report:?}");
        assert!(report.data_path.is_none());
        let text = as_text(&report);
        assert!(text.contains(words), "{text}");
        assert!(text.contains("MISSING"), "{text}");
    }

    #[test]
    fn an_able_machine_is_told_so() {
        let report = judge(&able());
        assert!(report.able);
        assert_eq!(report.data_path, Some(DataPath::Batch));
        let older = Facts {
            access: Access::Open(Features(0x1fe)),
            ..able()
        };
        let report = judge(&older);
        assert!(report.able);
        assert_eq!(report.data_path, Some(DataPath::UserCopy));
        assert!(as_text(&report).contains("6.16"));
    }

    #[test]
    fn l1_an_absent_module_names_modprobe_and_the_option() {
        let absent = |module| Facts {
            node: false,
            module,
            access: Access::Refused(CtrlError::NoDriver),
            ..able()
        };
        lacks(&absent(Module::Loadable), "modprobe ublk_drv");
        let configured = Some(false);
        lacks(
            &absent(Module::Absent { configured }),
            "CONFIG_BLK_DEV_UBLK",
        );
        lacks(&absent(Module::Running), "/dev/ublk-control");
    }

    /// The program needs GET_FEATURES, which came with 6.5.
    #[test]
    fn l1_every_advice_names_the_same_oldest_kernel() {
        for configured in [None, Some(false), Some(true)] {
            let facts = Facts {
                node: false,
                module: Module::Absent { configured },
                access: Access::Refused(CtrlError::NoDriver),
                ..able()
            };
            lacks(&facts, "6.5 or newer");
        }
        let too_old = CtrlError::Refused {
            command: "GET_FEATURES",
            id: -1,
            errno: libc::EOPNOTSUPP,
        };
        let facts = Facts {
            access: Access::Refused(too_old),
            ..able()
        };
        lacks(&facts, "6.5 or newer");
    }

    #[test]
    fn l1_lack_of_permission_names_the_capability() {
        let denied = || std::io::Error::from_raw_os_error(libc::EACCES);
        lacks(
            &Facts {
                access: Access::Refused(CtrlError::Open(denied())),
                ..able()
            },
            "udev",
        );
        lacks(
            &Facts {
                capabilities: 0,
                ..able()
            },
            "CAP_SYS_ADMIN",
        );
    }

    #[test]
    fn l1_forbidden_io_uring_names_the_sysctl_or_the_filter() {
        let forbidden = |io_uring_disabled, seccomp| Facts {
            ring: Err("Operation not permitted".to_owned()),
            io_uring_disabled,
            seccomp,
            ..able()
        };
        lacks(&forbidden(Some(2), false), "kernel.io_uring_disabled");
        lacks(&forbidden(Some(0), true), "seccomp");
        lacks(&forbidden(None, false), "CONFIG_IO_URING");
    }

    #[test]
    fn f17_known_bad_kernels_are_named() {
        for (release, suspect) in [
            ("6.18.4", true),
            ("6.18.4-arch1", true),
            ("6.18.44-x", false),
            ("6.17.0-5-generic", true),
            ("6.17.2", false),
            ("7.2.1", false),
        ] {
            let facts = Facts {
                release: release.to_owned(),
                ..able()
            };
            let grade = kernel(&facts).grade;
            assert_eq!(grade == Grade::Warning, suspect, "{release}");
        }
    }
}
