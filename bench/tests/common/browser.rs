// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages in a browser without a window.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Says that a test is skipped, where it is seen; under CI that is a failure.
pub fn skip(test: &str, why: &str) {
    // Not by a macro that the harness swallows when the test passes.
    let _unread = writeln!(std::io::stderr(), "SKIP {test}: {why}");
    let must_run = std::env::var("CI").is_ok_and(|v| v == "1" || v == "true");
    assert!(!must_run, "CI must not skip");
}

/// A folder that is gone after the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("page-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind is in the folder for that.
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}

/// The first browser there is.
pub fn browser() -> Option<String> {
    let named = std::env::var("CHROMIUM").ok();
    let known = ["chromium", "chromium-browser", "google-chrome"].map(str::to_owned);
    named.into_iter().chain(known).find(|name| {
        let asked = Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        asked.is_ok_and(|status| status.success())
    })
}

/// Opens a page without a window and gives its output and what it logged.
pub fn open(browser: &str, page: &Path, profile: &Path, arguments: &[String]) -> (String, String) {
    let mut command = Command::new("timeout");
    command.args([
        "120",
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
    ]);
    command.args([
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
    ]);
    command.args([
        "--disable-sync",
        "--hide-scrollbars",
        "--enable-logging=stderr",
    ]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    let out = command
        .args(arguments)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{} {}", out.status, text(&out.stderr));
    (text(&out.stdout), text(&out.stderr))
}
