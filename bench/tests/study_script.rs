// SPDX-License-Identifier: MIT OR Apache-2.0
//! `scripts/study` where a guest fails: the report is written all the same, and the exit status says it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A project in which nothing is built and every guest ends with this status.
struct Project(PathBuf);

impl Project {
    fn new(guest: u8) -> Self {
        let root = std::env::temp_dir().join(format!("study-script-{}", std::process::id()));
        let project = Self(root);
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for file in ["scripts/study", "scripts/lib/common.sh", "Cargo.lock"] {
            project.write(file, &fs::read_to_string(own.join(file)).unwrap());
        }
        let setup =
            "setup_build() { :; }\nsetup_load() { :; }\nsetup_vm() { kernel_version=none; }\n";
        project.write("scripts/lib/setup.sh", setup);
        project.write("scripts/vm", &format!("#!/bin/sh\nexit {guest}\n"));
        project.write("bin/cargo", "#!/bin/sh\n");
        project.write("bin/qemu-system-x86_64", "#!/bin/sh\necho none\n");
        project.write("target/debug/ublk-ramdisk", "none");
        let study = project.0.join("target/debug/study");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_study"), study).unwrap();
        project
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn study(&self) -> Output {
        let path = std::env::var("PATH").unwrap();
        let mut study = Command::new(self.0.join("scripts/study"));
        study.args(["--quick", "--only", "h", "--bed", "vm", "--out"]);
        study.arg(self.0.join("out"));
        study.env("PATH", format!("{}/bin:{path}", self.0.display()));
        study.env("CARGO_TARGET_DIR", self.0.join("target"));
        study.output().unwrap()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // What is left behind is in the folder for that.
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_guest_that_fails_is_said_and_is_status_1() {
    let project = Project::new(7);
    let said = project.study();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    if said.status.code() == Some(3) {
        eprintln!("SKIP a_guest_that_fails_is_said_and_is_status_1: {text}");
        assert!(std::env::var_os("CI").is_none(), "CI must not skip");
        return;
    }
    assert_eq!(said.status.code(), Some(1), "{text}");
    assert!(text.contains("the guest ended with status 7"), "{text}");
    let report = fs::read_to_string(project.0.join("out/report.html")).unwrap();
    assert!(report.contains("the guest ended with status 7"));
}
